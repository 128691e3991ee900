"""The ONNX function body of expert choice. It follows the rules in `routing_bodies`."""

from __future__ import annotations

from vmoe_export.ops.onnx_lines import stable_sort


def choose_tokens() -> str:
    """Return the body of VmoeChooseTokens."""
    return _CHOOSE_TOKENS.format(sort_tokens=stable_sort("ranked", "gate", "token", 2))


# Each expert ranks the tokens of a group. The token with rank p gets slot p.
_CHOOSE_TOKENS = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    minus_one = Constant <value_ints = [-1]> ()
    start = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    axis_2 = Constant <value_int = 2> ()
    nothing = Constant <value_float = 0.0> ()
    groups = Shape <start = 0, end = 1> (gates)
    tokens = Shape <start = 1, end = 2> (gates)
    experts = Shape <start = 2, end = 3> (gates)
    groups_0d = Squeeze (groups)
    experts_0d = Squeeze (experts)
    group_row = Range (start, groups_0d, step)
    group_axes = Constant <value_ints = [1, 2]> ()
    group = Unsqueeze (group_row, group_axes)
    expert_row = Range (start, experts_0d, step)
    expert = Unsqueeze (expert_row, one)
    by_expert = Transpose <perm = [0, 2, 1]> (gates)
    is_nan = IsNaN (by_expert)
    ranked = Where (is_nan, nothing, by_expert)

    # The tokens [G, E, S] of each expert by descending gate, the lower token first on ties.
    {sort_tokens}
    order = GatherElements <axis = 2> (gate_index, gate_key_index)

    # The rank of each token for each expert.
    inverse_token, rank = TopK <axis = 2, largest = 0> (order, tokens)
    slots = Mul (groups, capacity)
    expert_base = Mul (expert, slots)
    group_base = Mul (group, capacity)
    base = Add (expert_base, group_base)
    flat_slot = Add (base, rank)
    is_taken = Less (rank, capacity)
    slot_by_expert = Where (is_taken, flat_slot, minus_one)
    slot_i64 = Transpose <perm = [0, 2, 1]> (slot_by_expert)
    slot = Cast <to = 6> (slot_i64)

    # The first c tokens of each expert. If a group has fewer, the remaining slots stay empty.
    token_base = Mul (group, tokens)
    flat_order = Add (token_base, order)
    empty_shape = Concat <axis = 0> (groups, experts, capacity)
    empty = Expand (minus_one, empty_shape)
    followed = Concat <axis = 2> (flat_order, empty)
    chosen = Slice (followed, zero, capacity, two)
    chosen_by_expert = Transpose <perm = [1, 0, 2]> (chosen)
    src_shape = Concat <axis = 0> (experts, slots)
    src_i64 = Reshape (chosen_by_expert, src_shape)
    src = Cast <to = 6> (src_i64)
"""
