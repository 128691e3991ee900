"""Weights in float32, unchanged."""

from __future__ import annotations

import numpy as np

from vmoe_export.weight_types.weight_type import Array, WeightType


class _Float32(WeightType):
    name = "float"
    stored = "F32"
    onnx_type = "FLOAT"
    dtype = np.dtype(np.float32)
    step = 0.0

    def encode(self, weights: Array) -> tuple[Array, None]:
        return weights, None

    def is_nearest(self, official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
        return bool(np.array_equal(official.view(np.uint32), found.view(np.uint32)))

    def product(self, x: Array, w: Array, w_scale: Array | None) -> Array:
        y: Array = np.matmul(x, w.astype(x.dtype, copy=False))
        return y

    def product_lines(self, x: str, w: str, result: str, scale: str, depth: int) -> str:
        return f"{result} = MatMul ({x}, {w})"


FLOAT32 = _Float32()
