"""The ops of the ONNX domain `vmoe`, version 1: declared here once.

The ONNX functions, the numpy reference and the C++ adapters are all held to this table.

Dimensions: G groups, S tokens per group, D hidden size, E experts, F expert hidden size, K experts per token,
c slots per expert and group, M slots per expert: G * c, or with a pool what the fullest expert needs. With Soft MoE P
slots per expert and group, M = G * P. In the dense layers N images, T tokens per image, Q queries per image (T in
self-attention), P outputs, O tokens of an image before any was merged and U those that merging leaves of T; C coordinates of
a token and A pairs of a head's columns.

The ops of the MoE layer are the model's own; VmoeRouteDispatch is VmoeRoute and VmoeDispatch in one, and VmoeGates a
router's product and softmax, for runtimes in which every op costs a launch. The dense layers are ops as well, and so
are the blocks of an encoder, each with the LayerNormalization before it (with `LAYER_NORM_EPSILON`): VmoeAttentionBlock,
VmoeMlpBlock and VmoeExpertBlock include the residual, VmoeRouterBlock is the router and VmoeRoute. VmoeClassAttentionBlock
is VmoeAttentionBlock for the first token of each image alone, which asks all tokens. VmoeMerge makes one token of each of
the `merge` pairs with the likest keys; with its inputs VmoeAttentionBlock ends in it. VmoeRotate turns the
pairs of columns of each head by the angles coordinates . frequencies; with these inputs
VmoeAttentionBlock and VmoeClassAttentionBlock do so to queries and keys, and merged tokens have the mean of coordinates.

Without ln_bias the norm of a block is that of the root of the mean square: nothing is subtracted. With mixed_ln_scale and
mixed_ln_bias what attention gives is normed before its projection. With wg and bg an MLP is gated, activation(x . wg + bg) *
(x . w1 + b1); with hidden_ln_scale and hidden_ln_bias its hidden features are normed before the last product. These two are
LayerNormalizations.

VmoeChooseTokens is experts choice: VmoeExpertBlock takes its slots, with K = E and the gates as weights. In Soft MoE
VmoeSoftRouter, VmoeSoftDispatch and VmoeSoftCombine stand around VmoeExpertMlp: slots are mixtures of a group's tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from vmoe_export.weight_types import WEIGHT_TYPES
from vmoe_runtime.settings import MERGE, OFFICIAL_SETTINGS, POLICIES

DOMAIN = "vmoe"
VERSION = 1
OPSET = 20
IR_VERSION = 10
LAYER_NORM_EPSILON = 1e-6
MERGE_EPSILON = 1e-12
"""Under the root of the lengths that VmoeMerge divides keys by."""
SOFT_EPSILON = 1e-6
"""Under the root of the lengths that VmoeSoftRouter divides by."""

Activation = Literal["gelu_tanh", "gelu_erf", "gelu_quick", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
"""Of what an MLP's first product gives, or with a gate that of the gate, by the value of its attribute `activation`: GELU in
its tanh approximation, the exact x / 2 * (1 + erf(x / sqrt(2))), x * sigmoid(1.702 x), and x * sigmoid(x)."""
SIGMOID_SLOPES: Mapping[Activation, float] = {"gelu_quick": 1.702, "silu": 1.0}
"""Of the activations x * sigmoid(slope * x)."""

PLUGIN_ATTRIBUTES = {"plugin_namespace": "vmoe", "plugin_version": "1"}
"""Attributes of every vmoe node of a main graph: TensorRT's parser needs both to prefer a plugin over a function."""

ElementType = Literal["float", "fp16", "bf16", "i8", "i4", "i32", "i64"]
ValueType = Literal["float", "i32", "i64", "W", "Q", "T"]

