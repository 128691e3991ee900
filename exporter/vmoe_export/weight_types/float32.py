"""Weights as they are."""

from __future__ import annotations

import numpy as np

from vmoe_export.weight_types.weight_type import Array, WeightType


def _is_same(official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
    return bool(np.array_equal(official.view(np.uint32), found.view(np.uint32)))


def _product(x: Array, w: Array, w_scale: Array | None) -> Array:
    y: Array = np.matmul(x, w.astype(x.dtype, copy=False))
    return y


FLOAT32 = WeightType(
    name="float",
    stored="F32",
    onnx_type="FLOAT",
    dtype=np.dtype(np.float32),
    step=0.0,
    encode=lambda weights: (weights, None),
    decode=lambda stored, shape: stored.reshape(shape),
    is_nearest=_is_same,
    product=_product,
    product_lines=lambda x, w, result, scale, depth: f"{result} = MatMul ({x}, {w})",
)
