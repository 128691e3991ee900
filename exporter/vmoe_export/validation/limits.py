"""The limits of validation: how far a graph may be from the reference, and a precision from float32."""

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

# A TensorRT graph rounds after every operation, but the reference rounds only the inputs of products. Therefore,
# shorter types need larger limits on the relative difference.
_TENSORRT: Mapping[TensorRtPrecision, float] = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.05}


@dataclass(frozen=True)
class Limits:
    """How much a part of a graph may differ from the reference on the same input.

    Attributes:
        relative: largest difference, relative to the norm of what the part adds to the residual stream.
        difference: largest absolute difference. If it is not None, it is used instead of `relative`.
        agreement: smallest share of (token, choice) pairs that the graph and the reference must route in the same way.
    """

    relative: float
    difference: float | None
    agreement: float


def graph_limits(model: ExportedModel, atol: float | None) -> Limits:
    """Return the limits of the graphs for CPUs.

    A graph and the reference round at the same points but add in different orders. Therefore, their sums of n numbers
    differ by about sqrt(n) units in the last place of float32. This difference is `order`.

    If the sums are then rounded to a shorter type, a few of them lie near the midpoint of two neighbouring values. The
    graph and the reference may round such a sum to different neighbours, which are a whole `step` of the shorter type
    apart. Relative to the size of the sums, the root mean square of these differences is sqrt(2 * order * step).
    """
    config, numbers = model.config, PRECISIONS[model.precision]
    depth = max(config.mlp_dim, config.hidden_size, config.channels * math.prod(config.patch_size))
    depth = max(depth, config.moe.mlp_dim if config.moe else 0)
    order = math.sqrt(depth) * 2**-24
    dispatched = BFLOAT16 if config.moe and config.moe.dispatch_bf16 else FLOAT32
    step = max(numbers.dense.step, numbers.experts.step, dispatched.step)
    return Limits(_SLACK * (order + math.sqrt(2 * order * step)), atol, _PAIRS)


def tensorrt_limits(model: ExportedModel, precision: TensorRtPrecision, atol: float | None) -> Limits:
    """Return the limits of the graphs for TensorRT."""
    return Limits(max(_TENSORRT[precision], graph_limits(model, None).relative), atol, _PAIRS)


def distance_limit(precision: ExportPrecision, max_distance: float | None) -> float:
    """Return the largest allowed relative difference between a part of the model and the same part in float32.

    The value is `max_distance` or, if that is None, the precision's own limit.
    """
    return PRECISIONS[precision].distance if max_distance is None else max_distance


def invalid(reason: str) -> ExportError:
    """Return the error for a bundle that failed validation."""
    return ExportError(f"validation failed: {reason}; no bundle was written")
