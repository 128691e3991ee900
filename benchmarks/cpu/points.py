"""What the measured times amount to: floors, ratios, and how time grows with capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cpu.cells import CellResult, Kept
from cpu.floors import Floors
from cpu.flops import WEIGHT_BYTES, dense_part_flops, dense_part_parameters, expert_parameters, pair_flops
from cpu.runs import ENGINE_RUNS, RUNS, Run

RATIOS = (
    ("engine-sparse-fp32", "dense-ort-fp32"),
    ("engine-sparse-fp32", "per-expert-ort-fp32"),
    ("engine-sparse-fp32", "dense-openvino-fp32"),
    ("engine-sparse-fp32", "inlined-openvino-fp32"),
    ("engine-sparse-bf16-experts", "dense-ort-fp32"),
    ("engine-sparse-bf16", "dense-openvino-bf16"),
    ("engine-sparse-bf16", "inlined-openvino-bf16"),
    ("engine-sparse-int8", "dense-openvino-int8"),
    ("engine-sparse-int8", "dense-ort-int8"),
    ("engine-dense-fp32", "dense-openvino-fp32"),
    ("engine-dense-bf16", "dense-openvino-bf16"),
    ("engine-dense-int8", "dense-openvino-int8"),
    ("engine-sparse-fp32", "engine-dense-fp32"),
    ("engine-sparse-bf16", "engine-dense-bf16"),
    ("engine-sparse-int8", "engine-dense-int8"),
)
"""Which run's images/s are divided by which other's."""


def points_of(result: CellResult, floors: Floors) -> list[dict[str, Any]]:
    """A cell's figures, ready for JSON: one mapping per run and setting.

    `ms`, its quartiles and the floors are per call of `batch` images; `kept_pairs` and `asked_pairs` are those of the
    whole batch over all MoE layers.
    """
    cell = result.cell
    points = []
    for key, times in result.times.items():
        name, setting = key
        run, kept = RUNS[name], result.kept.get(key)
        flops, floor_ms = _flops(result, run, kept, floors)
        points.append(
            {
                **cell.key,
                "run": name,
                "title": run.title,
                "kind": run.kind,
                "peer": run.peer,
                "numbers": asdict(run.numbers),
                "description": result.descriptions[name],
                "ck": setting.ck if setting else None,
                "capacity_ratio": setting.capacity_ratio if setting else None,
                "k": setting.k if setting else None,
                "kept_pairs": kept.kept if kept else None,
                "asked_pairs": kept.asked if kept else None,
                "ms": times.median,
                "ms_best": times.best,
                "ms_quartiles": [times.lower, times.upper],
                "rounds": times.rounds,
                "images_per_second": cell.batch * 1e3 / times.median,
                "flops": flops,
                "flop_floor_ms": floor_ms,
                "memory_floor_ms": 1e3 * _weight_bytes(result, run, kept) / floors.read_bytes,
                "logits_difference": result.distances[key].largest,
                "relative_difference": result.distances[key].relative,
            }
        )
    return points


def fits_of(result: CellResult) -> list[dict[str, Any]]:
    """Straight lines of this engine's time over kept pairs, both per call, one for each precision."""
    fits = []
    for name in ENGINE_RUNS:
        keys = [key for key in result.times if key[0] == name and key in result.kept]
        if len(keys) < 3:
            continue
        pairs = [result.kept[key].kept for key in keys]
        slope, intercept, fit = line_fit(pairs, [result.times[key].median for key in keys])
        fits.append(
            {
                **result.cell.key,
                "run": name,
                "kept_pairs": pairs,
                "intercept_ms": intercept,
                "ms_per_1000_pairs": 1e3 * slope,
                "r_squared": fit,
            }
        )
    return fits


def line_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of the least-squares line.

    Example:
        >>> [round(value, 6) for value in line_fit([0, 1, 2], [1, 3, 5])]
        [2.0, 1.0, 1.0]
    """
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (slope * np.asarray(x) + intercept)
    spread = float(np.var(y))
    return float(slope), float(intercept), 1 - float(np.var(rest)) / spread if spread else 1.0


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
            other = by_cell.get((point["model"], point["batch"], point["threads"], other_name, ck))
            if other is None:
                continue
            ratios.append(
                {
                    **{key: point[key] for key in ("model", "batch", "threads", "run", "ck")},
                    "over": other_name,
                    "ratio": other["ms"] / point["ms"],
                    "flops_ratio": other["flops"] / point["flops"],
                }
            )
    return ratios


def _flops(result: CellResult, run: Run, kept: Kept | None, floors: Floors) -> tuple[int, float]:
    """FLOPs of a batch, and the least milliseconds that they take at the measured peaks."""
    model, batch, numbers = result.cell.model, result.cell.batch, run.numbers
    dense_part = dense_part_flops(model.config if run.kind == "sparse" else model.dense_config)
    counts = [
        (batch * dense_part["linear"], floors.flops(numbers.linear)),
        (batch * dense_part["attention"], floors.flops(numbers.attention)),
        (batch * dense_part["float"], floors.flops("fp32")),
        (kept.kept * pair_flops(model.config) if kept else 0, floors.flops(numbers.experts)),
    ]
    return sum(count for count, _ in counts), 1e3 * sum(count / peak for count, peak in counts)


def _weight_bytes(result: CellResult, run: Run, kept: Kept | None) -> int:
    """Bytes of the weights that a call reads at least once."""
    model, numbers = result.cell.model, run.numbers
    dense_part = dense_part_parameters(model.config if run.kind == "sparse" else model.dense_config)
    experts = kept.used_experts * expert_parameters(model.config) if kept else 0
    return (
        WEIGHT_BYTES[numbers.linear] * dense_part["linear"]
        + WEIGHT_BYTES["fp32"] * dense_part["float"]
        + WEIGHT_BYTES[numbers.experts] * experts
    )
