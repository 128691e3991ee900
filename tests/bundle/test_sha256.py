"""Check that the SDK computes the same SHA-256 digests as Python.

The tests cover every method that this processor supports. In an emulator, they also cover every method for 64-bit ARM.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from kept_build import kept

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "tests" / "cpp" / "sha256_check.cc", ROOT / "plugins" / "sdk" / "sha256.cc"]
COMPILED = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'plugins'}", *SOURCES]
DATA = random.Random(7).randbytes((1 << 20) + 1000)
LENGTHS = [*range(200), *random.Random(8).sample(range(200, len(DATA)), 20), 1 << 20, len(DATA)]


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_every_method_of_this_processor_is_right() -> None:
    methods = check(kept("sha256_check", "c++", *COMPILED))
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    has = bool({"sha_ni", "sha2"} & set(flags.split()))
    assert len(methods) == 1 + has
    assert methods[-1] == "portable"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no compiler for 64-bit ARM")
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="no emulator of 64-bit ARM")
def test_the_instructions_of_64_bit_arm_are_right() -> None:
    program = kept("sha256_check_aarch64", "aarch64-linux-gnu-g++", "-static", *COMPILED)
    assert check("qemu-aarch64", program) == ["armv8", "portable"]


def check(*program: str | Path) -> list[str]:
    """Run a program that hashes data by every method, and return the methods' names.

    Also check that the program's digests equal those of hashlib.
    """
    command = [*program, *map(str, LENGTHS)]
    lines = subprocess.run(command, input=DATA, capture_output=True, check=True).stdout.decode().splitlines()
    methods = list(dict.fromkeys(line.split()[0] for line in lines))
    expected = [f"{length} {hashlib.sha256(DATA[:length]).hexdigest()}" for length in LENGTHS]
    assert lines == [f"{method} {rest}" for method in methods for rest in expected]
    return methods
