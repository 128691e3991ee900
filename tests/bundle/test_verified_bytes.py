"""Check that an engine runs exactly the bytes that were verified.

The loader must notice if files are swapped, whenever that happens.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bundle_changes import BUNDLES
from bundle_swaps import WEIGHTS, engine_load, image, other_bundle, swap
from damaged_files import refusal
from path_swapper import exchange

from vmoe_runtime import BundleError, Engine
from vmoe_runtime.backends import openvino_cpu
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.bundle.watched_folder import WatchedFolder
from vmoe_runtime.errors import ChangedError

BACKENDS = ("onnxruntime", "openvino")
CHANGED = "was changed while it was loaded; load it again once nobody writes to it"
Change = Callable[[Path, Path], None]  # changes a bundle with the help of another one, or undoes the change


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLES / "v3-fp32", tmp_path / "own.vmoe"))


@pytest.fixture
def other(bundle: Path, tmp_path: Path) -> Path:
    return other_bundle(bundle, tmp_path / "other.vmoe")


class Meanwhile:
    """A hook that runs when a backend opens files. It calls `before` first and `after` last.

    After the backends have opened files `times` times, the hook no longer calls them.
    """

    def __init__(self) -> None:
        self.before = self.after = lambda: None
        self.times = 0

    def around(self, load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.times -= 1
        if self.times < 0:
            return load(*arguments, **options)
        self.before()
        try:
            return load(*arguments, **options)
        finally:
            self.after()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meanwhile]:
    watch = Meanwhile()
    session, manager = onnxruntime.InferenceSession, openvino_cpu.FrontEndManager

    class Reader:
        def __init__(self) -> None:
            self.reader = manager().load_by_framework("onnx")

        def load_by_framework(self, _: str) -> Reader:
            return self

        def load(self, path: str) -> Any:
            return path

        def convert(self, path: str) -> Any:
            return watch.around(lambda: self.reader.convert(self.reader.load(path)))

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *given, **options: watch.around(session, *given, **options))
    monkeypatch.setattr(openvino_cpu, "FrontEndManager", Reader)
    yield watch


def exchange_weights(bundle: Path, other: Path) -> None:
    exchange(bundle / WEIGHTS, other / WEIGHTS)


def exchange_graphs(bundle: Path, other: Path) -> None:
    for name in ("model.onnx", "model.inlined.onnx"):
        exchange(bundle / name, other / name)


def put_a_link_in_place(bundle: Path, other: Path) -> None:
    """Replace the bundle's weights by a hard link to the other bundle's weights. A second call undoes this.

    The first call also keeps the bundle's own weights, under a second name.
    """
    kept = bundle.parent / "kept"
    if kept.exists():
        kept.replace(bundle / WEIGHTS)
        return
    kept.hardlink_to(bundle / WEIGHTS)
    (bundle.parent / "new").hardlink_to(other / WEIGHTS)
    (bundle.parent / "new").replace(bundle / WEIGHTS)


def write_into_the_file(bundle: Path, other: Path) -> None:
    """Exchange the contents of the two weights files, and restore their modification times."""
    state = (bundle / WEIGHTS).stat()
    own, others = (bundle / WEIGHTS).read_bytes(), (other / WEIGHTS).read_bytes()
    for path, data in ((bundle / WEIGHTS, others), (other / WEIGHTS, own)):
        with path.open("r+b") as file:
            file.write(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


CHANGES: list[Change] = [exchange_weights, exchange_graphs, exchange, put_a_link_in_place, write_into_the_file]


CASES = [(backend, change, True) for backend in BACKENDS for change in CHANGES[:: 1 if backend == "onnxruntime" else 2]]


@pytest.mark.sample(7)
@pytest.mark.parametrize(
    ("backend", "change", "verify"),
    [*CASES, *(("onnxruntime", change, False) for change in CHANGES)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_exchanged_only_while_the_backend_opens_it_is_noticed(
    backend: str, change: Change, verify: bool, bundle: Path, other: Path, meanwhile: Meanwhile
) -> None:
    load = engine_load(backend, verify=verify)
    right = load(bundle)
    assert not np.array_equal(load(other), right)
    meanwhile.before = meanwhile.after = lambda: change(bundle, other)
    meanwhile.times = 1
    np.testing.assert_array_equal(load(bundle), right)  # the second attempt
    meanwhile.times = 99
    with refusal(ChangedError, CHANGED, "own.vmoe"):
        load(bundle)


def test_a_bundle_that_keeps_changing_is_opened_three_times(
    bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def change(folder: WatchedFolder) -> None:
        opened.append(folder)
        exchange(bundle, other)
        raise BundleError("a file is not the one that was checked")

    monkeypatch.setattr(WatchedFolder, "settle", change)
    with pytest.raises(ChangedError, match=CHANGED):
        Engine.load(bundle)
    assert len(opened) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_export_during_a_load_is_loaded(
    backend: str, bundle: Path, other: Path, tmp_path: Path, meanwhile: Meanwhile
) -> None:
    new = engine_load(backend)(other)

    def replace() -> None:
        bundle.rename(tmp_path / "old")
        other.rename(bundle)
        shutil.rmtree(tmp_path / "old")

    meanwhile.before, meanwhile.times = replace, 1
    np.testing.assert_array_equal(engine_load(backend)(bundle), new)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loaded_engine_doesnt_care_what_becomes_of_the_folder(backend: str, bundle: Path, other: Path) -> None:
    with Engine.load(bundle, backend=backend, threads=1) as engine:
        right = engine(image(bundle))
        images = image(bundle)
        exchange_weights(bundle, other)
        np.testing.assert_array_equal(engine(images), right)
        shutil.rmtree(bundle)
        np.testing.assert_array_equal(engine(images), right)


def test_weights_cut_short_while_they_are_hashed_give_a_sentence(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    os.truncate(bundle / WEIGHTS, 5000)
    with refusal(BundleError, "own.vmoe", CHANGED):
        opened.verify_weights()


def test_a_bundle_of_this_moment_is_waited_for_until_its_next_change_shows(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes((bundle / "manifest.json").read_bytes())
    Bundle.open(bundle)
    assert time.time_ns() - (bundle / "manifest.json").stat().st_ctime_ns >= 20_000_000


def descriptors(folder: Path) -> list[Path]:
    """Return the paths of those files in `folder` that this process has open."""
    targets = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [target for target in targets if target.is_relative_to(folder)]


def test_a_load_leaves_no_descriptor_open(bundle: Path, other: Path, tmp_path: Path, meanwhile: Meanwhile) -> None:
    with Engine.load(bundle, backend="onnxruntime", threads=1):
        assert not descriptors(tmp_path)
    meanwhile.before = meanwhile.after = lambda: exchange(bundle, other)
    meanwhile.times = 99
    with pytest.raises(ChangedError):
        engine_load("onnxruntime")(bundle)
    (bundle / WEIGHTS).unlink()
    # The traceback of the exception keeps the frames of the loading code alive. If they referred to an open file, it would
    # stay open.
    with pytest.raises(BundleError) as refused:
        Engine.load(bundle)
    assert not descriptors(tmp_path), refused


@pytest.mark.slow
def test_swaps_at_any_moment_give_no_wrong_answer(bundle: Path) -> None:
    report = swap(bundle, 60, 40, engine_load("onnxruntime"))
    assert report.failures == [] and min(report.endings["files: right"], report.endings["folders: right"]) > 0
