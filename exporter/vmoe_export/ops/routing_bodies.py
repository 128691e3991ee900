"""ONNX function bodies of gates, routing, dispatch and combine, in ONNX's text format.

Their results are exact on ONNX Runtime and OpenVINO, because the bodies follow five rules:

- Do not rely on TopK's order among equal values, which is not stable in OpenVINO. `stable_sort` fixes the order.
- Gather before slicing. Otherwise, OpenVINO moves a Slice behind a GatherElements on another axis.
- Give the pads of a Pad as a Constant with a whole tensor. Inside a function, ONNX Runtime 1.21 accepts nothing
  else.
- Never compute an integer from a float ratio.
- Keep integers below 2^24 in comparisons, ReduceSum and Mod. OpenVINO uses int32 for int64, and computes these ops
  in float32. Larger integers may only be added, subtracted, multiplied, sorted by TopK and summed by CumSum. To
  compare larger integers, test the sign of their difference.

float16 and bfloat16 tokens are copied unchanged, and are cast to float32 before they are added up. ONNX Runtime's
CPU provider has no bfloat16 products, but the bodies do not need any. They run there in every token type.

In the string constants, single braces are placeholders. Functions in this module and in `vmoe_export.ops.functions`
fill them in.
"""

from __future__ import annotations

from vmoe_export.ops.onnx_lines import stable_sort


def route(policies: bool) -> str:
    """Return the body of VmoeRoute, with the inputs `vmoe_runtime.settings.POLICIES` if `policies` is true."""
    return _ROUTE.format(
        sort_experts=stable_sort("ranked", "gate", "expert", 2),
        sort_tokens=stable_sort("priority", "turn", "token", 1),
        keep=_KEEP_BY_POLICY if policies else _KEEP,
    )


def route_dispatch(policies: bool) -> str:
    """Return the body of VmoeRouteDispatch.

    VmoeRouteDispatch never applies policies. `policies` specifies whether the VmoeRoute that it calls has policy
    inputs.
    """
    route = "slot, weight, src, expert = vmoe.VmoeRoute (gates, capacity, k, bpr)"
    if policies:
        route = """
        no_pool = Constant <value_ints = [0]> ()
        no_limit = Shape <start = 2, end = 3> (gates)
        slot, weight, src, expert = vmoe.VmoeRoute (gates, capacity, k, bpr, no_pool, no_limit)
        """
    return f"""
    {route}
    buf = vmoe.VmoeDispatch (x, src)
    """


