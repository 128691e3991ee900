"""Check that Orbax checkpoints are read bit for bit.

Unfinished, damaged and hostile checkpoints must be refused.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import tensorstore
from command_runs import Refuse, Vmoe
from damaged_files import SPARSE, assert_holds, read_tensors
from make_orbax import parameters

from vmoe_export import CheckpointError, open_checkpoint
from vmoe_export.checkpoint.orbax_steps import find_item

LAYOUTS = Path(__file__).parents[1] / "data" / "orbax.tar.gz"
KERNEL = "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel"

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoints that `make_orbax.py` wrote with three versions of Orbax."""
    folder = tmp_path_factory.mktemp("orbax")
    with tarfile.open(LAYOUTS) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a golden model as step 200, in the layout that Orbax uses without a database."""
    folder = tmp_path_factory.mktemp("golden")
    item, tensors = folder / "200" / "state", read_tensors()
    tree = {}
    for name, array in tensors.items():
        keys = ["params", *name.split("/")]
        tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
        }
        store = {"driver": "file", "path": f"{item / '.'.join(keys)}/"}
        description = {"fill_value": None, "dtype": array.dtype.str, "shape": array.shape, "chunks": array.shape}
        spec = {"driver": "zarr", "kvstore": store, "metadata": description}
        tensorstore.open(spec, create=True).result().write(array).result()
    (item / "_METADATA").write_text(json.dumps({"tree_metadata": tree, "use_zarr3": False}))
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        *("0.2.7 trainer", "0.5.9 trainer", "0.12.8 trainer", "0.12.8 default", "0.12.8 alone"),
        *(f"0.12.8 ocdbt {database} zarr3 {third}" for database in (True, False) for third in (True, False)),
    ],
)
def test_every_layout_gives_the_parameters_that_were_saved(layouts: Path, layout: str) -> None:
    assert_holds(layouts / layout, "orbax", parameters())


def test_a_step_and_its_item_are_taken_as_well(layouts: Path) -> None:
    assert_holds(layouts / "0.12.8 trainer" / "5", "orbax", parameters())
    assert_holds(layouts / "0.12.8 trainer" / "5" / "state", "orbax", parameters())


def test_the_optimizers_arrays_are_not_opened(layouts: Path, tmp_path: Path) -> None:
    shutil.copytree(layouts / "0.12.8 ocdbt False zarr3 False", tmp_path / "ckpt")
    for folder in (tmp_path / "ckpt" / "5" / "state").glob("opt_state*"):
        shutil.rmtree(folder)
    assert_holds(tmp_path / "ckpt", "orbax", parameters())


def test_the_newest_finished_step_is_read_and_the_others_are_named(layouts: Path, tmp_path: Path) -> None:
    for name in ("5", "12", "run_0100", "200.orbax-checkpoint-tmp", "300"):
        shutil.copytree(layouts / "0.12.8 trainer" / "5", tmp_path / name)
    uncommitted = tmp_path / "300" / "_CHECKPOINT_METADATA"
    uncommitted.write_text(json.dumps(json.loads(uncommitted.read_text()) | {"commit_timestamp_nsecs": None}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / "run_0100" / "state"
        assert checkpoint.notes == ("skipped unfinished steps: 200.orbax-checkpoint-tmp, 300",)
    for unfinished in (tmp_path / "200.orbax-checkpoint-tmp", tmp_path / "300", tmp_path / "300" / "state"):
        with pytest.raises(CheckpointError, match="is unfinished"):
            open_checkpoint(unfinished)


def test_where_finished_steps_are_marked_one_without_a_mark_is_left_out(layouts: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        shutil.copytree(layouts / "0.5.9 trainer" / "5", tmp_path / name)
    (tmp_path / "1" / "commit_success.txt").touch()
    assert find_item(tmp_path) == (tmp_path / "1" / "state", ("skipped unfinished steps: 2",))
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp-99")
    with pytest.raises(CheckpointError, match="holds no finished step"):
        open_checkpoint(tmp_path)


def test_its_bundle_is_that_of_the_official_files_but_for_the_source(golden: Path, tmp_path: Path, vmoe: Vmoe) -> None:
    options = ("--capacity", 0.3, "--no-validate", "-q")
    for checkpoint, name in ((golden, "ours.vmoe"), (SPARSE, "theirs.vmoe")):
        vmoe.run("export", checkpoint, *options, "-o", tmp_path / name)
    for file in sorted((tmp_path / "ours.vmoe").iterdir()):
        other = (tmp_path / "theirs.vmoe" / file.name).read_bytes()
        if file.name == "README.md":
            lines = zip(file.read_text().splitlines(), other.decode().splitlines(), strict=True)
            assert [ours[:9] for ours, theirs in lines if ours != theirs] == ["# state", "- Source:"]
            continue
        if file.name != "manifest.json":
            assert file.read_bytes() == other
            continue
        ours, theirs = json.loads(file.read_bytes()), json.loads(other)
        assert (ours.pop("source")["name"], theirs.pop("source")["format"]) == ("200/state", "vmoe")
        assert ours == theirs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model": {"encoder": {"moe": {"router": {"dispatcher": {"capacity_factor": 0.75}}}}}}'),
        ("config.yaml", "model:\n  encoder:\n    moe:\n      layers: !!python/tuple [1, 3]\n      capacity_factor: 0.75\n"),
    ],
)
def test_a_config_that_the_trainer_left_is_taken_and_named(
    name: str, text: str, golden: Path, tmp_path: Path, vmoe: Vmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    shutil.copytree(golden, tmp_path / "ckpt")
    (tmp_path / name).write_text(text)
    assert f"the config is {tmp_path / name}" in vmoe.run("export", tmp_path / "ckpt", "--dry-run")[0]


def test_without_tensorstore_a_sentence_names_the_extra(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuse_export: Refuse
) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    monkeypatch.delitem(sys.modules, "vmoe_export.checkpoint.orbax_folder", raising=False)
    refuse_export(golden, names=("tensorstore is not installed", "vmoe-export[orbax]"))


def edited(name: str, **fields: Any) -> Change:
    def change(item: Path) -> None:
        path = item / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def leaf(*keys: str) -> Change:
    entry = {"key_metadata": [{"key": key} for key in keys], "value_metadata": {}}
    return edited("_METADATA", tree_metadata={"a": entry, "b": entry | {"key_metadata": [{"key": "x"}]}})


def replaced(name: str, content: bytes) -> Change:
    return lambda item: (item / name).write_bytes(content)


def old_names(tree: Any) -> Change:
    def change(item: Path) -> None:
        (item / "_METADATA").unlink()
        (item / "checkpoint").write_bytes(msgpack.packb(tree))

    return change


HEAD = "params.head.kernel"
CHUNK, ARRAY = f"{HEAD}/0.0", f"{HEAD}/.zarray"
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.sample(15)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda item: (item / CHUNK).unlink(), ("head/kernel", "a chunk of it is missing")),
        (lambda item: os.truncate(item / CHUNK, 9), ("head/kernel", "damaged")),
        (replaced(CHUNK, b""), ("head/kernel", "damaged")),
        (replaced(CHUNK, b"x" * 999), ("head/kernel", "damaged")),
        (lambda item: shutil.rmtree(item / HEAD), ("head/kernel", "its array is missing")),
        (replaced(ARRAY, b"{"), ("head/kernel", "damaged")),
        (edited(ARRAY, shape=[1 << 40, 1 << 12]), ("head/kernel", "no parameter has")),
        (edited(ARRAY, shape=[1 << 40, 1 << 12], chunks=[1 << 30, 1 << 12]), ("head/kernel", "no parameter has")),
        (edited(ARRAY, chunks=[1 << 30, 1 << 30]), ("head/kernel", "no parameter has")),
        (edited(ARRAY, shape=[1 << 20, 1 << 10]), ("its arrays have 4,29", "by their shapes, but its files have only")),
        (old_names({"a": {str(leaf): "PLACEHOLDER://x" for leaf in range(100_001)}}), ("100,001 arrays; at most 100,000",)),
        (edited(ARRAY, shape=[-1, 10]), ("head/kernel", "damaged")),
        (edited(ARRAY, dtype="<U9"), ("head/kernel",)),
        (edited(ARRAY, dtype="|O"), ("head/kernel", "damaged")),
        (edited(ARRAY, compressor={"id": "unknown"}), ("head/kernel", "damaged")),
        (lambda item: (item / "_METADATA").unlink(), ("must hold exactly one checkpoint",)),
        (replaced("_METADATA", b"{"), ("_METADATA is damaged",)),
        (replaced("_METADATA", DEEP), ("_METADATA is damaged",)),
        (edited("_METADATA", tree_metadata=[]), ("_METADATA is damaged",)),
        (edited("_METADATA", use_zarr3=True), ("its array is missing",)),
        (leaf("params", "..", "embedding", "kernel"), ("holds no 'embedding/kernel'",)),
        (leaf("params/../../x"), ("can't be a file's",)),
        (leaf("a", "kernel"), ("holds no 'embedding/kernel'",)),
        (lambda item: os.truncate(item / "_METADATA", 65 << 20), ("too long for a list of names",)),
        (old_names({"embedding": {"kernel": "PLACEHOLDER://../../secret"}}), ("can't be a file's",)),
        (old_names({"embedding": {"kernel": "PLACEHOLDER://.."}}), ("can't be a file's",)),
        (lambda item: (item / "link").symlink_to("/etc"), ("link is neither a plain file nor a folder",)),
        (lambda item: os.mkfifo(item / HEAD / "pipe"), ("pipe is neither a plain file nor a folder",)),
        (lambda item: shutil.copytree(item, item.parent / "default"), ("several items (default, state)",)),
    ],
)
def test_a_damaged_or_hostile_one_is_refused(
    golden: Path, change: Change, says: tuple[str, ...], tmp_path: Path, refuse_export: Refuse
) -> None:
    shutil.copytree(golden, tmp_path / "ckpt")
    change(tmp_path / "ckpt" / "200" / "state")
    refuse_export(tmp_path / "ckpt", "-q", names=says)


def test_a_damaged_database_is_refused(layouts: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((layouts / "0.12.8 trainer").rglob("*"))):
        if not file.is_file() or not {"manifest.ocdbt", "d"} & {file.name, file.parent.name}:
            continue
        folder = tmp_path / str(number)
        shutil.copytree(layouts / "0.12.8 trainer", folder)
        (folder / file.relative_to(layouts / "0.12.8 trainer")).write_bytes(b"damaged" * 99)
        try:
            assert_holds(folder, "orbax", parameters())  # succeeds, provided that no parameter needs the damaged node
        except CheckpointError as error:
            assert "\n" not in str(error)
