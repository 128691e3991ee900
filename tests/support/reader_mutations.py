"""Damages checkpoints at random and reads them.

    python tests/support/reader_mutations.py --cases 20000

A damaged checkpoint must either be refused, or be read unchanged except for bits that no checksum covers. In some formats,
no checksum covers names, shapes and types. Damage may change these, but planning an export must then refuse the checkpoint.
The program prints one line for each result that is not allowed, and then a summary as JSON. If there was such a result, the
exit code is 1.
"""

from __future__ import annotations

import random
import shutil
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from damaged_files import DENSE, read_tensors
from hostile_runs import Report, run_program
from official_writer import Chunk, nest, write_checkpoint

from vmoe_export import CheckpointError, ConfigError, ExportOptions, open_checkpoint
from vmoe_export.export_plan import plan_export

Tensors = dict[str, np.ndarray]

SECONDS = 5.0  # time limit for reading a small file; damage that misleads a reader can make reading take minutes
PEAK_BYTES = 64 << 20
SIZES = (0, 1, 2, 3, 4, 7, 8, 16, 100, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


@dataclass(frozen=True)
class Kind:
    """A checkpoint format.

    It has a function that writes a small checkpoint, and a flag that is true if the format has checksums for the data.
    """

    write: Callable[[Path, Tensors], Path]
    has_checksum: bool


def _write_official(folder: Path, tensors: Tensors) -> Path:
    def cut(name: str, array: np.ndarray) -> list[Chunk]:
        if array.ndim == 0 or array.shape[0] < 2:
            return [Chunk(tuple((0, extent) for extent in array.shape))]
        rest = tuple((0, extent) for extent in array.shape[1:])
        middle = array.shape[0] // 2
        return [Chunk(((0, middle), *rest)), Chunk(((middle, array.shape[0]), *rest), shard=1)]

    write_checkpoint(folder / "ckpt", nest(tensors), shards=2, cut=cut)
    return folder / "ckpt"


def _write_safetensors(folder: Path, tensors: Tensors) -> Path:
    safetensors.numpy.save_file(tensors, folder / "ckpt.safetensors")
    return folder / "ckpt.safetensors"


def _write_torch(folder: Path, tensors: Tensors, **options: bool) -> Path:
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, folder / "ckpt.pt", **options)
    return folder / "ckpt.pt"


def _write_torch_views(folder: Path, tensors: Tensors) -> Path:
    """Write all tensors as views of the same storage. Every second tensor is transposed, unless it is 1-D."""
    flat = torch.from_numpy(np.concatenate([array.reshape(-1) for array in tensors.values()]))
    tree, start = {}, 0
    for i, (name, array) in enumerate(tensors.items()):
        view = flat[start : start + array.size].reshape(array.shape)
        tree[name] = view.mT if i % 2 and array.ndim > 1 else view
        start += array.size
    torch.save(tree, folder / "ckpt.pt")
    return folder / "ckpt.pt"


KINDS = {
    "official": Kind(_write_official, has_checksum=False),
    "torch": Kind(_write_torch, has_checksum=True),
    "torch, views of one storage": Kind(_write_torch_views, has_checksum=True),
    "torch before 1.6": Kind(partial(_write_torch, _use_new_zipfile_serialization=False), has_checksum=False),
    "safetensors": Kind(_write_safetensors, has_checksum=False),
}


Original = tuple[Path, list[Path], Tensors]  # path of a checkpoint, paths of its files, and its tensors


def _write(kind: str, folder: Path) -> Original:
    """Write a checkpoint in the format `kind` into a separate subfolder of `folder`."""
    home = folder / kind / "whole"
    home.mkdir(parents=True)
    path = KINDS[kind].write(home, read_tensors(DENSE))
    return path, sorted(home.iterdir()), read_tensors(path)


def _damaged(original: Original, chance: random.Random) -> tuple[Path, str]:
    """Copy the checkpoint and damage one file of the copy. Return the copy's path and a description of the damage."""
    path, files, _ = original
    home = path.parents[1] / "damaged"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(path.parent, home)
    victim = home / chance.choice(files).name
    data, what = damage(victim.read_bytes(), chance)
    victim.write_bytes(data)
    return home / path.name, f"{victim.name}, {what}"


