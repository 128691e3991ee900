"""What this machine could do at best: peak multiply-adds and read rate, measured by floors.cpp on random data."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu.errors import BenchmarkError
from cpu.flops import Arithmetic

_SOURCE = Path(__file__).with_name("floors.cpp")
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-pthread")
_PRODUCTS: Mapping[Arithmetic, tuple[str, ...]] = {
    "fp32": ("fp32",),
    # Widening bfloat16 and int8 to float32 is always possible, and on some CPUs faster than the vector instruction.
    "bf16": ("bf16_tiles", "bf16_vectors", "fp32"),
    "int8": ("int8_tiles", "int8_vectors", "fp32"),
}


@dataclass(frozen=True)
class Floors:
    """Peaks of some number of threads together.

    Attributes:
        peaks: operations per second of each kind of product that the CPU has: "fp32", "bf16_vectors", "bf16_tiles",
            "int8_vectors", "int8_tiles".
        read_bytes: bytes per second that are read from memory.
    """

    peaks: Mapping[str, float]
    read_bytes: float

    def flops(self, arithmetic: Arithmetic) -> float:
        """The fastest way to multiply numbers of a type."""
        return max(self.peaks[name] for name in _PRODUCTS[arithmetic] if name in self.peaks)


def build_floors(folder: Path) -> Path:
    """Compiles floors.cpp into `folder`, for exactly this CPU.

    Raises:
        BenchmarkError: there is no C++ compiler, or it failed.
    """
    program = folder / "floors"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    command = [*compiler, *_OPTIONS, str(_SOURCE), "-o", str(program)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise BenchmarkError(f"there is no C++ compiler '{compiler[0]}'; the floors need one (on Debian: g++)") from None
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{_SOURCE.name} does not compile: {(error.stderr or '').strip()[:300]}") from None
    return program


def measure_floors(program: Path, threads: int) -> Floors:
    """Runs the loops on `threads` threads; some seconds."""
    found = _run(program, threads)
    return Floors(found["peaks"], found["read_bytes"])


def measure_read_rate(program: Path, threads: int) -> float:
    """Bytes per second from memory alone: on a shared machine it depends on what the neighbours do."""
    return float(_run(program, threads, "read")["read_bytes"])


def best_of(first: Floors, second: Floors) -> Floors:
    """The higher of two measurements of the same peaks: whatever else ran can only have lowered them."""
    peaks = {name: max(value, second.peaks[name]) for name, value in first.peaks.items()}
    return Floors(peaks, max(first.read_bytes, second.read_bytes))


def _run(program: Path, threads: int, *what: str) -> dict[str, Any]:
    done = subprocess.run([str(program), str(threads), *what], check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
