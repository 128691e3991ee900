"""The package installs with the native libraries where they can be built, and without them, saying why, where not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sdk_build
from damaged_files import assert_one_sentence

from vmoe_runtime import Engine
from vmoe_runtime.installation import OP_LIBRARY, SDK_LIBRARY, find_native

ROOT = Path(__file__).parents[2]
LIBRARY = "vmoe_runtime/lib/libvmoe_onnxruntime.so"
SDK = {
    "vmoe_runtime/lib/libvmoe_engine.so",
    "vmoe_runtime/lib/cmake/vmoe/vmoeConfig.cmake",
    "vmoe_runtime/lib/pkgconfig/vmoe.pc",
    "vmoe_runtime/include/vmoe/elastic.h",
    "vmoe_runtime/include/vmoe/elastic.hpp",
    "vmoe_runtime/include/vmoe/engine.h",
    "vmoe_runtime/include/vmoe/engine.hpp",
}
CUDA_LIBRARY = "vmoe_runtime/lib/libvmoe_onnxruntime_cuda.so"
MISSING = "vmoe_runtime/lib/missing.txt"
NO_COMPILER = {"CXX": "/nonexistent/c++"}


def run(
    *command: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def build_wheel(source: Path, target: Path, *options: str, environment: dict[str, str] | None = None) -> Path:
    built = run(
        *("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", target, "-q", *options),
        environment=environment,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


def install(wheel: Path, target: Path) -> Path:
    done = run("-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel)
    assert done.returncode == 0, done.stderr
    return target


def ask(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on an installation, with the other packages of this environment but not with its own vmoe-export."""
    others = Path(np.__file__).parents[1]
    return run("-S", *arguments, folder=installed, environment={"PYTHONPATH": f"{installed}{os.pathsep}{others}"})


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    done = run("-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(target)!r})")
    assert done.returncode == 0, done.stderr
    (archive,) = target.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel_without_compiler(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(sdist, tmp_path_factory.mktemp("bare"), environment=NO_COMPILER)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in the tree's own build folder, so that only what changed is compiled."""
    if not all(find_native("lib", name) for name in (OP_LIBRARY, SDK_LIBRARY)):
        pytest.skip("this machine lacks what the native libraries need")
    return build_wheel(ROOT, tmp_path_factory.mktemp("native"))


def test_the_source_archive_holds_what_is_needed_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        path.relative_to(ROOT).as_posix()
        for folder in ("exporter", "runtime", "plugins", "tests", "samples", "benchmarks", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".cc", ".cu", ".h", ".hpp", ".txt", ".cmake", ".npz", ".index", ".json", ".typed"}
    }
    assert needed <= held
    assert {"pyproject.toml", "Makefile", "README.md", "LICENSE", "conftest.py", ".clang-format", ".clang-tidy"} <= held
    assert not [name for name in held if re.match(r"build/|\.venv|demo/|shared/", name)]


def test_without_a_compiler_the_wheel_is_for_any_machine_and_has_no_library_but_the_reason(
    wheel_without_compiler: Path,
) -> None:
    assert re.fullmatch(r"vmoe_export-[\d.]+-py3-none-any\.whl", wheel_without_compiler.name)
    held = names(wheel_without_compiler)
    assert MISSING in held
    assert not [name for name in held if name.endswith((".so", ".hpp", ".cmake"))]
    with zipfile.ZipFile(wheel_without_compiler) as archive:
        lines = archive.read(MISSING).decode().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "libvmoe_onnxruntime.so",
        "libvmoe_engine.so",
        "libvmoe_onnxruntime_cuda.so",
        "libvmoe_tensorrt.so",
    ]
    assert all("a C++17 compiler (Debian package g++)" in line for line in lines)


def test_an_installation_without_a_compiler_runs_and_says_what_to_install(
    wheel_without_compiler: Path, tmp_path: Path
) -> None:
    installed = install(wheel_without_compiler, tmp_path / "bare")
    done = ask(installed, "-m", "vmoe_runtime", "--library-dir")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr.removesuffix("\n"), "no native libraries", "(Debian package g++)", "pip install .")
    load = "import vmoe_runtime, vmoe_tools.bench; print(vmoe_runtime.__file__)"
    assert ask(installed, "-c", load).stdout == f"{installed}/vmoe_runtime/__init__.py\n"


