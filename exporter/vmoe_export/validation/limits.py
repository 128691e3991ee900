"""How far the parts of a graph may be from the reference, and parts in a short type from float32: the one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vmoe_export.errors import ExportError
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.precision import PRECISIONS, ExportPrecision
from vmoe_export.weight_types import BFLOAT16, FLOAT32
from vmoe_runtime.precisions import TensorRtPrecision

_SLACK = 16
_PAIRS = 0.98

# A graph for TensorRT rounds after every operation, where the reference rounds what enters a product.
_TENSORRT: Mapping[TensorRtPrecision, float] = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.05}


@dataclass(frozen=True)
class Limits:
    """How far a part of a graph may be from the reference on the same input.

    Attributes:
        relative: largest difference of what a part adds to the residual stream, as a share of its size.
        difference: largest absolute difference instead, where the user has given one.
        agreement: smallest share of the (token, choice) pairs that both route alike.
    """

    relative: float
    difference: float | None
    agreement: float


def graph_limits(model: ExportedModel, atol: float | None) -> Limits:
    """What the graphs for CPUs are held to.

    Both sides round at the same places and add up in different orders. Sums of n numbers then differ by about sqrt(n) units
    in the last place of float32, and where such a sum is rounded to a shorter type before the next product, a few of those
    that lie in the middle of two values go to the other one, a whole step away. In the mean of squares that is
    sqrt(2 * order * step), as a share of the size.
    """
    config, numbers = model.config, PRECISIONS[model.precision]
    depth = max(config.mlp_dim, config.hidden_size, config.channels * math.prod(config.patch_size))
    depth = max(depth, config.moe.mlp_dim if config.moe else 0)
    order = math.sqrt(depth) * 2**-24
    dispatched = BFLOAT16 if config.moe and config.moe.dispatch_bf16 else FLOAT32
    step = max(numbers.dense.step, numbers.experts.step, dispatched.step)
    return Limits(_SLACK * (order + math.sqrt(2 * order * step)), atol, _PAIRS)


def tensorrt_limits(model: ExportedModel, precision: TensorRtPrecision, atol: float | None) -> Limits:
    """The same for the graphs for TensorRT."""
    return Limits(max(_TENSORRT[precision], graph_limits(model, None).relative), atol, _PAIRS)


def distance_limit(precision: ExportPrecision, max_distance: float | None) -> float:
    """Largest relative difference of a part from float32: `max_distance` where it is given, or what the precision says."""
    return PRECISIONS[precision].distance if max_distance is None else max_distance


def invalid(reason: str) -> ExportError:
    """The error of a bundle that failed validation."""
    return ExportError(f"validation failed: {reason}; no bundle was written")
