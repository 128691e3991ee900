"""The precisions of bundles: what the weights of their large products are stored in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Precision = Literal["fp32", "bf16", "int8", "int4", "bf16-experts"]
"""What the weights of the large products are stored in, and so what these are computed in: float32, bfloat16 or int8;
expert weights in int4 and the others in int8; or expert weights in bfloat16 and all else in float32."""

EXPERT_WEIGHT_BYTES: Mapping[Precision, float] = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5 + 2 / 64, "bf16-experts": 2}
"""What a weight of an expert takes; scales are counted where they are by group."""

PRECISIONS = tuple(EXPERT_WEIGHT_BYTES)

EXACTNESS: tuple[Precision, ...] = ("fp32", "bf16-experts", "bf16", "int8", "int4")
"""Precisions, the most exact one first."""

TensorRtPrecision = Literal["fp32", "fp16", "bf16"]
"""What the large products of the TensorRT graphs are computed in. Router, residual stream and head are float32."""

TENSORRT_PRECISIONS: tuple[TensorRtPrecision, ...] = ("fp32", "fp16", "bf16")
