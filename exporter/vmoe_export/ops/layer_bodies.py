"""ONNX function bodies of linear layers, MLPs, attention and the encoder blocks, in ONNX's text format.

Each body is written for one type of weights. ONNX rejects a node that has fewer inputs than its function.
Therefore, a body declares scales as inputs only if the type of weights has scales. It declares routing policies
only if the model uses them.
"""

from __future__ import annotations

from vmoe_export.ops.body_options import (
    GATE_INPUTS,
    HIDDEN_NORM_INPUTS,
    MERGING_INPUTS,
    MIXED_NORM_INPUTS,
    ROTATION_INPUTS,
    BodyOptions,
    input_names,
    written_attributes,
)
from vmoe_export.ops.onnx_lines import activate, chunked_product, norm_lines
from vmoe_export.ops.table import OPS
from vmoe_export.weight_types import FLOAT32, WeightType
from vmoe_export.weight_types.bfloat16 import round_bf16_lines


def linear(o: BodyOptions) -> str:
    """Return the body of VmoeLinear."""
    return f"""
    {o.dense.product_lines("x", "w", "product", "w_scale", 0)}
    y = Add (product, b)
    """


def dense_mlp(o: BodyOptions) -> str:
    """Return the body of VmoeDenseMlp. With quantized weights, hidden features are quantized chunk by chunk."""
    norms = {*HIDDEN_NORM_INPUTS} <= {*o.given}
    features = "raw" if norms else "hidden"
    lines = activate(o.activation, "product1", "b1", features)
    if {*GATE_INPUTS} <= {*o.given}:
        lines = f"""
        {o.dense.product_lines("x", "wg", "product_gate", "wg_scale", 0)}
        {activate(o.activation, "product_gate", "bg", "gate")}
        ungated = Add (product1, b1)
        {features} = Mul (gate, ungated)
        """
    return f"""
    {o.dense.product_lines("x", "w1", "product1", "w1_scale", 0)}
    {lines}
    {norm_lines("raw", "hidden", *HIDDEN_NORM_INPUTS) if norms else ""}
    {chunked_product("hidden", "w2", "product2", o.dense, "w2_scale", o.dense_chunks)}
    y = Add (product2, b2)
    """


def expert_mlp(o: BodyOptions) -> str:
    """Return the body of VmoeExpertMlp. With quantized weights, hidden features are quantized chunk by chunk."""
    rows, scales = "", ("w1_scale", "w2_scale")
    if o.experts.scales and not o.experts.group:
        rows = "\n".join(f"{scale}_row = Unsqueeze ({scale}, one)" for scale in scales)
        scales = ("w1_scale_row", "w2_scale_row")
    return f"""
    one = Constant <value_ints = [1]> ()
    {round_bf16_lines("buf", "rounded", o.dispatch_bf16)}
    b1_row = Unsqueeze (b1, one)
    b2_row = Unsqueeze (b2, one)
    {rows}
    {o.experts.product_lines("rounded", "w1", "product1", scales[0], 0)}
    {activate(o.activation, "product1", "b1_row", "hidden")}
    {chunked_product("hidden", "w2", "product2", o.experts, scales[1], o.expert_chunks)}
    exact = Add (product2, b2_row)
    {round_bf16_lines("exact", "out", o.dispatch_bf16)}
    """


def attention(o: BodyOptions) -> str:
    """Return the body of VmoeAttention. With bfloat16, the inputs of both matrix products are rounded."""
    score, by_size = ("alike", _BY_SIZE) if "sizes" in o.given else ("scores", "")
    products = _ATTENTION_FLOAT32.format(score=score, by_size=by_size)
    if o.dense is not FLOAT32 if o.attention_bf16 is None else o.attention_bf16:
        products = _ATTENTION_BF16.format(
            score=score,
            by_size=by_size,
            round_q=round_bf16_lines("q_heads", "q_narrow", True),
            round_k=round_bf16_lines("k_heads", "k_narrow", True),
            round_v=round_bf16_lines("v_heads", "v_narrow", True),
            round_exp=round_bf16_lines("exp", "exp_narrow", True),
        )
    return _ATTENTION.format(products=products)


