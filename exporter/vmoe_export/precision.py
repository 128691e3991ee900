"""What each precision stores and computes: the one table that parameters, weights file, graphs and validation read.

A precision says in which type the weights of the large products are stored, and thereby in which numbers those products
are computed. Everything else is float32 in each of them: the router, the head, layer norms, softmax, biases, the residual
stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vmoe_runtime.bundle.manifest import Precision, TensorRtPrecision

WeightType = Literal["float", "bf16", "i8"]
"""Element type of the weights of a product, as the table of ops names it."""

StoredType = Literal["F32", "BF16", "I8"]
"""Element type of a stored tensor, as safetensors names it."""

ExportPrecision = Literal["fp32", "bf16", "int8", "bf16-experts", "fp16"]
"""What `--precision` may say. fp16 is for the graphs that TensorRT runs, beside which all is stored in float32."""

STORED_TYPES: Mapping[WeightType, StoredType] = {"float": "F32", "bf16": "BF16", "i8": "I8"}
STORED_BYTES: Mapping[StoredType, int] = {"F32": 4, "BF16": 2, "I8": 1}

_LONGEST_ROW = 1024  # hidden features that one int8 scale serves
_LONGEST_CHUNK = 512
_CHUNK_MULTIPLE = 64  # whole tiles of the CPUs that multiply int8 in tiles


@dataclass(frozen=True)
class Limits:
    """How far a graph may be from the torch model of the same precision.

    Both round at the same places, but sum in different orders. A value that lies in the middle of two may then round to
    either, and a token with two gates that are nearly the same may go to either expert: the shorter the type, the more of
    both.

    Attributes:
        difference: largest difference of logits over the images whose routing agrees; None where such images are rare.
        relative: largest typical difference of an image's logits, as a share of their size; None where `difference` says it.
        agreement: smallest share of the (token, choice) pairs that both route alike.
    """

    difference: float | None
    relative: float | None
    agreement: float


@dataclass(frozen=True)
class Numbers:
    """What a precision means.

    Attributes:
        dense: type of the weights of linear layers, attention and MLPs, the embedding of the patches among them. Where it
            is not float, attention's own two products are bfloat16.
        experts: type of the expert weights.
        tensorrt: what the large products of TensorRT graphs are computed in, or None where there are no such graphs.
        limits: of the graphs against torch.
        max_distance: how far the logits of a typical image may be from the float32 model's, as a share of their size.
            Rounding to bfloat16 moves them by about a percent, int8 by a few; a model that moves by far more has weights or
            activations that the type has no room for.
        words: what is stored, for people.
    """

    dense: WeightType
    experts: WeightType
    tensorrt: TensorRtPrecision | None
    limits: Limits
    max_distance: float
    words: str


_FLOAT32 = Limits(1e-4, None, 0.995)
# One value that rounds to the other of two bfloat16, 1/256 apart, moves the logits by up to a few 1e-3.
_BF16_EXPERTS = Limits(1e-2, None, 0.995)
_BF16 = Limits(None, 0.02, 0.98)
_INT8 = Limits(None, 0.08, 0.95)

PRECISIONS: Mapping[ExportPrecision, Numbers] = {
    "fp32": Numbers("float", "float", "fp32", _FLOAT32, 0.0, "all in float32"),
    "bf16": Numbers("bf16", "bf16", "bf16", _BF16, 0.05, "large products in bfloat16, all else in float32"),
    "int8": Numbers("i8", "i8", None, _INT8, 0.2, "large products in int8, all else in float32"),
    "bf16-experts": Numbers("float", "bf16", None, _BF16_EXPERTS, 0.05, "experts in bfloat16, all else in float32"),
    "fp16": Numbers("float", "float", "fp16", _FLOAT32, 0.0, "all in float32"),
}


def stored_precision(asked: ExportPrecision) -> Precision:
    """The precision of the weights file and of the graphs for CPUs."""
    return "fp32" if asked == "fp16" else asked


def graph_limits(precision: Precision, *, dispatch_bf16: bool, atol: float | None) -> Limits:
    """What validation accepts: `atol` as the largest difference where it is given, or else what the precision says.

    A dispatcher that rounds to bfloat16 makes a float32 model differ as expert weights in bfloat16 do.
    """
    limits = _BF16_EXPERTS if precision == "fp32" and dispatch_bf16 else PRECISIONS[precision].limits
    return limits if atol is None else Limits(atol, None, limits.agreement)


def weight_type(name: str, precision: ExportPrecision) -> WeightType:
    """The element type of a parameter of the official tree."""
    *parents, leaf = name.split("/")
    if leaf != "kernel" or parents[-1] in ("head", "pre_logits") or "Router" in parents:
        return "float"
    numbers = PRECISIONS[precision]
    return numbers.experts if "Moe" in parents else numbers.dense


def stored_type(name: str, precision: ExportPrecision) -> StoredType:
    """The type that a parameter is stored in."""
    return STORED_TYPES[weight_type(name, precision)]


def hidden_chunk(hidden: int, weights: WeightType) -> int:
    """Hidden features of an MLP that share one scale of their row in int8; 0 where the whole row does.

    A row of many features has outliers, so it is cut into equal chunks of at most 512. That also keeps the sums of a chunk
    below 2**24, where they are exact in float32.
    """
    if weights != "i8" or hidden <= _LONGEST_ROW:
        return 0
    chunks = range(_LONGEST_CHUNK, 0, -_CHUNK_MULTIPLE)
    return next((chunk for chunk in chunks if hidden % chunk == 0), 0)
