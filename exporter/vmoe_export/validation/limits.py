"""How far graphs may be from the torch model, and that from float32: the one table of tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmoe_export.precision import ExportPrecision
from vmoe_runtime.bundle.manifest import Precision, TensorRtPrecision


@dataclass(frozen=True)
class Limits:
    """How far a graph may be from the torch model.

    Both sum in different orders. A value that lies in the middle of two may then round to either, and a token with two
    gates that are nearly the same may go to either expert: the shorter the type, the more of both.

    Attributes:
        difference: largest difference of logits over the images whose routing agrees; None where such images are rare.
        relative: largest typical difference of an image's logits, as a share of their size; None where `difference` says it.
        agreement: smallest share of the (token, choice) pairs that both route alike.
    """

    difference: float | None
    relative: float | None
    agreement: float


@dataclass(frozen=True)
class Tolerances:
    """What validation accepts of an export in one precision.

    Attributes:
        graphs: of the graphs for CPUs, against the torch model of the same precision: both round at the same places.
        tensorrt: of the TensorRT graphs in a type shorter than float32; None where there are none.
        distance: how far the logits of a typical image may be from the float32 model's, as a share of their size. Rounding
            to bfloat16 moves them by about a percent, int8 by a few; a model that moves by far more has weights or
            activations that the type has no room for.
    """

    graphs: Limits
    tensorrt: Limits | None
    distance: float


_FLOAT32 = Limits(1e-4, None, 0.995)
# One value that rounds to the other of two bfloat16, 1/256 apart, moves the logits by up to a few 1e-3.
_BF16_EXPERTS = Limits(1e-2, None, 0.995)
_BF16 = Limits(None, 0.02, 0.98)
_INT8 = Limits(None, 0.08, 0.95)
_TENSORRT_FP16 = Limits(None, 0.02, 0.95)
_TENSORRT_BF16 = Limits(None, 0.1, 0.85)  # 8 bits, rounded after every operation

TOLERANCES: Mapping[ExportPrecision, Tolerances] = {
    "fp32": Tolerances(_FLOAT32, None, 0.0),
    "bf16": Tolerances(_BF16, _TENSORRT_BF16, 0.05),
    "int8": Tolerances(_INT8, None, 0.2),
    "bf16-experts": Tolerances(_BF16_EXPERTS, None, 0.05),
    "fp16": Tolerances(_FLOAT32, _TENSORRT_FP16, 0.0),
}


def graph_limits(precision: Precision, *, dispatch_bf16: bool, atol: float | None) -> Limits:
    """What the graphs are held to: `atol` as the largest difference where it is given, or else what the precision says.

    A dispatcher that rounds to bfloat16 makes a float32 model differ as expert weights in bfloat16 do.
    """
    limits = _BF16_EXPERTS if precision == "fp32" and dispatch_bf16 else TOLERANCES[precision].graphs
    return limits if atol is None else Limits(atol, None, limits.agreement)


def rounded_limits(precision: TensorRtPrecision, atol: float | None) -> Limits:
    """The same for TensorRT graphs in fp16 or bf16; `atol` is over the images whose routing agrees, beside the rest."""
    limits = TOLERANCES[precision].tensorrt
    assert limits is not None
    return limits if atol is None else Limits(atol, limits.relative, limits.agreement)


def distance_limit(precision: Precision, max_distance: float | None) -> float:
    """Largest relative difference from float32: `max_distance` where it is given, or else what the precision says."""
    return TOLERANCES[precision].distance if max_distance is None else max_distance
