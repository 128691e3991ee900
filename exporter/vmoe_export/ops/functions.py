"""The vmoe ops as ONNX functions of standard ops, so that a stock runtime runs them with no library of ours.

The bodies stand in ONNX's own text format. They are exact on ONNX Runtime and OpenVINO; four habits make them so:

- A TopK's order among equal values is not to be relied on (OpenVINO's is not stable). Sorting descending gives only the
  values; equal values share a run number, and a second TopK over `run * n + index`, whose keys all differ, puts each run
  in the order of its indices.
- OpenVINO moves a Slice behind a GatherElements on another axis, so gathers come first.
- ONNX Runtime 1.21 takes the pads of a Pad inside a function only from a Constant with a whole tensor.
- No integer is ever made from a float ratio.

Gates and tokens in float16 or bfloat16 are copied as they are, and cast to float32 where they are compared or added up: so
these bodies run in every type on ONNX Runtime's CPU, which has no bfloat16 products for the layers around them.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.parser

from vmoe_export.ops.table import DOMAIN, OPS, PLUGIN_ATTRIBUTES, VERSION, ElementType

OPSET = 20
IR_VERSION = 10
ONNX_TYPES: Mapping[ElementType, int] = {
    "float": onnx.TensorProto.FLOAT,
    "fp16": onnx.TensorProto.FLOAT16,
    "bf16": onnx.TensorProto.BFLOAT16,
    "i32": onnx.TensorProto.INT32,
    "i64": onnx.TensorProto.INT64,
}

_ROUTE = """
VmoeRoute (gates, capacity, k, bpr) => (slot, weight, src) {{
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
    {exact}
    is_nan = IsNaN (exact)
    ranked = Where (is_nan, nothing, exact)

    # The experts of each token by descending gate, the lower expert first on ties.
    gate, gate_index = TopK <axis = 2> (ranked, experts)
    gate_next = Slice (gate, one, experts, two)
    last_expert = Sub (experts, one)
    gate_here = Slice (gate, zero, last_expert, two)
    gate_falls = Less (gate_next, gate_here)
    gate_steps = Cast <to = 7> (gate_falls)
    gate_pads = Constant <value = int64[6] {{0, 0, 1, 0, 0, 0}}> ()
    gate_padded = Pad (gate_steps, gate_pads)
    gate_run = CumSum (gate_padded, axis_2)
    gate_base = Mul (gate_run, experts)
    gate_keys = Add (gate_base, gate_index)
    gate_key, gate_key_index = TopK <axis = 2, largest = 0> (gate_keys, experts)
    expert = Mod (gate_key, experts)
    weight_all = GatherElements <axis = 2> (gates, expert)
    weight = Slice (weight_all, zero, k, two)

    # The tokens in serving order: by descending best gate, the lower token first on ties. With equal keys: vanilla order.
    best_column = Slice (gate, zero, one, two)
    best = Squeeze (best_column, two)
    is_bpr = Cast <to = 9> (bpr)
    priority = Where (is_bpr, best, nothing)
    turn, turn_index = TopK <axis = 1> (priority, tokens)
    turn_next = Slice (turn, one, tokens, one)
    last_token = Sub (tokens, one)
    turn_here = Slice (turn, zero, last_token, one)
    turn_falls = Less (turn_next, turn_here)
    turn_steps = Cast <to = 7> (turn_falls)
    turn_pads = Constant <value = int64[4] {{0, 1, 0, 0}}> ()
    turn_padded = Pad (turn_steps, turn_pads)
    turn_run = CumSum (turn_padded, axis_1)
    turn_base = Mul (turn_run, tokens)
    turn_keys = Add (turn_base, turn_index)
    turn_key, turn_key_index = TopK <axis = 1, largest = 0> (turn_keys, tokens)
    serving = Mod (turn_key, tokens)

    # The queue [G, K*S]: all first choices in serving order, then all second choices, and so on. The position of a pair is
    # the number of earlier pairs for its expert.
    serving_column = Unsqueeze (serving, two)
    serving_all = Expand (serving_column, gates_shape)
    served_all = GatherElements <axis = 1> (expert, serving_all)
    served = Slice (served_all, zero, k, two)
    served_by_choice = Transpose <perm = [0, 2, 1]> (served)
    queue_shape = Concat <axis = 0> (groups, minus_one)
    queue = Reshape (served_by_choice, queue_shape)
    queue_column = Unsqueeze (queue, two)
    expert_row = Range (start, experts_0d, step)
    is_asked = Equal (queue_column, expert_row)
    asks = Cast <to = 7> (is_asked)
    asked_all = CumSum (asks, axis_1)
    asked_column = GatherElements <axis = 2> (asked_all, queue_column)
    asked = Squeeze (asked_column, two)
    position = Sub (asked, one)
    places = Mul (groups, capacity)
    expert_base = Mul (queue, places)
    group_base = Mul (group, capacity)
    base = Add (expert_base, group_base)
    place = Add (base, position)
    is_kept = Less (position, capacity)
    queue_slot = Where (is_kept, place, minus_one)

    # Back to the order of the group.
    by_choice_shape = Concat <axis = 0> (groups, k, tokens)
    by_choice = Reshape (queue_slot, by_choice_shape)
    served_slot = Transpose <perm = [0, 2, 1]> (by_choice)
    inverse_base = Mul (serving, tokens)
    inverse_keys = Add (inverse_base, token)
    inverse_key, inverse_key_index = TopK <axis = 1, largest = 0> (inverse_keys, tokens)
    inverse = Mod (inverse_key, tokens)
    inverse_column = Unsqueeze (inverse, two)
    pairs_shape = Shape (weight)
    inverse_all = Expand (inverse_column, pairs_shape)
    slot_i64 = GatherElements <axis = 1> (served_slot, inverse_all)
    slot = Cast <to = 6> (slot_i64)

    # Each kept pair writes its token to its place. Dropped pairs write to one place more, which is cut off.
    total = Mul (experts, places)
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
    filled_places = Slice (filled, zero, total, zero)
    src_shape = Concat <axis = 0> (experts, places)
    src_i64 = Reshape (filled_places, src_shape)
    src = Cast <to = 6> (src_i64)
}}
"""

# Index -1 reads the appended row of zeros.
_DISPATCH = """
VmoeDispatch (x, src) => (buf) {{
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
}}
"""

_ROUTE_DISPATCH = """
VmoeRouteDispatch (gates, x, capacity, k, bpr) => (slot, weight, buf) {
    slot, weight, src = vmoe.VmoeRoute (gates, capacity, k, bpr)
    buf = vmoe.VmoeDispatch (x, src)
}
"""

# The same where the settings are attributes.
_ROUTE_DISPATCH_FIXED = """
VmoeRouteDispatch <capacity, k, bpr> (gates, x) => (slot, weight, buf) {
    rest = Constant <value_ints = [-1]> ()
    capacity_0d = Constant <value_int: int = @capacity> ()
    capacity_1d = Reshape (capacity_0d, rest)
    k_0d = Constant <value_int: int = @k> ()
    k_1d = Reshape (k_0d, rest)
    bpr_0d = Constant <value_int: int = @bpr> ()
    bpr_1d = Reshape (bpr_0d, rest)
    slot, weight, src = vmoe.VmoeRoute (gates, capacity_1d, k_1d, bpr_1d)
    buf = vmoe.VmoeDispatch (x, src)
}
"""

_COMBINE = """
VmoeCombine (out, slot, weight) => (y) {{
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
    {weight}
    kept_weight = Where (is_dropped, nothing, weight_float)
    weight_column = Unsqueeze (kept_weight, three)
    weighted = Mul (picked, weight_column)
    sum = ReduceSum <keepdims = 0> (weighted, two)
    {y}
}}
"""

_SPARSE_MLP = """
VmoeSparseMlp (x, router, w1, b1, w2, b2, capacity, k, bpr) => (y, slot, weight) {{
    logits = MatMul (x, router)
    gates = Softmax <axis = -1> (logits)
    slot, weight, src = vmoe.VmoeRoute (gates, capacity, k, bpr)
    buf = vmoe.VmoeDispatch (x, src)
    out = vmoe.VmoeExpertMlp <dispatch_bf16 = {dispatch_bf16}> (buf, w1, b1, w2, b2)
    y = vmoe.VmoeCombine (out, slot, weight)
}}
"""

_EXPERT_MLP = """
VmoeExpertMlp (buf, w1, b1, w2, b2) => (out) {{
    one = Constant <value_ints = [1]> ()
    {round_in}
    b1_row = Unsqueeze (b1, one)
    b2_row = Unsqueeze (b2, one)
    {product1}
    {activation}
    {product2}
    exact = Add (product2, b2_row)
    {round_out}
}}
"""

_LINEAR = """
VmoeLinear (x, w, b) => (y) {
    product = MatMul (x, w)
    y = Add (product, b)
}
"""

_DENSE_MLP = """
VmoeDenseMlp (x, w1, b1, w2, b2) => (y) {{
    product1 = MatMul (x, w1)
    {activation}
    product2 = MatMul (hidden, w2)
    y = Add (product2, b2)
}}
"""

_ATTENTION = """
VmoeAttention (q, k, v) => (y) {
    copy = Constant <value_ints = [0, 0]> ()
    rest = Constant <value_ints = [-1]> ()
    heads_0d = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_0d, rest)
    split = Concat <axis = 0> (copy, heads, rest)
    width = Shape <start = 2, end = 3> (q)
    size = Div (width, heads)
    size_float = Cast <to = 1> (size)
    root = Sqrt (size_float)
    scale = Reciprocal (root)
    q_split = Reshape (q, split)
    k_split = Reshape (k, split)
    v_split = Reshape (v, split)
    q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
    k_heads = Transpose <perm = [0, 2, 3, 1]> (k_split)
    v_heads = Transpose <perm = [0, 2, 1, 3]> (v_split)
    q_scaled = Mul (q_heads, scale)
    scores = MatMul (q_scaled, k_heads)
    shares = Softmax <axis = -1> (scores)
    mixed = MatMul (shares, v_heads)
    mixed_by_token = Transpose <perm = [0, 2, 1, 3]> (mixed)
    merge = Concat <axis = 0> (copy, rest)
    y = Reshape (mixed_by_token, merge)
}
"""


def gelu_tanh(product: str, bias: str, hidden: str, prefix: str = "") -> str:
    """Node lines for hidden = gelu_tanh(product + bias); `prefix` keeps the names of several uses apart."""
    p = prefix
    return f"""
    {p}biased = Add ({product}, {bias})
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


