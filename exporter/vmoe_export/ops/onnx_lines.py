"""Write lines in ONNX's text format that function bodies share: products in chunks, norms, activations, sorting, casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import onnx

from vmoe_export.ops.table import LAYER_NORM_EPSILON, SIGMOID_SLOPES, Activation, ElementType
from vmoe_export.weight_types import WEIGHT_TYPES, WeightType

ONNX_TYPES: Mapping[ElementType, int] = {
    **{kind.name: onnx.TensorProto.DataType.Value(kind.onnx_type) for kind in WEIGHT_TYPES.values()},
    "fp16": onnx.TensorProto.FLOAT16,
    "i32": onnx.TensorProto.INT32,
    "i64": onnx.TensorProto.INT64,
}


def chunked_product(x: str, weights: str, result: str, kind: WeightType, scale: str, chunks: int) -> str:
    """Return node lines for result = x . weights.

    The depth is split into equal chunks, and the products of the chunks are added in order.
    """
    if chunks == 1:
        return kind.product_lines(x, weights, result, scale, 0)
    parts, matrices = ([f"{result}_{what}_{i}" for i in range(chunks)] for what in ("x", "w"))
    widened = kind.widen_lines(weights, scale, f"{result}_weights")
    if widened:
        weights, scale = f"{result}_weights", ""
    return f"""
    {widened}
    {", ".join(parts)} = Split <axis = -1, num_outputs = {chunks}> ({x})
    {", ".join(matrices)} = Split <axis = -2, num_outputs = {chunks}> ({weights})
    {added_products(parts, matrices, result, kind, [scale] * chunks)}
    """


def added_products(
    parts: Sequence[str],
    weights: Sequence[str],
    result: str,
    kind: WeightType,
    scales: Sequence[str],
    depth: int = 0,
) -> str:
    """Return node lines for result = the sum of the products parts[i] . weights[i], added in the order of i.

    The scales of weights[i] are scales[i].
    """
    lines = []
    total = ""
    for i, (part, matrix, scale) in enumerate(zip(parts, weights, scales, strict=True)):
        term = f"{result}_term_{i}" if len(parts) > 1 else result
        lines.append(kind.product_lines(part, matrix, term, scale, depth))
        if not total:
            total = term
            continue
        added = result if i == len(parts) - 1 else f"{result}_total_{i}"
        lines.append(f"{added} = Add ({total}, {term})")
        total = added
    return "\n".join(lines)


def norm_lines(x: str, normed: str, scale: str, bias: str) -> str:
    """Return the node lines that compute `normed`, the layer norm of `x`.

    If `bias` is "", they compute an RMS norm instead: x / sqrt(mean(x^2)) * scale.
    """
    if bias:
        return f"{normed} = LayerNormalization <axis = -1, epsilon = {LAYER_NORM_EPSILON:f}> ({x}, {scale}, {bias})"
    return f"""
    norm_axis = Constant <value_ints = [-1]> ()
    norm_epsilon = Constant <value_float = {LAYER_NORM_EPSILON:f}> ()
    squares = Mul ({x}, {x})
    mean_square = ReduceMean <keepdims = 1> (squares, norm_axis)
    raised_square = Add (mean_square, norm_epsilon)
    norm_length = Sqrt (raised_square)
    unit_row = Div ({x}, norm_length)
    {normed} = Mul (unit_row, {scale})
    """


def activate(activation: Activation, product: str, bias: str, hidden: str, prefix: str = "") -> str:
    """Return node lines for hidden = activation(product + bias).

    If a body uses these lines several times, each use needs another `prefix`, so that the value names are unique.
    """
    p = prefix
    biased = f"{p}biased = Add ({product}, {bias})"
    if activation in SIGMOID_SLOPES:
        # Write the sigmoid as a quotient, because a runtime's float32 Sigmoid may not reach 1 or 0 for large inputs.
        return f"""
    {biased}
    {p}slope = Constant <value_float = {-SIGMOID_SLOPES[activation]}> ()
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


def stable_sort(values: str, sorted_values: str, item: str, axis: Literal[1, 2]) -> str:
    """Return node lines that sort values along an axis in descending order. On ties, the lower index comes first.

    TopK does not guarantee the order of equal values. Therefore, each run of equal values gets a number, and a second TopK
    sorts the keys `run * n + index`, which are all different. This second TopK puts the values of each run in the order of
    their indices.

    Args:
        values: the name of the values to sort, f32[G,n] along axis 1 or f32[G,x,n] along axis 2.
        sorted_values: the name of the sorted values, and the prefix of the names of all other results. To get the original
            index of each sorted value, gather the result `_index` at `_key_index`, or take the result `_key` modulo n.
        item: the singular of the name of the value that holds n, an i64[1]. For example, with "token", this value is
            `tokens`, and the lines define `last_token` as n - 1. The lines also use `zero`, `one`, `two`, and `axis_1` or
            `axis_2`.
        axis: the axis to sort along.
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
    """Return the node line that converts `source` to another type and stores the result as `target`."""
    if source_type == target_type:
        return f"{target} = Identity ({source})"
    return f"{target} = Cast <to = {ONNX_TYPES[target_type]}> ({source})"
