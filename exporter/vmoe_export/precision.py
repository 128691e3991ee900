"""The table of precisions. The parameters, the weights file, the graphs and validation use this table.

A precision determines the type in which the weights of the large products are stored. The type also determines how
these products are computed; see `weight_types`. In every precision, everything else is float32: the router, the
head, layer norms, softmax, biases, and the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vmoe_export.weight_types import BFLOAT16, FLOAT32, INT4, INT8, WeightType
from vmoe_runtime.precisions import TensorRtPrecision

ExportPrecision = Literal["fp32", "bf16", "int8", "int4", "bf16-experts", "fp16"]
"""The values of `--precision`. fp16 is for TensorRT graphs only; the weights and all other graphs are float32 then."""

_LONGEST_ROW = 1024  # rows with at most this many hidden features have a single scale
_LONGEST_CHUNK = 512
_CHUNK_MULTIPLE = 64  # depth of an int8 tile on CPUs that have matrix units


@dataclass(frozen=True)
class Numbers:
    """The types and limits of a precision.

    Attributes:
        dense: type of the weights of linear layers, attention and MLPs, including the patch embedding.
        experts: type of the expert weights.
        tensorrt: type of the large products in TensorRT graphs. It is None if this precision has no TensorRT graphs.
        distance: the largest relative difference allowed between a part of the model and the same part in float32.
            Rounding to bfloat16 changes what a part adds to the residual stream by less than one percent. Rounding to
            int8 changes it by a few percent. If the change is far larger, the stored type cannot represent the part's
            weights or activations.
        validation_seconds: estimated time, per GB of float32 weights, to read the stored weights back and to compare
            rounded parts with float32. It was measured on a B/16 with two CPUs.
        words: a description of the stored types for users.
    """

    dense: WeightType
    experts: WeightType
    tensorrt: TensorRtPrecision | None
    distance: float
    validation_seconds: float
    words: str

    @property
    def attention(self) -> WeightType:
        """The type to which the inputs of attention's two matrix products are rounded."""
        return FLOAT32 if self.dense is FLOAT32 else BFLOAT16

    @property
    def is_calibrated(self) -> bool:
        """Whether the user's images, if there are any, are used to optimize how the experts' weights are rounded."""
        return self.experts is INT4

    @property
    def needs_experts(self) -> bool:
        """Whether the precision applies only to models with experts."""
        return self.experts is not self.dense


PRECISIONS: Mapping[ExportPrecision, Numbers] = {
    "fp32": Numbers(FLOAT32, FLOAT32, "fp32", 0.0, 2.8, "all in float32"),
    "bf16": Numbers(BFLOAT16, BFLOAT16, "bf16", 0.05, 8, "large products in bfloat16, all else in float32"),
    "int8": Numbers(INT8, INT8, None, 0.2, 18, "large products in int8, all else in float32"),
    "int4": Numbers(INT8, INT4, None, 0.4, 35, "experts in int4, other large products in int8, all else in float32"),
    "bf16-experts": Numbers(FLOAT32, BFLOAT16, None, 0.05, 30, "experts in bfloat16, all else in float32"),
    "fp16": Numbers(FLOAT32, FLOAT32, "fp16", 0.0, 2.8, "all in float32"),
}


def weight_type(name: str, precision: ExportPrecision) -> WeightType:
    """Return the type in which a parameter of the official tree is stored."""
    *parents, leaf = name.split("/")
    if leaf != "kernel" or parents[-1] in ("head", "pre_logits", "projection") or "Router" in parents:
        return FLOAT32
    numbers = PRECISIONS[precision]
    return numbers.experts if "Moe" in parents else numbers.dense


def hidden_chunk(hidden: int, weights: WeightType) -> int:
    """Return the number of hidden features in a row that share one scale.

    The number is 0 if the whole row has a single scale or none. A long row is likely to have outliers, so it is split
    into equal chunks of at most 512 features. In chunks of this size, sums stay below 2**24, so they are exact in
    float32.
    """
    if weights.scales is None or hidden <= _LONGEST_ROW:
        return 0
    chunks = range(_LONGEST_CHUNK, 0, -_CHUNK_MULTIPLE)
    return next((chunk for chunk in chunks if hidden % chunk == 0), 0)
