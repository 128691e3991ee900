"""Check that a damaged or malicious checkpoint file is refused with one sentence, and that nothing is written."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from command_runs import Refuse
from damaged_files import (
    DENSE,
    INDEX_INFO,
    SPARSE,
    Build,
    Edit,
    array_entry,
    chunk,
    copied_checkpoint,
    drop,
    edited_shard,
    index_of,
    put,
    read_tensors,
)
from official_writer import CHUNKS_KEY
from safetensors.numpy import save_file

from vmoe_export import CheckpointError, open_checkpoint

pytestmark = pytest.mark.fast

FIRST_SHARD, SECOND_SHARD = "ckpt.data-00000-of-00002", "ckpt.data-00001-of-00002"
ONLY_SHARD = "ckpt.data-00000-of-00001"

Names = tuple[str, ...]


class RunsCode:
    """An object whose pickle ends the process that loads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


class Described:
    """A tensor with six zeros. Its pickle states another offset, shape and strides than those of the tensor."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.description = (torch.zeros(6)._typed_storage(), offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, self.description


def copied(change: Callable[[Path], object], source: Path = SPARSE) -> Build:
    """Return a function that copies a golden checkpoint into a folder and applies `change` to the copy."""

    def build(folder: Path) -> Path:
        prefix = copied_checkpoint(folder, source)
        change(folder)
        return prefix

    return build


def index(shape: Any, *details: Any, code: int = INDEX_INFO, **fields: Any) -> Build:
    """Return a function that writes an index with a single array.

    `details` are the array's dtype, slices and shards.
    """
    return lambda folder: index_of(folder, array_entry(shape, *details, code=code), **fields)


def shard(edit: Edit) -> Build:
    return lambda folder: edited_shard(folder, edit)


def file(name: str, data: bytes, opened: str = "") -> Build:
    """Return a function that writes a single file.

    That function returns the path of `opened`, or by default the path of the file that it wrote.
    """

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / (opened or name)

    return build


def saved(content: object, cut: int | None = None, **options: bool) -> Build:
    """Return a function that saves `content` as a torch file. If `cut` is given, only the first `cut` bytes remain."""

    def build(folder: Path) -> Path:
        torch.save(content, folder / "ckpt.pt", **options)
        os.truncate(folder / "ckpt.pt", (folder / "ckpt.pt").stat().st_size if cut is None else cut)
        return folder / "ckpt.pt"

    return build


def swap_shards(folder: Path) -> None:
    (folder / FIRST_SHARD).rename(folder / "spare")
    (folder / SECOND_SHARD).rename(folder / FIRST_SHARD)
    (folder / "spare").rename(folder / SECOND_SHARD)


def cut_safetensors(folder: Path) -> Path:
    save_file(read_tensors(), folder / "ckpt.safetensors")
    os.truncate(folder / "ckpt.safetensors", 100_000)
    return folder / "ckpt.safetensors"


def nested(levels: int) -> Any:
    leaf: Any = array_entry([2])
    for _ in range(levels):
        leaf = {"a": leaf}
    return leaf


CYCLE: dict[str, object] = {}
CYCLE["again"] = CYCLE
LEVELS: dict[str, object] = {}
for _ in range(60):
    LEVELS = {"a": LEVELS, "b": LEVELS}
KERNEL, BIAS = "embedding/kernel", "encoder_norm/bias"
INDEX, SAFETENSORS, TORCH = "ckpt.index", "ckpt.safetensors", "ckpt.pt"
STRANGE_CHUNK = [[msgpack.ExtType(42, b"..")], msgpack.ExtType(6, b"..")]
STRANGE_SLICE = [chunk()[0], msgpack.ExtType(6, msgpack.packb(3))]
PICKLE = pickle.dumps({"weights": [1.0] * 100})

FAULTS: dict[str, tuple[Build, Names]] = {
    "missing shard": (copied(lambda folder: (folder / FIRST_SHARD).unlink()), (FIRST_SHARD, "missing")),
    "truncated shard": (copied(lambda folder: os.truncate(folder / SECOND_SHARD, 10_000)), (SECOND_SHARD, "cut short")),
    "empty shard": (copied(lambda folder: os.truncate(folder / SECOND_SHARD, 0)), (SECOND_SHARD, "empty")),
    "shards swapped": (copied(swap_shards), ("ckpt", "not the ones that the index lists")),
    "truncated index": (copied(lambda folder: os.truncate(folder / INDEX, 500)), (INDEX, "msgpack")),
    "index that is a list": (file(INDEX, msgpack.packb([1, 2, 3]), "ckpt"), (INDEX, "not the index")),
    "newer index version": (index([2], version="20990101"), (INDEX, "version", "20990101")),
    "no shards": (index([2], shard_count=0), (INDEX, "shard_count")),
    "shard number past the count": (index([2], "float32", None, [7]), (INDEX, KERNEL, "shards")),
    "shard list that is a number": (index([2], "float32", None, 3), (INDEX, KERNEL, "damaged")),
    "unknown extension type in the index": (index([2], code=77), (INDEX, KERNEL, "extension type 77")),
    "unknown extension type in a shard": (shard(put("0", [STRANGE_CHUNK])), (ONLY_SHARD, "extension type 42")),
    "recursion bomb of lists": (file(INDEX, b"\x91" * 1_000_000, "ckpt"), (INDEX, "msgpack")),
    "names nested 900 levels deep": (lambda folder: index_of(folder, nested(900)), (INDEX, "nested too deeply")),
    "array of 1e18 elements": (index([10**18]), (INDEX, KERNEL, "1000000000000000000")),
    "array of 100 dimensions": (index([1] * 100), (INDEX, KERNEL, "shape")),
    "negative extent": (index([-2]), (INDEX, KERNEL, "shape")),
    "fewer bytes than the slice needs": (shard(put("0", [chunk(values=47)])), (ONLY_SHARD, BIAS, "not match its slice")),
    "array that is in no shard": (shard(drop("0")), (BIAS, "not the ones that the index lists")),
    "object dtype": (index([2], "object"), (INDEX, KERNEL, "object")),
    "structured dtype": (index([2], "float32, int8"), (INDEX, KERNEL, "float32, int8")),
    "gap between chunks": (index([4], "float32", [[(0, 1)], [(2, 4)]]), (INDEX, f"chunks of {KERNEL}")),
    "chunk outside of its array": (index([4], "float32", [[(2, 6)]]), (INDEX, f"chunks of {KERNEL}")),
    "chunk stored twice": (shard(put("0", [chunk(), chunk()])), (BIAS, "not the ones that the index lists")),
    "slice that is a number": (shard(put("0", [STRANGE_SLICE])), (ONLY_SHARD, "damaged slice")),
    "shard of another dtype": (shard(put("0", [chunk(dtype="float64")])), (ONLY_SHARD, BIAS, "float64", "float32")),
    "chunk that ends inside a number": (shard(put("0", [chunk(data=b"12345")])), (ONLY_SHARD, BIAS, "5 bytes")),
    "array number of 5000 digits": (shard(put("9" * 5000, [])), (ONLY_SHARD, "not a V-MoE data shard")),
    "shard that is a pickle": (
        copied(lambda folder: (folder / ONLY_SHARD).write_bytes(PICKLE), DENSE), (ONLY_SHARD, "after its end"),
    ),
    "pickle file": (file("weights.pkl", PICKLE), ("weights.pkl", "not a checkpoint: expected a bundle")),
    "path that is not there": (lambda folder: folder / "nothing", ("nothing", "not a checkpoint")),
    "name of 300 characters": (lambda folder: folder / ("x" * 300), ("too long",)),
    "folder without a checkpoint": (lambda folder: folder, ("exactly one checkpoint", "no model.safetensors")),
    "truncated safetensors": (cut_safetensors, (SAFETENSORS,)),
    "safetensors header longer than the file": (file(SAFETENSORS, struct.pack("<Q", 2**40) + b"{}"), (SAFETENSORS,)),
    "safetensors header that is not json": (file(SAFETENSORS, struct.pack("<Q", 8) + b"not json"), (SAFETENSORS,)),
    "garbage named pt": (file(TORCH, b"garbage" * 100), (TORCH,)),
    "cut legacy pt": (saved({KERNEL: torch.zeros(9)}, cut=200, _use_new_zipfile_serialization=False), (TORCH,)),
    "pt that runs code when unpickled": (saved({KERNEL: RunsCode()}), (TORCH, "run code")),
    "legacy pt that runs code": (saved({KERNEL: RunsCode()}, _use_new_zipfile_serialization=False), (TORCH, "run code")),
    "pickle named pt that runs code": (file(TORCH, pickle.dumps(RunsCode(), protocol=2)), (TORCH,)),
    "pt that is a list": (saved([torch.zeros(2)]), (TORCH, "list")),
    "pt without model parameters": (saved({"step": torch.tensor(1)}), (TORCH, f"it holds no '{KERNEL}'")),
    "pt with four bytes for 1e18 elements": (
        saved({KERNEL: torch.zeros(1).expand(10**18)}), (TORCH, KERNEL, "1000000000000000000"),
    ),
    "pt with a negative offset": (saved({KERNEL: Described(-3, (6,), (1,))}), (TORCH, "not a readable torch file")),
    "pt with too many strides": (saved({KERNEL: Described(0, (6,), (1, 1))}), (TORCH, "not a readable torch file")),
    "pt with a sparse tensor": (saved({KERNEL: torch.eye(3).to_sparse()}), (TORCH, "sparse")),
    "pt of few mappings that have 2^60 paths": (saved(LEVELS), (TORCH, "16 MiB")),
    "pt whose mapping holds itself": (saved(CYCLE), (TORCH, "nested too deeply")),
}  # fmt: skip


@pytest.mark.parametrize(("build", "names"), FAULTS.values(), ids=FAULTS)
def test_export_of_a_damaged_checkpoint_says_so_and_leaves_nothing(
    build: Build, names: Names, tmp_path: Path, refuse_export: Refuse
) -> None:
    refuse_export(build(tmp_path), names=names)


def test_memory_is_taken_only_for_bytes_that_are_there(tmp_path: Path) -> None:
    size = 2**40
    prefix = index_of(tmp_path, array_entry([size]))
    (tmp_path / ONLY_SHARD).write_bytes(msgpack.packb({CHUNKS_KEY: True, "0": [chunk(values=2, stop=size)]}))
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="not match its slice"):
        checkpoint["embedding/kernel"]


def test_chunks_that_overlap_are_refused_when_they_are_read(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([4], slices=[[(0, 2)], [(1, 3)]]))
    chunks = [chunk(values=2, start=start, stop=start + 2) for start in (0, 1)]
    (tmp_path / ONLY_SHARD).write_bytes(msgpack.packb({CHUNKS_KEY: True, "0": chunks}))
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="overlap"):
        checkpoint["embedding/kernel"]


def test_an_index_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([2]))
    os.truncate(tmp_path / "ckpt.index", 50 << 30)
    with pytest.raises(CheckpointError, match=r"ckpt\.index: it is 53,687 MB long, and no index is longer than 16 MiB"):
        open_checkpoint(prefix)


@pytest.mark.slow
def test_a_shard_that_lists_no_end_of_chunks_is_left_early(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([2]))
    entries = b"".join(msgpack.packb(str(number)) + b"\x90" for number in range(250_000))
    head = b"\xdf" + (250_001).to_bytes(4, "big") + msgpack.packb(CHUNKS_KEY) + b"\xc3"
    (tmp_path / ONLY_SHARD).write_bytes(head + entries)
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="more than 100000"):
        checkpoint["embedding/kernel"]
