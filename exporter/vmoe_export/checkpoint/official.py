"""Read the checkpoints that google-research/vmoe writes: `PREFIX.index` and `PREFIX.data-nnnnn-of-NNNNN`.

Source of the format: vmoe/checkpoints/{partitioned,serialization,types}.py. Each file is one msgpack object. The index holds
a tree of array descriptions. Each description states the array's shape and dtype, and the slice and shard of each chunk. A
data shard maps array ids to chunks. An array's id is its rank in a depth-first walk of the tree. The keys of each level are
sorted as strings, so `encoderblock_10` comes before `encoderblock_2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from vmoe_export.checkpoint.base import MAX_TREE_DEPTH, Array, Checkpoint, TensorInfo, naming
from vmoe_export.checkpoint.msgpack_cursor import ByteSpan, MsgpackCursor
from vmoe_export.checkpoint.number_types import dtype_from_name
from vmoe_export.checkpoint.plain_file import PlainFile
from vmoe_export.errors import CheckpointError

_NDARRAY, _ND_SLICE, _INDEX_INFO = 1, 6, 8
_CHUNKS_KEY = "__msgpack_array_chunk_a87ca2__"
_VERSION = "20220622"
_MAX_SHARDS = 99_999
_MAX_CHUNKS = 8192  # of one array
_MAX_TOTAL_CHUNKS = 100_000
_MAX_INDEX_BYTES = 16 << 20  # enough for `_MAX_TOTAL_CHUNKS` chunks and the names of their arrays
_MAX_SLICE_BYTES = 1024
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 2**48  # more than any file holds, but small enough that sizes in numpy don't overflow

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _ArrayIndex:
    """One leaf of the index. It holds the array's shape and dtype, and the box and shard of each chunk.

    A box is (start, stop) per dimension.
    """

    id: int
    info: TensorInfo
    chunks: tuple[tuple[Box, int], ...]


class OfficialCheckpoint(Checkpoint):
    """A checkpoint in the format of the released V-MoE models."""

    def __init__(self, prefix: Path) -> None:
        self._arrays, names = open_index(prefix)
        self._shard_paths = {shard: Path(f"{prefix}{name}") for shard, name in names.items()}
        for path in self._shard_paths.values():
            if not path.is_file():
                raise CheckpointError(f"{path} is missing: it is one of the shards that the index points to")
        self._shards: dict[int, _Shard] = {}
        super().__init__(
            prefix,
            "vmoe",
            [Path(f"{prefix}.index"), *self._shard_paths.values()],
            {name: array.info for name, array in self._arrays.items()},
        )

    def close(self) -> None:
        """Close the shards."""
        for shard in self._shards.values():
            shard.file.close()
        self._shards.clear()

    def _read(self, stored_name: str) -> Array:
        array = self._arrays[stored_name]
        info = array.info
        found: list[tuple[Box, list[ByteSpan], _Shard]] = []
        for number in sorted({shard for _, shard in array.chunks}):
            with naming(self._shard_paths[number].name):
                if number not in self._shards:
                    self._shards[number] = _Shard(self._shard_paths[number])
                shard = self._shards[number]
                found += [(box, spans, shard) for box, spans in shard.chunks(array.id, info.dtype)]
        if sorted(box for box, _, _ in found) != sorted(box for box, _ in array.chunks):
            raise CheckpointError("the chunks in the shards are not the ones that the index lists")
        # Allocate only after checking that the shards hold every byte of the array.
        for box, spans, shard in found:
            if sum(span.length for span in spans) != _volume(box) * info.dtype.itemsize:
                raise CheckpointError(f"{shard.path.name}: the size of a chunk does not match its slice")
        result, filled = np.empty(info.shape, info.dtype), np.zeros(info.shape, bool)
        for box, spans, shard in found:
            extents = tuple(stop - start for start, stop in box)
            # A chunk that covers the whole array is read directly into it. Other chunks are read into a temporary array
            # first.
            chunk = result if extents == info.shape else np.empty(extents, info.dtype)
            with naming(shard.path.name):
                shard.read_into(spans, chunk)
            # The ellipsis makes the assignment work for scalars, whose box is empty.
            where: tuple[Any, ...] = (*(slice(start, stop) for start, stop in box), ...)
            filled[where] = True
            if chunk is not result:
                result[where] = chunk
        # The chunks have as many elements in total as the array. If two overlap, some elements of the array remain unfilled.
        if not filled.all():
            raise CheckpointError("its chunks overlap")
        return result


class _Shard:
    """A data file, with the positions of each array's chunks in that file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = PlainFile(path)
        try:
            if not self.file.size:
                raise CheckpointError("it is empty")
            self._chunks = self._scan()
        except CheckpointError:
            self.file.close()
            raise

    def chunks(self, array_id: int, dtype: np.dtype[Any]) -> Iterator[tuple[Box, list[ByteSpan]]]:
        """Yield two values for each chunk of one array: the box that the chunk fills, and its byte spans in order."""
        for bodies, box in self._chunks.get(array_id, []):
            yield box, [_ndarray_data(body, dtype) for body in bodies]

    def read_into(self, spans: list[ByteSpan], chunk: Array) -> None:
        """Fill `chunk` with the bytes of all `spans`, in the order of the spans."""
        data, position = chunk.reshape(-1).view(np.uint8), 0
        for span in spans:
            self.file.read_into(span.start, data[position : position + span.length])
            position += span.length

    def _scan(self) -> dict[int, list[tuple[list[MsgpackCursor], Box]]]:
        cursor = MsgpackCursor(self.file)
        chunks: dict[int, list[tuple[list[MsgpackCursor], Box]]] = {}
        pieces = 0
        entries = cursor.header("a map")
        for entry in range(entries):
            key = cursor.text()
            if key == _CHUNKS_KEY:
                cursor.true()
                continue
            if entry == 0 or not re.fullmatch("[0-9]{1,9}", key):
                raise CheckpointError(f"it is not a V-MoE data shard (it starts with the key {key[:40]!r})")
            if int(key) in chunks:
                raise CheckpointError(f"it holds the array {int(key)} twice")
            chunks[int(key)] = []
            for _ in range(cursor.header("an array")):
                chunks[int(key)].append(self._scan_chunk(cursor))
                pieces += 1 + len(chunks[int(key)][-1][0])
                _check_count(pieces)
            _check_count(entry)
        if cursor.position != cursor.end:
            raise CheckpointError(f"there are {cursor.end - cursor.position} bytes after its end")
        return chunks

    @staticmethod
    def _scan_chunk(cursor: MsgpackCursor) -> tuple[list[MsgpackCursor], Box]:
        if cursor.header("an array") != 2:
            raise CheckpointError("a chunk is not a pair of data and slice")
        count = cursor.header("an array")
        _check_count(count)
        bodies = [cursor.extension(_NDARRAY) for _ in range(count)]
        return bodies, _box(_unpack(cursor.extension(_ND_SLICE).rest(_MAX_SLICE_BYTES)))


