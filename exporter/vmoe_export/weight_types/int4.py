"""Expert weights in int4, with a float16 scale for each group of consecutive weights in a column.

Rows that enter a product are int8. The products of a group are integers, and their exact sum is multiplied by the
group's scale. The results of all groups are added in float32, in the order of the groups. The total is multiplied by
the row's scale. One byte holds two weights.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from vmoe_export.weight_types.int8 import quantize_rows, quantize_rows_lines
from vmoe_export.weight_types.weight_type import Array, WeightType

LARGEST_INT4 = 7
INT4_GROUP = 64
"""Number of consecutive weights of a column that share a scale; the last group may be shorter."""


def quantize_groups(weights: Array) -> tuple[Array, Array]:
    """Quantize float32[inputs, outputs] to int8[inputs, outputs] from -7 to 7 and float16 scales[groups, outputs].

    A group consists of INT4_GROUP consecutive inputs. Its scale is the group's largest absolute weight, divided by 7
    and rounded to float16. If the result is zero, the scale is 1. Weights are rounded to nearest, ties to even. Weights
    beyond the float16 range get an infinite scale.
    """
    with np.errstate(over="ignore"):
        largest = np.maximum.reduceat(np.abs(weights), np.arange(0, len(weights), INT4_GROUP), axis=0)
        scales = (largest / np.float32(LARGEST_INT4)).astype(np.float16)
    scales[scales == 0] = 1
    steps = weights / spread_groups(scales, len(weights))
    np.rint(steps, out=steps)
    return np.clip(steps, -LARGEST_INT4, LARGEST_INT4, out=steps).astype(np.int8), scales


def pack_int4(quantized: Array) -> Array:
    """Pack int4 values, given as int8[..., n], into uint8[..., n / 2].

    The first value of each pair is in the lower 4 bits of a byte.
    """
    return (quantized[..., ::2] & 15 | quantized[..., 1::2] << 4).view(np.uint8)


def spread_groups(scales: Array, depth: int) -> Array:
    """Repeat the scales of int4 weights, so that each of `depth` inputs has its own scale.

    The scales [..., groups, outputs] become float32[..., depth, outputs].
    """
    return np.repeat(scales.astype(np.float32), INT4_GROUP, axis=-2)[..., :depth, :]


class _Int4(WeightType):
    name = "i4"
    stored = "U8"
    onnx_type = "INT4"
    dtype = np.dtype(ml_dtypes.int4)
    step = 1 / 24  # the step of int8, because the rows in a product with these weights are int8
    scales = "F16"
    group = INT4_GROUP
    opset = 21  # the first opset in which DequantizeLinear supports scales per group
    enters_functions = False

    def encode(self, weights: Array) -> tuple[Array, Array]:
        experts, depth, columns = weights.shape
        packed = np.empty((experts, depth, columns // 2), np.uint8)
        scales = np.empty((experts, -(-depth // INT4_GROUP), columns), np.float16)
        for expert, matrix in enumerate(weights):
            quantized, scales[expert] = quantize_groups(matrix)
            packed[expert] = pack_int4(quantized)
        if not np.isfinite(scales).all():
            raise OverflowError("holds values too large for int4; use --precision int8")
        return packed, scales

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        values = np.stack([stored << 4, stored], axis=-1).view(np.int8) >> 4
        return values.reshape(shape).astype(ml_dtypes.int4)

    def is_nearest(self, official: Array, found: Array, scales: Array | None, calibrated: bool) -> bool:
        nearest, wanted = quantize_groups(official)
        same = scales is not None and np.array_equal(scales, wanted)
        return same and (calibrated or np.array_equal(found, nearest))

    def product(self, x: Array, w: Array, w_scale: Array | None) -> Array:
        assert w_scale is not None
        quantized, scale = quantize_rows(x)
        total: Array = np.zeros((), x.dtype)
        for group, start in enumerate(range(0, w.shape[-2], INT4_GROUP)):
            part = slice(start, start + INT4_GROUP)
            sums = np.matmul(quantized[..., part], w[..., part, :].astype(x.dtype))
            total = total + sums * w_scale[..., group, None, :].astype(x.dtype)
        return total * scale

    def product_lines(self, x: str, w: str, result: str, scale: str, depth: int) -> str:
        widened = f"{result}_weights" if scale else w
        return f"""
        {quantize_rows_lines(x, f"{result}_rows", f"{result}_row_scale")}
        {self.widen_lines(w, scale, widened, depth) if scale else ""}
        {result}_sums = MatMul ({result}_rows_clipped, {widened})
        {result} = Mul ({result}_sums, {result}_row_scale)
        """

    def widen_lines(self, w: str, scale: str, result: str, depth: int = 0) -> str:
        """Return ONNX node lines that convert the weights to float32.

        In float32, the products of these weights with int8 integers are exact.

        OpenVINO accepts quantized weights only if they are one matrix, quantized along axis 0 in groups of equal length. If
        w is one matrix with this `depth`, its groups are therefore divided into groups of equal length.
        """
        block, axis = math.gcd(INT4_GROUP, depth), 0 if depth else -2
        blocks, gathered = f"{result}_scales", ""
        if depth % INT4_GROUP:
            blocks, groups = f"{result}_blocks", [start // INT4_GROUP for start in range(0, depth, block)]
            gathered = f"{result}_groups = Constant <value_ints = {groups}> ()\n"
            gathered += f"{blocks} = Gather <axis = 0> ({result}_scales, {result}_groups)"
        # A Sum of one value changes nothing. But it keeps ONNX Runtime from fusing DequantizeLinear with the product. The
        # fused op would round the other factor.
        return f"""
        {result}_scales = Cast <to = 1> ({scale})
        {gathered}
        {result}_steps = DequantizeLinear <axis = {axis}, block_size = {block}> ({w}, {blocks})
        {result} = Sum ({result}_steps)
        """


INT4 = _Int4()
