"""Tests for the official checkpoint format.

Every tree of arrays must be read bit for bit, however its arrays were cut into pieces.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from damaged_files import GOLDEN, assert_holds, read_tensors
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from official_writer import Box, Chunk, leaves, nest, whole, write_checkpoint

from vmoe_export import open_checkpoint

DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip
LANDMARK = "embedding/kernel"

PROPERTY = hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Return an array of random bits, with any dtype and up to four dimensions. Some dimensions may have size 0."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    return random_bits(draw(st.sampled_from(DTYPES)), shape, draw(st.integers(0, 2**32)))


def random_bits(dtype_name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    dtype = np.dtype(getattr(ml_dtypes, dtype_name, dtype_name))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8)
    return (raw % 2 if dtype_name == "bool" else raw).view(dtype).reshape(shape)


KEYS = st.one_of(st.integers(0, 12).map("encoderblock_{}".format), st.text("aZ09_-é", min_size=1, max_size=3))
SUBTREES = st.recursive(arrays(), lambda children: st.dictionaries(KEYS, children, max_size=4), max_leaves=12)
TREES = st.tuples(st.dictionaries(KEYS, SUBTREES, max_size=4), arrays()).map(
    lambda pair: {**pair[0], "embedding": {"kernel": pair[1]}}
)


def random_cut(random: Random, shards: int) -> Any:
    """Return a function that divides an array into random boxes.

    Each box is in a random shard, and has random sub-chunks.
    """

    def cut(name: str, array: np.ndarray) -> list[Chunk]:
        boxes = _split(random, tuple((0, extent) for extent in array.shape), depth=3)
        random.shuffle(boxes)
        return [Chunk(box, random.randrange(shards), _sub_chunks(random, box)) for box in boxes]

    return cut


def _split(random: Random, box: Box, depth: int) -> list[Box]:
    if not box or not depth or random.random() < 0.3:
        return [box]
    axis = random.randrange(len(box))
    start, stop = box[axis]
    middle = random.randint(start, stop)
    halves = ((*box[:axis], part, *box[axis + 1 :]) for part in ((start, middle), (middle, stop)))
    return [piece for half in halves for piece in _split(random, half, depth - 1)]


def _sub_chunks(random: Random, box: Box) -> tuple[int, ...]:
    size = int(np.prod([stop - start for start, stop in box]))
    ends = [*sorted(random.randint(0, size) for _ in range(random.randrange(3))), size]
    return tuple(np.diff([0, *ends]).tolist())


@PROPERTY
@given(TREES, st.integers(1, 5), st.randoms(use_true_random=False), st.sampled_from(["20220622", None]))
def test_any_tree_cut_in_any_way_is_read_back_bit_for_bit(
    tree: dict[str, Any], shards: int, random: Random, version: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "ckpt"
        write_checkpoint(prefix, tree, shards=shards, cut=random_cut(random, shards), version=version)
        assert_holds(prefix, "vmoe", dict(leaves(tree)))


@PROPERTY
@given(
    TREES,
    SUBTREES,
    st.sampled_from([("params",), ("target",), ("target", "params"), ("params", "params")]),
    st.randoms(use_true_random=False),
)
def test_parameters_are_found_in_a_train_state(
    tree: dict[str, Any], moments: Any, roots: tuple[str, ...], random: Random
) -> None:
    state: dict[str, Any] = tree
    for root in reversed(roots):
        state = {
            root: state,
            "step": np.array([7], np.int32),
            "opt_state": {"0": {"mu": tree, "nu": moments}},
            "rngs": {"dropout": np.array([1, 2], np.uint32)},
        }
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "ckpt"
        write_checkpoint(prefix, state, shards=2, cut=random_cut(random, 2))
        assert_holds(prefix, "vmoe", dict(leaves(tree)))


def test_ids_follow_the_order_of_strings_not_of_numbers(tmp_path: Path) -> None:
    tree = nest(
        {LANDMARK: np.zeros(1, np.float32)}
        | {f"Encoder/encoderblock_{i}/scale": np.array([i], np.float32) for i in range(12)}
    )
    write_checkpoint(tmp_path / "ckpt", tree)
    with open_checkpoint(tmp_path / "ckpt") as checkpoint:
        found = [checkpoint[f"Encoder/encoderblock_{i}/scale"].item() for i in range(12)]
    assert found == list(range(12))


def test_a_shard_that_nothing_lies_in_may_be_absent(tmp_path: Path) -> None:
    tree = nest({LANDMARK: np.arange(6, dtype=np.float32)})
    write_checkpoint(tmp_path / "ckpt", tree, shards=2)
    (tmp_path / "ckpt.data-00001-of-00002").unlink()
    assert_holds(tmp_path / "ckpt", "vmoe", dict(leaves(tree)))


EMPTY = ((0, 3), (0, 0), (0, 2))


@pytest.mark.parametrize("chunks", [[Chunk(EMPTY)], [Chunk(EMPTY, 0, (0,))], [Chunk(EMPTY, 0, ())], []], ids=str)
def test_an_array_of_size_0_keeps_its_shape(tmp_path: Path, chunks: list[Chunk]) -> None:
    tree = nest({LANDMARK: np.zeros((3, 0, 2), np.float32)})
    write_checkpoint(tmp_path / "ckpt", tree, cut=lambda name, array: chunks)
    assert_holds(tmp_path / "ckpt", "vmoe", dict(leaves(tree)))


@pytest.mark.parametrize("given_as", ["ckpt", "ckpt.index", "."])
def test_a_checkpoint_is_opened_by_prefix_by_index_or_by_folder(tmp_path: Path, given_as: str) -> None:
    tree = nest({LANDMARK: np.arange(6, dtype=np.float32)})
    write_checkpoint(tmp_path / "ckpt", tree, shards=2)
    assert_holds(tmp_path / given_as, "vmoe", dict(leaves(tree)))


@pytest.mark.parametrize("model", ["g2", "g4"])
def test_what_was_read_from_an_official_file_is_written_again_byte_for_byte(tmp_path: Path, model: str) -> None:
    # Compare the project's reader, and these tests' writer, with files that the official code wrote.
    write_checkpoint(tmp_path / model, nest(read_tensors(GOLDEN / model)), cut=whole)
    for name in (f"{model}.index", f"{model}.data-00000-of-00001"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
