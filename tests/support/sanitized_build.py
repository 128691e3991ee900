"""Builds the native libraries and their test programs in tests/cpp with the compiler's sanitizers."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import pytest
from sdk_build import ROOT, built, generator, locked, run

from vmoe_runtime.installation import SDK_LIBRARY, find_native
from vmoe_runtime.op_library import find_library

MEMORY, THREADS = "address,undefined", "thread"


@functools.cache
def sanitized(sanitizers: str, *targets: str) -> Path:
    """Build `targets` with the given sanitizers.

    Return the build folder, whose subfolder `tests` contains the programs. Rebuild only targets that have changed. Skip the
    test if the compiler lacks these sanitizers or the SDK was not built on this machine. Also skip it if the op library is
    one of the targets, but this installation has no op library.
    """
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build with")
    if find_native("lib", SDK_LIBRARY) is None or ("vmoe_onnxruntime" in targets and find_library() is None):
        pytest.skip("the libraries were not built here, so that they can't be built with sanitizers either")
    folder = ROOT / "build" / {MEMORY: "asan", THREADS: "tsan"}[sanitizers]
    with locked(folder):
        _skip_without(sanitizers, folder)
        options = ["-DVMOE_BUILD_TESTS=ON", "-DVMOE_GPU=OFF", f"-DVMOE_SANITIZE={sanitizers}"]
        built("cmake", "-S", ROOT / "plugins", "-B", folder, *generator(), *options)
        built("cmake", "--build", folder, "--parallel", "2", "--target", *targets)
    return folder


def _skip_without(sanitizers: str, folder: Path) -> None:
    """Skip the test if even a minimal program can't be compiled and run with the sanitizers."""
    source, program = folder / "probe.cc", folder / "probe"
    source.write_text("int main() { return 0; }\n")
    compiled = run(os.environ.get("CXX", "c++"), f"-fsanitize={sanitizers}", source, "-o", program)
    if compiled.returncode != 0:
        pytest.skip(f"the compiler has no -fsanitize={sanitizers}: {compiled.stderr.strip()[-300:]}")
    started = run(program)
    if started.returncode != 0:
        pytest.skip(f"programs with -fsanitize={sanitizers} don't start here: {started.stderr.strip()[-300:]}")
