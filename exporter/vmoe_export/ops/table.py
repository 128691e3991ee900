"""The table of the ops in the ONNX domain `vmoe`, version 1.

The ONNX functions, the numpy reference and the C++ adapters must all match this table.

Dimensions of the MoE layer:

- G groups, S tokens per group, D hidden size, E experts, F hidden size of an expert, K experts per token,
- c slots per expert and group; with Soft MoE, P slots per expert and group,
- M slots per expert: G * c. With a pool, M is the number of slots that the fullest expert needs. With Soft MoE, M is G * P.

Dimensions of the dense layers:

- N images, T tokens per image, Q queries per image (T in self-attention), P outputs,
- O tokens of an image before any merging, and U tokens left of T after one merging,
- C coordinates of a token, and A pairs of columns in a head.

Ops of the MoE layer:

- VmoeRoute, VmoeDispatch, VmoeExpertMlp and VmoeCombine are its steps.
- VmoeGates is the router's product and softmax. VmoeRouteDispatch is VmoeRoute and VmoeDispatch in one op. VmoeGates and
  VmoeRouteDispatch are for runtimes in which each op costs a launch.
- VmoeChooseTokens is expert choice. VmoeExpertBlock takes the resulting slots, with K = E and the gates as weights.
- VmoeSoftRouter, VmoeSoftDispatch and VmoeSoftCombine are Soft MoE, whose slots are mixtures of a group's tokens. They take
  the place of the steps before and after VmoeExpertMlp.

Blocks of an encoder start with their layer norm, whose epsilon is `LAYER_NORM_EPSILON`:

- VmoeAttentionBlock, VmoeMlpBlock and VmoeExpertBlock include the residual. VmoeRouterBlock is the router and VmoeRoute.
- VmoeClassAttentionBlock is VmoeAttentionBlock for only the first token of each image, which attends to all tokens.
- Without ln_bias, the norm of a block is an RMS norm.

Optional parts of the dense layers:

- VmoeMerge merges the `merge` pairs of tokens with the most similar keys. If VmoeAttentionBlock has the inputs of VmoeMerge,
  it ends with VmoeMerge.
- VmoeRotate rotates the pairs of columns of each head by the angles coordinates . frequencies. If an attention block has the
  inputs coordinates and frequencies, it rotates queries and keys. A merged token gets the mean of the coordinates.
- With mixed_ln_scale and mixed_ln_bias, a LayerNormalization follows attention, before its projection.
- With wg and bg, an MLP is gated: activation(x . wg + bg) * (x . w1 + b1).
- With hidden_ln_scale and hidden_ln_bias, a LayerNormalization of an MLP's hidden features precedes its last product.
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
"""Added to the squared length of a key before VmoeMerge normalizes it."""
SOFT_EPSILON = 1e-6
"""Added to the squared lengths of the vectors that VmoeSoftRouter normalizes."""

Activation = Literal["gelu_tanh", "gelu_erf", "gelu_quick", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
"""The activations of an MLP's first product, or with a gate of the gate's, by the value of the attribute `activation`:

- gelu_tanh: GELU in its tanh approximation,
- gelu_erf: the exact GELU, x / 2 * (1 + erf(x / sqrt(2))),
- gelu_quick: x * sigmoid(1.702 x),
- silu: x * sigmoid(x).
"""
SIGMOID_SLOPES: Mapping[Activation, float] = {"gelu_quick": 1.702, "silu": 1.0}
"""The slope of each activation of the form x * sigmoid(slope * x)."""

PLUGIN_ATTRIBUTES = {"plugin_namespace": "vmoe", "plugin_version": "1"}
"""Attributes of every vmoe node in a main graph. TensorRT's parser needs both to prefer a plugin over a function."""

ElementType = Literal["float", "fp16", "bf16", "i8", "i4", "i32", "i64"]
ValueType = Literal["float", "i32", "i64", "W", "Q", "T"]