_ROUTE = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    minus_one = Constant <value_ints = [-1]> ()
    start = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    axis_1 = Constant <value_int = 1> ()
    axis_2 = Constant <value_int = 2> ()
    nothing = Constant <value_float = 0.0> ()
    gates_shape = Shape (gates)
    groups = Shape <start = 0, end = 1> (gates)
    tokens = Shape <start = 1, end = 2> (gates)
    experts = Shape <start = 2, end = 3> (gates)
    groups_0d = Squeeze (groups)
    tokens_0d = Squeeze (tokens)
    experts_0d = Squeeze (experts)
    group_row = Range (start, groups_0d, step)
    group = Unsqueeze (group_row, one)
    token = Range (start, tokens_0d, step)
    exact = Identity (gates)
    is_nan = IsNaN (exact)
    ranked = Where (is_nan, nothing, exact)

    # The experts of each token by descending gate, the lower expert first on ties.
    {sort_experts}
    ranking = Mod (gate_key, experts)
    weight_all = GatherElements <axis = 2> (gates, ranking)
    weight = Slice (weight_all, zero, k, two)
    chosen = Slice (ranking, zero, k, two)
    expert = Cast <to = 6> (chosen)

    # The tokens in serving order: by descending best gate, the lower token first on ties. Without BPR, all keys are equal,
    # which gives the vanilla order.
    best_column = Slice (gate, zero, one, two)
    best = Squeeze (best_column, two)
    is_bpr = Cast <to = 9> (bpr)
    priority = Where (is_bpr, best, nothing)
    {sort_tokens}
    serving = GatherElements <axis = 1> (turn_index, turn_key_index)

    # The queue [G, K*S]: all first choices in serving order, then all second choices, and so on. The position of a pair is
    # the number of earlier pairs for its expert.
    serving_column = Unsqueeze (serving, two)
    serving_all = Expand (serving_column, gates_shape)
    served_all = GatherElements <axis = 1> (ranking, serving_all)
    served = Slice (served_all, zero, k, two)
    served_by_choice = Transpose <perm = [0, 2, 1]> (served)
    pairs = Mul (k, tokens)
    queue_shape = Concat <axis = 0> (groups, pairs)
    queue = Reshape (served_by_choice, queue_shape)
    queue_column = Unsqueeze (queue, two)
    expert_row = Range (start, experts_0d, step)
    is_request = Equal (queue_column, expert_row)
    requests = Cast <to = 7> (is_request)
    request_counts = CumSum (requests, axis_1)
    request_count_column = GatherElements <axis = 2> (request_counts, queue_column)
    request_count = Squeeze (request_count_column, two)
    position = Sub (request_count, one)
    {keep}
    expert_base = Mul (queue, slots)
    base = Add (expert_base, group_base)
    flat_slot = Add (base, position)
    queue_slot = Where (is_kept, flat_slot, minus_one)

    # Back to the order of the group.
    by_choice_shape = Concat <axis = 0> (groups, k, tokens)
    by_choice = Reshape (queue_slot, by_choice_shape)
    served_slot = Transpose <perm = [0, 2, 1]> (by_choice)
    inverse_token, inverse = TopK <axis = 1, largest = 0> (serving, tokens)
    inverse_column = Unsqueeze (inverse, two)
    pairs_shape = Shape (weight)
    inverse_all = Expand (inverse_column, pairs_shape)
    slot_i64 = GatherElements <axis = 1> (served_slot, inverse_all)
    slot = Cast <to = 6> (slot_i64)

    # Each kept pair writes its token to its slot. Dropped pairs write to an extra slot, which is cut off.
    total = Mul (experts, slots)
    is_dropped = Less (slot_i64, zero)
    target_all = Where (is_dropped, total, slot_i64)
    target = Reshape (target_all, minus_one)
    token_base = Mul (group, tokens)
    flat_token = Add (token_base, token)
    token_column = Unsqueeze (flat_token, two)
    source_all = Expand (token_column, pairs_shape)
    source = Reshape (source_all, minus_one)
    total_and_one = Add (total, one)
    empty = Expand (minus_one, total_and_one)
    filled = ScatterElements <axis = 0> (empty, target, source)
    filled_slots = Slice (filled, zero, total, zero)
    src_shape = Concat <axis = 0> (experts, slots)
    src_i64 = Reshape <allowzero = 1> (filled_slots, src_shape)
    src = Cast <to = 6> (src_i64)
"""

# Keep the first c pairs of each expert.
_KEEP = """
    slots = Mul (groups, capacity)
    group_base = Mul (group, capacity)
    is_kept = Less (position, capacity)
