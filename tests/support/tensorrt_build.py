"""Builds the TensorRT plugin against the headers of each version that is named, with a fake TensorRT.

The headers are not part of this repository. The environment variable VMOE_TENSORRT_HEADERS names an include folder of
TensorRT, or a folder with one such folder per version; without it everything here skips.
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

VARIABLE = "VMOE_TENSORRT_HEADERS"
BUILD = ROOT / "build" / "tensorrt"  # kept, so that only what changed is built again
PLUGIN, REGISTER = "libvmoe_tensorrt.so", "libvmoe_tensorrt_register.so"

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Build:
    """What was built against one version's headers: the two libraries, and a fake of that TensorRT."""

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
        """A library named as this version's TensorRT, in a folder of its own."""
        return self.tree / "tensorrt" / f"tensorrt_{name}" / f"libnvinfer.so.{self.major}"


@functools.cache
def headers() -> dict[Version, Path]:
    """The include folders by version, the oldest first. Skips where there are none."""
    root = os.environ.get(VARIABLE)
    if not root:
        pytest.skip(f"TensorRT's headers are not named: set {VARIABLE} to a folder with one include folder per version")
    folders = [folder for folder in (Path(root), *Path(root).glob("*")) if (folder / "NvInferRuntime.h").is_file()]
    if not folders:
        pytest.skip(f"there are no headers of TensorRT in {root} ({VARIABLE}), nor in the folders in it")
    return dict(sorted((_version(folder), folder.absolute()) for folder in folders))


def _version(include: Path) -> Version:
    text = (include / "NvInferVersion.h").read_text()
    numbers = dict(re.findall(r"#define (?:NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(?:_ENTERPRISE)? (\d+)", text))
    return int(numbers["MAJOR"]), int(numbers["MINOR"]), int(numbers["PATCH"])


@functools.cache
def build(version: Version, sanitizers: str = "") -> Build:
    """Builds for these headers; any warning fails it. Skips where this machine can't, with what it lacks."""
    include = headers()[version]
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake to build the plugin with")
    tree = BUILD / (".".join(map(str, version)) + ("-sanitized" if sanitizers else ""))
    with locked(tree):
        options = [f"-DTENSORRT_INCLUDE_DIR={include}", f"-DVMOE_SANITIZE={sanitizers}", "-DCMAKE_CXX_FLAGS=-Werror"]
        # One architecture: the code of the kernels is not what is tested here.
        options += ["-DVMOE_BUILD_TESTS=ON", "-DVMOE_CUDA_ARCHITECTURES=80-real"]
        built("cmake", "-S", ROOT / "plugins", "-B", tree, *generator(), *options)
        missing = tree / "missing.txt"
        if missing.is_file() and PLUGIN in missing.read_text():
            pytest.skip(f"the plugin can't be built here: {missing.read_text()}")
        built("cmake", "--build", tree, "--parallel", "2", "--target", "tensorrt_tests")
    return Build(version, tree, tree / ("lib" if sanitizers else "tensorrt"))