CPP_TYPES: Mapping[ElementType, str] = {
    "float": "Float32",
    "fp16": "Float16",
    "bf16": "Bfloat16",
    "i8": "Int8",
    "i4": "Int4",
    "i32": "Int32",
    "i64": "Int64",
}
"""The names of the element types in plugins/core/element_type.h, without `k`."""

ELEMENT_TYPES: Mapping[ValueType, tuple[ElementType, ...]] = {
    "float": ("float",),
    "i32": ("i32",),
    "i64": ("i64",),
    "W": tuple(WEIGHT_TYPES),
    "Q": ("float", "fp16"),
    "T": ("float", "fp16", "bf16"),
}
"""The element types that a value may have. W, Q and T are type variables: in a node, all values of one variable have the
same type.

W is the type of weights, and decides how products with them are computed. Biases, activations, softmax, LayerNormalization
and outputs are float32. Routing reads tokens that are not rounded.

- bf16: the other factor of a product is rounded to bfloat16 too (to nearest, ties to even). Sums are float32.
- i8: each column of weights is integers times a scale. Each row of the other factor is rounded to integers from -127 to 127
  times a scale. Sums are exact int32.
- i4, for experts only: each column of weights has a scale for every group of 64 along the depth. The exact int32 sum of a
  group is multiplied by that scale. These terms are added in float32, in the order of the groups, and the total is
  multiplied by the scale of the row.

Q is the type of scales: float16 with i4, otherwise float32.

T is the type of tokens. Nothing is computed in it: dispatch copies bits, and combine computes in float32 and rounds its sums
to T once, to nearest with ties to even. Gates are always float32, because rounded ones may choose another expert.
"""


Types = dict[ValueType, ElementType]


@dataclass(frozen=True)
class AttributeRule:
    """The values that an INT attribute may have.

    Attributes:
        minimum: the smallest value.
        maximum: the largest value; None for no bound.
        divides: name of a dimension. The attribute must be 0 or divide this dimension. "" means that there is no such rule.
        only_quantized: whether the attribute must be 0 unless weights are i8 or i4.
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
"""The rule of each attribute, for all ops that have it.

- dispatch_bf16: round tokens to bfloat16 on their way to the experts and back.
- bf16: round the inputs of attention's two products to bfloat16.
- prefix: number of tokens at the front of an image, such as the class token, that never merge.
- num_heads: number of attention heads.
- hidden_chunk: size of the chunks that the depth F of an MLP's second product is split into. Each chunk of a row has its own
  scale. 0 means one chunk.
- activation: an index of ACTIVATIONS. Graphs omit it if it is 0.
"""


@dataclass(frozen=True)
class Value:
    """An input or output of an op.

    Attributes:
        name: name of the input or output.
        type: a key of ELEMENT_TYPES.
        dims: symbolic shape of the input or output.
        optional: whether a node may omit it. Examples are scales, policies and unused outputs.
        scale_of: the name of the weights if this input holds their scales, one per column; otherwise "". The scales are
            present if and only if the weights are i8 or i4.
        grouped_dims: symbolic shape of the scales if the weights are i4. In this shape, H is the number of groups along D,
            and J is the number of groups along F.
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
        """Return whether the types of weights and scales match.

        Scales per group are possible only for the weights of experts.
        """
        kind = next((kind for name, kind in WEIGHT_TYPES.items() if name == types.get("W")), None)
        if kind and kind.group and not any(value.grouped_dims for value in self.inputs):
            return False
        return kind is None or "Q" not in types or types["Q"] == ("fp16" if kind.scales == "F16" else "float")

    @property
    def type_choices(self) -> list[Types]:
        """All combinations of element types that the op accepts.

        Each combination maps every value type of the op, such as T, to an element type.
        """
        used = list(dict.fromkeys(value.type for value in (*self.inputs, *self.outputs)))
        products = itertools.product(*(ELEMENT_TYPES[name] for name in used))
        return [types for types in (dict(zip(used, product, strict=True)) for product in products) if self._fits(types)]


def _f(name: str, *dims: str) -> Value:
    return Value(name, "float", dims)


def _left_out(value: Value) -> Value:
    """Return the value as an optional value."""
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
