"""ONNX function bodies of linear layers, MLPs, attention and the encoder blocks, in ONNX's own text format.

A body is written for the type of the weights of its products. It takes scales as inputs where that type has any, and else
doesn't declare them: a node with fewer inputs than its function is refused. The same goes for the routing policies.
"""

from __future__ import annotations

from collections.abc import Collection

from vmoe_export.ops.onnx_lines import activate, chunked_product, norm_lines
from vmoe_export.ops.table import ACTIVATIONS, OPS, Activation, Op, Value
from vmoe_export.weight_types import FLOAT32, WeightType
from vmoe_export.weight_types.bfloat16 import round_bf16_lines
from vmoe_runtime.settings import MERGE, POLICIES

MERGING_INPUTS = ("sizes", "token", MERGE)
"""The inputs by which tokens are merged, of the ops that may do without."""
ROTATION_INPUTS = ("coordinates", "frequencies")
"""Those by which queries and keys are rotated."""
MIXED_NORM_INPUTS = ("mixed_ln_scale", "mixed_ln_bias")
"""The norm of what attention gives."""
GATE_INPUTS = ("wg", "bg")
"""The gate of an MLP."""
HIDDEN_NORM_INPUTS = ("hidden_ln_scale", "hidden_ln_bias")
"""The norm of an MLP's hidden features."""
USUAL_INPUTS = frozenset(("ln_bias", *POLICIES))
"""The optional inputs that the ops of official models have, but for those of merging."""


def input_names(op: str, weights: WeightType, given: Collection[str] = USUAL_INPUTS) -> list[str]:
    """The inputs that nodes of the op have: of the optional ones those that are `given`, scales of weights that have any,
    and whatever stands before another one.
    """
    values = {value.name: value for value in OPS[op].inputs}

    def is_given(value: Value) -> bool:
        if value.scale_of:
            return weights.scales is not None and is_given(values[value.scale_of])
        return not value.optional or value.name in given

    names = list(values)
    while not is_given(values[names[-1]]):
        names.pop()
    return names


def written_attributes(op: Op, activation: Activation) -> dict[str, int]:
    """The attributes that nodes and functions of the op have, with their defaults: `activation` only where it isn't the
    default.
    """
    default = activation == ACTIVATIONS[0]
    return {name: value for name, value in op.attributes.items() if name != "activation" or not default}


def linear(weights: WeightType) -> str:
    """VmoeLinear."""
    return _body(
        "VmoeLinear",
        weights,
        f"""
        {weights.product_lines("x", "w", "product", "w_scale", 0)}
        y = Add (product, b)
        """,
    )


def dense_mlp(weights: WeightType, chunks: int, activation: Activation, given: Collection[str]) -> str:
    """VmoeDenseMlp, whose hidden features are quantized in so many chunks."""
    norms = {*HIDDEN_NORM_INPUTS} <= {*given}
    features = "raw" if norms else "hidden"
    lines = activate(activation, "product1", "b1", features)
    if {*GATE_INPUTS} <= {*given}:
        lines = f"""
        {weights.product_lines("x", "wg", "product_gate", "wg_scale", 0)}
        {activate(activation, "product_gate", "bg", "gate")}
        ungated = Add (product1, b1)
        {features} = Mul (gate, ungated)
        """
    return _body(
        "VmoeDenseMlp",
        weights,
        f"""
        {weights.product_lines("x", "w1", "product1", "w1_scale", 0)}
        {lines}
        {norm_lines("raw", "hidden", *HIDDEN_NORM_INPUTS) if norms else ""}
        {chunked_product("hidden", "w2", "product2", weights, "w2_scale", chunks)}
        y = Add (product2, b2)
        """,
        given,
    )


def expert_mlp(weights: WeightType, dispatch_bf16: bool, chunks: int, activation: Activation) -> str:
    """VmoeExpertMlp, whose hidden features are quantized in so many chunks."""
    rows, scales = "", ("w1_scale", "w2_scale")
    if weights.scales and not weights.group:
        rows = "\n".join(f"{scale}_row = Unsqueeze ({scale}, one)" for scale in scales)
        scales = ("w1_scale_row", "w2_scale_row")
    return _body(
        "VmoeExpertMlp",
        weights,
        f"""
        one = Constant <value_ints = [1]> ()
        {round_bf16_lines("buf", "rounded", dispatch_bf16)}
        b1_row = Unsqueeze (b1, one)
        b2_row = Unsqueeze (b2, one)
        {rows}
        {weights.product_lines("rounded", "w1", "product1", scales[0], 0)}
        {activate(activation, "product1", "b1_row", "hidden")}
        {chunked_product("hidden", "w2", "product2", weights, scales[1], chunks)}
        exact = Add (product2, b2_row)
        {round_bf16_lines("exact", "out", dispatch_bf16)}
        """,
    )


def attention(bf16: bool, given: Collection[str]) -> str:
    """VmoeAttention; with `bf16`, what enters its two products is rounded."""
    score, by_size = ("alike", _BY_SIZE) if "sizes" in given else ("scores", "")
    products = _ATTENTION_FLOAT32.format(score=score, by_size=by_size)
    if bf16:
        products = _ATTENTION_BF16.format(
            score=score,
            by_size=by_size,
            round_q=round_bf16_lines("q_heads", "q_narrow", True),
            round_k=round_bf16_lines("k_heads", "k_narrow", True),
            round_v=round_bf16_lines("v_heads", "v_narrow", True),
            round_exp=round_bf16_lines("exp", "exp_narrow", True),
        )
    return _body("VmoeAttention", FLOAT32, _ATTENTION.format(products=products), given)


def rotate() -> str:
    """VmoeRotate."""
    return _body("VmoeRotate", FLOAT32, _ROTATE)


