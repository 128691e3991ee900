"""The ops of the ONNX domain `vmoe`, version 1: declared here once.

The ONNX functions, the torch ops, the numpy reference and the C++ adapters are all held to this table.

Dimensions: G groups, S tokens per group, D hidden size, E experts, F expert hidden size, K experts per token,
c places per expert and group, M = G * c. In the dense layers N images, T tokens per image, Q queries per image (T in
self-attention) and P outputs.

The ops of the MoE layer are the model's own; VmoeRouteDispatch is VmoeRoute and VmoeDispatch in one, for runtimes in which
every op costs a launch. The dense layers are ops as well, so that one library runs a whole block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

DOMAIN = "vmoe"
VERSION = 1
PLUGIN_ATTRIBUTES = {"plugin_namespace": "vmoe", "plugin_version": "1"}
"""Attributes of every vmoe node of a main graph: TensorRT's parser needs both to prefer a plugin over a function."""

ElementType = Literal["float", "fp16", "bf16", "i8", "i32", "i64"]
ValueType = Literal["float", "i32", "i64", "W", "T", "R"]

ELEMENT_TYPES: Mapping[ValueType, tuple[ElementType, ...]] = {
    "float": ("float",),
    "i32": ("i32",),
    "i64": ("i64",),
    "W": ("float", "bf16", "i8"),
    "T": ("float", "fp16", "bf16"),
    "R": ("float", "fp16", "bf16"),
}
"""The element types that a value may have. W, T and R are type variables: all values of one of them have the same type.

W is the type of the expert weights and decides how experts compute. With bf16, what enters each of the two products is
rounded to bfloat16 (to nearest, ties to even) as well; products accumulate in float32, and biases, GELU and the output are
float32. Routing reads tokens that are not rounded.

T is the type of tokens, R that of gates, and neither is computed in: routing compares the exact values of the gates and
hands their bits on as weights, dispatch copies the bits of tokens, and combine multiplies and adds in float32 and rounds its
sums to T once, to nearest with ties to even.
"""


Types = dict[ValueType, ElementType]


