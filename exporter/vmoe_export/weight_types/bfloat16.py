"""Weights in bfloat16. The other factor of a product is also rounded to bfloat16. Sums are in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from vmoe_export.weight_types.weight_type import Array, WeightType


def round_bf16(x: Array) -> Array:
    """Round to the nearest bfloat16 values, with ties to even. The dtype of x is kept."""
    rounded: Array = x.astype(ml_dtypes.bfloat16).astype(x.dtype)
    return rounded


def round_bf16_lines(source: str, target: str, rounds: bool = True) -> str:
    """Return ONNX node lines for target = source. If `rounds` is true, values are rounded to the nearest bfloat16."""
    if not rounds:
        return f"{target} = Identity ({source})"
    # Use Veltkamp's splitting. With the factor 2**16 + 1, the two subtractions leave x rounded to the 8 significant bits
    # of a bfloat16. A pair of Casts would give the same result, but OpenVINO removes such pairs.
    return f"""
    {target}_factor = Constant <value_float = 65537.0> ()
    {target}_product = Mul ({source}, {target}_factor)
    {target}_rest = Sub ({target}_product, {source})
    {target} = Sub ({target}_product, {target}_rest)
    """


class _Bfloat16(WeightType):
    name = "bf16"
    stored = "BF16"
    onnx_type = "BFLOAT16"
    dtype = np.dtype(ml_dtypes.bfloat16)
    step = 2**-8

    def encode(self, weights: Array) -> tuple[Array, None]:
        rounded = weights.astype(ml_dtypes.bfloat16)
        if not np.isfinite(rounded).all():
            raise OverflowError("holds values too large for bfloat16; use --precision fp32")
        return rounded.view(np.uint16), None

    def is_nearest(self, official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
        bits = official.view(np.uint32)
        nearest = (bits + (bits >> 16 & 1) + np.uint32(0x7FFF)) >> 16
        return bool(np.array_equal(nearest, found.view(np.uint16)))

    def product(self, x: Array, w: Array, w_scale: Array | None) -> Array:
        y: Array = np.matmul(round_bf16(x), w.astype(x.dtype))
        return y

    def product_lines(self, x: str, w: str, result: str, scale: str, depth: int) -> str:
        # Few runtimes can multiply bfloat16 values on CPUs, so weights are converted to float32. The product of two bfloat16
        # values is exact in float32.
        return f"""
        {round_bf16_lines(x, f"{result}_rows")}
        {result}_weights = Cast <to = 1> ({w})
        {result} = MatMul ({result}_rows, {result}_weights)
        """


BFLOAT16 = _Bfloat16()
