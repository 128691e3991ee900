"""Weights in int8 with a float32 scale per column. Rows that enter a product are also int8. Sums are exact int32."""

from __future__ import annotations

import numpy as np

from vmoe_export.weight_types.weight_type import Array, WeightType

LARGEST_INT8 = 127
"""-128 is unused, so the range is symmetric."""

_EXACT_DEPTH = 1024  # a sum of this many int8 products is below 2**24, so it is exact in float32


def quantize_columns(weights: Array) -> tuple[Array, Array]:
    """Quantize float32[..., inputs, outputs] to int8 of the same shape and float32 scales[..., outputs].

    The scale of a column is its largest absolute weight divided by 127. A column of zeros has the scale 1. Weights are
    rounded to nearest, ties to even.
    """
    quantized = np.empty(weights.shape, np.int8)
    scales = np.empty((*weights.shape[:-2], weights.shape[-1]), np.float32)
    # Process one matrix at a time. There may be many experts, and each step allocates an array as large as its input.
    for matrix in np.ndindex(weights.shape[:-2]):
        scale = np.abs(weights[matrix]).max(axis=0) / np.float32(LARGEST_INT8)
        scale[scale == 0] = 1
        steps = weights[matrix] / scale
        np.rint(steps, out=steps)
        np.clip(steps, -LARGEST_INT8, LARGEST_INT8, out=steps)
        quantized[matrix], scales[matrix] = steps, scale
    return quantized, scales


def quantize_rows(x: Array) -> tuple[Array, Array]:
    """Quantize the rows of x[...,D], and return integers[...,D] and scales[...,1] in the dtype of x.

    The integers are from -127 to 127. The scale of a row is its largest absolute value divided by 127. A row of zeros
    has the scale 1. Values are rounded to nearest, ties to even.
    """
    scale = np.abs(x).max(axis=-1, keepdims=True) / x.dtype.type(LARGEST_INT8)
    scale = np.where(scale == 0, x.dtype.type(1), scale)
    return np.clip(np.rint(x / scale), -LARGEST_INT8, LARGEST_INT8), scale


def quantize_rows_lines(x: str, rows: str, scale: str) -> str:
    """Return ONNX node lines that quantize the rows of x.

    The lines compute the scale of each row and `<rows>_clipped`, which holds integers from -127 to 127 as float32. The
    scale is the row's largest absolute value divided by 127, or 1 for a row of zeros. int8 can't represent NaN, and
    ReduceMax may ignore it. Therefore, a row with NaN gets an infinite scale, so that no result of this row is finite.
    """
    return f"""
    {rows}_number_size = Abs ({x})
    {rows}_is_nan = IsNaN ({x})
    {rows}_infinity = Constant <value = float {{inf}}> ()
    {rows}_size = Where ({rows}_is_nan, {rows}_infinity, {rows}_number_size)
    {rows}_axis = Constant <value_ints = [-1]> ()
    {rows}_largest = ReduceMax <keepdims = 1> ({rows}_size, {rows}_axis)
    {rows}_most = Constant <value_float = 127.0> ()
    {rows}_least = Constant <value_float = -127.0> ()
    {rows}_raw_scale = Div ({rows}_largest, {rows}_most)
    {rows}_nothing = Constant <value_float = 0.0> ()
    {rows}_unit = Constant <value_float = 1.0> ()
    {rows}_is_zero = Equal ({rows}_raw_scale, {rows}_nothing)
    {scale} = Where ({rows}_is_zero, {rows}_unit, {rows}_raw_scale)
    {rows}_steps = Div ({x}, {scale})
    {rows}_whole = Round ({rows}_steps)
    {rows}_clipped = Clip ({rows}_whole, {rows}_least, {rows}_most)
    """


class _Int8(WeightType):
    name = "i8"
    stored = "I8"
    onnx_type = "INT8"
    dtype = np.dtype(np.int8)
    step = 1 / 24  # the largest value of a row is 127 steps, and a typical value is about 24 steps
    scales = "F32"

    def encode(self, weights: Array) -> tuple[Array, Array]:
        return quantize_columns(weights)

    def is_nearest(self, official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
        wanted = np.abs(official).max(axis=0) / np.float32(LARGEST_INT8)
        wanted[wanted == 0] = 1
        # `off` is a distance in quantization steps. Near 127, float32 resolves 2**-17 of a step. The clip is for denormal
        # scales. They may be so inexact that the scaled weights fall outside the range of -127 to 127.
        off = np.abs(np.clip(official / scales, -LARGEST_INT8, LARGEST_INT8) - found)
        same = scales is not None and np.array_equal(scales, wanted)
        return bool(same and off.max() <= 0.5 + 2**-15 and found.min() >= -LARGEST_INT8)

    def product(self, x: Array, w: Array, w_scale: Array | None) -> Array:
        assert w_scale is not None
        quantized, scale = quantize_rows(x)
        exact: Array = np.zeros(())
        for start in range(0, w.shape[-2], _EXACT_DEPTH):
            part = slice(start, start + _EXACT_DEPTH)
            exact = exact + np.matmul(quantized[..., part].astype(np.float32), w[..., part, :].astype(np.float32))
        scaled: Array = exact.astype(x.dtype) * (scale * w_scale[..., None, :])
        return scaled

    def product_lines(self, x: str, w: str, result: str, scale: str, depth: int) -> str:
        # A Sum of one value changes nothing. But it keeps ONNX Runtime from fusing the scaling with the product and the
        # bias. The fused op would round once instead of twice.
        return f"""
        {quantize_rows_lines(x, f"{result}_rows", f"{result}_row_scale")}
        {result}_rows = Cast <to = 3> ({result}_rows_clipped)
        {result}_sums = MatMulInteger ({result}_rows, {w})
        {result}_sums_cast = Cast <to = 1> ({result}_sums)
        {result}_sums_float = Sum ({result}_sums_cast)
        {result}_scale = Mul ({result}_row_scale, {scale})
        {result} = Mul ({result}_sums_float, {result}_scale)
        """


INT8 = _Int8()
