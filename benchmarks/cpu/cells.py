"""One cell of the benchmark timed: all its runs loaded, checked against the float32 engine, and called in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpu.busy import OthersWatch
from cpu.cell import Cell, LoadedRun
from cpu.errors import BenchmarkError
from cpu.models import Setting
from cpu.runs import ENGINE_RUNS, RUNS, Run, load_engine
from cpu.timing import Times, seconds_of, time_in_turns

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[str, Setting | None]

LOGITS_TOLERANCE = 5e-3
"""Rounding differs by 1e-5; a token with two gates nearly the same, which others may send elsewhere, by 1e-3."""
_RELATIVE_TOLERANCES = {"bf16": 0.2, "int8": 0.35}
"""Far above what rounding and the few tokens that it sends elsewhere do, and far below what another model would give."""


@dataclass(frozen=True)
class Kept:
    """What routing left of a batch, over all MoE layers.

    Attributes:
        kept, asked: (token, choice) pairs with a place, and all of them.
        used_experts: experts that got at least one token.
    """

    kept: int
    asked: int
    used_experts: int


@dataclass(frozen=True)
class Distance:
    """How far logits are from those of the float32 engine: the largest difference, and the norm of all over theirs."""

    largest: float
    relative: float


@dataclass(frozen=True)
class Switch:
    """What it costs to call another profile than the last time.

    Attributes:
        cost_ms: median, over pairs of calls at the same profile, of the first one's time (after another profile) less
            the second one's (after the same).
        error_ms: standard error of that median.
    """

    run: str
    profiles: tuple[str, str]
    cost_ms: float
    error_ms: float
    pairs: int


@dataclass(frozen=True)
class CellResult:
    """What a cell gave: per run and setting (None for a dense model) its times, kept pairs and distance.

    `others_share` is the share of the machine that other processes took while it was timed.
    """

    cell: Cell
    times: Mapping[Key, Times]
    kept: Mapping[Key, Kept]
    distances: Mapping[Key, Distance]
    descriptions: Mapping[str, str]
    switches: Sequence[Switch]
    others_share: float | None


@dataclass(frozen=True)
class _Reference:
    """Logits and kept pairs of the float32 engine by setting, None for the dense ViT."""

    logits: Mapping[Setting | None, Array]
    kept: Mapping[Setting, Kept]


def run_cell(
    cell: Cell, names: Sequence[str], rounds: int, *, switches: bool, say: Callable[[str], None] = print
) -> CellResult:
    """Loads the runs, checks that they agree, and times them.

    Args:
        cell: what is timed.
        names: of the runs.
        rounds: how often each is timed.
        switches: also time changes of profile.
        say: gets a line on what is going on.

    Raises:
        BenchmarkError: a run's logits are not those of the float32 engine.
    """
    images = cell.model.images(cell.batch)
    chosen = [run for name, run in RUNS.items() if name in names]
    settings = tuple(cell.profiles)
    name = f"{cell.model.name}, batch {cell.batch}, {cell.threads} threads"
    say(f"{name}: loading {len(chosen)} runs")
    reference = _reference(cell, images)
    loaded: dict[str, LoadedRun] = {}
    distances: dict[Key, Distance] = {}
    kept: dict[Key, Kept] = {}
    for run in chosen:
        model = loaded[run.name] = run.load(cell)
        for setting in settings if run.kind == "sparse" else (None,):
            key = run.name, setting
            distances[key] = distance(model.call(images, setting), reference.logits[setting])
            check_agreement(run, distances[key])
            if setting is not None:
                placed = model.placed(images, setting) if model.placed else None
                kept[key] = count_kept(placed) if placed else reference.kept[setting]
    say(f"{name}: timing {len(distances)} calls in turns, {rounds} rounds")
    calls = {key: _caller(loaded[key[0]], images, key[1]) for key in distances}
    with OthersWatch() as others:
        times = time_in_turns(calls, rounds)
    switch_times = []
    if switches and len(settings) > 1:
        pair = settings[len(settings) // 2 - 1], settings[-1]
        switched = [run.name for run in chosen if run.kind == "sparse" and run.name in ENGINE_RUNS]
        switch_times = [time_switches(run, loaded[run], images, pair, rounds) for run in switched]
    descriptions = {name: model.description for name, model in loaded.items()}
    loaded.clear()
    calls.clear()
    gc.collect()
    return CellResult(cell, times, kept, distances, descriptions, switch_times, others.share)


def _reference(cell: Cell, images: Array) -> _Reference:
    logits: dict[Setting | None, Array] = {None: load_engine(cell, "dense", "fp32").call(images, None)}
    kept = {}
    engine = load_engine(cell, "sparse", "fp32")
    assert engine.placed is not None
    for setting in cell.profiles:
        logits[setting] = engine.call(images, setting)
        kept[setting] = count_kept(engine.placed(images, setting))
    return _Reference(logits, kept)


def distance(logits: Array, wanted: Array) -> Distance:
    """Of logits from others, both float32[N, classes].

    Example:
        >>> distance(np.array([[3.0, 4.0]]), np.array([[0.0, 5.0]]))
        Distance(largest=3.0, relative=0.6324555320336759)
    """
    difference = logits - wanted
    relative = np.linalg.norm(difference) / max(float(np.linalg.norm(wanted)), 1e-30)
    return Distance(float(np.abs(difference).max()), float(relative))


def check_agreement(run: Run, found: Distance) -> None:
    """Refuses a run whose logits are not the float32 engine's, up to the rounding of its precision.

    Raises:
        BenchmarkError: the distance is above the tolerance, or NaN.
    """
    if run.exact:
        value, tolerance = found.largest, LOGITS_TOLERANCE
    else:
        value = found.relative
        tolerance = _RELATIVE_TOLERANCES["int8" if "int8" in (run.numbers.linear, run.numbers.experts) else "bf16"]
    if not value <= tolerance:
        raise BenchmarkError(
            f"{run.name} is not the same model: its logits differ by {value:.2g} from those of this engine in float32, and "
            f"{tolerance:g} is allowed"
        )


def count_kept(placed: Sequence[Array]) -> Kept:
    """Counts pairs and experts.

    Args:
        placed: the expert i32[G,S,K] of each MoE layer, -1 where a pair was dropped.
    """
    taken = [expert[expert >= 0] for expert in placed]
    return Kept(sum(map(len, taken)), sum(expert.size for expert in placed), sum(len(np.unique(e)) for e in taken))


def time_switches(name: str, loaded: LoadedRun, images: Array, pair: tuple[Setting, Setting], rounds: int) -> Switch:
    """Calls A A B B A A B B ..., so that every first call comes after another profile and every second one doesn't."""
    differences = []
    for index in range(2 * rounds + 2):
        call = _caller(loaded, images, pair[index % 2])
        first, second = seconds_of(call), seconds_of(call)
        if index >= 2:
            differences.append((first - second) * 1e3)
    median = float(np.median(differences))
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(differences) - median)))
    # 1.2533 turns the error of a mean into that of a median.
    error = 1.2533 * deviation / len(differences) ** 0.5
    return Switch(name, (pair[0].profile, pair[1].profile), median, error, len(differences))


def _caller(loaded: LoadedRun, images: Array, setting: Setting | None) -> Callable[[], object]:
    return lambda: loaded.call(images, setting)
