"""Builds the TensorRT plugin against TensorRT's headers, and builds a fake TensorRT for the plugin's tests.

The headers are not part of this repository. The environment variable TENSORRT_INCLUDE_DIR, which `make` also reads, contains
the path of their folder. If it is not set, every test that needs this build is skipped.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from sdk_build import ROOT, built, generator, locked

VARIABLE = "TENSORRT_INCLUDE_DIR"
BUILD = ROOT / "build" / "tensorrt"  # kept between runs, so that only changes are rebuilt
PLUGIN, REGISTER = "libvmoe_tensorrt.so", "libvmoe_tensorrt_register.so"

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Build:
    """A build against the headers of one TensorRT version.

    It has the plugin's two libraries, and fakes of that version.
    """

    version: Version
    tree: Path
    libraries: Path

    @property
    def major(self) -> int:
        return self.version[0]

    @property
    def plugin(self) -> Path:
        return self.libraries / PLUGIN

    @property
    def register(self) -> Path:
        return self.libraries / REGISTER

    def program(self, name: str) -> Path:
        return self.tree / "tensorrt" / f"tensorrt_{name}"

    def fake(self, name: str = "fake") -> Path:
        """Return the path of a fake TensorRT library.

        The fake has the file name that the real library has in this TensorRT version.
        """
        return self.tree / "tensorrt" / f"tensorrt_{name}" / f"libnvinfer.so.{self.major}"


def include_folder() -> Path:
    """Return the folder with the headers. If TENSORRT_INCLUDE_DIR is not set, skip the test."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"TensorRT's headers are not named: set {VARIABLE} to their folder")
    folder = Path(named).absolute()
    assert (folder / "NvInferRuntime.h").is_file(), f"{VARIABLE} is {named}, which has no NvInferRuntime.h"
    return folder


def _version(include: Path) -> Version:
    text = (include / "NvInferVersion.h").read_text()
    numbers = dict(re.findall(r"#define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(?:_ENTERPRISE)? (\d+)", text))
    return int(numbers["MAJOR"]), int(numbers["MINOR"]), int(numbers["PATCH"])


@functools.cache
def build(sanitizers: str = "") -> Build:
    """Build the plugin. Any compiler warning fails the test.

    If this machine can't build the plugin, skip the test with a reason that says what is missing.
    """
    include = include_folder()
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build the plugin with")
    version = _version(include)
    tree = BUILD / (".".join(map(str, version)) + ("-sanitized" if sanitizers else ""))
    with locked(tree):
        options = [f"-DTENSORRT_INCLUDE_DIR={include}", f"-DVMOE_SANITIZE={sanitizers}", "-DCMAKE_CXX_FLAGS=-Werror"]
        # One architecture is enough, because the kernels' code isn't tested here.
        options += ["-DVMOE_BUILD_TESTS=ON", "-DVMOE_CUDA_ARCHITECTURES=80-real"]
        built("cmake", "-S", ROOT / "plugins", "-B", tree, *generator(), *options)
        missing = tree / "missing.txt"
        if missing.is_file() and PLUGIN in missing.read_text():
            pytest.skip(f"the plugin can't be built here: {missing.read_text()}")
        built("cmake", "--build", tree, "--parallel", "2", "--target", "tensorrt_tests")
    return Build(version, tree, tree / "lib")
