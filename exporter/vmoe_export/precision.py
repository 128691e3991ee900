"""What each precision stores and computes: the one table that parameters, weights file, graphs and validation read.

A precision says in which type the weights of the large products are stored, and thereby in which numbers those products
are computed; what a type means is in `weight_types`. Everything else is float32 in each of them: the router, the head, layer
norms, softmax, biases, the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vmoe_export.weight_types import BFLOAT16, FLOAT32, INT4, INT8, WeightType
from vmoe_runtime.precisions import TensorRtPrecision

ExportPrecision = Literal["fp32", "bf16", "int8", "int4", "bf16-experts", "fp16"]
"""What `--precision` may say. fp16 is for the graphs that TensorRT runs, beside which all is stored in float32."""

_LONGEST_ROW = 1024  # hidden features that one scale of a row serves
_LONGEST_CHUNK = 512
_CHUNK_MULTIPLE = 64  # whole tiles of the CPUs that multiply int8 in tiles


@dataclass(frozen=True)
class Numbers:
    """What a precision means.

    Attributes:
        dense: type of the weights of linear layers, attention and MLPs, the embedding of the patches among them.
        experts: type of the expert weights.
        tensorrt: what the large products of TensorRT graphs are computed in, or None where there are no such graphs.
        distance: largest relative difference of a part from float32. Rounding to bfloat16 moves what a part adds by less
            than a percent, int8 by a few; one that moves by far more has weights or activations that the type has no room
            for.
        validation_seconds: for each GB of float32 weights, to read them back and to compare what was rounded part by part;
            measured on a B/16 with two CPUs, for estimates.
        words: what is stored, for people.
    """

    dense: WeightType
    experts: WeightType
    tensorrt: TensorRtPrecision | None
    distance: float
    validation_seconds: float
    words: str

    @property
    def attention(self) -> WeightType:
        """The type that what enters attention's own two products is rounded to."""
        return FLOAT32 if self.dense is FLOAT32 else BFLOAT16

    @property
    def is_calibrated(self) -> bool:
        """Whether the experts' weights are rounded for images, where the user gives any."""
        return self.experts is INT4

    @property
    def needs_experts(self) -> bool:
        """Whether it says something of experts that a model without any has no use for."""
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
    """The type of a parameter of the official tree."""
    *parents, leaf = name.split("/")
    if leaf != "kernel" or parents[-1] in ("head", "pre_logits", "projection") or "Router" in parents:
        return FLOAT32
    numbers = PRECISIONS[precision]
    return numbers.experts if "Moe" in parents else numbers.dense


def hidden_chunk(hidden: int, weights: WeightType) -> int:
    """Hidden features of an MLP that share one scale of their row, where rows have scales; 0 where the whole row does.

    A row of many features has outliers, so it is cut into equal chunks of at most 512. That also keeps the sums of a chunk
    below 2**24, where they are exact in float32.
    """
    if weights.scales is None or hidden <= _LONGEST_ROW:
        return 0
    chunks = range(_LONGEST_CHUNK, 0, -_CHUNK_MULTIPLE)
    return next((chunk for chunk in chunks if hidden % chunk == 0), 0)
