"""Writes checkpoints in the official format, with any division of arrays into chunks, sub-chunks and shards.

This writer shares no code with the reader that it tests. It is based on the format description in google-research/vmoe's
vmoe/checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

VERSION = "20220622"
CHUNKS_KEY = "__msgpack_array_chunk_a87ca2__"
NDARRAY, ND_SLICE, INDEX_INFO = 1, 6, 8

Box = tuple[tuple[int, int], ...]
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Chunk:
    """A part of an array.

    It has a (start, stop) pair for each dimension, the shard that stores the part, and the lengths of the part's flat
    sub-chunks.
    """

    box: Box
    shard: int = 0
    sub_chunks: tuple[int, ...] | None = None


Cut = Callable[[str, np.ndarray], list[Chunk]]


def whole(name: str, array: np.ndarray) -> list[Chunk]:
    """Return one chunk that covers the whole array and is stored in the first shard."""
    return [Chunk(tuple((0, extent) for extent in array.shape))]


def write_checkpoint(prefix: Path, tree: Tree, *, shards: int = 1, cut: Cut = whole, version: str | None = VERSION) -> None:
    """Write a checkpoint as the files PREFIX.index and PREFIX.data-nnnnn-of-NNNNN.

    Args:
        prefix: path without the suffixes.
        tree: nested mapping from names to arrays.
        shards: number of data files. A data file to which `cut` assigns no chunks contains none.
        cut: a function that returns the chunks of an array, given the array's `/`-joined name and the array.
        version: version of the format. If it is None, no version is written, as in official code before 2022-06-22.
    """
    chunks = {name: cut(name, array) for name, array in leaves(tree)}
    index = {
        "shard_count": shards,
        "index": _map_leaves(tree, lambda name, array: _index_info(array, chunks[name])),
    }
    if version is not None:
        index["version"] = version
    Path(f"{prefix}.index").write_bytes(msgpack.packb(index))
    data: list[dict[str, Any]] = [{CHUNKS_KEY: True} for _ in range(shards)]
    for rank, (name, array) in enumerate(leaves(tree)):
        for chunk in chunks[name]:
            entry = [_sub_chunks(array, chunk), msgpack.ExtType(ND_SLICE, _nd_slice(chunk.box))]
            data[chunk.shard].setdefault(str(rank), []).append(entry)
    for shard, content in enumerate(data):
        Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}").write_bytes(msgpack.packb(content))


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the `/`-joined name and the array of each leaf, in the order of array ids.

    The order is depth first, with keys sorted as strings.
    """
    for key in sorted(tree):
        if isinstance(tree[key], Mapping):
            yield from leaves(tree[key], f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", tree[key]


def nest(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return a nested tree, given arrays by `/`-joined name."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _map_leaves(tree: Tree, leaf: Callable[[str, np.ndarray], Any], prefix: str = "") -> dict[str, Any]:
    return {
        key: _map_leaves(value, leaf, f"{prefix}{key}/") if isinstance(value, Mapping) else leaf(f"{prefix}{key}", value)
        for key, value in tree.items()
    }


def _index_info(array: np.ndarray, chunks: list[Chunk]) -> msgpack.ExtType:
    shaped = msgpack.packb((array.shape, array.dtype.name, False, {}))
    slices = [_nd_slice(chunk.box) for chunk in chunks]
    return msgpack.ExtType(INDEX_INFO, msgpack.packb((shaped, slices, [chunk.shard for chunk in chunks])))


def _nd_slice(box: Box) -> bytes:
    return msgpack.packb([msgpack.packb((start, stop, None)) for start, stop in box])


def _sub_chunks(array: np.ndarray, chunk: Chunk) -> list[msgpack.ExtType]:
    flat = array[tuple(slice(start, stop) for start, stop in chunk.box)].reshape(-1)
    lengths = [flat.size] if chunk.sub_chunks is None else chunk.sub_chunks
    ends = np.cumsum(lengths, dtype=int)
    parts = [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return [msgpack.ExtType(NDARRAY, msgpack.packb((part.shape, part.dtype.name, part.tobytes()))) for part in parts]