def _check_count(number: int) -> None:
    # A chunk of more than a gigabyte has several pieces. `number` counts both the chunks and their pieces, so it may reach
    # twice the limit.
    if number > 2 * _MAX_TOTAL_CHUNKS:
        raise CheckpointError(f"it holds more than {_MAX_TOTAL_CHUNKS} chunks")


def _ndarray_data(body: MsgpackCursor, dtype: np.dtype[Any]) -> ByteSpan:
    cursor = MsgpackCursor(body.file, body.position, body.end)
    if cursor.header("an array") != 3:
        raise CheckpointError("an array is not (shape, dtype, data)")
    for _ in range(cursor.header("an array")):
        cursor.header("a number")
    stored = dtype_from_name(cursor.text())
    if stored != dtype:
        raise CheckpointError(f"a chunk is {stored}, but the index says {dtype}")
    data = cursor.binary()
    if data.length % dtype.itemsize:
        raise CheckpointError(f"a chunk of {data.length} bytes does not hold whole {dtype} values")
    return data


def open_index(prefix: Path) -> tuple[dict[str, _ArrayIndex], dict[int, str]]:
    """Read an index, which lists arrays and the shards that hold the arrays' chunks.

    A shard that no array points to is left out. Such a shard is empty or does not exist.

    Returns:
        Two mappings:

        - the description of each array, by name,
        - the end of each shard's file name, which follows PREFIX, by shard number.

    Raises:
        CheckpointError: the index is damaged.
    """
    path = Path(f"{prefix}.index")
    try:
        with naming(path.name), closing(PlainFile(path)) as file:
            if file.size > _MAX_INDEX_BYTES:
                raise CheckpointError(
                    f"it is {file.size / 1e6:,.0f} MB long, and no index is longer than {_MAX_INDEX_BYTES >> 20} MiB"
                )
            count, arrays = _read_index(bytes(file.read(0, file.size)))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    needed = sorted({shard for array in arrays.values() for _, shard in array.chunks})
    return arrays, {shard: f".data-{shard:05d}-of-{count:05d}" for shard in needed}


