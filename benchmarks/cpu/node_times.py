"""How long each node of a small graph takes, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cpu.errors import BenchmarkError
from cpu.runtimes import ort_session

Array = np.ndarray[Any, np.dtype[Any]]

_CACHE_BYTES = 128 << 20
_WARM_UP_RUNS = 2


def node_times(graph: Path, feeds: Mapping[str, Array], threads: int, runs: int, library: Path) -> dict[str, list[float]]:
    """Milliseconds of each node by its name, run by run, with an empty cache before every run.

    Args:
        graph: the ONNX file.
        feeds: its inputs.
        threads: intra-op threads.
        runs: how many, after two to warm up.
        library: the op library to register.

    Raises:
        BenchmarkError: ONNX Runtime can't load or run the graph.
    """
    try:
        session = ort_session(graph, threads, library, graph.with_suffix(".profile"))
        names = [output.name for output in session.get_outputs()]
        cache = np.ones(_CACHE_BYTES // 4, np.float32)
        for _ in range(_WARM_UP_RUNS + runs):
            cache.sum()
            session.run(names, dict(feeds))
    except Exception as error:  # onnxruntime's own classes
        raise BenchmarkError(f"{graph.name} can't be timed: {str(error).splitlines()[0]:.200}") from None
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text())
    profile.unlink()
    taken: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    return {name: times[_WARM_UP_RUNS:] for name, times in taken.items()}
