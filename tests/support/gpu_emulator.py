"""Builds of the GPU emulator with the kernels and their callers, in which files under plugins/ may be changed.

If there is no nvcc, the tests are skipped. If the environment variable VMOE_TEST_NVCC is set, they fail instead.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from command_line import BenchmarkError
from kept_build import kept
from on_gpu.emulator import DIALECTS, EMULATOR, ON_HOST, SOURCES, to_ptx
from on_gpu.library import CALLS, EXTRA_KERNELS, PLUGINS, find_nvcc
from sdk_build import ROOT

REQUIRED = "VMOE_TEST_NVCC"
Change = tuple[str, str, str]
"""A change of a file under plugins/: its path, the text to replace, and the new text."""

SMALL_GRID: list[Change] = [("cuda/launch.h", "kMaxGridY = 65535", "kMaxGridY = 2")]
"""Makes blocks process several groups, which otherwise takes more than 65,535 groups."""

_CHANGEABLE = ("core", "cuda", "onnxruntime", "ops", "tensorrt")  # folders under plugins/
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
    compile_flags = ["-std=c++17", "-O3", "-DNDEBUG", "-fmad=false", "-Xcompiler=-fPIC", *to_ptx(DIALECTS)]
    compile_flags += [f"-D{function}=emulated_{function}" for function in _RENAMED]
    objects = []
    for kernel in (*(PLUGINS / "cuda" / f"{part}.cu" for part in ("gates", "route", "rows")), EXTRA_KERNELS):
        is_changed = bool(_included_by(kernel) & {file for file, _, _ in changes})
        folder, prefix = (plugins, name) if is_changed else (PLUGINS, "kernels")
        source = _in_folder(folder, kernel)
        objects.append(kept(f"{prefix}.{kernel.stem}.o", nvcc(), *compile_flags, f"-I{folder}", "-c", source))
    # Call g++ through nvcc, so that g++ finds CUDA's headers. CUDA's runtime is not linked, because the emulator has one.
    options = ["-std=c++17", "-O2", *ON_HOST, "-Xcompiler=-Wall,-Wextra,-fPIC"]
    for source in SOURCES:
        name_of_object = f"emulator.{source.stem}.o"
        objects.append(kept(name_of_object, nvcc(), *options, "-Xcompiler=-Werror", f"-I{PLUGINS}", "-c", source))
    host_code = [EMULATOR / "host_tensors.cc", PLUGINS / "cuda" / "route_plan.cc"]  # host_tensors.cc depends on flags
    host_code += [PLUGINS / "core" / f"{part}.cc" for part in ("routing", "dispatch", "workspace")]
    callers = [_in_folder(plugins, path) for path in dict.fromkeys((*host_code, *sources))]
    places = [f"-I{plugins}", f"-I{EMULATOR}", *([] if changes else ["-Xcompiler=-Werror"])]
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