def test_a_build_that_breaks_is_no_reason_for_a_wheel_without_libraries(tmp_path: Path) -> None:
    """A compiler that accepts every file but those of this project."""
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *{ROOT}*) echo broken >&2; exit 1;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    options = (
        "-m",
        "pip",
        "wheel",
        ROOT,
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        f"-Cbuild-dir={tmp_path / 'build'}",
    )
    done = run(*options, "-Ccmake.define.VMOE_GPU=OFF", environment={"CXX": str(compiler)})
    assert done.returncode != 0
    assert "The native libraries failed to build" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_requiring_every_library_fails_the_build_where_one_is_left_out(sdist: Path, tmp_path: Path) -> None:
    options = ("-m", "pip", "wheel", sdist, "--no-deps", "--no-build-isolation", "-w", tmp_path)
    done = run(*options, "-Ccmake.define.VMOE_REQUIRE_ALL=ON", environment=NO_COMPILER)
    assert done.returncode != 0
    assert "a C++17 compiler (Debian package g++)" in done.stdout + done.stderr


def test_the_wheel_holds_the_packages_and_stripped_libraries_for_any_python_3(wheel: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"vmoe_export-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    held = names(wheel)
    sources = {
        path.relative_to(folder).as_posix()
        for folder in (ROOT / "exporter", ROOT / "runtime")
        for path in folder.rglob("*")
        if path.suffix in {".py", ".txt", ".j2", ".css", ".js"} or path.name == "py.typed"
    }
    assert sources <= held
    assert {LIBRARY, *SDK} <= held
    assert (CUDA_LIBRARY in held) == (shutil.which("nvcc") is not None)
    with zipfile.ZipFile(wheel) as archive:
        for library in (name for name in held if name.endswith(".so")):
            sections = subprocess.run(
                ["readelf", "-SW", archive.extract(library, tmp_path)], capture_output=True, text=True, check=True
            )
            assert ".dynsym" in sections.stdout
            assert ".symtab" not in sections.stdout
        metadata = archive.read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/METADATA").decode()
    assert "onnxruntime" not in "".join(re.findall(r"^Requires-Dist: [^;]*$", metadata, re.MULTILINE))


def test_an_installed_wheel_prints_its_paths_and_onnxruntime_registers_the_library(wheel: Path, tmp_path: Path) -> None:
    installed = install(wheel, tmp_path / "native")
    done = ask(installed, "-m", "vmoe_runtime", "--library-dir")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"{installed / LIBRARY}\n".replace("/libvmoe_onnxruntime.so", ""),
        "",
    )
    register = (
        "import onnxruntime, vmoe_runtime\npath = vmoe_runtime.library_path()\n"
        "onnxruntime.SessionOptions().register_custom_ops_library(path)\nprint(path)"
    )
    done = ask(installed, "-c", register)
    assert (done.returncode, done.stdout) == (0, f"{installed / LIBRARY}\n"), done.stderr


def test_a_cmake_project_builds_against_the_wheel_and_has_the_bits_of_the_python_engine(
    wheel: Path, tmp_path: Path, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    installed = install(wheel, tmp_path / "native")
    cmake_dir = ask(installed, "-m", "vmoe_runtime", "--cmake-dir").stdout.strip()
    images = mnist_images["images"][:64, ..., None]
    with Engine.load(mnist_bundle, backend="onnxruntime", threads=1) as engine:
        expected = engine(images)
    runner = sdk_build.Runner(Path(cmake_dir), mnist_bundle, sdk_build.onnxruntime_library(), 1, tmp_path)
    found = runner.logits(images)
    assert "vmoe op library" in "\t".join(runner.ask("info"))
    runner.close()
    np.testing.assert_array_equal(found, expected)


def test_the_native_parts_carry_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"project(vmoe VERSION {version} " in (ROOT / "plugins" / "CMakeLists.txt").read_text()