"""

# The mass of an expert is the sum of the gates, in integer units, of the tokens whose first choice is this expert. An
# expert is ahead of another expert if its mass is larger. If the masses are equal, the expert with the lower index is
# ahead. An expert is allowed if fewer than max_experts experts are ahead of it. Only pairs of allowed experts are
# open. Without a pool, each expert has a queue of its open pairs, and the first `capacity` pairs of the queue are kept.
# With a pool, the group has one queue of all its open pairs. The number of pairs that are kept from it is the total
# capacity of all experts. In both cases, the kept pairs of an expert are its first pairs.
_KEEP_BY_POLICY = """
    is_pool = Cast <to = 9> (pool)
    axis_0 = Constant <value_int = 0> ()
    most = Constant <value_float = 1.0> ()
    units_of_one = Constant <value_float = 16384.0> ()
    share = Clip (best_column, nothing, most)
    share_units = Mul (share, units_of_one)
    units = Cast <to = 7> (share_units)
    first_column = Slice (ranking, zero, one, two)
    is_first = Equal (first_column, expert_row)
    first_units = Where (is_first, units, zero)
    mass_so_far = CumSum (first_units, axis_1)
    mass = Slice (mass_so_far, last_token, tokens, one)
    mass_column = Transpose <perm = [0, 2, 1]> (mass)
    expert_column = Unsqueeze (expert_row, one)
    is_lower = Less (expert_row, expert_column)
    lower = Cast <to = 7> (is_lower)
    raised = Add (mass, lower)
    lead = Sub (mass_column, raised)
    is_ahead = Less (lead, zero)
    ahead = Cast <to = 7> (is_ahead)
    ahead_count = ReduceSum <keepdims = 0> (ahead, two)
    is_allowed = Less (ahead_count, max_experts)
    allowed = Cast <to = 7> (is_allowed)
    open = GatherElements <axis = 1> (allowed, queue)

    open_count = CumSum (open, axis_1)
    pool_slots = Mul (experts, capacity)
    count = Where (is_pool, open_count, request_count)
    limit = Where (is_pool, pool_slots, capacity)
    is_late = Less (limit, count)
    is_closed = Equal (open, zero)
    is_dropped_pair = Or (is_late, is_closed)
    is_kept = Not (is_dropped_pair)

    # With a pool, an expert's kept pairs have consecutive slots, those of earlier groups first.
    is_kept_column = Unsqueeze (is_kept, two)
    is_taken = And (is_request, is_kept_column)
    takes = Cast <to = 7> (is_taken)
    taken = ReduceSum <keepdims = 0> (takes, one)
    taken_before = CumSum <exclusive = 1> (taken, axis_0)
    taken_by_all = ReduceSum <keepdims = 1> (taken, zero)
    fullest = ReduceMax <keepdims = 0> (taken_by_all)
    fullest_or_one = Max (fullest, one)
    even_slots = Mul (groups, capacity)
    slots = Where (is_pool, fullest_or_one, even_slots)
    even_base = Mul (group, capacity)
    first_slot = Where (is_pool, taken_before, even_base)
    group_base = GatherElements <axis = 1> (first_slot, queue)
"""

GATES = """
    logits = MatMul (x, router)
    gates = Softmax <axis = -1> (logits)
"""

# An empty slot has index -1. The Gather with this index reads the appended row of zeros.
DISPATCH = """
    width = Shape <start = 2, end = 3> (x)
    one = Constant <value_ints = [1]> ()
    minus_one = Constant <value_ints = [-1]> ()
    nothing = Constant <value_float = 0.0> ()
    rows_shape = Concat <axis = 0> (minus_one, width)
    rows = Reshape (x, rows_shape)
    row_shape = Concat <axis = 0> (one, width)
    zero_row_float = Expand (nothing, row_shape)
    {zero_row}
    padded = Concat <axis = 0> (rows, zero_row)
    buf = Gather <axis = 0> (padded, src)
"""

# A variant of VmoeRouteDispatch in which the settings are attributes instead of inputs.
ROUTE_DISPATCH_FIXED = """
VmoeRouteDispatch <capacity, k, bpr> (gates, x) => (slot, weight, buf) {
    rest = Constant <value_ints = [-1]> ()
    capacity_0d = Constant <value_int: int = @capacity> ()
    capacity_1d = Reshape (capacity_0d, rest)
    k_0d = Constant <value_int: int = @k> ()
    k_1d = Reshape (k_0d, rest)
    bpr_0d = Constant <value_int: int = @bpr> ()
    bpr_1d = Reshape (bpr_0d, rest)
    slot, weight, src, expert = vmoe.VmoeRoute (gates, capacity_1d, k_1d, bpr_1d)
    buf = vmoe.VmoeDispatch (x, src)
}
"""

COMBINE = """
    width = Shape <start = 2, end = 3> (out)
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    three = Constant <value_ints = [3]> ()
    minus_one = Constant <value_ints = [-1]> ()
    nothing = Constant <value_float = 0.0> ()
    rows_shape = Concat <axis = 0> (minus_one, width)
    {out}
    rows = Reshape (out_float, rows_shape)
    row_shape = Concat <axis = 0> (one, width)
    zero_row = Expand (nothing, row_shape)
    padded = Concat <axis = 0> (rows, zero_row)
    picked = Gather <axis = 0> (padded, slot)
    no_slot = Constant <value = int32 {{0}}> ()
    is_dropped = Less (slot, no_slot)
    weight_float = Identity (weight)
    kept_weight = Where (is_dropped, nothing, weight_float)
    weight_column = Unsqueeze (kept_weight, three)
    weighted = Mul (picked, weight_column)
    sum = ReduceSum <keepdims = 0> (weighted, two)
    {y}
"""
