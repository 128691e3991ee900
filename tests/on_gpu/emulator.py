"""The GPU emulator in tests/gpu_emulator: it runs the PTX of the kernels, as nvcc compiles it, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from on_gpu.library import Library, nvcc_command

EMULATOR = Path(__file__).parents[1] / "gpu_emulator"
_NAMES = ("control", "costs", "fake_runtime", "instructions", "machine", "memory", "module")
SOURCES = tuple(EMULATOR / f"{name}.cc" for name in _NAMES)
"""The source files of the emulator itself."""
DIALECTS = (80, 100)
"""The versions of PTX. The text for sm_90 is the same as for sm_80, and the text for sm_120 as for sm_100."""
ON_HOST = ("-cudart", "none", "-Xlinker=--no-undefined,-Bsymbolic", "-Xcompiler=-ffp-contract=off")
"""Options of nvcc for the emulator, which replaces CUDA's runtime, even in a process that has loaded it (-Bsymbolic)."""

COSTS = (
    *("threads", "instructions", "requests", "bytes", "sectors", "distinct_sectors", "launch_sectors"),
    *("shared_requests", "shared_cycles", "conflicts"),
)


def to_ptx(dialects: Sequence[int]) -> list[str]:
    """Return the options with which nvcc compiles the kernels to PTX in some of DIALECTS."""
    return ["--no-compress", *(f"-gencode=arch=compute_{dialect},code=compute_{dialect}" for dialect in dialects)]


def emulator_command(nvcc: Path, target: Path, dialect: int) -> list[str]:
    """Return the command that builds the library of `library_command` for the emulator, in one of DIALECTS."""
    return nvcc_command(nvcc, target, (*to_ptx([dialect]), *ON_HOST), SOURCES)


def dialect_of(architecture: str) -> int:
    """Return the dialect of the PTX that an architecture such as "sm_90" runs."""
    return max(dialect for dialect in DIALECTS if dialect <= int(architecture.removeprefix("sm_")))


class Emulator:
    """An emulated GPU with the kernels."""

    def __init__(self, path: Path) -> None:
        self.library = Library(path)
        self._functions = ctypes.CDLL(str(path))
        for name in ("take_faults", "statements", "costs", "read_module"):
            getattr(self._functions, f"emulator_{name}").restype = ctypes.c_char_p
        for name in ("allocate", "remove"):
            getattr(self._functions, f"emulator_{name}").restype = ctypes.c_uint64

    def configure(self, dialect: int, order: int = 0, seed: int = 0, processors: int = 2) -> None:
        """Select one of DIALECTS, the order of threads (0: ascending, 1: descending, 2: random) and the GPU's size."""
        self._functions.emulator_configure(dialect, order, ctypes.c_uint64(seed), processors)

    def allocate(self, size: int, misalignment: int = 0) -> int:
        return int(self._functions.emulator_allocate(ctypes.c_size_t(size), misalignment))

    def release(self, address: int) -> None:
        self.library.call("release", address)

    def seal(self, address: int) -> None:
        self._functions.emulator_seal(ctypes.c_uint64(address))

    def text_function(self, name: str) -> Any:
        """Return the function emulator_NAME, which returns a text or null."""
        function = getattr(self._functions, f"emulator_{name}")
        function.restype = ctypes.c_char_p
        return function

    def faults(self) -> list[str]:
        """Return the faults since the last call."""
        return list(self._functions.emulator_take_faults().decode().splitlines())

    def read_module(self, ptx: str) -> str:
        """Add a module's kernels, and return "" or why the emulator refuses it."""
        return str(self._functions.emulator_read_module(ptx.encode()).decode())

    def launch(self, kernel: str, block: int, arguments: Sequence[int], *, grid: int = 1, shared: int = 0) -> bool:
        """Launch a kernel with 64-bit parameters, and return whether it ran to its end."""
        numbers = [ctypes.c_uint64(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(numbers))(*(ctypes.addressof(number) for number in numbers))
        sizes = [(ctypes.c_uint32 * 3)(size, 1, 1) for size in (grid, block)]
        return bool(self._functions.emulator_launch(kernel.encode(), *sizes, ctypes.c_size_t(shared), pointers))

    def statements(self) -> list[tuple[bool, str, str]]:
        """Return each PTX statement of the kernels: whether it was run, its kernel, and its text."""
        lines = [line.split(" ", 2) for line in self._functions.emulator_statements().decode().splitlines()]
        return [(was_run == "1", kernel, text) for was_run, kernel, text in lines]

    def remove(self, what: str, index: int) -> int:
        """Remove a "barrier" or an "exchange", and restore the one that was removed before. Return their number."""
        return int(self._functions.emulator_remove(what.encode(), ctypes.c_size_t(index)))

    def count_costs(self, is_on: bool) -> None:
        """Start to count the accesses to memory from 0, or stop."""
        self._functions.emulator_count_costs(int(is_on))

    def costs(self) -> dict[str, dict[str, int]]:
        """Return the accesses of each kernel since the count began, by the names in COSTS. costs.h defines them."""
        lines = [line.split() for line in self._functions.emulator_costs().decode().splitlines()]
        return {kernel: dict(zip(COSTS, map(int, numbers), strict=True)) for kernel, *numbers in lines}
