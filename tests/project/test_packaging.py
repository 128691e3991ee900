"""The package installs with native libraries where they can be built, and without them, saying why, where not.

Portable wheels run at full speed in a root without a compiler, on x86-64 and, in an emulator, on 64-bit ARM.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cpu_paths
import numpy as np
import onnxruntime
import portable_wheels
import pytest
import sdk_build
from bare_root import BareRoot
from processor_flags import promised_paths
from wheels import wheel_folder

from vmoe_runtime import Engine
from vmoe_runtime.installation import OP_LIBRARY, SDK_LIBRARY

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"CXX": "/nonexistent/c++"}
SYSTEM = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
LIBRARIES = {f"vmoe_runtime/lib/{name}" for name in (OP_LIBRARY, SDK_LIBRARY)}
ONNXRUNTIME = "1.32.0"

# Prints the engine's description and every file name below the root, answers images, and is `vmoe run` in the end.
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


def run(
    *command: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **(environment or {})}
    return subprocess.run([sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    done = run("-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(target)!r})")
    assert done.returncode == 0, done.stderr
    (archive,) = target.glob("*.tar.gz")
    return archive


def pip_wheel(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", target, "-q", *options)
    return run(*command, environment=NO_COMPILER)


def test_the_source_archive_holds_what_is_needed_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    assert {name for name in tracked if not name.startswith((".ci/", ".github/", ".git"))} <= held
    assert not [name for name in held if re.match(r"build/|\.venv|demo/|shared/", name)]


def test_without_a_compiler_the_package_runs_and_says_what_to_install(
    sdist: Path, tmp_path: Path, mnist_image_bundle: Path
) -> None:
    assert pip_wheel(sdist, tmp_path).returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    installed = tmp_path / "installed"
    assert run("-m", "pip", "install", "-q", "--no-deps", "--target", installed, wheel).returncode == 0
    assert not list(installed.rglob("*.so"))
    environment = {"PYTHONPATH": f"{installed}{os.pathsep}{Path(np.__file__).parents[1]}"}
    done = run("-S", "-m", "vmoe_runtime", "--library-dir", folder=installed, environment=environment)
    assert done.returncode == 1
    assert "(Debian package g++)" in done.stderr and done.stderr.count("\n") == 1
    program = f"from vmoe_runtime import Engine; print(Engine.load({str(mnist_image_bundle)!r}).backend_description)"
    assert "standard ops" in run("-S", "-c", program, folder=installed, environment=environment).stdout


def test_requiring_every_library_fails_the_build_where_one_is_left_out(sdist: Path, tmp_path: Path) -> None:
    done = pip_wheel(sdist, tmp_path, "-Ccmake.define.VMOE_REQUIRE_ALL=ON")
    assert done.returncode != 0
    assert "a C++17 compiler (Debian package g++)" in done.stdout + done.stderr


@pytest.mark.parametrize("arch", portable_wheels.ARCHITECTURES)
def test_a_portable_wheel_needs_no_more_than_its_name_says(arch: str, tmp_path: Path) -> None:
    wheel = portable_wheels.wheel(arch)
    assert re.fullmatch(rf"vmoe_export-[\d.]+-py3-none-manylinux_2_28_{arch}\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".so")} == LIBRARIES
        assert "vmoe_runtime/lib/cmake/vmoe/vmoeConfig.cmake" in archive.namelist()
        for library in LIBRARIES:
            read = ["readelf", "-dSW", archive.extract(library, tmp_path)]
            shown = subprocess.run(read, capture_output=True, text=True, check=True).stdout
            assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", shown)) <= SYSTEM
            assert ".symtab" not in shown


def test_the_wheel_runs_at_full_speed_in_a_root_without_compiler_and_openssl(
    mnist_bundle: Path, mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    root = BareRoot(tmp_path / "root", portable_wheels.wheel("x86_64"))
    images = mnist_images["images"][:64, ..., None]
    np.save(root.root / "images.npy", images)
    shutil.copytree(mnist_bundle, root.root / "bundle")
    shutil.copytree(mnist_image_bundle, root.root / "alone")
    shutil.copy(ROOT / "samples" / "mnist" / "seven.png", root.root)
    first, _, result = root.run(IN_BARE_ROOT).partition("\n")
    description, names = json.loads(first)
    assert json.loads(result)["images"][0]["classes"][0]["index"] == 7
    assert not [name for name in names if re.match(r"(libssl|libcrypto)\b", name)]
    assert not {"cc", "c++", "gcc", "g++", "clang", "as", "ld", "sh"} & set(names)
    assert description.endswith(f" CPU, vmoe op library, {promised_paths()[0]}")
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(np.load(root.root / "logits.npy"), engine(images), rtol=0, atol=1e-5)


def test_a_program_of_another_compiler_uses_the_sdk_of_the_wheel(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """g++ and its standard library on one side of the C interface, zig's on the other; an error crosses it, too."""
    package = portable_wheels.unpacked("x86_64", tmp_path / "wheel")
    assert cpu_paths.supported_paths(package / "lib" / OP_LIBRARY) == promised_paths()
    images = mnist_images["images"][:64, ..., None]
    library = sdk_build.onnxruntime_library()
    runner = sdk_build.Runner(package / "lib" / "cmake" / "vmoe", mnist_bundle, library, 1, tmp_path)
    found = runner.logits(images)
    with pytest.raises(AssertionError, match="k must be"):
        runner.logits(images, *sdk_build.setting_fields(None, 0.3, 100))
    runner.close()
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(found, engine(images), rtol=0, atol=1e-5)