@dataclass(frozen=True)
class Value:
    """An input or output of an op: its type, a key of ELEMENT_TYPES, and symbolic shape."""

    name: str
    type: ValueType
    dims: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Op:
    """One op: its inputs and outputs in order, its INT attributes with their defaults, and which types go together."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, int] = field(default_factory=dict)
    takes: Callable[[Types], bool] = lambda types: True

    @property
    def type_choices(self) -> list[Types]:
        """Every choice of element types that the op takes: for each of its value types, such as T, the element type."""
        used = list(dict.fromkeys(value.type for value in (*self.inputs, *self.outputs)))
        products = itertools.product(*(ELEMENT_TYPES[name] for name in used))
        return [types for types in (dict(zip(used, product, strict=True)) for product in products) if self.takes(types)]

    @property
    def torch_name(self) -> str:
        """Name of the torch custom op, such as `vmoe::sparse_mlp`."""
        words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.name)
        return f"{DOMAIN}::{words.removeprefix('_vmoe_')}"

    def output_shapes(
        self, input_shapes: Sequence[tuple[int, ...]], *, capacity: int = 0, k: int = 0
    ) -> list[tuple[int, ...]]:
        """The shape rule: output shapes for given input shapes.

        Args:
            input_shapes: shapes of the inputs, in order.
            capacity: c, for ops that take it.
            k: K, for ops that take it.

        Raises:
            ValueError: inputs whose shapes contradict each other, or a setting out of range.
        """
        sizes: dict[str, int] = {}
        for value, shape in zip(self.inputs, input_shapes, strict=False):
            if len(shape) != len(value.dims):
                raise ValueError(f"{self.name}: {value.name} has {len(shape)} dimensions, not {len(value.dims)}")
            for dim, size in zip(value.dims, shape, strict=True):
                expected = int(dim) if dim.isdecimal() else sizes.setdefault(dim, size)
                if size != expected:
                    raise ValueError(f"{self.name}: {value.name} has shape {shape}, but {dim} is {expected} elsewhere")
        if any(value.name == "k" and value.type == "i64" for value in self.inputs):
            if not 1 <= k <= sizes["E"]:
                raise ValueError(f"{self.name}: k must be between 1 and the number of experts, {sizes['E']}, not {k}")
            sizes["K"] = k
        if any(value.name == "capacity" for value in self.inputs):
            if capacity < 1:
                raise ValueError(f"{self.name}: capacity must be at least 1, not {capacity}")
            sizes["M"] = sizes["G"] * capacity
        return [tuple(sizes[dim] for dim in value.dims) for value in self.outputs]


_SETTINGS = (Value("capacity", "i64", ("1",)), Value("k", "i64", ("1",)), Value("bpr", "i64", ("1",)))
_EXPERT_WEIGHTS = (
    Value("w1", "W", ("E", "D", "F")),
    Value("b1", "float", ("E", "F")),
    Value("w2", "W", ("E", "F", "D")),
    Value("b2", "float", ("E", "D")),
)
_EXPERT_SCALES = (
    Value("w1_scale", "float", ("E", "F"), optional=True),
    Value("w2_scale", "float", ("E", "D"), optional=True),
)
_MLP_WEIGHTS = (
    Value("w1", "W", ("D", "F")),
    Value("b1", "float", ("F",)),
    Value("w2", "W", ("F", "D")),
    Value("b2", "float", ("D",)),
)
_MLP_SCALES = (
    Value("w1_scale", "float", ("F",), optional=True),
    Value("w2_scale", "float", ("D",), optional=True),
)
_LAYER_NORM = (Value("ln_scale", "float", ("D",)), Value("ln_bias", "float", ("D",)))
_GATES = Value("gates", "R", ("G", "S", "E"))
_TOKENS = Value("x", "T", ("G", "S", "D"))
_SLOT = Value("slot", "i32", ("G", "S", "K"))
_WEIGHT = Value("weight", "R", ("G", "S", "K"))
_SRC = Value("src", "i32", ("E", "M"))
_BUF = Value("buf", "T", ("E", "M", "D"))

OPS: Mapping[str, Op] = {
    op.name: op
    for op in (
        Op(
            "VmoeSparseMlp",
            (
                Value("x", "float", ("G", "S", "D")),
                Value("router", "float", ("D", "E")),
                *_EXPERT_WEIGHTS,
                *_SETTINGS,
                *_EXPERT_SCALES,
            ),
            (
                Value("y", "float", ("G", "S", "D")),
                Value("slot", "i32", ("G", "S", "K"), optional=True),
                Value("weight", "float", ("G", "S", "K"), optional=True),
            ),
            {"dispatch_bf16": 0, "hidden_chunk": 0},
        ),
        Op("VmoeRoute", (_GATES, *_SETTINGS), (_SLOT, _WEIGHT, _SRC)),
        Op("VmoeDispatch", (_TOKENS, _SRC), (_BUF,)),
        Op("VmoeRouteDispatch", (_GATES, _TOKENS, *_SETTINGS), (_SLOT, _WEIGHT, _BUF)),
        Op(
            "VmoeExpertMlp",
            (Value("buf", "float", ("E", "M", "D")), *_EXPERT_WEIGHTS, *_EXPERT_SCALES),
            (Value("out", "float", ("E", "M", "D")),),
            {"dispatch_bf16": 0, "hidden_chunk": 0},
        ),
        Op(
            "VmoeCombine",
            (Value("out", "T", ("E", "M", "D")), _SLOT, _WEIGHT),
            (Value("y", "T", ("G", "S", "D")),),
            takes=lambda types: types["R"] in ("float", types["T"]),
        ),
        Op(
            "VmoeLinear",
            (
                Value("x", "float", ("N", "T", "D")),
                Value("w", "W", ("D", "P")),
                Value("b", "float", ("P",)),
                Value("w_scale", "float", ("P",), optional=True),
            ),
            (Value("y", "float", ("N", "T", "P")),),
        ),
        Op(
            "VmoeDenseMlp",
            (Value("x", "float", ("N", "T", "D")), *_MLP_WEIGHTS, *_MLP_SCALES),
            (Value("y", "float", ("N", "T", "D")),),
            {"hidden_chunk": 0},
        ),
        Op(
            "VmoeAttention",
            (
                Value("q", "float", ("N", "Q", "D")),
                Value("k", "float", ("N", "T", "D")),
                Value("v", "float", ("N", "T", "D")),
            ),
            (Value("y", "float", ("N", "Q", "D")),),
            {"num_heads": 1, "bf16": 0},
        ),
        Op(
            "VmoeAttentionBlock",
            (
                Value("x", "float", ("N", "T", "D")),
                *_LAYER_NORM,
                *(
                    value
                    for name in "qkvo"
                    for value in (Value(f"w{name}", "W", ("D", "D")), Value(f"b{name}", "float", ("D",)))
                ),
                *(Value(f"w{name}_scale", "float", ("D",), optional=True) for name in "qkvo"),
            ),
            (Value("y", "float", ("N", "T", "D")),),
            {"num_heads": 1},
        ),
        Op(
            "VmoeMlpBlock",
            (Value("x", "float", ("N", "T", "D")), *_LAYER_NORM, *_MLP_WEIGHTS, *_MLP_SCALES),
            (Value("y", "float", ("N", "T", "D")),),
            {"hidden_chunk": 0},
        ),
        Op(
            "VmoeRouterBlock",
            (Value("x", "float", ("G", "S", "D")), *_LAYER_NORM, Value("router", "float", ("D", "E")), *_SETTINGS),
            (_SLOT, Value("weight", "float", ("G", "S", "K")), _SRC),
        ),
        Op(
            "VmoeExpertBlock",
            (
                Value("x", "float", ("G", "S", "D")),
                *_LAYER_NORM,
                _SLOT,
                Value("weight", "float", ("G", "S", "K")),
                _SRC,
                *_EXPERT_WEIGHTS,
                *_EXPERT_SCALES,
            ),
            (Value("y", "float", ("G", "S", "D")),),
            {"dispatch_bf16": 0, "hidden_chunk": 0},
        ),
    )
}
