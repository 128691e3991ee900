"""A checkpoint file that is damaged, or made to do harm, is refused in one sentence, and nothing is written."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import msgpack
import pytest
import torch
from damaged_files import (
    DENSE,
    Build,
    Faults,
    array_entry,
    assert_command_refuses,
    chunk,
    copied_checkpoint,
    drop,
    edited_shard,
    golden_tensors,
    index_of,
    put,
)
from safetensors.numpy import save_file

from vmoe_export import CheckpointError, open_checkpoint

pytestmark = pytest.mark.fast

FIRST_SHARD, SECOND_SHARD = "ckpt.data-00000-of-00002", "ckpt.data-00001-of-00002"
ONLY_SHARD = "ckpt.data-00000-of-00001"

FAULTS = Faults()


@FAULTS.naming(FIRST_SHARD, "missing")
def missing_shard(folder: Path) -> Path:
    prefix = copied_checkpoint(folder)
    (folder / FIRST_SHARD).unlink()
    return prefix


@FAULTS.naming(SECOND_SHARD, "cut short")
def truncated_shard(folder: Path) -> Path:
    prefix = copied_checkpoint(folder)
    os.truncate(folder / SECOND_SHARD, 10_000)
    return prefix


@FAULTS.naming(SECOND_SHARD, "empty")
def empty_shard(folder: Path) -> Path:
    prefix = copied_checkpoint(folder)
    os.truncate(folder / SECOND_SHARD, 0)
    return prefix


@FAULTS.naming("ckpt", "not the ones that the index lists")
def shards_swapped(folder: Path) -> Path:
    prefix = copied_checkpoint(folder)
    (folder / FIRST_SHARD).rename(folder / "spare")
    (folder / SECOND_SHARD).rename(folder / FIRST_SHARD)
    (folder / "spare").rename(folder / SECOND_SHARD)
    return prefix


@FAULTS.naming("ckpt.index", "msgpack")
def truncated_index(folder: Path) -> Path:
    prefix = copied_checkpoint(folder)
    os.truncate(folder / "ckpt.index", 500)
    return prefix


@FAULTS.naming("ckpt.index", "not the index")
def index_that_is_a_list(folder: Path) -> Path:
    (folder / "ckpt.index").write_bytes(msgpack.packb([1, 2, 3]))
    return folder / "ckpt"


@FAULTS.naming("ckpt.index", "version", "20990101")
def newer_index_version(folder: Path) -> Path:
    return index_of(folder, array_entry([2]), version="20990101")


@FAULTS.naming("ckpt.index", "shard_count")
def no_shards(folder: Path) -> Path:
    return index_of(folder, array_entry([2]), shard_count=0)


@FAULTS.naming("ckpt.index", "embedding/kernel", "shards")
def shard_number_past_the_count(folder: Path) -> Path:
    return index_of(folder, array_entry([2], shards=[7]))


@FAULTS.naming("ckpt.index", "embedding/kernel", "damaged")
def shard_list_that_is_a_number(folder: Path) -> Path:
    return index_of(folder, array_entry([2], shards=3))


@FAULTS.naming("ckpt.index", "embedding/kernel", "extension type 77")
def unknown_extension_type_in_the_index(folder: Path) -> Path:
    return index_of(folder, array_entry([2], code=77))


@FAULTS.naming(ONLY_SHARD, "extension type 42")
def unknown_extension_type_in_a_shard(folder: Path) -> Path:
    return edited_shard(folder, put("0", [[[msgpack.ExtType(42, b"..")], msgpack.ExtType(6, b"..")]]))


@FAULTS.naming("ckpt.index", "msgpack")
def recursion_bomb_of_lists(folder: Path) -> Path:
    (folder / "ckpt.index").write_bytes(b"\x91" * 1_000_000)
    return folder / "ckpt"


@FAULTS.naming("ckpt.index", "nested too deeply")
def names_nested_900_levels_deep(folder: Path) -> Path:
    leaf = array_entry([2])
    for _ in range(900):
        leaf = {"a": leaf}
    return index_of(folder, leaf)


@FAULTS.naming("ckpt.index", "embedding/kernel", "1000000000000000000")
def array_of_1e18_elements(folder: Path) -> Path:
    return index_of(folder, array_entry([10**18]))


@FAULTS.naming("ckpt.index", "embedding/kernel", "shape")
def array_of_100_dimensions(folder: Path) -> Path:
    return index_of(folder, array_entry([1] * 100))


@FAULTS.naming("ckpt.index", "embedding/kernel", "shape")
def negative_extent(folder: Path) -> Path:
    return index_of(folder, array_entry([-2]))


@FAULTS.naming(ONLY_SHARD, "encoder_norm/bias", "not as many bytes")
def fewer_bytes_than_the_slice_needs(folder: Path) -> Path:
    return edited_shard(folder, put("0", [chunk(values=47)]))


@FAULTS.naming("encoder_norm/bias", "not the ones that the index lists")
def array_that_is_in_no_shard(folder: Path) -> Path:
    return edited_shard(folder, drop("0"))


@FAULTS.naming("ckpt.index", "embedding/kernel", "object")
def object_dtype(folder: Path) -> Path:
    return index_of(folder, array_entry([2], "object"))


@FAULTS.naming("ckpt.index", "embedding/kernel", "float32, int8")
def structured_dtype(folder: Path) -> Path:
    return index_of(folder, array_entry([2], "float32, int8"))


@FAULTS.naming("ckpt.index", "chunks of embedding/kernel")
def gap_between_chunks(folder: Path) -> Path:
    return index_of(folder, array_entry([4], slices=[[(0, 1)], [(2, 4)]]))


@FAULTS.naming("ckpt.index", "chunks of embedding/kernel")
def chunk_outside_of_its_array(folder: Path) -> Path:
    return index_of(folder, array_entry([4], slices=[[(2, 6)]]))


@FAULTS.naming("encoder_norm/bias", "not the ones that the index lists")
def chunk_stored_twice(folder: Path) -> Path:
    return edited_shard(folder, put("0", [chunk(), chunk()]))


@FAULTS.naming(ONLY_SHARD, "damaged slice")
def slice_that_is_a_number(folder: Path) -> Path:
    bodies, _ = chunk()
    return edited_shard(folder, put("0", [[bodies, msgpack.ExtType(6, msgpack.packb(3))]]))


@FAULTS.naming(ONLY_SHARD, "encoder_norm/bias", "float64", "float32")
def shard_of_another_dtype_than_the_index(folder: Path) -> Path:
    return edited_shard(folder, put("0", [chunk(dtype="float64")]))


@FAULTS.naming(ONLY_SHARD, "encoder_norm/bias", "5 bytes")
def chunk_that_ends_inside_a_number(folder: Path) -> Path:
    return edited_shard(folder, put("0", [chunk(data=b"12345")]))


@FAULTS.naming(ONLY_SHARD, "not a V-MoE data shard")
def array_number_of_5000_digits(folder: Path) -> Path:
    return edited_shard(folder, put("9" * 5000, []))


@FAULTS.naming(ONLY_SHARD, "after its end")
def shard_that_is_a_pickle(folder: Path) -> Path:
    prefix = copied_checkpoint(folder, DENSE)
    (folder / ONLY_SHARD).write_bytes(pickle.dumps({"weights": [1.0] * 100}))
    return prefix


@FAULTS.naming("weights.pkl", "not a checkpoint")
def pickle_file(folder: Path) -> Path:
    (folder / "weights.pkl").write_bytes(pickle.dumps({"weights": 1.0}))
    return folder / "weights.pkl"


@FAULTS.naming("nothing", "not a checkpoint")
def path_that_is_not_there(folder: Path) -> Path:
    return folder / "nothing"


@FAULTS.naming("too long")
def name_of_300_characters(folder: Path) -> Path:
    return folder / ("x" * 300)


@FAULTS.naming("exactly one checkpoint", "none")
def folder_without_a_checkpoint(folder: Path) -> Path:
    return folder


@FAULTS.naming("ckpt.safetensors")
def truncated_safetensors(folder: Path) -> Path:
    save_file(golden_tensors(), folder / "ckpt.safetensors")
    os.truncate(folder / "ckpt.safetensors", 100_000)
    return folder / "ckpt.safetensors"


@FAULTS.naming("ckpt.safetensors")
def safetensors_header_longer_than_the_file(folder: Path) -> Path:
    (folder / "ckpt.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    return folder / "ckpt.safetensors"


@FAULTS.naming("ckpt.safetensors")
def safetensors_header_that_is_not_json(folder: Path) -> Path:
    (folder / "ckpt.safetensors").write_bytes(struct.pack("<Q", 8) + b"not json")
    return folder / "ckpt.safetensors"


@FAULTS.naming("ckpt.pt")
def garbage_named_pt(folder: Path) -> Path:
    (folder / "ckpt.pt").write_bytes(b"garbage" * 100)
    return folder / "ckpt.pt"


@FAULTS.naming("ckpt.pt")
def cut_legacy_pt(folder: Path) -> Path:
    torch.save({"embedding/kernel": torch.zeros(9)}, folder / "ckpt.pt", _use_new_zipfile_serialization=False)
    os.truncate(folder / "ckpt.pt", 200)
    return folder / "ckpt.pt"


@FAULTS.naming("ckpt.pt", "run code")
def pt_that_runs_code_when_unpickled(folder: Path) -> Path:
    torch.save({"embedding/kernel": _RunsCode(folder.parent / "ran")}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@FAULTS.naming("ckpt.pt", "list")
def pt_that_is_a_list(folder: Path) -> Path:
    torch.save([torch.zeros(2)], folder / "ckpt.pt")
    return folder / "ckpt.pt"


@FAULTS.naming("ckpt.pt", "embedding/kernel", "1000000000000000000")
def pt_with_four_bytes_for_1e18_elements(folder: Path) -> Path:
    torch.save({"embedding/kernel": torch.zeros(1).expand(10**18)}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@FAULTS.naming("ckpt.pt", "embedding/kernel", "sparse")
def pt_with_a_sparse_tensor(folder: Path) -> Path:
    torch.save({"embedding/kernel": torch.eye(3).to_sparse()}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


@FAULTS.naming("ckpt.pt", "nested too deeply")
def pt_whose_mapping_holds_itself(folder: Path) -> Path:
    cycle: dict[str, object] = {}
    cycle["again"] = cycle
    torch.save(cycle, folder / "ckpt.pt")
    return folder / "ckpt.pt"


class _RunsCode:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize(("build", "names"), FAULTS)
def test_export_of_a_damaged_checkpoint_says_so_and_leaves_nothing(
    build: Build, names: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    assert_command_refuses([str(build(inputs)), "-o", str(outputs / "x.vmoe")], 1, names, capfd)
    assert list(outputs.iterdir()) == []
    assert not (tmp_path / "ran").exists()


def test_memory_is_taken_only_for_bytes_that_are_there(tmp_path: Path) -> None:
    size = 2**40
    prefix = index_of(tmp_path, array_entry([size]))
    shard = {"__msgpack_array_chunk_a87ca2__": True, "0": [chunk(values=2, stop=size)]}
    (tmp_path / ONLY_SHARD).write_bytes(msgpack.packb(shard))
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="not as many bytes"):
        checkpoint["embedding/kernel"]


def test_chunks_that_overlap_are_refused_when_they_are_read(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([4], slices=[[(0, 2)], [(1, 3)]]))
    chunks = [chunk(values=2, start=start, stop=start + 2) for start in (0, 1)]
    (tmp_path / ONLY_SHARD).write_bytes(msgpack.packb({"__msgpack_array_chunk_a87ca2__": True, "0": chunks}))
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="overlap"):
        checkpoint["embedding/kernel"]


def test_an_index_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([2]))
    os.truncate(tmp_path / "ckpt.index", 50 << 30)
    with pytest.raises(CheckpointError, match=r"ckpt\.index: it is 53,687 MB long, and no index is longer than 16 MiB"):
        open_checkpoint(prefix)


def test_a_shard_that_lists_no_end_of_chunks_is_left_early(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([2]))
    entries = b"".join(msgpack.packb(str(number)) + b"\x90" for number in range(250_000))
    head = b"\xdf" + (250_001).to_bytes(4, "big") + msgpack.packb("__msgpack_array_chunk_a87ca2__") + b"\xc3"
    (tmp_path / ONLY_SHARD).write_bytes(head + entries)
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="more than 100000"):
        checkpoint["embedding/kernel"]
