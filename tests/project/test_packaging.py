"""Check that the package installs with native libraries if they can be built.

Otherwise, it must install without them and report the reason.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import sdk_build

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
NO_COMPILER = {"PATH": str(Path(sys.executable).parent), "CXX": ""}


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return sdk_build.run(sys.executable, *command, folder=folder, **environment)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    done = run("-c", f"from scikit_build_core.build import build_sdist; build_sdist({str(target)!r})")
    assert done.returncode == 0, done.stderr
    (archive,) = target.glob("*.tar.gz")
    return archive


def pip_wheel(source: Path, target: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ("-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "-w", target, "-q", *options)
    return run(*command, **(environment or NO_COMPILER))


@pytest.mark.slow
def test_the_source_archive_holds_what_is_needed_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    listed = sdk_build.built("git", "ls-files", "-z", folder=ROOT)
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    assert {name for name in tracked if not name.startswith((".ci/", ".github/", ".git"))} <= held
    assert not [name for name in held if re.match(r"build/|\.venv|demo/|shared/", name)]


@pytest.mark.slow
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
    done = run("-S", "-m", "vmoe_runtime", "--library-dir", folder=installed, **environment)
    assert done.returncode == 1
    assert "(Debian package g++)" in done.stderr and done.stderr.count("\n") == 1
    program = f"from vmoe_runtime import Engine; print(Engine.load({str(mnist_image_bundle)!r}).backend_description)"
    assert "standard ops" in run("-S", "-c", program, folder=installed, **environment).stdout


@pytest.mark.slow
def test_requiring_every_library_fails_the_build_where_one_is_left_out(sdist: Path, tmp_path: Path) -> None:
    done = pip_wheel(sdist, tmp_path, "-Ccmake.define.VMOE_REQUIRE_ALL=ON")
    assert done.returncode != 0
    assert "a C++17 compiler (Debian package g++)" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"), [("CXX", "/no/c++"), ("CXXFLAGS", "--no-flag"), ("CMAKE_CXX_COMPILER_LAUNCHER", "/no/ccache")]
)
def test_a_compiler_that_cannot_compile_fails_the_build(variable: str, value: str, sdist: Path, tmp_path: Path) -> None:
    done = pip_wheel(sdist, tmp_path, **{variable: value})
    assert done.returncode != 0 and value in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.sample(1)
@pytest.mark.parametrize(("packages", "extra"), [(["numpy"], "cpu"), (["numpy", "onnxruntime"], "images")])
def test_an_extra_that_is_missing_is_named(
    packages: list[str], extra: str, tmp_path: Path, mnist_image_bundle: Path
) -> None:
    """Run a bundle on a picture file while only the runtime and `packages` can be imported.

    The run also needs a backend and Pillow. The error message must name the extra that installs what is missing.
    """
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
