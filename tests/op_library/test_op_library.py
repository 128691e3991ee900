"""Check that an installation contains the op library.

The ONNX Runtime backend must use the library, or report why it can't.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damaged_files import assert_one_sentence
from sdk_build import run

import vmoe_runtime
from vmoe_runtime import BackendError, Engine, backends, library_path, op_library
from vmoe_runtime.backends import openvino_cpu
from vmoe_runtime.bundle.reader import Bundle

pytestmark = pytest.mark.fast

Images = dict[str, np.ndarray]

needs_library = pytest.mark.skipif(op_library.find_library() is None, reason="this installation has no op library")


def use_library(monkeypatch: pytest.MonkeyPatch, library: Path | None) -> None:
    monkeypatch.setattr(op_library, "find_library", lambda: library)


PACKAGE = Path(vmoe_runtime.__file__).parent


@pytest.fixture
def bare_package(tmp_path: Path) -> Path:
    """Make a folder with numpy and the Python files of the package vmoe_runtime, but without its native files."""
    copy = tmp_path / "bare"
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("lib", "include"))
    for folder in Path(np.__file__).parents[1].glob("numpy*"):
        (copy / folder.name).symlink_to(folder)
    return copy


def run_python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the package in the folder `package`.

    The option -S is needed, because Python would otherwise find this environment's own installation first.
    """
    return run(sys.executable, "-S", *arguments, PYTHONPATH=str(package))


def test_an_installation_has_the_op_library_or_says_what_to_install() -> None:
    try:
        path = Path(library_path())
    except BackendError as error:
        assert_one_sentence(str(error), "install what is missing", "pip install .")
    else:
        assert path.name == "libvmoe_onnxruntime.so" and path.is_file()


@needs_library
@pytest.mark.parametrize("profile", ["c0.1-k1", "c0.3-k2", "c0.5-k1-vanilla", "c2-k2"])
def test_the_backend_answers_with_it_as_without_it(
    mnist_bundle: Path, mnist_images: Images, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = mnist_images["images"][:32]
    with Engine.load(mnist_bundle, backend="onnxruntime") as engine:
        assert "CPU, vmoe op library, " in engine.backend_description
        logits, routes = engine(images, profile), engine.routing(images, profile)
    use_library(monkeypatch, None)
    with Engine.load(mnist_bundle, backend="onnxruntime") as engine:
        assert "CPU, standard ops; this installation of vmoe-export has no op library" in engine.backend_description
        np.testing.assert_allclose(logits, engine(images, profile), rtol=0, atol=1e-5)
        for layer, expected in engine.routing(images, profile).items():
            np.testing.assert_array_equal(routes[layer].expert, expected.expert)
            np.testing.assert_array_equal(routes[layer].kept, expected.kept)
            np.testing.assert_allclose(routes[layer].weight, expected.weight, rtol=0, atol=1e-6)


def test_auto_passes_over_a_backend_that_the_bundle_does_not_suit(
    mnist_image_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(mnist_image_bundle)
    monkeypatch.setattr(openvino_cpu, "_MAX_GROUP_TOKENS", 49)  # one token less than in a group of this bundle
    use_library(monkeypatch, None)
    assert backends.open_backend("auto", bundle, backends.Parallelism(threads=1))[0] == "onnxruntime"
    with pytest.raises(BackendError, match="use backend 'onnxruntime'"):
        backends.open_backend("openvino", bundle, backends.Parallelism(threads=1))


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("--op-library", "no op library"),
        ("--library-dir", "no native libraries"),
        ("--cmake-dir", "no CMake package"),
        ("--include-dir", "no C++ headers"),
    ],
)
def test_the_command_says_in_one_sentence_what_the_package_was_built_without(
    bare_package: Path, option: str, what: str
) -> None:
    lib = bare_package / "vmoe_runtime" / "lib"
    lib.mkdir()
    (lib / "missing.txt").write_text(
        "libvmoe_onnxruntime.so: a C++17 compiler (Debian package g++), the headers of Highway (libhwy-dev)\n"
        "libvmoe_engine.so: a C++17 compiler (Debian package g++)\n"
    )
    done = run_python(bare_package, "-m", "vmoe_runtime", option)
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr.removesuffix("\n"), what, "(Debian package g++)", "pip install .")
    assert ("libhwy-dev" in done.stderr) == (option in ("--op-library", "--library-dir"))


def test_a_source_folder_that_was_never_installed_says_how_to_build_it(bare_package: Path) -> None:
    done = run_python(bare_package, "-m", "vmoe_runtime", "--op-library")
    assert (done.returncode, done.stdout) == (1, "")
    assert_one_sentence(done.stderr.removesuffix("\n"), "no op library", "libvmoe_onnxruntime.so", "pip install .")


def test_the_command_prints_paths_below_one_folder(bare_package: Path) -> None:
    root = bare_package / "vmoe_runtime"
    for name in ("lib/libvmoe_onnxruntime.so", "lib/libvmoe_engine.so", "lib/cmake/vmoe/x", "include/vmoe/engine.hpp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for option, path in {
        "--op-library": "lib/libvmoe_onnxruntime.so",
        "--library-dir": "lib",
        "--cmake-dir": "lib/cmake/vmoe",
        "--include-dir": "include",
    }.items():
        done = run_python(bare_package, "-m", "vmoe_runtime", option)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{root / path}\n", "")
