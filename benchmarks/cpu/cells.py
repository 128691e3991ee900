"""One cell of the benchmark: all contenders of a model, batch size and number of threads, checked and timed in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpu.busy import OthersWatch
from cpu.contenders import CONTENDERS, Answers, Cell
from cpu.errors import BenchmarkError
from cpu.models import Model, Setting
from cpu.timing import Times, seconds_of, time_in_turns
from vmoe_runtime import Engine
from vmoe_runtime.bundle import Bundle

Array = np.ndarray[Any, np.dtype[Any]]
Key = tuple[str, Setting | None]

LOGITS_TOLERANCE = 1e-3
REFERENCE, BASELINE = "engine-fp32", "dense-ort"
_ENGINES = ("engine-fp32", "engine-bf16")


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
class Switch:
    """What it costs to call another profile than the last time.

    Attributes:
        cost_ms: median, over pairs of calls at the same profile, of the first one's time (after another profile) less
            the second one's (after the same).
        error_ms: standard error of that median.
    """

    contender: str
    profiles: tuple[str, str]
    cost_ms: float
    error_ms: float
    pairs: int


@dataclass(frozen=True)
class CellResult:
    """What a cell gave: per contender and setting (None for a dense model) its times, kept pairs and logits.

    `others_share` is the share of the machine that other processes took while it was timed.
    """

    cell: Cell
    times: Mapping[Key, Times]
    kept: Mapping[Key, Kept]
    logits_difference: Mapping[Key, float]
    descriptions: Mapping[str, str]
    switches: Sequence[Switch]
    others_share: float | None


def make_cell(model: Model, batch: int, threads: int, settings: Sequence[Setting], folder: Path) -> Cell:
    """A cell with the places per expert that the bundle's own rules give."""
    rules = Bundle.open(model.sparse, verify=False).manifest.rules
    assert rules is not None
    return Cell(model, batch, threads, {s: rules.profile(s.capacity_ratio, s.k, bpr=True) for s in settings}, folder)


def run_cell(
    cell: Cell, names: Sequence[str], repeats: int, *, switches: bool, say: Callable[[str], None] = print
) -> CellResult:
    """Loads the contenders, checks that they agree, and times them.

    Args:
        cell: what is timed.
        names: of the contenders; the reference engine and the baseline are always among them.
        repeats: timed rounds.
        switches: also time changes of profile.
        say: gets a line on what is going on.

    Raises:
        BenchmarkError: a float32 contender's logits are not those of this engine.
    """
    images = cell.model.images(cell.batch)
    chosen = [CONTENDERS[name] for name in CONTENDERS if name in {*names, REFERENCE, BASELINE}]
    settings = tuple(cell.profiles)
    say(f"{cell.model.name}, batch {cell.batch}, {cell.threads} threads: loading {len(chosen)} contenders")
    with Engine.load(cell.model.dense, backend="onnxruntime", threads=cell.threads, verify=False) as engine:
        wanted: dict[Setting | None, Array] = {None: engine(images)}
    loaded: dict[str, Answers] = {}
    difference: dict[Key, float] = {}
    kept: dict[Key, Kept] = {}
    for contender in chosen:
        answers = loaded[contender.name] = contender.load(cell)
        for setting in settings if contender.sparse else (None,):
            logits = answers.call(images, setting)
            # The first one is the reference.
            difference[contender.name, setting] = float(np.abs(logits - wanted.setdefault(setting, logits)).max())
            if setting is not None and answers.slots is not None:
                kept[contender.name, setting] = count_kept(
                    answers.slots(images, setting), cell.batch * cell.profiles[setting].capacity[0]
                )
        if not (contender.expert_bf16 or contender.shared_bf16):
            check_agreement(contender.name, [value for (name, _), value in difference.items() if name == contender.name])
    say(f"timing {len(difference)} calls in turns, {repeats} rounds")
    calls = {key: _caller(loaded[key[0]], images, key[1]) for key in difference}
    with OthersWatch() as others:
        times = time_in_turns(calls, repeats)
    switch_times = []
    if switches and len(settings) > 1:
        pair = settings[len(settings) // 2 - 1], settings[-1]
        switch_times = [time_switches(name, loaded[name], images, pair, repeats) for name in _ENGINES if name in loaded]
    descriptions = {name: answers.description for name, answers in loaded.items()}
    loaded.clear()
    calls.clear()
    gc.collect()
    return CellResult(cell, times, kept, difference, descriptions, switch_times, others.share)


def count_kept(slots: Sequence[Array], places: int) -> Kept:
    """Counts pairs and experts.

    Args:
        slots: i32[G,S,K] of each MoE layer, -1 where a pair was dropped.
        places: of one expert for the whole batch, M.
    """
    taken = [slot[slot >= 0] for slot in slots]
    used = sum(len(np.unique(slot // places)) for slot in taken)
    return Kept(sum(map(len, taken)), sum(slot.size for slot in slots), used)


def time_switches(name: str, answers: Answers, images: Array, pair: tuple[Setting, Setting], repeats: int) -> Switch:
    """Calls A A B B A A B B ..., so that every first call comes after another profile and every second one doesn't."""
    differences = []
    for index in range(2 * repeats + 2):
        call = _caller(answers, images, pair[index % 2])
        first, second = seconds_of(call), seconds_of(call)
        if index >= 2:
            differences.append((first - second) * 1e3)
    median = float(np.median(differences))
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(differences) - median)))
    # 1.2533 turns the error of a mean into that of a median.
    error = 1.2533 * deviation / len(differences) ** 0.5
    return Switch(name, (pair[0].profile, pair[1].profile), median, error, len(differences))


def check_agreement(name: str, differences: Sequence[float]) -> None:
    """Refuses a contender whose logits are not this engine's.

    Raises:
        BenchmarkError: a difference is above the tolerance, or NaN.
    """
    worst = float(np.max(differences))
    if not worst <= LOGITS_TOLERANCE:
        raise BenchmarkError(
            f"{name} is not the same model: its logits differ by {worst:.2g} from this engine's, and {LOGITS_TOLERANCE:g} "
            "is allowed"
        )


def _caller(answers: Answers, images: Array, setting: Setting | None) -> Callable[[], object]:
    return lambda: answers.call(images, setting)
