"""ONNX function bodies of Soft MoE, in ONNX's text format.

The bodies consist mainly of matrix products between tokens and slots.
"""

from __future__ import annotations

from vmoe_export.weight_types.bfloat16 import round_bf16_lines

SOFT_ROUTER = """
    first = Constant <value_ints = [0]> ()
    last = Constant <value_ints = [-1]> ()
    copy = Constant <value_ints = [0, 0]> ()
    least = Constant <value_float = 0.000001> ()
    x_square = Mul (x, x)
    x_sum = ReduceSum <keepdims = 1> (x_square, last)
    x_more = Add (x_sum, least)
    x_length = Sqrt (x_more)
    x_unit = Div (x, x_length)
    mu_square = Mul (mu, mu)
    mu_sum = ReduceSum <keepdims = 1> (mu_square, first)
    mu_more = Add (mu_sum, least)
    mu_length = Sqrt (mu_more)
    mu_unit = Div (mu, mu_length)
    mu_scaled = Mul (mu_unit, scale)
    mu_flat = Flatten <axis = 1> (mu_scaled)
    logits = MatMul (x_unit, mu_flat)
    by_token = Softmax <axis = 1> (logits)
    by_slot = Softmax <axis = 2> (logits)
    slots = Shape <start = 1, end = 3> (mu)
    shape = Concat <axis = 0> (copy, slots)
    dispatch = Reshape (by_token, shape)
    combine = Reshape (by_slot, shape)
"""


def soft_dispatch(dispatch_bf16: bool) -> str:
    """Return the body of VmoeSoftDispatch."""
    return f"""
        groups_and_tokens = Shape <start = 0, end = 2> (dispatch)
        groups = Shape <start = 0, end = 1> (dispatch)
        experts = Shape <start = 2, end = 3> (dispatch)
        slots = Shape <start = 3, end = 4> (dispatch)
        width = Shape <start = 2, end = 3> (x)
        {round_bf16_lines("x", "rounded", dispatch_bf16)}
        flat_slots = Mul (experts, slots)
        flat_shape = Concat <axis = 0> (groups_and_tokens, flat_slots)
        flat = Reshape <allowzero = 1> (dispatch, flat_shape)
        shares = Transpose <perm = [0, 2, 1]> (flat)
        mixed = MatMul (shares, rounded)
        split_shape = Concat <axis = 0> (groups, experts, slots, width)
        split = Reshape (mixed, split_shape)
        by_expert = Transpose <perm = [1, 0, 2, 3]> (split)
        all_slots = Mul (groups, slots)
        buf_shape = Concat <axis = 0> (experts, all_slots, width)
        buf = Reshape (by_expert, buf_shape)
    """


def soft_combine(dispatch_bf16: bool) -> str:
    """Return the body of VmoeSoftCombine."""
    return f"""
        groups_and_tokens = Shape <start = 0, end = 2> (combine)
        groups = Shape <start = 0, end = 1> (combine)
        experts = Shape <start = 2, end = 3> (combine)
        slots = Shape <start = 3, end = 4> (combine)
        width = Shape <start = 2, end = 3> (out)
        {round_bf16_lines("out", "rounded", dispatch_bf16)}
        split_shape = Concat <axis = 0> (experts, groups, slots, width)
        split = Reshape (rounded, split_shape)
        by_group = Transpose <perm = [1, 0, 2, 3]> (split)
        flat_slots = Mul (experts, slots)
        rows_shape = Concat <axis = 0> (groups, flat_slots, width)
        rows = Reshape (by_group, rows_shape)
        shares_shape = Concat <axis = 0> (groups_and_tokens, flat_slots)
        shares = Reshape <allowzero = 1> (combine, shares_shape)
        y = MatMul (shares, rows)
    """
