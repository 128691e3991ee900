"""What each precision stores and computes: the one table that parameters, weights file and graphs read.

A precision says in which type the weights of the large products are stored, and thereby in which numbers those products
are computed. Everything else is float32 in each of them: the router, the head, layer norms, softmax, biases, the residual
stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vmoe_runtime.bundle.manifest import TensorRtPrecision

WeightType = Literal["float", "bf16", "i8", "i4"]
"""Element type of the weights of a product, as the table of ops names it."""

StoredType = Literal["F32", "F16", "BF16", "I8", "U8"]
"""Element type of a stored tensor, as safetensors names it. U8 are int4, two to a byte along the last axis."""

ExportPrecision = Literal["fp32", "bf16", "int8", "int4", "bf16-experts", "fp16"]
"""What `--precision` may say. fp16 is for the graphs that TensorRT runs, beside which all is stored in float32."""

STORED_TYPES: Mapping[WeightType, StoredType] = {"float": "F32", "bf16": "BF16", "i8": "I8", "i4": "U8"}
STORED_BYTES: Mapping[StoredType, float] = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 0.5}

_LONGEST_ROW = 1024  # hidden features that one int8 scale serves
_LONGEST_CHUNK = 512
_CHUNK_MULTIPLE = 64  # whole tiles of the CPUs that multiply int8 in tiles


@dataclass(frozen=True)
class Numbers:
    """What a precision means.

    Attributes:
        dense: type of the weights of linear layers, attention and MLPs, the embedding of the patches among them. Where it
            is not float, attention's own two products are bfloat16.
        experts: type of the expert weights.
        tensorrt: what the large products of TensorRT graphs are computed in, or None where there are no such graphs.
        words: what is stored, for people.
    """

    dense: WeightType
    experts: WeightType
    tensorrt: TensorRtPrecision | None
    words: str


PRECISIONS: Mapping[ExportPrecision, Numbers] = {
    "fp32": Numbers("float", "float", "fp32", "all in float32"),
    "bf16": Numbers("bf16", "bf16", "bf16", "large products in bfloat16, all else in float32"),
    "int8": Numbers("i8", "i8", None, "large products in int8, all else in float32"),
    "int4": Numbers("i8", "i4", None, "experts in int4, other large products in int8, all else in float32"),
    "bf16-experts": Numbers("float", "bf16", None, "experts in bfloat16, all else in float32"),
    "fp16": Numbers("float", "float", "fp16", "all in float32"),
}


def weight_type(name: str, precision: ExportPrecision) -> WeightType:
    """The element type of a parameter of the official tree."""
    *parents, leaf = name.split("/")
    if leaf != "kernel" or parents[-1] in ("head", "pre_logits", "projection") or "Router" in parents:
        return "float"
    numbers = PRECISIONS[precision]
    return numbers.experts if "Moe" in parents else numbers.dense


def hidden_chunk(hidden: int, weights: WeightType) -> int:
    """Hidden features of an MLP that share one scale of their row in int8 and int4; 0 where the whole row does.

    A row of many features has outliers, so it is cut into equal chunks of at most 512. That also keeps the sums of a chunk
    below 2**24, where they are exact in float32.
    """
    if weights not in ("i8", "i4") or hidden <= _LONGEST_ROW:
        return 0
    chunks = range(_LONGEST_CHUNK, 0, -_CHUNK_MULTIPLE)
    return next((chunk for chunk in chunks if hidden % chunk == 0), 0)
