"""One cell of the benchmark: all its runs loaded, checked against the float32 engine, timed, and what that amounts to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from command_line import BenchmarkError, say

from cpu.floors import Floors, work_of
from cpu.models import Model, Setting
from cpu.runs import RUNS, Array, Cell, Run, load_engine
from cpu.timing import OthersWatch, Times, time_interleaved
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.routing_kinds import TopKRules

Key = tuple[str, Setting | None]

LOGITS_TOLERANCE = 5e-3
"""Rounding differs by 1e-5; a token with two gates nearly the same, which others may send elsewhere, by 1e-3."""
_RELATIVE_TOLERANCES = {"bf16": 0.2, "int8": 0.35}
"""Far above what rounding and the few tokens that it sends elsewhere do, and far below what another model would give."""

RATIOS = (
    *(("engine-sparse-fp32", over) for over in ("dense-ort-fp32", "per-expert-ort-fp32", "dense-openvino-fp32")),
    *(("engine-sparse-fp32", "inlined-openvino-fp32"), ("engine-sparse-bf16-experts", "dense-ort-fp32")),
    *(("engine-sparse-bf16", over) for over in ("dense-openvino-bf16", "inlined-openvino-bf16")),
    *(("engine-sparse-int8", over) for over in ("dense-openvino-int8", "dense-ort-int8")),
    *((f"engine-dense-{precision}", f"dense-openvino-{precision}") for precision in ("fp32", "bf16", "int8")),
    *((f"engine-sparse-{precision}", f"engine-dense-{precision}") for precision in ("fp32", "bf16", "int8")),
)
"""Which run's images/s are divided by which other's."""


@dataclass(frozen=True)
class Kept:
    """What routing left of a batch, over all MoE layers: pairs with a place, all pairs, and experts with at least one."""

    kept: int = 0
    asked: int = 0
    used_experts: int = 0


@dataclass(frozen=True)
class Distance:
    """How far logits are from those of the float32 engine: the largest difference, and the norm of all over theirs."""

    largest: float
    relative: float


@dataclass(frozen=True)
class CellResult:
    """What a cell gave, per run and setting (None for a dense model); and what other processes took of the CPUs."""

    cell: Cell
    times: Mapping[Key, Times]
    kept: Mapping[Key, Kept]
    distances: Mapping[Key, Distance]
    descriptions: Mapping[str, str]
    others_share: float | None


def make_cell(model: Model, batch: int, threads: int, settings: Sequence[Setting]) -> Cell:
    """A cell with the places per expert that the bundle's own rules give."""
    rules = Bundle.open(model.bundle("sparse"), verify=False).manifest.rules
    assert isinstance(rules, TopKRules)
    return Cell(model, batch, threads, {s: rules.profile(s.capacity_ratio, s.k, bpr=True) for s in settings})


def run_cell(cell: Cell, names: Sequence[str], rounds: int) -> CellResult:
    """Loads the runs, checks that they agree, and times them.

    Raises:
        BenchmarkError: a run's logits are not those of the float32 engine.
    """
    images = cell.model.images(cell.batch)
    say(f"{cell}: loading {len(names)} runs")
    reference = load_engine(cell, "sparse", "fp32")
    logits = {None: load_engine(cell, "dense", "fp32").call(images, None)}
    logits |= {setting: reference.call(images, setting) for setting in cell.profiles}
    assert reference.placed is not None
    loaded, distances, kept = {}, dict[Key, Distance](), dict[Key, Kept]()
    for run in (run for name, run in RUNS.items() if name in names):
        model = loaded[run.name] = run.load(cell)
        for setting in cell.profiles if run.kind == "sparse" else (None,):
            key = run.name, setting
            distances[key] = distance(model.call(images, setting), logits[setting])
            check_agreement(run, distances[key])
            kept[key] = Kept() if setting is None else count_kept((model.placed or reference.placed)(images, setting))
    say(f"{cell}: timing {len(distances)} calls, interleaved, {rounds} rounds")
    calls = {key: partial(loaded[key[0]].call, images, key[1]) for key in distances}
    with OthersWatch() as others:
        times = time_interleaved(calls, rounds)
    descriptions = {name: model.description for name, model in loaded.items()}
    return CellResult(cell, times, kept, distances, descriptions, others.share)


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
    value, tolerance = found.largest, LOGITS_TOLERANCE
    if set(run.numbers) != {"fp32"}:
        value, tolerance = found.relative, _RELATIVE_TOLERANCES["int8" if "int8" in run.numbers else "bf16"]
    if not value <= tolerance:
        raise BenchmarkError(
            f"{run.name} is not the same model: its logits differ by {value:.2g} from those of this engine in float32, and "
            f"{tolerance:g} is allowed"
        )


def count_kept(placed: Sequence[Array]) -> Kept:
    """Counts pairs and experts, from the expert i32[G,S,K] of each MoE layer, -1 where a pair was dropped."""
    taken = [expert[expert >= 0] for expert in placed]
    return Kept(sum(map(len, taken)), sum(expert.size for expert in placed), sum(len(np.unique(e)) for e in taken))


def points_of(result: CellResult, floors: Floors) -> list[dict[str, Any]]:
    """A cell's figures, ready for JSON: one mapping per run and setting; times and floors are of a call, in milliseconds."""
    cell, points = result.cell, []
    for (name, setting), times in result.times.items():
        run, kept, far = RUNS[name], result.kept[name, setting], result.distances[name, setting]
        work = work_of(cell.model.config_of(run.kind), run.numbers, cell.batch, kept.kept, kept.used_experts)
        points.append(
            {
                **cell.key,
                **{"run": name, "title": run.title, "description": result.descriptions[name]},
                "ck": setting.ck if setting else None,
                "kept_pairs": kept.kept if setting else None,
                "asked_pairs": kept.asked if setting else None,
                **{"ms": times.median, "ms_quartiles": [times.lower, times.upper], "rounds": times.rounds},
                "images_per_second": cell.batch * 1e3 / times.median,
                "flops": sum(work.flops.values()),
                "flop_floor_ms": work.flop_floor_ms(floors),
                "memory_floor_ms": work.memory_floor_ms(floors),
                **{"logits_difference": far.largest, "relative_difference": far.relative},
            }
        )
    return points


def ratios_of(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images/s of one run over those of another in the same cell, from medians, for every pair of RATIOS that was timed.

    A sparse run is compared with another one at the same setting. `flops_ratio` is the other's FLOPs over its own: what of
    the ratio comes from doing less.
    """
    by_cell = {(p["model"], p["batch"], p["threads"], p["run"], p["ck"]): p for p in points}
    ratios = []
    for name, other_name in RATIOS:
        for point in (p for p in points if p["run"] == name):
            ck = point["ck"] if RUNS[other_name].kind == "sparse" else None
            if other := by_cell.get((point["model"], point["batch"], point["threads"], other_name, ck)):
                found = {key: point[key] for key in ("model", "batch", "threads", "run", "ck")} | {"over": other_name}
                found |= {"ratio": other["ms"] / point["ms"], "flops_ratio": other["flops"] / point["flops"]}
                ratios.append(found)
    return ratios