def attention_block(o: BodyOptions, class_token: bool) -> str:
    """Return the body of VmoeAttentionBlock or, if `class_token` is set, of VmoeClassAttentionBlock.

    Attention is computed in bfloat16 if the weights are narrower than float32. If the model merges tokens,
    VmoeAttentionBlock ends with VmoeMerge.
    """
    merging, rotation = (inputs[0] in o.given for inputs in (MERGING_INPUTS, ROTATION_INPUTS))
    mixed = "raw" if MIXED_NORM_INPUTS[0] in o.given else "mixed"
    bf16 = int(o.dense is not FLOAT32)
    x, queries = ("x_first", "normed_first") if class_token else ("x", "normed")
    q, k = ("q_turned", "k_turned") if rotation else ("q", "k")
    own = "own_coordinates" if class_token else "coordinates"
    rotate = f"""
        {"own_coordinates = Gather <axis = 1> (coordinates, first)" if class_token else ""}
        q_turned = vmoe.VmoeRotate <num_heads: int = @num_heads> (q, {own}, frequencies)
        k_turned = vmoe.VmoeRotate <num_heads: int = @num_heads> (k, coordinates, frequencies)
    """
    first = "first = Constant <value_ints = [0]> ()\n" + "\n".join(
        f"{name}_first = Gather <axis = 1> ({name}, first)" for name in ("x", "normed")
    )
    end = f"y = Add ({x}, o)"
    if merging and not class_token:
        carried = (*MERGING_INPUTS, *(("coordinates",) if rotation else ()))
        end = f"""
        whole = Add (x, o)
        y, merged_sizes, merged_token{", merged_coordinates" if rotation else ""} =
            vmoe.VmoeMerge <num_heads: int = @num_heads, prefix: int = @prefix> (whole, {k}, {", ".join(carried)})
        """
    return f"""
    {_block_norm(o)}
    {first if class_token else ""}
    {_linear_node(queries, "q", o.dense)}
    {_linear_node("normed", "k", o.dense)}
    {_linear_node("normed", "v", o.dense)}
    {rotate if rotation else ""}
    {mixed} =
        vmoe.VmoeAttention <num_heads: int = @num_heads, bf16 = {bf16}> ({q}, {k}, v{", sizes" if merging else ""})
    {norm_lines("raw", "mixed", *MIXED_NORM_INPUTS) if mixed == "raw" else ""}
    {_linear_node("mixed", "o", o.dense)}
    {end}
    """


def mlp_block(o: BodyOptions) -> str:
    """Return the body of VmoeMlpBlock."""
    inputs = ", ".join(["normed", *input_names("VmoeDenseMlp", o.dense, o.given)[1:]])
    return f"""
    {_block_norm(o)}
    out = vmoe.VmoeDenseMlp <{_handed_on("VmoeDenseMlp", o)}> ({inputs})
    y = Add (x, out)
    """


def router_block(o: BodyOptions) -> str:
    """Return the body of VmoeRouterBlock, which is always float32."""
    return f"""
    {_block_norm(o)}
    logits = MatMul (normed, router)
    gates = Softmax <axis = -1> (logits)
    slot, weight, src, expert = vmoe.VmoeRoute ({", ".join(input_names("VmoeRoute", FLOAT32, o.given))})
    """


def expert_block(o: BodyOptions) -> str:
    """Return the body of VmoeExpertBlock."""
    inputs, lines = ", ".join(input_names("VmoeExpertMlp", o.experts)), ""
    if not o.experts.enters_functions:
        lines = "w1_same = Identity (w1)\nw2_same = Identity (w2)\n"
        inputs = inputs.replace("w1,", "w1_same,").replace("w2,", "w2_same,")
    return f"""
    {norm_lines("x", "normed", "ln_scale", "ln_bias")}
    buf = vmoe.VmoeDispatch (normed, src)
    {lines}
    out = vmoe.VmoeExpertMlp <{_handed_on("VmoeExpertMlp", o)}> ({inputs})
    combined = vmoe.VmoeCombine (out, slot, weight)
    y = Add (x, combined)
    """