def _read_index(data: bytes) -> tuple[int, dict[str, _ArrayIndex]]:
    root = _unpack(data)
    if not isinstance(root, dict) or not isinstance(root.get("index"), dict):
        raise CheckpointError("it is not the index of a V-MoE checkpoint")
    # An index without a version (before 2022-06-22) numbers the arrays in the order in which they were saved. For plain
    # parameters, this is also the order of the depth-first walk.
    version = root.get("version", _VERSION)
    if version != _VERSION:
        raise CheckpointError(f"index version {version!r:.60} is not supported; it must be {_VERSION} or missing")
    shard_count = root.get("shard_count")
    if not isinstance(shard_count, int) or not 1 <= shard_count <= _MAX_SHARDS:
        raise CheckpointError(f"its shard_count is {shard_count!r:.60}")
    arrays: dict[str, _ArrayIndex] = {}
    num_chunks = 0
    for rank, (name, leaf) in enumerate(_leaves(root["index"], "")):
        arrays[name] = _array_index(rank, name, leaf, shard_count)
        num_chunks += len(arrays[name].chunks)
        if num_chunks > _MAX_TOTAL_CHUNKS:
            raise CheckpointError(f"it lists more than {_MAX_TOTAL_CHUNKS} chunks")
    return shard_count, arrays


def _leaves(tree: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    if prefix.count("/") > MAX_TREE_DEPTH:
        raise CheckpointError("its tree of names is nested too deeply")
    for key in sorted(tree, key=str):
        if not isinstance(key, str):
            raise CheckpointError(f"it has a key that is not text: {key!r:.60}")
        value = tree[key]
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _array_index(rank: int, name: str, leaf: Any, shard_count: int) -> _ArrayIndex:
    if not isinstance(leaf, msgpack.ExtType):
        raise CheckpointError(f"{name} is not an array description")
    if leaf.code != _INDEX_INFO:
        raise CheckpointError(f"{name} has the unknown msgpack extension type {leaf.code}")
    try:
        with naming(name):
            shaped, slices, shards = _unpack(leaf.data)
            shape, dtype_name, *_ = _unpack(shaped)
            boxes = [_box(_unpack(item)) for item in slices]
            shape, shards = tuple(shape), tuple(shards)
            dtype = dtype_from_name(dtype_name)
    except (TypeError, ValueError):
        raise CheckpointError(f"{name} has a damaged array description") from None
    if not all(isinstance(extent, int) and extent >= 0 for extent in shape):
        raise CheckpointError(f"{name} has the shape {shape}")
    if len(shape) > _MAX_DIMENSIONS or math.prod(max(extent, 1) for extent in shape) > _MAX_ELEMENTS:
        raise CheckpointError(f"{name} has the shape {shape}, which no checkpoint can hold")
    if len(boxes) != len(shards) or not all(isinstance(s, int) and 0 <= s < shard_count for s in shards):
        raise CheckpointError(f"{name} points to shards that are not there")
    if len(boxes) > _MAX_CHUNKS:
        raise CheckpointError(f"{name} is cut into {len(boxes)} chunks")
    inside = all(
        len(box) == len(shape) and all(0 <= a <= b <= extent for (a, b), extent in zip(box, shape, strict=True))
        for box in boxes
    )
    if not inside or sum(map(_volume, boxes)) != math.prod(shape):
        raise CheckpointError(f"the chunks of {name} do not make up its shape {shape}")
    return _ArrayIndex(rank, TensorInfo(shape, dtype), tuple(zip(boxes, shards, strict=True)))


def _volume(box: Box) -> int:
    return math.prod(stop - start for start, stop in box)


def _box(nd_slice: Any) -> Box:
    box = []
    try:
        slices = [_unpack(item) if isinstance(item, bytes) else item for item in nd_slice]
        bounds = [(start, stop, step) for start, stop, step in slices]
    except (TypeError, ValueError):
        raise CheckpointError("a chunk has a damaged slice") from None
    for start, stop, step in bounds:
        if step not in (None, 1) or not isinstance(start, int) or not isinstance(stop, int):
            raise CheckpointError(f"a chunk has the slice {start}:{stop}:{step}")
        box.append((start, stop))
    return tuple(box)


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise CheckpointError(f"it is not readable msgpack ({str(error) or type(error).__name__})") from None