def _read(path: Path, original: Tensors, kind: Kind) -> str:
    """Read a checkpoint, and return the result of reading it.

    The result is "refused", "the same", "raw bits", or a description of a failure.
    """
    tracemalloc.start()
    begin = time.process_time()
    try:
        with open_checkpoint(path) as checkpoint:
            read = {name: checkpoint[name] for name in checkpoint}
            verdict = _compare(read, original, kind)
            if verdict == "other tensors" and not kind.has_checksum:
                plan_export(checkpoint, ExportOptions())
    except (CheckpointError, ConfigError) as error:
        sentence = str(error)
        verdict = "refused" if "\n" not in sentence and path.stem in sentence else f"no sentence: {sentence}"
    except Exception as error:
        verdict = f"another error: {error!r:.200}"
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if seconds > SECONDS:
        return f"too slow: {seconds:.1f} s"
    return f"too much memory: {peak >> 20} MiB" if peak > PEAK_BYTES else verdict


def _compare(read: Tensors, original: Tensors, kind: Kind) -> str:
    if read.keys() != original.keys():
        return "other tensors"
    alike = [(array.dtype, array.shape) == (read[name].dtype, read[name].shape) for name, array in original.items()]
    if not all(alike):
        return "other tensors"
    if all(array.tobytes() == read[name].tobytes() for name, array in original.items()):
        return "the same"
    return "other tensors" if kind.has_checksum else "raw bits"


def damage(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Damage bytes, and return the damaged bytes and a description of the damage."""
    place = _place(data, chance)
    match chance.randrange(7):
        case 0 | 1:
            return _over(data, place, bytes([data[place] ^ 1 << chance.randrange(8)])), f"bit of byte {place}"
        case 2:
            cut = chance.choice([place, len(data) - 1 - chance.randrange(min(200, len(data)))])
            return data[:cut], f"cut to {cut}"
        case 3:
            length = chance.randrange(1, 64)
            return data[:place] + data[place + length :], f"{length} bytes gone at {place}"
        case 4:
            extra = chance.randbytes(chance.randrange(1, 64))
            return data[:place] + extra + data[place:], f"{len(extra)} bytes more at {place}"
        case 5:
            layout = chance.choice(["<I", ">I", "<H", ">H", "<Q"])
            number = struct.pack(layout, chance.choice(SIZES) & ((1 << 8 * struct.calcsize(layout)) - 1))
            return _over(data, place, number), f"size {number.hex()} at {place}"
    other, length = _place(data, chance), chance.choice([1, 2, 4, 8, 30, 46])
    one, two = data[place : place + length], data[other : other + length]
    return _over(_over(data, place, two), other, one), f"{length} bytes of {place} and {other} swapped"


def _over(data: bytes, place: int, piece: bytes) -> bytes:
    return data[:place] + piece + data[place + len(piece) :]


def _place(data: bytes, chance: random.Random) -> int:
    """Choose a position anywhere, near the start or the end, or in a header of the zip format.

    Damage to the start, the end or a zip header is likely to mislead a reader, because these parts determine how the rest is
    read.
    """
    where = chance.randrange(4)
    if where == 0:
        return chance.randrange(min(len(data), 400))
    if where == 1:
        return len(data) - 1 - chance.randrange(min(len(data), 2000))
    signature = chance.choice([b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08"])
    if where == 2 and (count := data.count(signature)):
        position = -1
        for _ in range(chance.randrange(count) + 1):
            position = data.index(signature, position + 1)
        return min(len(data) - 1, position + chance.randrange(60))
    return chance.randrange(len(data))


def run(cases: int, seed: int) -> Report:
    """Damage and read checkpoints `cases` times, with each format in turn."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="reader-mutations-") as folder:
        originals = {kind: _write(kind, Path(folder)) for kind in KINDS}
        for case in range(cases):
            kind = list(KINDS)[case % len(KINDS)]
            path, what = _damaged(originals[kind], random.Random(f"{seed}/{case}"))
            verdict = _read(path, originals[kind][2], KINDS[kind])
            report.endings[f"{kind}: {verdict.partition(':')[0]}"] += 1
            if verdict not in ("refused", "the same", "raw bits"):
                report.failures.append(f"case {case} ({kind}, {what}): {verdict}")
    return report


if __name__ == "__main__":
    run_program(run, cases=20_000, seed=0)
