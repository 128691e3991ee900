"""The engine cache gives back what was put in, to its owner, and refuses whatever else lies there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from damaged_files import assert_one_sentence

from vmoe_runtime.backends.tensorrt.engine_cache import (
    EngineCacheError,
    EngineKey,
    EngineRecord,
    cache_folder,
    engine_path,
    find_record,
    load_engine,
    other_engines,
    private_folder,
    read_private,
    store_engine,
    write_private,
)

pytestmark = pytest.mark.fast

ENGINE = b"an engine of TensorRT"
KEY = EngineKey("ab" * 32, "c0.3-k1", "fp16", "10.13.0.35", "ef" * 32, "0.1.0", "NVIDIA H100", "9.0")
RECORD = EngineRecord(KEY, 1, 8, 32, False, hashlib.sha256(ENGINE).hexdigest(), len(ENGINE))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
    path = store_engine(ENGINE, RECORD)
    assert load_engine(KEY) == (ENGINE, RECORD)
    for entry in (cache, *cache.rglob("*")):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600)
    assert sorted(file.name for file in path.parent.iterdir()) == [f"{KEY.stem}.engine", f"{KEY.stem}.json"]


def test_a_new_engine_of_the_same_key_replaces_the_old_one() -> None:
    store_engine(ENGINE, RECORD)
    new = replace(RECORD, max_batch=64, sha256=hashlib.sha256(b"other").hexdigest(), size=5)
    store_engine(b"other", new)
    assert load_engine(KEY) == (b"other", new)


@pytest.mark.parametrize(
    "change", [{"bundle": "cd" * 32}, {"profile": None}, {"precision": "bf16"}, {"tensorrt": "11.4.0.106"}, {"gpu": "L4"},
               {"compute_capability": "8.9"}, {"plugin": "01" * 32}, {"package": "0.2.0"}],
    ids=lambda change: next(iter(change))
)  # fmt: skip
def test_a_key_with_another_field_is_another_engine(change: dict[str, str | None]) -> None:
    store_engine(ENGINE, RECORD)
    other = replace(KEY, **change)
    assert load_engine(other) is None
    assert other_engines(other) == ([] if "bundle" in change else [KEY])


def changed_engine(path: Path) -> None:
    path.write_bytes(ENGINE[:-1] + b"!")


def shorter_engine(path: Path) -> None:
    path.write_bytes(ENGINE[:-1])


def engine_gone(path: Path) -> None:
    path.unlink()


def engine_that_is_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def record_that_is_a_link(path: Path) -> None:
    record = path.with_suffix(".json")
    record.rename(path.with_name("elsewhere"))
    record.symlink_to("elsewhere")


def engine_that_is_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def engine_that_is_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def engine_that_others_can_write(path: Path) -> None:
    path.chmod(0o602)


def engine_that_the_group_can_write(path: Path) -> None:
    path.chmod(0o620)


def record_that_others_can_write(path: Path) -> None:
    path.with_suffix(".json").chmod(0o666)


def folder_that_others_can_write(path: Path) -> None:
    path.parent.chmod(0o777)


def cache_that_others_can_write(path: Path) -> None:
    cache_folder().chmod(0o777)


def engine_of_another_user(path: Path) -> None:
    _give_away(path)


def folder_of_another_user(path: Path) -> None:
    _give_away(path.parent)


def record_of_another_engine(path: Path) -> None:
    other = replace(RECORD, key=replace(KEY, tensorrt="11.4.0.106", gpu="NVIDIA L4"))
    path.with_suffix(".json").write_text(other.to_json())


def record_without_json(path: Path) -> None:
    path.with_suffix(".json").write_bytes(b"\xff not JSON")


def record_nested_deeply(path: Path) -> None:
    path.with_suffix(".json").write_text("[" * 50_000)


def record_that_is_a_list(path: Path) -> None:
    path.with_suffix(".json").write_text("[1]")


def record_that_is_huge(path: Path) -> None:
    path.with_suffix(".json").write_text(RECORD.to_json() + " " * 100_000)


def record_of_another_format(path: Path) -> None:
    _edit(path, format=1)


def record_without_a_key(path: Path) -> None:
    _edit(path, key=3)


def record_with_a_field_more(path: Path) -> None:
    _edit(path, run="me")


def record_with_a_number_as_text(path: Path) -> None:
    _edit(path, max_batch="32")


def record_with_a_number_as_bool(path: Path) -> None:
    _edit(path, max_batch=True)


def _edit(path: Path, **fields: object) -> None:
    record = path.with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | fields))


def _give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(path, 12345, 12345)


DAMAGES = [
    changed_engine, shorter_engine, engine_gone, engine_that_is_a_link, record_that_is_a_link, engine_that_is_a_pipe,
    engine_that_is_a_folder, engine_that_others_can_write, engine_that_the_group_can_write, record_that_others_can_write,
    folder_that_others_can_write, cache_that_others_can_write, engine_of_another_user, folder_of_another_user,
    record_of_another_engine, record_without_json, record_nested_deeply, record_that_is_a_list, record_that_is_huge,
    record_of_another_format, record_without_a_key, record_with_a_field_more, record_with_a_number_as_text,
    record_with_a_number_as_bool,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.replace("_", " "))
def test_whatever_else_lies_there_is_refused_in_a_sentence(damage: Callable[[Path], None]) -> None:
    path = store_engine(ENGINE, RECORD)
    damage(path)
    with pytest.raises(EngineCacheError) as refused:
        load_engine(KEY)
    assert_one_sentence(str(refused.value), str(cache_folder()))


def test_the_record_of_another_engine_says_what_differs() -> None:
    record_of_another_engine(store_engine(ENGINE, RECORD))
    with pytest.raises(EngineCacheError, match=r"TensorRT 11.4.0.106, not 10.13.0.35; GPU NVIDIA L4, not NVIDIA H100"):
        find_record(KEY)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VMOE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(EngineCacheError, match="can't be used: File exists; set VMOE_CACHE_DIR") as refused:
        private_folder()
    assert_one_sentence(str(refused.value), str(tmp_path / "file"))


def test_a_folder_that_others_can_write_gets_no_engine(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(EngineCacheError, match="can be written by other users"):
        store_engine(ENGINE, RECORD)
    assert list(cache.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = private_folder("x")
    (folder / "target").mkdir()
    with pytest.raises(EngineCacheError, match="can't be written"):
        write_private(folder / "target", b"content")
    assert [entry.name for entry in folder.iterdir()] == ["target"]


def test_a_file_that_is_not_there_is_none() -> None:
    assert read_private(engine_path(KEY)) is None
