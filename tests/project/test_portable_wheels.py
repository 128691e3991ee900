"""Tests that run portable wheels without a compiler, and check that they use the fastest CPU path.

The x86-64 wheel runs in a root folder that contains no compiler. The wheel for 64-bit ARM runs in an emulator. `make wheel`
builds the wheels and runs these tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cpu_paths
import numpy as np
import pytest
import sdk_build
from arm_emulator import ARM_COMPILER, arm_emulator, arm_runner
from bare_root import BareRoot
from processor_flags import promised_paths
from wheels import wheel_folder

from vmoe_runtime import Engine
from vmoe_runtime.installation import OP_LIBRARY, SDK_LIBRARY

WHEELS = os.environ.get("VMOE_WHEELS", "")
"""The folder that they are in."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not WHEELS, reason="make wheel builds wheels and runs these tests"),
    pytest.mark.slow,
]

SYSTEM = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
LIBRARIES = {f"vmoe_runtime/lib/{name}" for name in (OP_LIBRARY, SDK_LIBRARY)}
# Additional symbols that macOS libraries export if zig built them: names from zig's linker, and C++'s operators new and
# delete. In a macOS process, all libraries share these operators in any case.
ZIG_EXPORTS = re.compile(r"__mh_dylib_header|___dso_handle|__Z(n[wa]|d[la])\w+")

# This program prints the engine's description and the names of all files below the root. It then saves the logits for some
# images and runs `vmoe run`.
IN_BARE_ROOT = """
import json, os, sys
places = [name for name in os.listdir("/") if name not in ("proc", "sys", "dev")]
names = {name for place in places for _, _, files in os.walk("/" + place) for name in files}
import numpy
from vmoe_runtime import Engine
with Engine.load("/bundle", threads=1) as engine:
    numpy.save("/logits.npy", engine(numpy.load("/images.npy")))
    print(json.dumps([engine.backend_description, sorted(names)]))
from vmoe_tools.program import main
sys.exit(main(["run", "/alone", "/seven.png", "--top", "1", "--json", "-", "-q"]))
"""


def wheel(arch: str) -> Path:
    (path,) = Path(WHEELS).glob(f"vmoe_export-{version('vmoe-export')}-*_{arch}.whl")
    return path


def unpacked(arch: str, folder: Path) -> Path:
    """Unpack a wheel, and return the folder of the package vmoe_runtime."""
    with zipfile.ZipFile(wheel(arch)) as archive:
        archive.extractall(folder)
    return folder / "vmoe_runtime"


# This program imitates macOS as far as possible on Linux, and prints the libraries that the package finds on that system.
ON_MACOS = """
import sys
sys.platform = "darwin"
from vmoe_runtime.installation import OP_LIBRARY, SDK_LIBRARY, find_native
for name in (OP_LIBRARY, SDK_LIBRARY):
    print(find_native("lib", name))
"""


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_portable_wheel_needs_no_more_than_its_name_says(arch: str, tmp_path: Path) -> None:
    assert re.fullmatch(rf"vmoe_export-[\d.]+-py3-none-manylinux_2_28_{arch}\.whl", wheel(arch).name)
    with zipfile.ZipFile(wheel(arch)) as archive:
        assert {name for name in archive.namelist() if name.endswith(".so")} == LIBRARIES
        assert "vmoe_runtime/lib/cmake/vmoe/vmoeConfig.cmake" in archive.namelist()
        for library in LIBRARIES:
            read = ["readelf", "-dSW", archive.extract(library, tmp_path)]
            shown = subprocess.run(read, capture_output=True, text=True, check=True).stdout
            assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", shown)) <= SYSTEM
            assert ".symtab" not in shown