ELEMENT_TYPES: Mapping[ValueType, tuple[ElementType, ...]] = {
    "float": ("float",),
    "i32": ("i32",),
    "i64": ("i64",),
    "W": tuple(WEIGHT_TYPES),
    "Q": ("float", "fp16"),
    "T": ("float", "fp16", "bf16"),
}
"""The element types that a value may have. W, Q and T are type variables: all values of one of them have the same type.

W is the type of weights and decides how their products compute; biases, GELU, softmax, LayerNormalization and outputs are
float32. With bf16, what enters a product is rounded to bfloat16 (to nearest, ties to even) as well, and sums are float32.
With i8, a column of weights is its integers times its scale, what enters a product is rounded to integers of -127 to 127
times a scale of the row, and sums are exact int32. With i4, which experts may have, a column has a scale for each group of
64 along the depth: the exact int32 sums of a group times it are added up in float32, in the order of the groups, and the
total is multiplied by the scale of the row. Routing reads tokens that are not rounded.

Q is the type of scales: float16 beside i4, else float32.

T is the type of tokens, which is not computed in: dispatch copies their bits, and combine multiplies and adds in float32 and
rounds its sums to T once, to nearest with ties to even. Gates are float32: rounded ones may choose another expert.
"""


Types = dict[ValueType, ElementType]


@dataclass(frozen=True)
class AttributeRule:
    """The values that an INT attribute may have: `minimum` to `maximum`, None for no bound.

    `divides` names the dimension that the attribute, if it isn't 0, divides. With `only_quantized` it is 0 where weights are
    neither i8 nor i4.
    """

    minimum: int
    maximum: int | None = None
    divides: str = ""
    only_quantized: bool = False


ATTRIBUTE_RULES: Mapping[str, AttributeRule] = {
    "dispatch_bf16": AttributeRule(0, 1),
    "bf16": AttributeRule(0, 1),
    "prefix": AttributeRule(0),
    "num_heads": AttributeRule(1, divides="D"),
    "hidden_chunk": AttributeRule(0, divides="F", only_quantized=True),
    "activation": AttributeRule(0, len(ACTIVATIONS) - 1),
}
"""By name, for every op that has the attribute.

dispatch_bf16: tokens are rounded to bfloat16 on their way to the experts and back. bf16: the two products of attention take
bfloat16. prefix: so many tokens at the front of an image, such as the classifier's, are never merged. hidden_chunk: the
second product of an MLP cuts its depth F into chunks of so many, each with a scale of its own for a row; 0 is one chunk.
activation: the index in ACTIVATIONS; graphs don't say 0.
"""


@dataclass(frozen=True)
class Value:
    """An input or output of an op: its type, a key of ELEMENT_TYPES, and symbolic shape.

    With `optional` a node may do without it: without scales, policies, or an output that nobody asks for.
    `scale_of` names the weights whose scales it holds, one for each column: it is there where they are i8 or i4, and only
    there. `grouped_dims` is its shape beside i4: H groups along D, J along F.
    """

    name: str
    type: ValueType
    dims: tuple[str, ...]
    optional: bool = False
    scale_of: str = ""
    grouped_dims: tuple[str, ...] = ()


