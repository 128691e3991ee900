"""The precisions of bundles.

A precision is the number type in which a bundle stores the weights of its large matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Precision = Literal["fp32", "bf16", "int8", "int4", "bf16-experts"]
"""The type in which the weights of the large products are stored, and so the type in which the products are computed:
float32, bfloat16 or int8; "int4" stores expert weights in int4 and the others in int8; "bf16-experts" stores expert weights
in bfloat16 and all else in float32."""

EXPERT_WEIGHT_BYTES: Mapping[Precision, float] = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5 + 2 / 64, "bf16-experts": 2}
"""Bytes per weight of an expert. The scales of int4 count, since each group of weights has one."""

PRECISIONS = tuple(EXPERT_WEIGHT_BYTES)

EXACTNESS: tuple[Precision, ...] = ("fp32", "bf16-experts", "bf16", "int8", "int4")
"""Precisions, the most exact one first."""

StoredType = Literal["F32", "F16", "BF16", "I8", "U8"]
"""Element type of a tensor in the weights file, as safetensors names it. In U8, two values along the last axis share one."""


class StoredElement(NamedTuple):
    """The element type of a stored tensor: the type's usual name, and the size of an element in bytes."""

    name: str
    bytes: float


STORED_ELEMENTS: Mapping[str, StoredElement] = {
    "F32": StoredElement("float32", 4),
    "BF16": StoredElement("bfloat16", 2),
    "F16": StoredElement("float16", 2),
    "I8": StoredElement("int8", 1),
    "U8": StoredElement("int4", 0.5),
}

TensorRtPrecision = Literal["fp32", "fp16", "bf16"]
"""The type in which TensorRT graphs compute the large products. Router, residual stream and head are float32."""

TENSORRT_PRECISIONS: tuple[TensorRtPrecision, ...] = ("fp32", "fp16", "bf16")
