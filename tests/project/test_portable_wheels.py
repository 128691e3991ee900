"""The wheels for every Linux with glibc 2.28: what is in them, and that they run as fast kernels where nothing else is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import cpu_paths
import numpy as np
import portable_wheels
import pytest
import sdk_build
from bare_root import BareRoot
from op_models import node_call
from processor_flags import promised_paths
from wheels import wheel_folder

from vmoe_runtime import Engine

pytestmark = pytest.mark.long

SYSTEM = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
LIBRARIES = {"vmoe_runtime/lib/libvmoe_onnxruntime.so", "vmoe_runtime/lib/libvmoe_engine.so"}
ONNXRUNTIME = "1.32.0"

# Prints what a person would look for in vain, and answers 64 images.
IN_BARE_ROOT = """
import json, os, sys
places = [name for name in os.listdir("/") if name not in ("proc", "sys", "dev")]
names = {name for place in places for _, _, files in os.walk("/" + place) for name in files}
import numpy, onnxruntime
from vmoe_runtime import Engine
with Engine.load("/bundle", threads=1) as engine:
    numpy.save("/logits.npy", engine(numpy.load("/images.npy")))
    print(json.dumps([engine.backend_description, sorted(names)]))
"""


@pytest.fixture(scope="module")
def intel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package vmoe_runtime in the unpacked wheel for x86-64."""
    return portable_wheels.unpacked("x86_64", tmp_path_factory.mktemp("x86_64"))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of the wheel for 64-bit ARM."""
    return portable_wheels.unpacked("aarch64", tmp_path_factory.mktemp("aarch64"))


@pytest.mark.parametrize("arch", portable_wheels.ARCHITECTURES)
def test_auditwheel_agrees_with_the_name_of_a_wheel_and_it_holds_both_libraries(arch: str, tmp_path: Path) -> None:
    wheel = portable_wheels.wheel(arch)
    assert re.fullmatch(rf"vmoe_export-[\d.]+-py3-none-manylinux_2_28_{arch}\.whl", wheel.name)
    said = portable_wheels.built()[wheel.name]
    found = re.search(rf"auditwheel: manylinux_2_(\d+)_{arch}$", said)
    assert found, said
    assert int(found[1]) <= 28
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".so")} == LIBRARIES
        assert "vmoe_runtime/lib/cmake/vmoe/vmoeConfig.cmake" in archive.namelist()
        for library in LIBRARIES:
            shown = subprocess.run(
                ["readelf", "-dSW", archive.extract(library, tmp_path)], capture_output=True, text=True, check=True
            ).stdout
            assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", shown)) <= SYSTEM
            assert ".symtab" not in shown


def test_the_source_archive_that_the_wheels_come_from_is_beside_them() -> None:
    (name,) = (name for name in portable_wheels.built() if name.endswith(".tar.gz"))
    with tarfile.open(portable_wheels.wheel("x86_64").with_name(name)) as archive:
        assert any(member.endswith("/plugins/cmake/manylinux.cmake") for member in archive.getnames())


def test_the_op_library_takes_the_paths_that_this_processor_has(intel: Path) -> None:
    assert cpu_paths.supported_paths(intel / "lib" / sdk_build.OP_LIBRARY) == promised_paths()


def test_an_error_leaves_the_op_library_as_a_status(intel: Path) -> None:
    inputs = {"x": np.zeros((1, 10, 6), np.float32), "src": np.full((3, 4), 99, np.int32)}
    library = intel / "lib" / sdk_build.OP_LIBRARY
    (result,) = cpu_paths.run_calls([node_call("VmoeDispatch", inputs)], library=library)
    assert isinstance(result, str)
    assert "VmoeDispatch" in result
    assert "99" in result


def test_the_wheel_runs_at_full_speed_in_a_root_without_compiler_and_openssl(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    root = BareRoot(tmp_path / "root", portable_wheels.wheel("x86_64"))
    images = mnist_images["images"][:64, ..., None]
    np.save(root.root / "images.npy", images)
    shutil.copytree(mnist_bundle, root.root / "bundle")
    description, names = json.loads(root.run(IN_BARE_ROOT))
    assert not [name for name in names if re.match(r"(libssl|libcrypto)\b", name)]
    assert not {"cc", "c++", "gcc", "g++", "clang", "as", "ld", "sh"} & set(names)
    assert description.endswith(f" CPU, vmoe op library, {promised_paths()[0]}")
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        expected = engine(images)
    np.testing.assert_allclose(np.load(root.root / "logits.npy"), expected, rtol=0, atol=1e-5)


def test_a_program_of_another_compiler_uses_the_sdk(
    intel: Path, mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """g++ and its standard library on one side of the C interface, zig's on the other; an error crosses it, too."""
    images = mnist_images["images"][:64, ..., None]
    library = sdk_build.onnxruntime_library()
    runner = sdk_build.Runner(intel / "lib" / "cmake" / "vmoe", mnist_bundle, library, 1, tmp_path)
    assert f"vmoe op library, {promised_paths()[0]}" in "\t".join(runner.ask("info"))
    found = runner.logits(images)
    with pytest.raises(AssertionError, match="k must be"):
        runner.logits(images, *sdk_build.setting_fields(None, 0.3, 100))
    runner.close()
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(found, engine(images), rtol=0, atol=1e-5)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no compiler for 64-bit ARM")
def test_the_wheel_for_64_bit_arm_answers_in_an_emulator(
    arm: Path, mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Its SDK checks the bundle's SHA-256 and runs it on its op library and ONNX Runtime's wheel for that processor."""
    emulator = portable_wheels.arm_emulator()
    runtime = wheel_folder("--platform", "manylinux_2_28_aarch64", f"onnxruntime=={ONNXRUNTIME}")
    program = tmp_path / "sdk_runner"
    compiler = ["aarch64-linux-gnu-g++", "-std=c++17", "-O1", f"-I{arm / 'include'}"]
    linked = [f"-L{arm / 'lib'}", "-lvmoe_engine", f"-Wl,-rpath,{arm / 'lib'}"]
    source = sdk_build.SOURCES / "sdk_runner.cc"
    subprocess.run([*compiler, str(source), "-o", str(program), *linked], check=True)
    library = sdk_build.onnxruntime_library(runtime / "onnxruntime")
    runner = sdk_build.Runner.of_program([*emulator, program], mnist_bundle, library, 1, tmp_path)
    assert "vmoe op library, neon" in "\t".join(runner.ask("info"))
    images = mnist_images["images"][:32, ..., None]
    found = runner.logits(images)
    runner.close()
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(found, engine(images), rtol=0, atol=1e-4)
