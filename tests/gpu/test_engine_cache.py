"""Check that the engine cache stores engines for one user alone, returns them, and refuses any other file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from damaged_files import refusal

from vmoe_runtime.backends.tensorrt.engine_cache import (
    EngineCacheError,
    EngineKey,
    EngineRecord,
    cache_folder,
    load_engine,
    private_folder,
)
from vmoe_tools.build.engine_store import store_engine

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("cache")]

ENGINE = b"an engine of TensorRT\nwith a line break"
KEY = EngineKey("ab" * 32, "c0.3-k1", "fp16", "10.13.0.35", "ef" * 32, "0.1.0", "NVIDIA H100", "9.0")
RECORD = EngineRecord(KEY, 1, 8, 32, False, hashlib.sha256(ENGINE).hexdigest(), len(ENGINE))


def test_the_folder_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("VMOE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "vmoe-export"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vmoe-export"


def test_an_engine_comes_back_with_its_record_and_is_for_its_owner_alone(cache: Path) -> None:
    assert load_engine(KEY) is None
    store_engine(ENGINE, RECORD)
    assert load_engine(KEY) == (ENGINE, RECORD)
    for entry in (cache, *cache.rglob("*")):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600)
    assert list(KEY.file.parent.iterdir()) == [KEY.file]


@pytest.mark.parametrize(
    "change", [{"bundle": "cd" * 32}, {"profile": None}, {"precision": "bf16"}, {"tensorrt": "11.4.0.106"}, {"gpu": "L4"},
               {"compute_capability": "8.9"}, {"plugin": "01" * 32}, {"package": "0.2.0"}],
    ids=lambda change: next(iter(change))
)  # fmt: skip
def test_a_key_with_another_field_is_another_engine(change: dict[str, str | None]) -> None:
    store_engine(ENGINE, RECORD)
    assert load_engine(replace(KEY, **change)) is None


def changed(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def of_another_key(file: Path) -> None:
    other = replace(RECORD, key=replace(KEY, gpu="NVIDIA L4"))
    store_engine(ENGINE, other)
    other.key.file.replace(file)


def without_a_record(file: Path) -> None:
    file.write_bytes(b"\xff not JSON\n" + ENGINE)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o700)


def writable_for_others(file: Path) -> None:
    file.chmod(0o602)


def in_a_cache_that_others_can_write(_: Path) -> None:
    cache_folder().chmod(0o777)


def of_another_user(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(file, 12345, 12345)


DAMAGES = [
    changed, of_another_key, without_a_record, a_folder, writable_for_others, in_a_cache_that_others_can_write,
    of_another_user,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.replace("_", " "))
def test_whatever_else_lies_there_is_refused_in_a_sentence(damage: Callable[[Path], None]) -> None:
    store_engine(ENGINE, RECORD)
    damage(KEY.file)
    with refusal(EngineCacheError, str(cache_folder())):
        load_engine(KEY)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "file"))
    with refusal(EngineCacheError, "can't be used: File exists; set VMOE_CACHE_DIR", str(tmp_path / "file")):
        private_folder()
