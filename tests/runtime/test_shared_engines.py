"""Check that engines in the same process share one loaded graph if callers can't notice the sharing."""

from __future__ import annotations

import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bundle_changes import WEIGHTS, flipped

from vmoe_runtime import BundleError, Engine

Images = dict[str, np.ndarray]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Return a list that collects weak references to all ONNX Runtime sessions that are created."""
    created: list[weakref.ref[Any]] = []

    class RecordedSession(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            created.append(weakref.ref(self))

    monkeypatch.setattr(onnxruntime, "InferenceSession", RecordedSession)
    return created


@pytest.fixture
def bundle(mnist_image_bundle: Path, tmp_path: Path) -> Path:
    """Copy a bundle, so that the engines in other tests share nothing with the engines that load the copy."""
    return Path(shutil.copytree(mnist_image_bundle, tmp_path / "own.vmoe"))


def load(bundle: Path, threads: int | None = 1, **options: Any) -> Engine:
    return Engine.load(bundle, backend="onnxruntime", threads=threads, **options)


def test_two_engines_on_one_bundle_share_a_session_and_closing_one_leaves_the_other(
    bundle: Path, mnist_images: Images, sessions: list[Any]
) -> None:
    images = mnist_images["images"][:4]
    first, second = load(bundle), load(bundle, profile="c1.05-k2")
    assert len(sessions) == 1
    expected = first(images, "c1.05-k2")
    first.close()
    np.testing.assert_array_equal(second(images), expected)


def test_a_link_to_the_bundle_is_the_same_bundle(bundle: Path, tmp_path: Path, sessions: list[Any]) -> None:
    (tmp_path / "link.vmoe").symlink_to(bundle)
    with load(bundle), load(tmp_path / "link.vmoe"):
        assert len(sessions) == 1


def test_other_threads_or_a_copy_of_the_bundle_get_their_own_session(
    bundle: Path, tmp_path: Path, sessions: list[Any]
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy.vmoe")
    with load(bundle, threads=1), load(bundle, threads=2), load(copy, threads=1):
        assert len(sessions) == 3


def test_the_session_is_freed_when_every_engine_is_closed(bundle: Path, sessions: list[Any]) -> None:
    first, second = load(bundle), load(bundle)
    first.close()
    gc.collect()
    assert sessions[0]() is not None
    second.close()
    gc.collect()
    assert sessions[0]() is None
    with load(bundle):
        assert len(sessions) == 2


def test_eight_loads_at_once_make_one_session(bundle: Path, sessions: list[Any]) -> None:
    start = Barrier(8)

    def load_with_the_others(_: int) -> Engine:
        start.wait()
        return load(bundle)

    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(load_with_the_others, range(8)))
    assert len(sessions) == 1 and len({id(engine) for engine in engines}) == 8


def test_a_bundle_whose_files_were_replaced_is_loaded_again(bundle: Path, sessions: list[Any]) -> None:
    weights = bundle / "weights.safetensors"
    with load(bundle):
        shutil.copyfile(weights, bundle.parent / "new")
        (bundle.parent / "new").replace(weights)
        with load(bundle):
            assert len(sessions) == 2


@pytest.mark.parametrize("damage", ["weights.safetensors", "model.onnx"])
def test_a_second_load_of_changed_files_is_refused_though_the_first_engine_runs(
    bundle: Path, mnist_images: Images, damage: str
) -> None:
    with load(bundle) as first:
        changed = bytearray((bundle / damage).read_bytes())
        changed[-1] ^= 1
        (bundle.parent / "new").write_bytes(changed)
        (bundle.parent / "new").replace(bundle / damage)
        with pytest.raises(BundleError, match=rf"{damage} was changed after export"):
            load(bundle)
        assert first(mnist_images["images"][:1]).shape == (1, 10)


def test_a_load_that_fails_leaves_nothing_to_share(bundle: Path, sessions: list[Any]) -> None:
    flipped(WEIGHTS)(bundle)
    with pytest.raises(BundleError, match="was changed after export"):
        load(bundle)
    gc.collect()
    assert [session() for session in sessions] == [None]
    flipped(WEIGHTS)(bundle)  # restores the file
    with load(bundle) as engine:
        assert engine(np.zeros((1, 28, 28, 1), np.float32)).shape == (1, 10)
