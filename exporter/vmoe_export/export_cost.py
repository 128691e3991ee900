"""Estimate the time and memory of an export before it starts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vmoe_export.export_plan import ExportPlan
from vmoe_export.model.parameters import stored_tensors
from vmoe_export.precision import PRECISIONS
from vmoe_runtime.precisions import EXPERT_WEIGHT_BYTES, STORED_ELEMENTS, Precision

GRAPH_IMAGES = 2
"""Random images on which graphs are compared with the reference, rounded up to whole routing groups."""
ROUNDED_IMAGES = 4
"""Random images on which the distance from float32 is measured, rounded up to whole routing groups."""
ROWS_AT_ONCE = 16
"""Images whose hidden features the reference holds in memory at once."""

_GRAPH_RUNS = 5  # the reference once; 2 graphs twice each: on the reference's activations and on their own
_ROUNDED_RUNS = 3  # 1 run each of: stored weights end to end, stored weights part by part, float32 weights
_SECONDS_PER_GB = 4.2  # to read, round, write and hash a GB of float32 weights
_START_SECONDS, _START_BYTES = 3, 300_000_000
_COPIES = 5  # number of arrays of the activations' size that exist at once while a part is computed


@dataclass(frozen=True)
class ExportCost:
    """An estimate of an export's cost on this machine.

    Attributes:
        seconds: duration of the export, including its validation.
        memory_bytes: peak memory.
        validation_seconds: duration of the validation alone in each precision. If the export is not validated, the mapping
            is empty.
    """

    seconds: float
    memory_bytes: int
    validation_seconds: Mapping[Precision, float] = field(default_factory=dict)


def export_cost(plan: ExportPlan, *, validate: bool) -> ExportCost:
    """Estimate the cost from the tensor shapes and from the speed of a matrix product on this machine.

    Args:
        plan: the plan of the export.
        validate: whether the export includes validation. The estimate assumes random images.
    """
    stored = stored_tensors(plan.weight_shapes, plan.stored_precision)
    sizes = {name: math.prod(shape) for name, shape in plan.weight_shapes.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    memory = _START_BYTES + int(sizes[largest] * (4 + 1 + STORED_ELEMENTS[stored[largest].dtype].bytes))
    gigabytes = 4 * sum(sizes.values()) / 1e9
    seconds = _START_SECONDS + _SECONDS_PER_GB * gigabytes
    if not validate:
        return ExportCost(seconds, memory)
    model, multiple, profiles = plan.model, plan.grouping.batch_multiple, max(1, len(plan.profiles))
    graphs, rounded = (-(-images // multiple) * multiple for images in (GRAPH_IMAGES, ROUNDED_IMAGES))
    run = (sum(plan.flops(profile) for profile in plan.profiles) or plan.dense_flops) / _flops_per_second()
    validation = {
        precision: PRECISIONS[precision].validation_seconds * gigabytes
        + run * (_GRAPH_RUNS * graphs + _ROUNDED_RUNS * rounded * (precision != "fp32"))
        for precision in EXPERT_WEIGHT_BYTES  # every precision in which a bundle can store weights
        if model.moe or not PRECISIONS[precision].needs_experts
    }
    images = profiles * (graphs if plan.stored_precision == "fp32" else rounded)
    memory += 4 * images * model.num_tokens * model.hidden_size * _COPIES
    memory += 4 * min(images, ROWS_AT_ONCE) * model.num_tokens * model.mlp_dim * _COPIES
    return ExportCost(seconds + validation[plan.stored_precision], memory, validation)


def _flops_per_second() -> float:
    matrix = np.ones((1024, 1024), np.float32)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * 1024**3 / (time.perf_counter() - started)