def attention_block(weights: WeightType, given: Collection[str], class_token: bool) -> str:
    """VmoeAttentionBlock, or VmoeClassAttentionBlock; attention is bfloat16 where weights are shorter than float32.

    With merging the former ends in VmoeMerge.
    """
    merging, rotation = (inputs[0] in given for inputs in (MERGING_INPUTS, ROTATION_INPUTS))
    mixed = "raw" if MIXED_NORM_INPUTS[0] in given else "mixed"
    bf16 = int(weights is not FLOAT32)
    x, asking = ("x_first", "normed_first") if class_token else ("x", "normed")
    q, k = ("q_turned", "k_turned") if rotation else ("q", "k")
    own = "own_coordinates" if class_token else "coordinates"
    turned = f"""
        {"own_coordinates = Gather <axis = 1> (coordinates, first)" if class_token else ""}
        q_turned = vmoe.VmoeRotate <num_heads: int = @num_heads> (q, {own}, frequencies)
        k_turned = vmoe.VmoeRotate <num_heads: int = @num_heads> (k, coordinates, frequencies)
    """
    first = "first = Constant <value_ints = [0]> ()\n" + "\n".join(
        f"{name}_first = Gather <axis = 1> ({name}, first)" for name in ("x", "normed")
    )
    end = f"y = Add ({x}, o)"
    if merging and not class_token:
        end = """
        whole = Add (x, o)
        y, merged_sizes, merged_tokenCOORDINATES =
            vmoe.VmoeMerge <num_heads: int = @num_heads, prefix: int = @prefix> (whole, KEYS, MERGING)
        """
        carried = (*MERGING_INPUTS, *(("coordinates",) if rotation else ()))
        end = end.replace("MERGING", ", ".join(carried)).replace("KEYS", k)
        end = end.replace("COORDINATES", ", merged_coordinates" if rotation else "")
    return _body(
        "VmoeClassAttentionBlock" if class_token else "VmoeAttentionBlock",
        weights,
        f"""
        {_block_norm(given)}
        {first if class_token else ""}
        {_linear_node(asking, "q", weights)}
        {_linear_node("normed", "k", weights)}
        {_linear_node("normed", "v", weights)}
        {turned if rotation else ""}
        {mixed} =
            vmoe.VmoeAttention <num_heads: int = @num_heads, bf16 = {bf16}> ({q}, {k}, v{", sizes" if merging else ""})
        {norm_lines("raw", "mixed", *MIXED_NORM_INPUTS) if mixed == "raw" else ""}
        {_linear_node("mixed", "o", weights)}
        {end}
        """,
        given,
    )


def mlp_block(weights: WeightType, activation: Activation, given: Collection[str]) -> str:
    """VmoeMlpBlock."""
    inputs = ", ".join(["normed", *input_names("VmoeDenseMlp", weights, given)[1:]])
    return _body(
        "VmoeMlpBlock",
        weights,
        f"""
        {_block_norm(given)}
        out = vmoe.VmoeDenseMlp <{_handed_on("VmoeDenseMlp", activation)}> ({inputs})
        y = Add (x, out)
        """,
        given,
    )


def router_block(given: Collection[str]) -> str:
    """VmoeRouterBlock, float32 always."""
    return _body(
        "VmoeRouterBlock",
        FLOAT32,
        f"""
        {_block_norm(given)}
        logits = MatMul (normed, router)
        gates = Softmax <axis = -1> (logits)
        slot, weight, src, expert = vmoe.VmoeRoute ({", ".join(input_names("VmoeRoute", FLOAT32, given))})
        """,
        given,
    )


def expert_block(weights: WeightType, activation: Activation) -> str:
    """VmoeExpertBlock."""
    return _body(
        "VmoeExpertBlock",
        weights,
        f"""
        {_block_norm(USUAL_INPUTS)}
        buf = vmoe.VmoeDispatch (normed, src)
        {_expert_mlp_node(weights, activation)}
        combined = vmoe.VmoeCombine (out, slot, weight)
        y = Add (x, combined)
        """,
    )


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

_ROTATE = """
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

# The sum of the softmax is that of the exponentials before they are rounded, and divides after the second product.
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


def _body(op: str, weights: WeightType, lines: str, given: Collection[str] = USUAL_INPUTS) -> str:
    outputs = [
        value.name
        for value in OPS[op].outputs
        if not value.name.startswith("merged_") or {MERGE, value.name.removeprefix("merged_")} <= {*given}
    ]
    return f"{op} ({', '.join(input_names(op, weights, given))}) => ({', '.join(outputs)}) {{ {lines} }}"


def _block_norm(given: Collection[str]) -> str:
    return norm_lines("x", "normed", "ln_scale", "ln_bias" if "ln_bias" in given else "")


def _linear_node(x: str, which: str, weights: WeightType) -> str:
    scale = f", w{which}_scale" if weights.scales else ""
    return f"{which} = vmoe.VmoeLinear ({x}, w{which}, b{which}{scale})"


def _expert_mlp_node(weights: WeightType, activation: Activation) -> str:
    inputs = ", ".join(input_names("VmoeExpertMlp", weights))
    lines = ""
    if not weights.enters_functions:
        lines = "w1_same = Identity (w1)\nw2_same = Identity (w2)\n"
        inputs = inputs.replace("w1,", "w1_same,").replace("w2,", "w2_same,")
    return f"{lines}out = vmoe.VmoeExpertMlp <{_handed_on('VmoeExpertMlp', activation)}> ({inputs})"


def _handed_on(op: str, activation: Activation) -> str:
    """The attributes of a node of the op, as its caller has them."""
    return ", ".join(f"{name}: int = @{name}" for name in written_attributes(OPS[op], activation))
