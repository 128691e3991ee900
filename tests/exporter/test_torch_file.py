"""Check that a torch zip file is read only if its sizes and CRC-32 are right.

torch.load doesn't check them.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_files import refusal

from vmoe_export import CheckpointError, open_checkpoint

NAME = "embedding/kernel"
VALUES = np.arange(300, dtype=np.float32).reshape(20, 15)

Damage = Callable[[Path], Path]


def saved(folder: Path, tensor: torch.Tensor | None = None) -> Path:
    """Save a torch file with two tensors. The first is `tensor`, or VALUES by default."""
    first = torch.from_numpy(VALUES) if tensor is None else tensor
    torch.save({NAME: first, "head/bias": torch.full((77,), 5.0)}, folder / "ckpt.pt")
    return folder / "ckpt.pt"


def rewritten(path: Path, edit: Callable[[dict[str, bytes]], None], method: int = zipfile.ZIP_STORED) -> Path:
    """Edit the contents of the records in a torch file with `edit`.

    The new file has correct sizes and CRC-32.
    """
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    edit(records)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def read(path: Path, name: str = NAME) -> np.ndarray:
    with open_checkpoint(path) as checkpoint:
        return checkpoint[name]


def entry(path: Path, name: str = "ckpt/data/0") -> tuple[int, int]:
    """Return two positions in a torch file.

    The first is that of a record's data, and the second that of the record's entry in the zip directory.
    """
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
    lengths = struct.unpack_from("<2H", data, start + 26)
    return start + 30 + sum(lengths), data.rindex(name.encode()) - 46


def patched(path: Path, pieces: dict[int, bytes]) -> Path:
    data = bytearray(path.read_bytes())
    for place, piece in pieces.items():
        data[place : place + len(piece)] = piece
    path.write_bytes(data)
    return path


# Each of these files is read, and gives the values that were saved.


@pytest.mark.parametrize(
    "tensor",
    [
        torch.from_numpy(VALUES).T,
        torch.arange(1000.0)[17:317].reshape(20, 15),
        torch.arange(1000.0)[1::3].reshape(9, 37),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.tensor([[1 + 2j, 3 - 4j]]).conj(),
        torch.nn.Parameter(torch.arange(4.0)),
        torch.tensor(7),
        torch.empty(0, 3),
        torch.arange(10.0).to(torch.bfloat16)[::2],
    ],
    ids=["transposed", "part", "strided", "permuted", "conjugate", "parameter", "scalar", "empty", "bfloat16"],
)
def test_a_view_is_read_as_torch_reads_it(tensor: torch.Tensor, tmp_path: Path) -> None:
    expected = tensor.detach().resolve_conj()
    array = read(saved(tmp_path, tensor))
    assert array.shape == tuple(expected.shape)
    np.testing.assert_array_equal(array.astype(np.complex128), expected.to(torch.complex128).numpy())


def test_tensors_of_a_graphics_card_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path)

    def move(records: dict[str, bytes]) -> None:
        data = records["ckpt/data.pkl"]
        assert data.count(b"X\x03\x00\x00\x00cpu") == 1
        records["ckpt/data.pkl"] = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
        records.pop("ckpt/.format_version")

    np.testing.assert_array_equal(read(rewritten(path, move)), VALUES)


# Refusals.


def with_records(method: int = zipfile.ZIP_STORED, **changes: bytes | None) -> Damage:
    """Return a function that replaces the contents of records in the folder `ckpt`. The value None removes a record."""

    def edit(records: dict[str, bytes]) -> None:
        for name, data in changes.items():
            del records[f"ckpt/{name}"]
            if data is not None:
                records[f"ckpt/{name}"] = data

    return lambda path: rewritten(path, edit, method)


def data_changed(path: Path) -> Path:
    return patched(path, {entry(path)[0] + 100: b"\xff"})


def record_cut_in_the_directory(path: Path) -> Path:
    data, directory = entry(path)
    size = struct.pack("<I", 400)
    crc = struct.pack("<I", zlib.crc32(path.read_bytes()[data : data + 400]))
    return patched(path, {directory + 16: crc, directory + 20: size + size})


def names_changed(path: Path) -> Path:
    return patched(path, {path.read_bytes().index(b"head/bias", entry(path, "ckpt/data.pkl")[0]): b"hEad"})


def two_records_at_one_place(path: Path) -> Path:
    one, two = (entry(path, f"ckpt/data/{number}")[1] for number in (0, 1))
    return patched(path, {one + 42: path.read_bytes()[two + 42 : two + 46]})


def rebuilt(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> Path:
        path.write_bytes(change(path.read_bytes()))
        return path

    return damage


DAMAGE: dict[str, tuple[Damage, str]] = {
    "data changed": (data_changed, "CRC-32"),
    "record cut in the directory": (record_cut_in_the_directory, NAME),
    "record that is too short": (with_records(**{"data/0": VALUES.tobytes()[:-4]}), NAME),
    "record that is missing": (with_records(**{"data/0": None}), "torch"),
    "compressed": (with_records(zipfile.ZIP_DEFLATED), "compressed"),
    "another byte order": (with_records(byteorder=b"big"), "byte order"),
    "names changed": (names_changed, "CRC-32"),
    "something before it": (rebuilt(lambda data: b"PK\3\4" + data), "ckpt.pt"),
    "two records at one place": (two_records_at_one_place, "has the position of another one"),
    "cut in the middle": (rebuilt(lambda data: data[:900]), "cut short"),
    "names of a gigabyte": (with_records(**{"data.pkl": b"0" * (17 << 20)}), "16 MiB"),
}


@pytest.mark.parametrize(("damage", "word"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused(damage: Damage, word: str, tmp_path: Path) -> None:
    path = damage(saved(tmp_path))
    with refusal(CheckpointError, "ckpt.pt", word):
        read(path)


def test_damage_in_a_storage_that_tensors_share_is_noticed(tmp_path: Path) -> None:
    shared = torch.arange(1000.0)
    torch.save({NAME: shared[:10], "head/bias": shared[990:]}, tmp_path / "ckpt.pt")
    data, _ = entry(tmp_path / "ckpt.pt")
    patched(tmp_path / "ckpt.pt", {data + 2000: b"\xff"})
    with pytest.raises(CheckpointError, match="CRC-32"):
        read(tmp_path / "ckpt.pt", "head/bias")