def expert_product(x: str, weights: str, product: str, bf16_weights: bool) -> str:
    """Node lines for product = x . weights in float32; with weights in bfloat16, x is rounded to that first.

    The weights are widened to float32: few CPUs' runtimes multiply bfloat16, and the products of two are exact in float32.
    """
    if not bf16_weights:
        return f"{product} = MatMul ({x}, {weights})"
    return f"""
    {round_bf16(x, f"{x}_bf16", True)}
    {weights}_float = Cast <to = {onnx.TensorProto.FLOAT}> ({weights})
    {product} = MatMul ({x}_bf16, {weights}_float)
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


def cast(source: str, target: str, source_type: ElementType, target_type: ElementType) -> str:
    """The node line for target = source in another type."""
    if source_type == target_type:
        return f"{target} = Identity ({source})"
    return f"{target} = Cast <to = {ONNX_TYPES[target_type]}> ({source})"


def function_bodies(
    dispatch_bf16: bool = False,
    bf16_weights: bool = False,
    *,
    tokens: ElementType = "float",
    gates: ElementType = "float",
) -> list[onnx.FunctionProto]:
    """The ONNX function of each op of the table.

    Args:
        dispatch_bf16: what the `dispatch_bf16` attribute of the model's nodes says. The bodies are written for that value.
        bf16_weights: whether the model's expert weights w1 and w2 are bfloat16. The bodies are written for that type.
        tokens: the type T of the model, for the ops that have it; VmoeSparseMlp and the dense layers are float32.
        gates: the type R of the model.

    Returns:
        One FunctionProto per op, with the attributes of the table and TensorRT's plugin attributes declared.
    """
    texts = {
        "VmoeSparseMlp": _SPARSE_MLP.format(dispatch_bf16=int(dispatch_bf16)),
        "VmoeRoute": _ROUTE.format(exact=cast("gates", "exact", gates, "float")),
        "VmoeDispatch": _DISPATCH.format(zero_row=cast("zero_row_float", "zero_row", "float", tokens)),
        "VmoeRouteDispatch": _ROUTE_DISPATCH,
        "VmoeExpertMlp": _EXPERT_MLP.format(
            round_in=round_bf16("buf", "rounded", dispatch_bf16),
            product1=expert_product("rounded", "w1", "product1", bf16_weights),
            activation=gelu_tanh("product1", "b1_row", "hidden"),
            product2=expert_product("hidden", "w2", "product2", bf16_weights),
            round_out=round_bf16("exact", "out", dispatch_bf16),
        ),
        "VmoeCombine": _COMBINE.format(
            out=cast("out", "out_float", tokens, "float"),
            weight=cast("weight", "weight_float", gates, "float"),
            y=cast("sum", "y", "float", tokens),
        ),
        "VmoeLinear": _LINEAR,
        "VmoeDenseMlp": _DENSE_MLP.format(activation=gelu_tanh("product1", "b1", "hidden")),
        "VmoeAttention": _ATTENTION,
    }
    functions = []
    for name, op in OPS.items():
        function = _parse(texts[name])
        for attribute, default in {**op.attributes, **PLUGIN_ATTRIBUTES}.items():
            function.attribute_proto.append(onnx.helper.make_attribute(attribute, default))
        functions.append(function)
    return functions


def fixed_function_bodies(*, dispatched: ElementType, combined: ElementType) -> list[onnx.FunctionProto]:
    """The functions of a graph whose routing settings are attributes: VmoeRouteDispatch, VmoeCombine, and what they call.

    Args:
        dispatched: the type of the tokens that VmoeRouteDispatch takes; gates are float32.
        combined: the type of the tokens that VmoeCombine takes.

    Returns:
        VmoeRouteDispatch with the inputs gates and x and the attributes capacity, k and bpr, which have no defaults; and
        VmoeRoute, VmoeDispatch and VmoeCombine as `function_bodies` gives them.
    """
    route_dispatch = _parse(_ROUTE_DISPATCH_FIXED)
    for attribute, default in PLUGIN_ATTRIBUTES.items():
        route_dispatch.attribute_proto.append(onnx.helper.make_attribute(attribute, default))
    return [
        *(body for body in function_bodies(tokens=dispatched) if body.name in ("VmoeRoute", "VmoeDispatch")),
        route_dispatch,
        *(body for body in function_bodies(tokens=combined) if body.name == "VmoeCombine"),
    ]


def _parse(text: str) -> onnx.FunctionProto:
    header = f'<domain: "{DOMAIN}", opset_import: ["": {OPSET}, "{DOMAIN}": {VERSION}]>'
    return onnx.parser.parse_function(header + "\n".join(line.split("#")[0] for line in text.splitlines()))
