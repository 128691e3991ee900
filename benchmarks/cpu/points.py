"""What the measured times amount to: floors, gains, and how time grows with capacity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpu.cells import BASELINE, REFERENCE, CellResult, Kept, Key
from cpu.contenders import CONTENDERS, Contender
from cpu.floors import Floors
from cpu.flops import expert_parameters, pair_flops, shared_flops, shared_parameters

_FIT_CONTENDERS = ("engine-fp32", "engine-bf16")


def points_of(result: CellResult, floors: Floors) -> list[dict[str, Any]]:
    """A cell's figures, ready for JSON: one mapping per contender and setting.

    `ms`, its quartiles and the floors are per call of `batch` images; `kept_pairs` and `asked_pairs` are those of the
    whole batch over all MoE layers. `gain_over_dense` is the dense ViT's time in ONNX Runtime over this one;
    `from_sparsity` is the ratio of their FLOPs, and `from_kernel` the rest of the gain.
    """
    cell = result.cell
    baseline = result.times[BASELINE, None].median
    dense_flops = cell.batch * shared_flops(cell.model.dense_config)
    points = []
    for key, times in result.times.items():
        name, setting = key
        contender = CONTENDERS[name]
        kept = _kept(result, key)
        shared, experts = _flops(result, contender, kept)
        sparsity, gain = dense_flops / (shared + experts), baseline / times.median
        points.append(
            {
                "model": cell.model.name,
                "batch": cell.batch,
                "threads": cell.threads,
                "contender": name,
                "title": contender.title,
                "peer": contender.peer,
                "description": result.descriptions[name],
                "ck": setting.ck if setting else None,
                "capacity_ratio": setting.capacity_ratio if setting else None,
                "k": setting.k if setting else None,
                "kept_pairs": kept.kept if kept else None,
                "asked_pairs": kept.asked if kept else None,
                "ms": times.median,
                "ms_best": times.best,
                "ms_quartiles": [times.lower, times.upper],
                "repeats": times.repeats,
                "images_per_second": cell.batch * 1e3 / times.median,
                "flops": shared + experts,
                "flop_floor_ms": 1e3
                * (shared / floors.flops(contender.shared_bf16) + experts / floors.flops(contender.expert_bf16)),
                "memory_floor_ms": 1e3 * _weight_bytes(result, contender, kept) / floors.read_bytes,
                "gain_over_dense": gain,
                "from_sparsity": sparsity,
                "from_kernel": gain / sparsity,
                "logits_difference": result.logits_difference[key],
            }
        )
    return points


def fits_of(result: CellResult) -> list[dict[str, Any]]:
    """Straight lines of this engine's time over kept pairs, both per call."""
    fits = []
    for name in _FIT_CONTENDERS:
        keys = [key for key in result.times if key[0] == name]
        if len(keys) < 3:
            continue
        pairs = [kept.kept for key in keys if (kept := _kept(result, key))]
        slope, intercept, fit = line_fit(pairs, [result.times[key].median for key in keys])
        fits.append(
            {
                "model": result.cell.model.name,
                "batch": result.cell.batch,
                "threads": result.cell.threads,
                "contender": name,
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
    """This engine's images/s over those of the dense ViT in ONNX Runtime, and of the careful user's export."""
    times = {(p["model"], p["batch"], p["threads"], p["contender"], p["ck"]): p["ms"] for p in points}
    ratios = []
    for point in points:
        if point["contender"] not in _FIT_CONTENDERS:
            continue
        cell = point["model"], point["batch"], point["threads"]
        careful = times.get((*cell, "careful-ort", point["ck"]))
        ratios.append(
            {
                **{name: point[name] for name in ("model", "batch", "threads", "contender", "ck")},
                "over_dense_ort": times[*cell, BASELINE, None] / point["ms"],
                "over_careful_ort": careful / point["ms"] if careful else None,
            }
        )
    return ratios


def _kept(result: CellResult, key: Key) -> Kept | None:
    """A contender that doesn't tell its slots keeps the reference's pairs, as its logits show."""
    return None if key[1] is None else result.kept.get(key) or result.kept[REFERENCE, key[1]]


def _flops(result: CellResult, contender: Contender, kept: Kept | None) -> tuple[int, int]:
    """FLOPs of a batch: everything but the experts, and the experts' kept pairs."""
    model, batch = result.cell.model, result.cell.batch
    if kept is None:
        return batch * shared_flops(model.dense_config), 0
    return batch * shared_flops(model.config), kept.kept * pair_flops(model.config)


def _weight_bytes(result: CellResult, contender: Contender, kept: Kept | None) -> int:
    """Bytes of the weights that a call reads at least once."""
    model = result.cell.model
    shared = 2 if contender.shared_bf16 else 4
    if kept is None:
        return shared * shared_parameters(model.dense_config)
    expert = 2 if contender.expert_bf16 else 4
    return shared * shared_parameters(model.config) + expert * kept.used_experts * expert_parameters(model.config)
