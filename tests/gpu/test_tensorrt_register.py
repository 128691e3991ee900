"""Check the library that registers the TensorRT plugin as soon as a program opens the library.

The library must either succeed or report why it fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sdk_build import run
from tensorrt_build import PLUGIN, REGISTER, Build, build
from test_tensorrt_plugin import NAMES

ALL = " ".join(f"vmoe::{op}::1" for op in NAMES) + "\n"
NONE = "\n"
NOT_REGISTERED = "vmoe: plugins not registered: "


@pytest.fixture(scope="module")
def made() -> Build:
    return build()


def opened(made: Build, *libraries: Path, **environment: str) -> tuple[str, str]:
    """Run a program that opens these libraries.

    Return a line for each fake TensorRT among them, which lists the creators that are registered with it. Also return the
    program's stderr.
    """
    done = run(made.program("parent"), *libraries, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_it_registers_with_the_tensorrt_of_the_process_once(made: Build, tmp_path: Path) -> None:
    link = tmp_path / "plugins.so"
    link.symlink_to(made.register)
    for libraries in ([made.register], [link], [made.register, made.register]):
        assert opened(made, made.fake(), *libraries) == (ALL, "")
    (tmp_path / "copy").mkdir()
    for name in (REGISTER, PLUGIN):
        shutil.copy(made.libraries / name, tmp_path / "copy")
    assert opened(made, made.fake(), made.register, tmp_path / "copy" / REGISTER) == (ALL, "")


def test_before_tensorrt_it_loads_the_one_that_the_loader_finds(made: Build) -> None:
    said = f"vmoe: no TensorRT was loaded yet; loaded libnvinfer.so.{made.major} and registered the plugins with that\n"
    folder = str(made.fake().parent)
    assert opened(made, made.register, made.fake(), LD_LIBRARY_PATH=folder) == (ALL, said)
    assert opened(made, made.fake(), LD_PRELOAD=str(made.register), LD_LIBRARY_PATH=folder) == (ALL, said)
    assert opened(made, made.fake(), LD_PRELOAD=f"{made.fake()} {made.register}") == (ALL, "")


def test_without_a_tensorrt_that_the_loader_finds_it_says_so(made: Build) -> None:
    out, err = opened(made, made.register, made.fake())
    assert out == NONE
    assert err.startswith(f"{NOT_REGISTERED}there is no TensorRT here, and none can be loaded: libnvinfer.so.{made.major}: ")
    assert err.count("\n") == 1


def no_plugin(plugin: Path, made: Build) -> None:
    plugin.unlink(missing_ok=True)


def another_library(plugin: Path, made: Build) -> None:
    shutil.copy(made.fake(), plugin)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (no_plugin, "the plugin library can't be loaded: {}: cannot open shared object file"),
        (another_library, "{} has no function getCreators"),
    ],
)
def test_without_the_plugin_beside_it_it_says_so(
    made: Build, tmp_path: Path, change: Callable[[Path, Build], None], says: str
) -> None:
    shutil.copy(made.register, tmp_path)
    change(tmp_path / PLUGIN, made)
    out, err = opened(made, made.fake(), tmp_path / REGISTER)
    assert (out, err.count("\n")) == (NONE, 1)
    assert err.startswith(NOT_REGISTERED + says.format(tmp_path / PLUGIN))


def test_a_registry_that_refuses_or_is_missing_is_named(made: Build) -> None:
    refused = f"{NOT_REGISTERED}TensorRT's plugin registry refused {', '.join(NAMES)}\n"
    assert opened(made, made.fake(), made.register, FAKE_TENSORRT="refuses") == (NONE, refused)
    missing = f"{NOT_REGISTERED}libnvinfer.so.{made.major} has no plugin registry\n"
    assert opened(made, made.fake(), made.register, FAKE_TENSORRT="no_registry") == (NONE, missing)


def test_another_major_version_is_not_touched(made: Build) -> None:
    says = f"libnvinfer.so.{made.major} is TensorRT 9, and they were built for TensorRT {made.major}"
    assert opened(made, made.fake("fake_unknown"), made.register) == (NONE, f"{NOT_REGISTERED}{says}\n")


@pytest.mark.slow
def test_under_sanitizers() -> None:
    made = build("address,undefined")
    assert opened(made, made.fake(), made.register) == (ALL, "")
    assert opened(made, made.fake(), made.register, FAKE_TENSORRT="refuses")[0] == NONE
    assert opened(made, made.register)[1].startswith(NOT_REGISTERED)