def test_the_wheel_for_macos_needs_no_more_than_its_name_says_and_exports_what_that_for_linux_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check the files in the wheel, without running them.

    libc++ is linked statically. At load time, the system's libc++ may replace only one kind of function: string destructors.
    """
    monkeypatch.syspath_prepend(str(wheel_folder("lief==1.0.0")))
    import lief

    assert re.fullmatch(r"vmoe_export-[\d.]+-py3-none-macosx_13_0_arm64\.whl", wheel("arm64").name)
    on_linux, on_macos = unpacked("x86_64", tmp_path / "linux"), unpacked("arm64", tmp_path / "macos")
    found = sdk_build.built(sys.executable, "-c", ON_MACOS, PYTHONPATH=str(tmp_path / "macos")).split()
    assert sorted(found) == sorted(map(str, on_macos.rglob("*.dylib")))
    for library, name in zip(map(Path, found), (OP_LIBRARY, SDK_LIBRARY), strict=True):
        binary = lief.MachO.parse(str(library)).at(0)
        assert binary.header.cpu_type == lief.MachO.Header.CPU_TYPE.ARM64 and binary.has_code_signature
        assert binary.build_version.minos == [13, 0, 0] and str(sdk_build.ROOT).encode() not in library.read_bytes()
        assert [each.name for each in binary.libraries] == [f"@rpath/{library.name}", "/usr/lib/libSystem.B.dylib"]
        exported = {symbol.name for symbol in binary.exported_symbols if not ZIG_EXPORTS.fullmatch(symbol.name)}
        listing = sdk_build.built("nm", "-D", "--defined-only", on_linux / "lib" / name)
        assert exported == {f"_{line.split()[-1]}" for line in listing.splitlines()}
        weak = [each.symbol.name for each in binary.bindings if each.binding_class == lief.MachO.DyldBindingInfo.CLASS.WEAK]
        assert all(re.match(r"__ZNSt3__112basic_string\w+D1Ev$", symbol) for symbol in weak if "St3__1" in symbol)


def test_the_wheel_runs_at_full_speed_in_a_root_without_compiler_and_openssl(
    mnist_bundle: Path, mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    root = BareRoot(tmp_path / "root", wheel("x86_64"))
    images = mnist_images["images"][:64, ..., None]
    np.save(root.root / "images.npy", images)
    shutil.copytree(mnist_bundle, root.root / "bundle")
    shutil.copytree(mnist_image_bundle, root.root / "alone")
    shutil.copy(sdk_build.ROOT / "samples" / "mnist" / "seven.png", root.root)
    first, _, result = root.run(IN_BARE_ROOT).partition("\n")
    description, names = json.loads(first)
    assert json.loads(result)["images"][0]["classes"][0]["index"] == 7
    assert not [name for name in names if re.match(r"(libssl|libcrypto)\b", name)]
    assert not {"cc", "c++", "gcc", "g++", "clang", "as", "ld", "sh"} & set(names)
    assert description.endswith(f" CPU, vmoe op library, {promised_paths()[0]}")
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(np.load(root.root / "logits.npy"), engine(images), rtol=0, atol=1e-5)


def test_a_program_of_another_compiler_uses_the_sdk_of_the_wheel(
    runners: Any, mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Build the program with g++ and its standard library, although zig and its standard library built the SDK.

    Check that an error in the SDK still reaches the program.
    """
    package = unpacked("x86_64", tmp_path / "wheel")
    assert cpu_paths.supported_paths(package / "lib" / OP_LIBRARY) == promised_paths()
    images = mnist_images["images"][:64, ..., None]
    runner = runners(package / "lib" / "cmake" / "vmoe", mnist_bundle)
    found = runner.logits(images)
    with pytest.raises(AssertionError, match="k must be"):
        runner.logits(images, capacity=0.3, k=100)
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(found, engine(images), rtol=0, atol=1e-5)


def test_the_wheel_for_64_bit_arm_answers_in_an_emulator(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    arm_emulator()
    package = unpacked("aarch64", tmp_path / "wheel")
    program = tmp_path / "sdk_runner"
    compiler = [ARM_COMPILER, "-std=c++17", "-O1", f"-I{package / 'include'}"]
    linked = [f"-L{package / 'lib'}", "-lvmoe_engine", f"-Wl,-rpath,{package / 'lib'}"]
    subprocess.run([*compiler, sdk_build.SOURCES / "sdk_runner.cc", "-o", program, *linked], check=True)
    images = mnist_images["images"][:32, ..., None]
    with arm_runner(program, mnist_bundle) as runner:
        assert "vmoe op library, neon" in runner.info()["runtime"]
        found = runner.logits(images)
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(found, engine(images), rtol=0, atol=1e-4)
