"""Lines of ONNX's text format for what several function bodies compute: products, activations, rounding, sorting, casts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import onnx

from vmoe_export.ops.table import INT4_GROUP, Activation, ElementType

ONNX_TYPES: Mapping[ElementType, int] = {
    "float": onnx.TensorProto.FLOAT,
    "fp16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
    "i8": onnx.TensorProto.INT8,
    "i4": onnx.TensorProto.INT4,
    "i32": onnx.TensorProto.INT32,
    "i64": onnx.TensorProto.INT64,
}


def product(x: str, weights: str, result: str, element: ElementType, scale: str = "", depth: int = 0) -> str:
    """Node lines for result = x . weights, in the numbers that the type of the weights asks for.

    Args:
        x: rows of float32.
        weights: a matrix, or one for each of the leading sizes of x.
        result: name of the product, without bias.
        element: type of the weights: float, bf16, i8 or i4.
        scale: for i8 the scales of the columns, shaped so that they multiply the result; for i4 those of the groups, or none
            where the weights are dequantized.
        depth: see `dequantize`.
    """
    if element == "float":
        return f"{result} = MatMul ({x}, {weights})"
    if element == "bf16":
        # Few CPUs' runtimes multiply bfloat16. The products of two are exact in float32, so the weights are widened.
        return f"""
        {round_bf16(x, f"{result}_rows", True)}
        {result}_weights = Cast <to = {ONNX_TYPES["float"]}> ({weights})
        {result} = MatMul ({result}_rows, {result}_weights)
        """
    quantized = quantize(x, f"{result}_rows", f"{result}_row_scale")
    if element == "i4":
        return f"""
        {quantized}
        {dequantize(weights, scale, f"{result}_weights", depth) if scale else ""}
        {result}_sums = MatMul ({result}_rows_clipped, {f"{result}_weights" if scale else weights})
        {result} = Mul ({result}_sums, {result}_row_scale)
        """
    # A Sum of one value is that value. It keeps ONNX Runtime from fusing what follows with the product and the bias, which
    # would round once where this rounds twice.
    return f"""
    {quantized}
    {result}_rows = Cast <to = {ONNX_TYPES["i8"]}> ({result}_rows_clipped)
    {result}_sums = MatMulInteger ({result}_rows, {weights})
    {result}_sums_cast = Cast <to = {ONNX_TYPES["float"]}> ({result}_sums)
    {result}_sums_float = Sum ({result}_sums_cast)
    {result}_scale = Mul ({result}_row_scale, {scale})
    {result} = Mul ({result}_sums_float, {result}_scale)
    """


def quantize(x: str, rows: str, scale: str) -> str:
    """Node lines for the rows of x in whole numbers from -127 to 127, float32 `<rows>_clipped`, and the scale of each: its
    largest value / 127, or 1 for a row of zeros.

    A maximum may pass over NaN, and int8 has none: a row with NaN gets an infinite scale, so that it gives nothing finite.
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


