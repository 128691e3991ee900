"""The library that registers the TensorRT plugin where it is only opened: it registers every time, or says why not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from sdk_build import run
from tensorrt_build import PLUGIN, REGISTER, Build, build, builds, headers, oldest_and_newest

REGISTERED = " ".join(
    f"vmoe::{op}::1" for op in ("VmoeGates", "VmoeRoute", "VmoeDispatch", "VmoeRouteDispatch", "VmoeCombine")
)
ALL = f"{REGISTERED} ready 1\n"
NONE = " ready 0\n"  # TensorRT was never asked for its registry
REFUSED = " ready 1\n"
SCOPES = ("local", "global")
NOT_REGISTERED = "vmoe: plugins not registered: "


@pytest.fixture(scope="module")
def oldest() -> Build:
    return build(next(iter(headers())))


@pytest.fixture(scope="module")
def both_majors() -> tuple[Build, Build]:
    """A build of TensorRT 10 and one of 11."""
    ten, eleven = (build(version) for version in oldest_and_newest())
    if (ten.major, eleven.major) != (10, 11):
        pytest.skip("there are headers of one major version only")
    return ten, eleven


def opened(parent: Path, *libraries: tuple[str, Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """A program that opens these libraries, each with its scope, and prints what is registered with the TensorRTs."""
    done = run(parent, *(f"{scope}:{library}" for scope, library in libraries), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def copied(made: Build, folder: Path, *names: str) -> Path:
    """The register library in another folder, with the other named libraries; what it looks for lies beside it, or not."""
    folder.mkdir(exist_ok=True)
    for name in (REGISTER, *names):
        shutil.copy(made.libraries / name, folder)
    return folder / REGISTER


@pytest.mark.parametrize("scope", SCOPES)
def test_it_registers_with_every_version_whatever_headers_it_was_built_with(scope: str) -> None:
    for version in oldest_and_newest():
        made = build(version)
        for tensorrt in builds():
            for shim_scope in SCOPES:
                done = opened(made.program("parent"), (scope, tensorrt.fake()), (shim_scope, made.register))
                assert (done.stdout, done.stderr) == (ALL, ""), (version, tensorrt.version)


@pytest.mark.parametrize("scope", SCOPES)
def test_before_tensorrt_it_loads_the_one_that_the_loader_finds(scope: str) -> None:
    for tensorrt in builds():
        folder = str(tensorrt.fake().parent)
        libraries = ((scope, tensorrt.register), (scope, tensorrt.fake()))
        done = opened(tensorrt.program("parent"), *libraries, LD_LIBRARY_PATH=folder)
        assert done.stdout == ALL
        loaded = f"libnvinfer.so.{tensorrt.major}"
        assert done.stderr == f"vmoe: no TensorRT was loaded yet; loaded {loaded} and registered the plugins with that\n"


@pytest.mark.parametrize("scope", SCOPES)
def test_before_a_tensorrt_that_the_loader_does_not_find_it_says_so(scope: str, oldest: Build) -> None:
    done = opened(oldest.program("parent"), (scope, oldest.register), (scope, oldest.fake()))
    assert done.stdout == NONE
    assert done.stderr.startswith(f"{NOT_REGISTERED}there is no TensorRT in this process, and none could be loaded: ")
    assert "libnvinfer.so.11: cannot open" in done.stderr
    assert "libnvinfer.so.10: cannot open" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("scope", SCOPES)
def test_with_two_majors_it_registers_with_both(scope: str, both_majors: tuple[Build, Build]) -> None:
    for made in both_majors:
        for first, second in (both_majors, both_majors[::-1]):
            libraries = ((scope, first.fake()), (scope, second.fake()), (scope, made.register))
            done = opened(made.program("parent"), *libraries)
            assert (done.stdout, done.stderr) == (ALL + ALL, "")


def test_with_two_majors_installed_and_none_loaded_it_takes_the_newer(both_majors: tuple[Build, Build]) -> None:
    ten, eleven = both_majors
    libraries = (("local", ten.register), ("local", ten.fake()), ("local", eleven.fake()))
    folders = f"{ten.fake().parent}:{eleven.fake().parent}"
    done = opened(ten.program("parent"), *libraries, LD_LIBRARY_PATH=folders)
    assert done.stdout == NONE + ALL
    assert "loaded libnvinfer.so.11 and registered" in done.stderr


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    for made in builds():
        again = copied(made, tmp_path / str(made.version), PLUGIN)
        libraries = (("local", made.fake()), ("local", made.register), ("local", made.register), ("local", again))
        done = opened(made.program("parent"), *libraries)
        assert (done.stdout, done.stderr) == (ALL, "")


def test_a_link_to_it_finds_the_plugin_beside_the_file(tmp_path: Path, oldest: Build) -> None:
    link = tmp_path / "plugins.so"
    link.symlink_to(oldest.register)
    done = opened(oldest.program("parent"), ("local", oldest.fake()), ("local", link))
    assert (done.stdout, done.stderr) == (ALL, "")


def test_it_finds_a_tensorrt_that_is_part_of_the_program() -> None:
    for made in builds():
        done = opened(made.program("parent_static"), ("local", made.register))
        assert (done.stdout, done.stderr) == (ALL, "")
        # Preloaded, it comes before the program's own constructors: plugins/tensorrt/README.md says to open it instead.
        done = run(made.program("parent_static"), LD_PRELOAD=str(made.register))
        assert (done.stdout, done.stderr) == (f"{REGISTERED} ready 0\n", "")


def test_preloaded_into_a_program_that_is_linked_with_tensorrt() -> None:
    for made in builds():
        done = run(made.program("parent_linked"), LD_PRELOAD=str(made.register))
        # "ready 1": the constructors of TensorRT had run, although those of preloaded libraries would come first.
        assert (done.stdout, done.stderr) == (ALL, "")


def test_preloaded_into_a_program_that_opens_tensorrt_later() -> None:
    for made in builds():
        libraries = (("local", made.fake()),)
        found = opened(
            made.program("parent"), *libraries, LD_PRELOAD=str(made.register), LD_LIBRARY_PATH=str(made.fake().parent)
        )
        assert found.stdout == ALL
        assert "no TensorRT was loaded yet; loaded libnvinfer.so." in found.stderr
        preloaded_too = opened(made.program("parent"), *libraries, LD_PRELOAD=f"{made.fake()} {made.register}")
        assert (preloaded_too.stdout, preloaded_too.stderr) == (ALL, "")
        lost = opened(made.program("parent"), *libraries, LD_PRELOAD=str(made.register))
        assert lost.stdout == NONE
        assert lost.stderr.startswith(f"{NOT_REGISTERED}there is no TensorRT in this process")


def test_without_the_plugin_beside_it_says_so(tmp_path: Path, oldest: Build) -> None:
    alone = copied(oldest, tmp_path / "alone")
    done = opened(oldest.program("parent"), ("local", oldest.fake()), ("local", alone))
    assert done.stdout == NONE
    assert done.stderr.startswith(f"{NOT_REGISTERED}the plugin library can't be loaded: {tmp_path}/alone/{PLUGIN}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_with_a_damaged_plugin_beside_it_says_so(content: bytes, tmp_path: Path, oldest: Build) -> None:
    beside = copied(oldest, tmp_path / "damaged")
    (tmp_path / "damaged" / PLUGIN).write_bytes(content)
    done = opened(oldest.program("parent"), ("local", oldest.fake()), ("local", beside))
    assert done.stdout == NONE
    assert done.stderr.startswith(f"{NOT_REGISTERED}the plugin library can't be loaded: ")


def test_with_another_library_in_the_plugins_place_it_says_so(tmp_path: Path, oldest: Build) -> None:
    beside = copied(oldest, tmp_path / "other")
    shutil.copy(oldest.fake(), tmp_path / "other" / PLUGIN)
    done = opened(oldest.program("parent"), ("local", oldest.fake()), ("local", beside))
    assert done.stdout == NONE
    assert done.stderr.startswith(f"{NOT_REGISTERED}{tmp_path}/other/{PLUGIN} is no plugin library: ")


def test_a_registry_that_refuses_is_named() -> None:
    names = REGISTERED.replace("vmoe::", "").replace("::1", "").replace(" ", ", ")
    for made in builds():
        done = opened(made.program("parent"), ("local", made.fake()), ("local", made.register), FAKE_TENSORRT="refuses")
        assert done.stdout == REFUSED
        assert done.stderr == f"{NOT_REGISTERED}the plugin registry of libnvinfer.so.{made.major} refused {names}\n"


def test_a_tensorrt_without_a_registry_is_named(oldest: Build) -> None:
    libraries = (("local", oldest.fake()), ("local", oldest.register))
    done = opened(oldest.program("parent"), *libraries, FAKE_TENSORRT="no_registry")
    assert done.stdout == REFUSED
    assert done.stderr == f"{NOT_REGISTERED}libnvinfer.so.{oldest.major} has no plugin registry\n"


def test_an_unknown_version_is_not_touched(oldest: Build) -> None:
    done = opened(oldest.program("parent"), ("local", oldest.fake("fake_unknown")), ("local", oldest.register))
    assert done.stdout == NONE
    named = f"libnvinfer.so.{oldest.major} is TensorRT 12; the plugins are for TensorRT 10 and 11"
    assert done.stderr == f"{NOT_REGISTERED}{named}\n"


def test_one_tensorrt_that_refuses_does_not_keep_the_other(both_majors: tuple[Build, Build]) -> None:
    ten, eleven = both_majors
    libraries = (("local", ten.fake("fake_unknown")), ("local", eleven.fake()), ("local", ten.register))
    done = opened(ten.program("parent"), *libraries)
    assert done.stdout == NONE + ALL
    assert done.stderr == f"{NOT_REGISTERED}libnvinfer.so.10 is TensorRT 12; the plugins are for TensorRT 10 and 11\n"


def test_under_sanitizers() -> None:
    for version in oldest_and_newest():
        made = build(version, "address,undefined")
        libraries = (("local", made.fake()), ("local", made.register))
        done = opened(made.program("parent"), *libraries)
        assert (done.stdout, done.stderr) == (ALL, "")
        refused = opened(made.program("parent"), *libraries, FAKE_TENSORRT="refuses")
        assert refused.stdout == REFUSED
        lost = opened(made.program("parent"), ("local", made.register))
        assert lost.stderr.startswith(NOT_REGISTERED)
