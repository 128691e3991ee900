"""Whether chunks make up an array is what counting element by element says, and takes no longer for crafted ones."""

from __future__ import annotations

import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
from damaged_files import array_entry, index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from official_writer import CHUNKS_KEY

from vmoe_export import CheckpointError, open_checkpoint
from vmoe_export.checkpoint.chunk_cover import Box, covers


def counted(shape: tuple[int, ...], boxes: list[Box]) -> bool:
    """By looking at each element."""
    cover = np.zeros(shape, int)
    for box in boxes:
        if len(box) != len(shape) or any(stop > extent for (_, stop), extent in zip(box, shape, strict=True)):
            return False
        cover[(*(slice(start, stop) for start, stop in box), ...)] += 1
    return bool((cover == 1).all())


@st.composite
def arrays(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape, and boxes that come from cutting it, one or two of them changed in every other case."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    boxes: list[Box] = [tuple((0, extent) for extent in shape)]
    for _ in range(draw(st.integers(0, 8))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, max(0, len(shape) - 1)))
        if not shape or box[axis][1] - box[axis][0] < 2:
            boxes.append(box)
            continue
        start, stop = box[axis]
        middle = draw(st.integers(start + 1, stop - 1))
        boxes += [(*box[:axis], part, *box[axis + 1 :]) for part in ((start, middle), (middle, stop))]
    if draw(st.booleans()) and shape:
        for _ in range(draw(st.integers(1, 2))):
            index, axis = draw(st.integers(0, len(boxes) - 1)), draw(st.integers(0, len(shape) - 1))
            start = draw(st.integers(0, shape[axis]))
            changed = (start, draw(st.integers(start, shape[axis] + 1)))
            boxes[index] = (*boxes[index][:axis], changed, *boxes[index][axis + 1 :])
    return shape, draw(st.permutations(boxes))


@settings(max_examples=400, deadline=None)
@given(arrays())
def test_as_counting_says(case: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, boxes = case
    assert covers(shape, boxes) == counted(shape, boxes)


@pytest.mark.parametrize("missing", [0, 1])
def test_twelve_arrays_of_8192_chunks_are_checked_in_a_moment(missing: int, tmp_path: Path) -> None:
    # All chunks start together on the first axis, so that none of them can be told apart by it.
    slices = [[(0, 1), (2 * i, 2 * i + 2)] for i in range(8192)]
    leaves = {f"k{i}": array_entry([1, 16384], slices=slices) for i in range(11)}
    leaf = array_entry([1, 16384], slices=slices[missing:])
    prefix = index_of(tmp_path, leaf, index={"embedding": {"kernel": leaf}, **leaves})
    begin = time.process_time()
    if missing:
        with pytest.raises(CheckpointError, match="embedding/kernel"):
            open_checkpoint(prefix)
    else:
        open_checkpoint(prefix).close()
    assert time.process_time() - begin < 5


def test_an_index_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([2]))
    with (tmp_path / "ckpt.index").open("r+b") as file:
        file.truncate(50 << 30)
    with pytest.raises(CheckpointError, match=r"ckpt\.index: it is 53,687 MB long, and no index is longer than 16 MiB"):
        open_checkpoint(prefix)


def test_a_shard_that_lists_no_end_of_chunks_is_left_early(tmp_path: Path) -> None:
    prefix = index_of(tmp_path, array_entry([2]))
    entries = b"".join(msgpack.packb(str(number)) + b"\x90" for number in range(250_000))
    head = b"\xdf" + (250_001).to_bytes(4, "big") + msgpack.packb(CHUNKS_KEY) + b"\xc3"
    (tmp_path / "ckpt.data-00000-of-00001").write_bytes(head + entries)
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="more than 100000"):
        checkpoint["embedding/kernel"]
