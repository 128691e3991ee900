"""What this machine could do at best: peak multiply-adds and read rate, measured by floors.cpp."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cpu.errors import BenchmarkError

_SOURCE = Path(__file__).with_name("floors.cpp")


@dataclass(frozen=True)
class Floors:
    """Peaks of some number of threads together.

    Attributes:
        fp32_flops, bf16_flops: operations per second; bf16_flops is None where the CPU has no bfloat16 products.
        read_bytes: bytes per second that are read from memory.
    """

    fp32_flops: float
    read_bytes: float
    bf16_flops: float | None

    def flops(self, bf16: bool) -> float:
        """Peak for a precision; without bfloat16 products, that of float32."""
        return (self.bf16_flops if bf16 else None) or self.fp32_flops


def build_floors(folder: Path) -> Path:
    """Compiles floors.cpp into `folder`, for exactly this CPU.

    Raises:
        BenchmarkError: there is no C++ compiler, or it failed.
    """
    program = folder / "floors"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    command = [*compiler, "-std=c++17", "-O3", "-march=native", "-pthread", str(_SOURCE), "-o", str(program)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise BenchmarkError(f"there is no C++ compiler '{compiler[0]}'; the floors need one (on Debian: g++)") from None
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{_SOURCE.name} does not compile: {(error.stderr or '').strip()[:300]}") from None
    return program


def measure_floors(program: Path, threads: int) -> Floors:
    """Runs the loops on `threads` threads; about two seconds."""
    done = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True)
    return Floors(**json.loads(done.stdout))


def best_of(first: Floors, second: Floors) -> Floors:
    """The higher of two measurements of the same peaks: whatever else ran can only have lowered them."""
    bf16 = [value for value in (first.bf16_flops, second.bf16_flops) if value is not None]
    return Floors(
        max(first.fp32_flops, second.fp32_flops), max(first.read_bytes, second.read_bytes), max(bf16, default=None)
    )
