"""A graph that reads the same scales again and again is checked in a moment."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from bundle_changes import BUNDLES, WEIGHTS, Case, appended, both, chunk, holds
from bundle_verdicts import both_verdicts

TIMES = 20_000
SCALES = np.ones(2 << 20, np.float32)


def scales(number: int, start: int) -> bytes:
    """A weight of a graph that is called scales, as part of a model: all but `number` of the SCALES at `start`."""
    entries = {"location": WEIGHTS, "offset": str(start + 4 * number), "length": str(SCALES.nbytes - 4 * number)}
    pairs = b"".join(chunk(13, chunk(1, key.encode()) + chunk(2, value.encode())) for key, value in entries.items())
    return chunk(7, chunk(5, chunk(8, b"%d/kernel_scale" % number) + pairs))


def case(values: np.ndarray) -> Case:
    """A bundle with more weights, all of them scales, TIMES times."""
    weights = (BUNDLES / "v3-int8" / WEIGHTS).read_bytes()
    weights += bytes(-len(weights) % 4)
    graph = b"".join(scales(number, len(weights)) for number in range(TIMES))
    return Case("repeated", both(holds(WEIGHTS, weights + values.tobytes()), appended(graph)), good=True, base="v3-int8")


def test_scales_that_a_graph_reads_20000_times_are_read_once(tmp_path: Path) -> None:
    # 160 GB otherwise: a quarter of an hour in C++, and 16 s in Python.
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    wrong = SCALES.copy()
    wrong[-1] = 0
    bundles = [case(SCALES).build(tmp_path / "good"), case(wrong).build(tmp_path / "bad")]
    begin = time.process_time()  # of Python's; C++ has a limit of its own
    for good, bad in both_verdicts(bundles).values():
        assert good is None
        assert bad is not None and "0/kernel_scale" in bad
    assert time.process_time() - begin < 8  # it takes 2.5 s