@pytest.mark.skipif(not shutil.which("aarch64-linux-gnu-g++"), reason="no compiler for 64-bit ARM")
def test_the_wheel_for_64_bit_arm_answers_in_an_emulator(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    package, emulator = portable_wheels.unpacked("aarch64", tmp_path / "wheel"), portable_wheels.arm_emulator()
    runtime = wheel_folder("--platform", "manylinux_2_28_aarch64", f"onnxruntime=={ONNXRUNTIME}")
    program = tmp_path / "sdk_runner"
    compiler = ["aarch64-linux-gnu-g++", "-std=c++17", "-O1", f"-I{package / 'include'}"]
    linked = [f"-L{package / 'lib'}", "-lvmoe_engine", f"-Wl,-rpath,{package / 'lib'}"]
    subprocess.run([*compiler, sdk_build.SOURCES / "sdk_runner.cc", "-o", program, *linked], check=True)
    library = sdk_build.onnxruntime_library(runtime / "onnxruntime")
    runner = sdk_build.Runner.of_program([*emulator, program], mnist_bundle, library, 1, tmp_path)
    assert "vmoe op library, neon" in "\t".join(runner.ask("info"))
    images = mnist_images["images"][:32, ..., None]
    found = runner.logits(images)
    runner.close()
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        np.testing.assert_allclose(found, engine(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("packages", "extra"), [(["numpy"], "cpu"), (["numpy", "onnxruntime"], "images")])
def test_an_extra_that_is_missing_is_named(
    packages: list[str], extra: str, tmp_path: Path, mnist_image_bundle: Path
) -> None:
    """Nothing but these packages and the runtime can be imported; a picture file needs an engine and Pillow."""
    modules = {"numpy": np, "onnxruntime": onnxruntime}
    for name in packages:
        place = Path(str(modules[name].__file__)).parent
        for source in (place, place.with_name(f"{name}.libs")):
            if source.is_dir():
                (tmp_path / source.name).symlink_to(source)
    (tmp_path / "vmoe_runtime").symlink_to(ROOT / "runtime" / "vmoe_runtime")
    picture = ROOT / "samples" / "mnist" / "seven.png"
    program = (
        f"import sys; sys.path.append({str(tmp_path)!r})\nfrom vmoe_runtime import Engine, VmoeError\n"
        f"try: Engine.load({str(mnist_image_bundle)!r})({str(picture)!r})\nexcept VmoeError as error: print(error)"
    )
    done = run("-I", "-S", "-c", program)
    assert f"pip install 'vmoe-export[{extra}]'" in done.stdout, done.stderr