@dataclass(frozen=True)
class Op:
    """One op: its inputs and outputs in order, and its INT attributes with their defaults."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, int] = field(default_factory=dict)

    def _fits(self, types: Types) -> bool:
        """Whether weights and scales go together; only those of experts have scales by group."""
        kind = next((kind for name, kind in WEIGHT_TYPES.items() if name == types.get("W")), None)
        if kind and kind.group and not any(value.grouped_dims for value in self.inputs):
            return False
        return kind is None or "Q" not in types or types["Q"] == ("fp16" if kind.scales == "F16" else "float")

    @property
    def type_choices(self) -> list[Types]:
        """Every choice of element types that the op takes: for each of its value types, such as T, the element type."""
        used = list(dict.fromkeys(value.type for value in (*self.inputs, *self.outputs)))
        products = itertools.product(*(ELEMENT_TYPES[name] for name in used))
        return [types for types in (dict(zip(used, product, strict=True)) for product in products) if self._fits(types)]


def _f(name: str, *dims: str) -> Value:
    return Value(name, "float", dims)


def _left_out(value: Value) -> Value:
    """The value where a node may do without it."""
    return replace(value, optional=True)


def _scale(weight: Value) -> Value:
    *matrices, depth, columns = weight.dims
    grouped = (*matrices, {"D": "H", "F": "J"}[depth], columns) if matrices else ()
    name, dims = f"{weight.name}_scale", (*matrices, columns)
    return Value(name, "Q", dims, optional=True, scale_of=weight.name, grouped_dims=grouped)


_SETTINGS = tuple(Value(name, "i64", ("1",)) for name in OFFICIAL_SETTINGS)
_POLICIES = tuple(Value(name, "i64", ("1",), optional=True) for name in POLICIES)
_IMAGE_X, _IMAGE_Y = _f("x", "N", "T", "D"), _f("y", "N", "T", "D")
_GROUP_X, _GROUP_Y = _f("x", "G", "S", "D"), _f("y", "G", "S", "D")
_GATES = _f("gates", "G", "S", "E")
_TOKENS = Value("x", "T", ("G", "S", "D"))
_SLOT = Value("slot", "i32", ("G", "S", "K"))
_WEIGHT = _f("weight", "G", "S", "K")
_SRC = Value("src", "i32", ("E", "M"))
_EXPERT = Value("expert", "i32", ("G", "S", "K"), optional=True)
_BUF = Value("buf", "T", ("E", "M", "D"))

_W = Value("w", "W", ("D", "P"))
_W1, _W2 = Value("w1", "W", ("D", "F")), Value("w2", "W", ("F", "D"))
_GATE = Value("wg", "W", ("D", "F"), optional=True)
_MLP = (
    *(_W1, _f("b1", "F"), _W2, _f("b2", "D"), _scale(_W1), _scale(_W2)),
    *(_GATE, _left_out(_f("bg", "F")), _scale(_GATE)),
    *(_left_out(_f(f"hidden_ln_{what}", "F")) for what in ("scale", "bias")),
)
_EXPERT_W1, _EXPERT_W2 = Value("w1", "W", ("E", "D", "F")), Value("w2", "W", ("E", "F", "D"))
_EXPERTS, _EXPERT_SCALES = (
    (_EXPERT_W1, _f("b1", "E", "F"), _EXPERT_W2, _f("b2", "E", "D")),
    (_scale(_EXPERT_W1), _scale(_EXPERT_W2)),
)
_SIZES, _TOKEN = _f("sizes", "N", "T"), Value("token", "i32", ("N", "O"))
_MERGING = (_SIZES, _TOKEN, Value(MERGE, "i64", ("1",)))
_ROTATION = (_f("coordinates", "N", "T", "C"), _f("frequencies", "C", "A"))
_MERGED = (
    _f("y", "N", "U", "D"),
    _f("merged_sizes", "N", "U"),
    Value("merged_token", "i32", ("N", "O")),
    _left_out(_f("merged_coordinates", "N", "U", "C")),
)
_SHARES = tuple(_f(name, "G", "S", "E", "P") for name in ("dispatch", "combine"))
_PROJECTIONS = tuple(Value(name, "W", ("D", "D")) for name in ("wq", "wk", "wv", "wo"))
_NORM = (_f("ln_scale", "D"), _f("ln_bias", "D"))
_ANY_NORM = (_NORM[0], _left_out(_NORM[1]))
_ATTENTION_BLOCK = (
    _IMAGE_X,
    *_ANY_NORM,
    *(value for weight in _PROJECTIONS for value in (weight, _f(f"b{weight.name[1]}", "D"))),
    *map(_left_out, _MERGING),
    *(_scale(weight) for weight in _PROJECTIONS),
    *map(_left_out, _ROTATION),
    *(_left_out(_f(f"mixed_ln_{what}", "D")) for what in ("scale", "bias")),
)
_ROUTER = _f("router", "D", "E")
_MLP_ATTRIBUTES = {"hidden_chunk": 0, "activation": 0}
_EXPERT_ATTRIBUTES = {"dispatch_bf16": 0, **_MLP_ATTRIBUTES}

OPS: Mapping[str, Op] = {
    op.name: op
    for op in (
        Op("VmoeGates", (_GROUP_X, _ROUTER), (_GATES,)),
        Op("VmoeRoute", (_GATES, *_SETTINGS, *_POLICIES), (_SLOT, _WEIGHT, _SRC, _EXPERT)),
        Op("VmoeDispatch", (_TOKENS, _SRC), (_BUF,)),
        Op("VmoeRouteDispatch", (_GATES, _TOKENS, *_SETTINGS), (_SLOT, _WEIGHT, _BUF)),
        Op(
            "VmoeExpertMlp",
            (_f("buf", "E", "M", "D"), *_EXPERTS, *_EXPERT_SCALES),
            (_f("out", "E", "M", "D"),),
            _EXPERT_ATTRIBUTES,
        ),
        Op(
            "VmoeCombine",
            (Value("out", "T", ("E", "M", "D")), _SLOT, _WEIGHT),
            (Value("y", "T", ("G", "S", "D")),),
        ),
        Op("VmoeLinear", (_IMAGE_X, _W, _f("b", "P"), _scale(_W)), (_f("y", "N", "T", "P"),)),
        Op("VmoeDenseMlp", (_IMAGE_X, *_MLP), (_IMAGE_Y,), _MLP_ATTRIBUTES),
        Op(
            "VmoeAttention",
            (_f("q", "N", "Q", "D"), _f("k", "N", "T", "D"), _f("v", "N", "T", "D"), _left_out(_SIZES)),
            (_f("y", "N", "Q", "D"),),
            {"num_heads": 1, "bf16": 0},
        ),
        Op("VmoeRotate", (_IMAGE_X, *_ROTATION), (_IMAGE_Y,), {"num_heads": 1}),
        Op(
            "VmoeAttentionBlock",
            _ATTENTION_BLOCK,
            (_MERGED[0], *map(_left_out, _MERGED[1:])),
            {"num_heads": 1, "prefix": 0},
        ),
        Op("VmoeClassAttentionBlock", _ATTENTION_BLOCK, (_f("y", "N", "1", "D"),), {"num_heads": 1}),
        Op(
            "VmoeMerge",
            (_IMAGE_X, _f("k", "N", "T", "D"), *_MERGING, _left_out(_ROTATION[0])),
            _MERGED,
            {"num_heads": 1, "prefix": 0},
        ),
        Op("VmoeMlpBlock", (_IMAGE_X, *_ANY_NORM, *_MLP), (_IMAGE_Y,), _MLP_ATTRIBUTES),
        Op(
            "VmoeRouterBlock",
            (_GROUP_X, *_NORM, _ROUTER, *_SETTINGS, *_POLICIES),
            (_SLOT, _WEIGHT, _SRC, _EXPERT),
        ),
        Op(
            "VmoeExpertBlock",
            (_GROUP_X, *_NORM, _SLOT, _WEIGHT, _SRC, *_EXPERTS, *_EXPERT_SCALES),
            (_GROUP_Y,),
            _EXPERT_ATTRIBUTES,
        ),
        Op("VmoeChooseTokens", (_GATES, _SETTINGS[0]), (Value("slot", "i32", ("G", "S", "E")), _SRC)),
        Op("VmoeSoftRouter", (_GROUP_X, _f("mu", "D", "E", "P"), _f("scale")), _SHARES),
        Op("VmoeSoftDispatch", (_GROUP_X, _SHARES[0]), (_f("buf", "E", "M", "D"),), {"dispatch_bf16": 0}),
        Op("VmoeSoftCombine", (_f("out", "E", "M", "D"), _SHARES[1]), (_GROUP_Y,), {"dispatch_bf16": 0}),
    )
}