def dequantize(weights: str, scale: str, result: str, depth: int = 0) -> str:
    """Node lines for int4 weights in float32, where times a whole number of int8 they are exact.

    OpenVINO takes none but matrices, by axis 0, and none whose last group is shorter: with the `depth` of a matrix, groups
    are cut until all are the same.
    """
    block, axis = math.gcd(INT4_GROUP, depth), 0 if depth else -2
    blocks, gathered = f"{result}_scales", ""
    if depth % INT4_GROUP:
        blocks, groups = f"{result}_blocks", [start // INT4_GROUP for start in range(0, depth, block)]
        gathered = f"{result}_groups = Constant <value_ints = {groups}> ()\n"
        gathered += f"{blocks} = Gather <axis = 0> ({result}_scales, {result}_groups)"
    # Without the Sum, a value as it is, ONNX Runtime fuses this with the product, and rounds what it is multiplied with.
    return f"""
    {result}_scales = Cast <to = {ONNX_TYPES["float"]}> ({scale})
    {gathered}
    {result}_steps = DequantizeLinear <axis = {axis}, block_size = {block}> ({weights}, {blocks})
    {result} = Sum ({result}_steps)
    """


def chunked_product(x: str, weights: str, result: str, element: ElementType, scale: str = "", chunks: int = 1) -> str:
    """The same where the depth is cut into equal chunks, whose products are added up from the first to the last."""
    if chunks == 1:
        return product(x, weights, result, element, scale)
    parts, matrices = ([f"{result}_{what}_{i}" for i in range(chunks)] for what in ("x", "w"))
    whole = ""
    if element == "i4":
        whole, weights, scale = dequantize(weights, scale, f"{result}_weights"), f"{result}_weights", ""
    return f"""
    {whole}
    {", ".join(parts)} = Split <axis = -1, num_outputs = {chunks}> ({x})
    {", ".join(matrices)} = Split <axis = -2, num_outputs = {chunks}> ({weights})
    {added_products(parts, matrices, result, element, [scale] * chunks)}
    """


def added_products(
    parts: Sequence[str],
    weights: Sequence[str],
    result: str,
    element: ElementType,
    scales: Sequence[str],
    depth: int = 0,
) -> str:
    """Node lines for result = the sum over the parts, from the first to the last, of each with its weights and scales."""
    lines = []
    total = ""
    for i, (part, matrix, scale) in enumerate(zip(parts, weights, scales, strict=True)):
        term = f"{result}_term_{i}" if len(parts) > 1 else result
        lines.append(product(part, matrix, term, element, scale, depth))
        if not total:
            total = term
            continue
        added = result if i == len(parts) - 1 else f"{result}_total_{i}"
        lines.append(f"{added} = Add ({total}, {term})")
        total = added
    return "\n".join(lines)


def activate(activation: Activation, product: str, bias: str, hidden: str, prefix: str = "") -> str:
    """Node lines for hidden = activation(product + bias); `prefix` keeps the names of several uses apart."""
    p = prefix
    biased = f"{p}biased = Add ({product}, {bias})"
    if activation == "gelu_quick":
        # As a quotient: a Sigmoid of float32 need be neither 1 nor 0 where its input is large.
        return f"""
    {biased}
    {p}slope = Constant <value_float = -1.702> ()
    {p}inner = Mul ({p}biased, {p}slope)
    {p}power = Exp ({p}inner)
    {p}unit = Constant <value_float = 1.0> ()
    {p}divisor = Add ({p}power, {p}unit)
    {hidden} = Div ({p}biased, {p}divisor)
    """
    if activation == "gelu_erf":
        return f"""
    {biased}
    {p}scale = Constant <value_float = 0.7071067811865476> ()
    {p}inner = Mul ({p}biased, {p}scale)
    {p}erf = Erf ({p}inner)
    {p}unit = Constant <value_float = 1.0> ()
    {p}raised = Add ({p}erf, {p}unit)
    {p}half = Constant <value_float = 0.5> ()
    {p}halved = Mul ({p}biased, {p}half)
    {hidden} = Mul ({p}halved, {p}raised)
    """
    return f"""
    {biased}
    {p}square = Mul ({p}biased, {p}biased)
    {p}cubic = Constant <value_float = 0.044715> ()
    {p}cubed = Mul ({p}square, {p}cubic)
    {p}unit = Constant <value_float = 1.0> ()
    {p}bent = Add ({p}cubed, {p}unit)
    {p}scale = Constant <value_float = 0.7978845608028654> ()
    {p}scaled = Mul ({p}biased, {p}scale)
    {p}inner = Mul ({p}bent, {p}scaled)
    {p}tanh = Tanh ({p}inner)
    {p}raised = Add ({p}tanh, {p}unit)
    {p}half = Constant <value_float = 0.5> ()
    {p}halved = Mul ({p}biased, {p}half)
    {hidden} = Mul ({p}halved, {p}raised)
    """


def round_bf16(source: str, target: str, rounds: bool) -> str:
    """Node lines for target = source, rounded to the nearest bfloat16 if `rounds`."""
    if not rounds:
        return f"{target} = Identity ({source})"
    # x * 65537 has the bits of x twice, 16 apart; taking the small part away again rounds to the 8 bits of a bfloat16.
    # A pair of Casts would say the same, but OpenVINO drops it.
    return f"""
    {target}_factor = Constant <value_float = 65537.0> ()
    {target}_product = Mul ({source}, {target}_factor)
    {target}_rest = Sub ({target}_product, {source})
    {target} = Sub ({target}_product, {target}_rest)
    """


def stable_sort(values: str, sorted_values: str, item: str, axis: Literal[1, 2]) -> str:
    """Node lines that sort along an axis, descending, the lower index first on ties.

    A TopK gives only the sorted values for sure, not their order where they are equal. Equal values share a run number, and
    a second TopK over `run * n + index`, whose keys all differ, puts each run in the order of its indices.

    Args:
        values: what to sort, f32[G,n] along axis 1 or f32[G,x,n] along axis 2.
        sorted_values: name of the sorted values, and how all others begin. The index of each is `_index` gathered at
            `_key_index`, or `_key` modulo n.
        item: n is called `items`, i64[1], and n - 1 becomes `last_item`. The lines also use zero, one, two and axis_1 or
            axis_2.
        axis: the axis.
    """
    v, axis_row = sorted_values, ("one", "two")[axis - 1]
    pads = ", ".join("1" if i == axis else "0" for i in range(2 * (axis + 1)))
    return f"""
    {v}, {v}_index = TopK <axis = {axis}> ({values}, {item}s)
    {v}_next = Slice ({v}, one, {item}s, {axis_row})
    last_{item} = Sub ({item}s, one)
    {v}_here = Slice ({v}, zero, last_{item}, {axis_row})
    {v}_falls = Less ({v}_next, {v}_here)
    {v}_steps = Cast <to = 7> ({v}_falls)
    {v}_pads = Constant <value = int64[{2 * (axis + 1)}] {{{pads}}}> ()
    {v}_padded = Pad ({v}_steps, {v}_pads)
    {v}_run = CumSum ({v}_padded, axis_{axis})
    {v}_base = Mul ({v}_run, {item}s)
    {v}_keys = Add ({v}_base, {v}_index)
    {v}_key, {v}_key_index = TopK <axis = {axis}, largest = 0> ({v}_keys, {item}s)
    """


def cast(source: str, target: str, source_type: ElementType, target_type: ElementType) -> str:
    """The node line for target = source in another type."""
    if source_type == target_type:
        return f"{target} = Identity ({source})"
    return f"{target} = Cast <to = {ONNX_TYPES[target_type]}> ({source})"