_ATTENTION = """
    copy = Constant <value_ints = [0, 0]> ()
    rest = Constant <value_ints = [-1]> ()
    heads_0d = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_0d, rest)
    width = Shape <start = 2, end = 3> (q)
    size = Div (width, heads)
    split = Concat <axis = 0> (copy, heads, size)
    size_float = Cast <to = 1> (size)
    root = Sqrt (size_float)
    q_split = Reshape (q, split)
    k_split = Reshape (k, split)
    v_split = Reshape (v, split)
    q_heads = Transpose <perm = [0, 2, 1, 3]> (q_split)
    k_heads = Transpose <perm = [0, 2, 3, 1]> (k_split)
    v_heads = Transpose <perm = [0, 2, 1, 3]> (v_split)
    {products}
    mixed_by_token = Transpose <perm = [0, 2, 1, 3]> (mixed)
    shape = Shape (q)
    y = Reshape (mixed_by_token, shape)
"""

ROTATE = """
    rest = Constant <value_ints = [-1]> ()
    heads_0d = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_0d, rest)
    copy = Constant <value_ints = [0, 0]> ()
    pair = Constant <value_ints = [-1, 2]> ()
    split = Concat <axis = 0> (copy, heads, pair)
    pairs = Reshape (x, split)
    angles = MatMul (coordinates, frequencies)
    axes = Constant <value_ints = [2, 4]> ()
    angle = Unsqueeze (angles, axes)
    cosine = Cos (angle)
    sine = Sin (angle)
    a, b = Split <axis = -1, num_outputs = 2> (pairs)
    a_cosine = Mul (a, cosine)
    b_sine = Mul (b, sine)
    b_cosine = Mul (b, cosine)
    a_sine = Mul (a, sine)
    first = Sub (a_cosine, b_sine)
    second = Add (b_cosine, a_sine)
    turned = Concat <axis = -1> (first, second)
    shape = Shape (x)
    y = Reshape (turned, shape)
"""

_ATTENTION_FLOAT32 = """
    scale = Reciprocal (root)
    q_scaled = Mul (q_heads, scale)
    {score} = MatMul (q_scaled, k_heads)
    {by_size}
    shares = Softmax <axis = -1> (scores)
    mixed = MatMul (shares, v_heads)
"""

_BY_SIZE = """
    key_axes = Constant <value_ints = [1, 2]> ()
    counts = Log (sizes)
    counts_row = Unsqueeze (counts, key_axes)
    scores = Add (alike, counts_row)
"""

# The exponentials are rounded for the second product. To complete the softmax, divide the result of this product by
# the sum of the unrounded exponentials.
_ATTENTION_BF16 = """
    {round_q}
    {round_k}
    {round_v}
    last = Constant <value_ints = [-1]> ()
    products = MatMul (q_narrow, k_narrow)
    {score} = Div (products, root)
    {by_size}
    top = ReduceMax <keepdims = 1> (scores, last)
    lowered = Sub (scores, top)
    exp = Exp (lowered)
    total = ReduceSum <keepdims = 1> (exp, last)
    {round_exp}
    sums = MatMul (exp_narrow, v_narrow)
    mixed = Div (sums, total)
"""


def _block_norm(o: BodyOptions) -> str:
    return norm_lines("x", "normed", "ln_scale", "ln_bias" if "ln_bias" in o.given else "")


def _linear_node(x: str, which: str, weights: WeightType) -> str:
    scale = f", w{which}_scale" if weights.scales else ""
    return f"{which} = vmoe.VmoeLinear ({x}, w{which}, b{which}{scale})"


def _handed_on(op: str, o: BodyOptions) -> str:
    """Return the attributes of a node inside a function's body.

    Each attribute takes the value of the function's attribute that has the same name.
    """
    return ", ".join(f"{name}: int = @{name}" for name in written_attributes(OPS[op], o.activation))
