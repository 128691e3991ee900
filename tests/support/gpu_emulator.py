"""The GPU emulator in tests/gpu_emulator: it runs the PTX of the kernels, as nvcc compiles it, on the CPU.

If there is no nvcc, the tests are skipped. If the environment variable VMOE_TEST_NVCC is set, they fail instead.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import BenchmarkError
from kept_build import kept
from on_gpu.library import CALLS, EXTRA_KERNELS, PLUGINS, Library, find_nvcc
from sdk_build import ROOT

REQUIRED = "VMOE_TEST_NVCC"
EMULATOR = Path(__file__).parents[1] / "gpu_emulator"
DIALECTS = (80, 100)
"""The versions of PTX. The text for sm_90 is the same as for sm_80, and the text for sm_120 as for sm_100."""

Change = tuple[str, str, str]
"""A change of a file under plugins/: its path, the text to replace, and the new text."""

SMALL_GRID: list[Change] = [("cuda/launch.h", "kMaxGridY = 65535", "kMaxGridY = 2")]
"""Makes blocks process several groups, which otherwise takes more than 65,535 groups."""

COSTS = (
    *("threads", "instructions", "requests", "bytes", "sectors", "distinct_sectors", "launch_sectors"),
    *("shared_requests", "shared_cycles", "conflicts"),
)

_CHANGEABLE = ("core", "cuda", "onnxruntime", "ops", "tensorrt")  # folders under plugins/
_PARTS = ("control", "costs", "fake_runtime", "instructions", "machine", "memory", "module")
_RENAMED = ("compute_gates", "route", "dispatch", "route_dispatch", "combine")  # host_tensors.cc has these names


@functools.cache
def nvcc() -> Path:
    try:
        return find_nvcc()
    except BenchmarkError as error:
        if os.environ.get(REQUIRED):
            raise
        pytest.skip(f"{error}; make nvcc installs it")


def changed_plugins(name: str, changes: Iterable[Change]) -> Path:
    """Copy the sources under plugins/ to a folder, apply changes to them, and return the folder.

    A file whose text stays the same is not written again, so that it need not be compiled again.
    """
    folder = ROOT / "build" / "gpu_emulator" / name
    files = (path for part in _CHANGEABLE for path in (PLUGINS / part).iterdir())
    texts = {path.relative_to(PLUGINS): path.read_text() for path in files}
    for file, old, new in changes:
        assert old in texts[Path(file)], f"{file} does not contain {old!r}"
        texts[Path(file)] = texts[Path(file)].replace(old, new)
    for path, text in texts.items():
        target = folder / path
        if not target.is_file() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return folder


def build_emulator(
    name: str = "gpu_emulator", sources: Sequence[Path] = (CALLS,), flags: Sequence[str] = (), changes: Sequence[Change] = ()
) -> Path:
    """Build a library with the emulator, the kernels and their callers.

    Args:
        name: name of the library.
        sources: source files of the callers.
        flags: further options of g++ for them, as nvcc accepts them.
        changes: changes of files under plugins/.
    """
    plugins = changed_plugins(name, changes) if changes else PLUGINS
    compile_flags = ["-std=c++17", "-O3", "-DNDEBUG", "-fmad=false", "--compress-mode=none", "-Xcompiler=-fPIC"]
    compile_flags += [f"-gencode=arch=compute_{dialect},code=compute_{dialect}" for dialect in DIALECTS]
    compile_flags += [f"-D{function}=emulated_{function}" for function in _RENAMED]
    objects = []
    for kernel in (*(PLUGINS / "cuda" / f"{part}.cu" for part in ("gates", "route", "rows")), EXTRA_KERNELS):
        is_changed = bool(_included_by(kernel) & {file for file, _, _ in changes})
        folder, prefix = (plugins, name) if is_changed else (PLUGINS, "kernels")
        source = _in_folder(folder, kernel)
        objects.append(kept(f"{prefix}.{kernel.stem}.o", nvcc(), *compile_flags, f"-I{folder}", "-c", source))
    # Call g++ through nvcc, so that g++ finds CUDA's headers. CUDA's runtime is not linked, because the emulator has one.
    options = ["-std=c++17", "-O2", "-cudart", "none", "-Xcompiler=-ffp-contract=off,-Wall,-Wextra,-fPIC"]
    for part in _PARTS:
        source = EMULATOR / f"{part}.cc"
        objects.append(kept(f"emulator.{part}.o", nvcc(), *options, "-Xcompiler=-Werror", f"-I{PLUGINS}", "-c", source))
    host_code = [EMULATOR / "host_tensors.cc", PLUGINS / "cuda" / "route_plan.cc"]  # host_tensors.cc depends on flags
    host_code += [PLUGINS / "core" / f"{part}.cc" for part in ("routing", "dispatch", "workspace")]
    callers = [_in_folder(plugins, path) for path in dict.fromkeys((*host_code, *sources))]
    places = [f"-I{plugins}", f"-I{EMULATOR}", "-Xlinker=--no-undefined", *([] if changes else ["-Xcompiler=-Werror"])]
    return kept(f"lib{name}.so", nvcc(), *options, "-shared", *places, *flags, *callers, *objects, "-lpthread")


def _in_folder(plugins: Path, path: Path) -> Path:
    """Return the path of a file under plugins/ in a copy of plugins/. Return any other path unchanged."""
    return plugins / path.relative_to(PLUGINS) if path.is_relative_to(PLUGINS) else path


def _included_by(source: Path) -> set[str]:
    """Return the paths of a source file and of all headers under plugins/ that it includes, relative to plugins/."""
    found: set[str] = set()
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path.is_relative_to(PLUGINS) and path.is_file() and (name := path.relative_to(PLUGINS).as_posix()) not in found:
            found.add(name)
            waiting += [PLUGINS / include for include in re.findall(r'#include "([^"]+)"', path.read_text())]
    return found


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
