"""The one-node models that `random_calls` runs. They cover every op, in valid and in invalid nodes."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx
from moe_calls import MOE_OPS, token_types
from onnx import TensorProto, helper, numpy_helper
from op_models import model_bytes, node_names

from vmoe_export.ops import onnx_lines
from vmoe_export.ops.body_options import GATE_INPUTS, HIDDEN_NORM_INPUTS, MIXED_NORM_INPUTS, ROTATION_INPUTS
from vmoe_export.ops.table import ATTRIBUTE_RULES, DOMAIN, ELEMENT_TYPES, OPS, POLICIES, ElementType, Op, Value

ONNX_TYPES = onnx_lines.ONNX_TYPES | {"scale": TensorProto.FLOAT}
"""Element types by the types of ports; scales of int8 weights have a type of their own."""
SETTINGS = ("capacity", "k", "bpr")
WEIGHTS: tuple[ElementType, ...] = ("float", "bf16", "i8")
FIXED = (
    {"D": 16, "E": 8, "F": 48, "P": 10},
    {"D": 7, "E": 3, "F": 13, "P": 33},
    {"D": 1, "E": 1, "F": 1, "P": 1},
    {"D": 33, "E": 5, "F": 97, "P": 0},
    {"D": 24, "E": 2, "F": 0, "P": 49},
    {"D": 65, "E": 2, "F": 128, "P": 64},
)
CHOICES: Mapping[str, tuple[int, ...]] = {
    "dispatch_bf16": (0, 1),
    "bf16": (0, 1),
    "num_heads": (1, 2, 3, 5),
    "hidden_chunk": (0, 64),
    "prefix": (0, 1, 3),
    "activation": (1, 3),
}
"""Values of attributes that are valid with some sizes."""
OUT_OF_RANGE: Mapping[str, tuple[int | float, ...]] = {
    "dispatch_bf16": (2, -1, 0.5),
    "bf16": (2, -1, 2**63 - 1, 0.5),
    "num_heads": (0, -1, -(2**63), 2.0),
    "hidden_chunk": (-64, 1, 32, 65, -(2**63), 64.0),
    "prefix": (-1, -(2**63), 0.5),
    "activation": (-1, 4, 2**63 - 1, 1.0),
}
"""Values of attributes that are never valid, including some that are not integers."""
ROTATED = (*ROTATION_INPUTS, "merged_coordinates")
RARE = (*ROTATED, *GATE_INPUTS, *HIDDEN_NORM_INPUTS, *MIXED_NORM_INPUTS)
"""Inputs and outputs that one-node models have only on request."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with one node, and the expected result: "runs", "never-loads" or "never-runs"."""

    op: str
    expected: str = "runs"
    weights: ElementType = "float"
    fixed: Mapping[str, int] | None = None
    """Sizes of constant weights; None if weights are inputs."""
    attributes: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Inputs and outputs that the node lacks."""
    fed: tuple[str, ...] = ()
    """Weights that are inputs although others are constant."""
    types: Mapping[str, ElementType] = dataclasses.field(default_factory=dict)
    """Weights whose type differs from the others'."""
    added_scale: str = ""
    """A scale that the node has although its weights aren't int8."""
    tokens: ElementType = "float"
    more: tuple[str, ...] = ()
    """The inputs and outputs of `RARE` that the node has."""
    in_place: bool = False
    """Whether the model also has the node between other nodes, where its output may overwrite its input."""


def models() -> Iterator[Model]:
    """Yield models for every op, with each type of weights that the op supports.

    Weights are either inputs or constants. Settings are either inputs or attributes.
    """
    for op in OPS.values():
        yield from _with_all_attributes(op)
        yield from _partly_constant(op)
        yield from _extreme_attributes(op)
        yield from _wrong_weights(op)
    for name in MOE_OPS:
        yield from (Model(name, tokens=tokens) for tokens in token_types(name)[1:])
    for name in ("VmoeRoute", "VmoeRouteDispatch", "VmoeRouterBlock"):
        yield from _settings_as_attributes(name)
    for name in ("VmoeRoute", "VmoeRouterBlock"):
        for left_out in (POLICIES, ("pool",), ("max_experts",), ("expert",), (*POLICIES, "expert")):
            yield Model(name, left_out=left_out)
    whole = ("sizes", "token", "merge", "merged_sizes", "merged_token")
    for weights, fixed in itertools.product(WEIGHTS, (None, FIXED[0])):
        for op_name in ("VmoeAttentionBlock", "VmoeClassAttentionBlock"):
            can_write_over = op_name == "VmoeAttentionBlock"
            yield Model(op_name, weights=weights, fixed=fixed, left_out=whole, in_place=can_write_over)
            for left_out, heads in itertools.product(((), (*whole, "merged_coordinates")), (1, 2)):
                yield Model(
                    op_name, weights=weights, fixed=fixed, attributes={"num_heads": heads}, left_out=left_out, more=ROTATED
                )
            yield Model(op_name, weights=weights, fixed=fixed, left_out=("ln_bias",), more=MIXED_NORM_INPUTS)
        for op_name, chunk in itertools.product(("VmoeDenseMlp", "VmoeMlpBlock"), (0, 64) if weights == "i8" else (0,)):
            for more in (GATE_INPUTS, HIDDEN_NORM_INPUTS, (*GATE_INPUTS, *HIDDEN_NORM_INPUTS)):
                sizes = fixed and FIXED[5] | {"D": 16}
                attributes = {"hidden_chunk": chunk, "activation": 3}
                yield Model(op_name, weights=weights, fixed=sizes, attributes=attributes, left_out=("ln_bias",), more=more)
    yield Model("VmoeMerge", more=ROTATED)
    yield Model("VmoeAttention", left_out=("sizes",))


def weights_of(op: Op, more: tuple[str, ...] = ()) -> list[Value]:
    """Return those inputs of an op that the exporter writes as constants.

    Inputs in `RARE` are included only if `more` contains their names.
    """
    usual = [value for value in op.inputs if value.name[0] in "wb" and value.name not in ("weight", "bpr", "buf")]
    weights = [*usual, *(value for value in op.inputs if value.name in ("router", "mu") or "ln_" in value.name)]
    return [value for value in weights if _is_usual(value, more)]


def weight_types(op: Op) -> tuple[ElementType, ...]:
    return WEIGHTS if any(value.type == "W" for value in op.inputs) else ("float",)


def _with_all_attributes(op: Op) -> Iterator[Model]:
    writes_over_input = op.name.endswith("Block") and op.outputs[0].dims == op.inputs[0].dims
    for weights in weight_types(op):
        for numbers in itertools.product(*(CHOICES[name] for name in op.attributes)):
            attributes = dict(zip(op.attributes, numbers, strict=True))
            if any(attributes[name] and ATTRIBUTE_RULES[name].only_quantized and weights != "i8" for name in attributes):
                yield Model(op.name, "never-loads", weights, attributes=attributes)
                continue
            for fixed in (None, *FIXED) if weights_of(op) else (None,):
                expected = "runs" if fixed is None or _divide(attributes, fixed) else "never-loads"
                yield Model(op.name, expected, weights, fixed, attributes)
                if writes_over_input and expected == "runs":
                    yield Model(op.name, expected, weights, fixed, attributes, in_place=True)


def _divide(attributes: Mapping[str, int], sizes: Mapping[str, int]) -> bool:
    rules = [(ATTRIBUTE_RULES[name].divides, number) for name, number in attributes.items()]
    return all(sizes[dim] % number == 0 for dim, number in rules if dim and number)


def _partly_constant(op: Op) -> Iterator[Model]:
    constants = weights_of(op)
    for weights in weight_types(op):
        for value in constants:
            if not value.scale_of or weights == "i8":
                yield Model(op.name, weights=weights, fixed=FIXED[1], fed=(value.name,))


def _extreme_attributes(op: Op) -> Iterator[Model]:
    for name in op.attributes:
        for number in OUT_OF_RANGE[name]:
            yield Model(op.name, "never-loads", weight_types(op)[-1], attributes={name: number})
        if ATTRIBUTE_RULES[name].divides:
            for weights in ("i8",) if ATTRIBUTE_RULES[name].only_quantized else weight_types(op):
                yield Model(op.name, weights=weights, attributes={name: 2**62})


def _wrong_weights(op: Op) -> Iterator[Model]:
    """Yield models whose weights are wrong.

    They have missing or superfluous scales, mixed types of weights, or constants whose shapes contradict each other.
    """
    constants = weights_of(op)
    typed = [value for value in constants if value.type == "W"]
    for value, fixed in itertools.product(constants, (None, FIXED[0])):
        if value.scale_of:
            yield Model(op.name, "never-loads", "i8", fixed, left_out=(value.name,))
            yield Model(op.name, "never-loads", "float", fixed, added_scale=value.name)
            yield Model(op.name, "never-loads", "bf16", fixed, added_scale=value.name)
        if value.type == "W" and len(typed) > 1:
            for weights, other in itertools.permutations(WEIGHTS, 2):
                yield Model(op.name, "never-loads", weights, fixed, types={value.name: other})
    uses = Counter(dim for value in constants for dim in value.dims)
    for value in constants:
        for dim in value.dims:
            if uses[dim] > 1:
                wrong = {**FIXED[0], f"{value.name}.{dim}": FIXED[0][dim] - 1}
                yield Model(op.name, "never-loads", weight_types(op)[-1], wrong)


def _settings_as_attributes(name: str) -> Iterator[Model]:
    yield Model(name, attributes={"capacity": 3, "k": 2, "bpr": 0}, left_out=SETTINGS)
    yield Model(name, attributes={"capacity": 500, "k": 1, "bpr": 1}, left_out=SETTINGS)
    yield Model(name, "never-runs", attributes={"capacity": 2, "k": 3}, left_out=("bpr",))
    yield Model(name, attributes={"capacity": 7, "k": 100, "bpr": 1})  # the inputs override these attributes
    yield Model(name, "never-runs", left_out=SETTINGS)
    yield Model(name, "never-runs", attributes={"capacity": 1, "bpr": 1}, left_out=SETTINGS)
    wrong: tuple[dict[str, int | float], ...] = (
        {"capacity": 0}, {"capacity": -(2**63)}, {"k": 0}, {"k": -5}, {"bpr": 2}, {"bpr": -1}, {"k": 1.0},
    )  # fmt: skip
    for attributes in wrong:
        yield Model(name, "never-loads", attributes=attributes)


class Port(NamedTuple):
    """An input or output of a model: its type, which is a key of `ONNX_TYPES`, and one letter per dimension."""

    type: str
    dims: str


@dataclasses.dataclass(frozen=True)
class Written:
    """A model in a file.

    It comes with the model's inputs and outputs by name and in order, and the sizes that its constants determine. If there
    is an output "in_place", it must equal the first output. The output comes from a copy of the node that may overwrite its
    input.
    """

    model: Model
    file: Path
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    fixed: dict[str, int]


def write_models(folder: Path, step: int = 1) -> list[Written]:
    """Write the models, or only every `step`-th one, into a folder."""
    chosen = enumerate(itertools.islice(models(), None, None, step))
    return [_write(model, folder / f"{number}.onnx") for number, model in chosen]


def _write(model: Model, file: Path) -> Written:
    op = OPS[model.op]
    inputs = [value for value in op.inputs if _is_given(model, value)]
    constants = [
        value for value in weights_of(op, model.more) if model.fixed and value in inputs and value.name not in model.fed
    ]
    outputs = [value for value in op.outputs if _is_given(model, value)]
    named = (node_names(values, [v.name for v in given]) for values, given in ((op.inputs, inputs), (op.outputs, outputs)))
    node = helper.make_node(op.name, *named, domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(name, number) for name, number in model.attributes.items())
    nodes, between = _also_in_place(node, op) if model.in_place else ([node], [])
    if model.in_place:
        outputs.append(dataclasses.replace(op.outputs[0], name="in_place"))
    fed, given = (
        {value.name: Port(_type(model, value), "".join(value.dims)) for value in values if value not in constants}
        for values in (inputs, outputs)
    )
    ports = (
        [helper.make_tensor_value_info(name, ONNX_TYPES[port.type], None) for name, port in each.items()]
        for each in (fed, given)
    )
    weights = [_constant(model, value) for value in constants]
    file.write_bytes(model_bytes(helper.make_graph(nodes, op.name, *ports, weights, value_info=between)))
    return Written(model, file, fed, given, {dim: (model.fixed or {})[dim] for value in constants for dim in value.dims})


def _is_given(model: Model, value: Value) -> bool:
    if value.scale_of and model.weights != "i8":
        return value.name == model.added_scale
    return _is_usual(value, model.more) and value.name not in model.left_out


def _is_usual(value: Value, more: tuple[str, ...]) -> bool:
    name = value.scale_of or value.name
    return not (value.optional and name in RARE) or name in more


def _also_in_place(node: onnx.NodeProto, op: Op) -> tuple[list[onnx.NodeProto], list[onnx.ValueInfoProto]]:
    """Return the nodes and two value infos of a graph in which only a copy of `node` can run in place.

    ONNX Runtime lets a node overwrite its input only if this input is another node's output and has a known shape. So the
    copy stands between two other nodes, and the value infos give the types and shapes of the copy's input and output.
    """
    x = op.inputs[0]
    again = onnx.NodeProto()
    again.CopyFrom(node)
    again.input[0], again.output[0] = "x_again", "y_again"
    nodes = [
        node,
        helper.make_node("Neg", [x.name], ["x_negative"]),
        helper.make_node("Neg", ["x_negative"], ["x_again"]),
        again,
        helper.make_node("Neg", ["y_again"], ["y_negative"]),
        helper.make_node("Neg", ["y_negative"], ["in_place"]),
    ]
    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(x.dims)) for name in ("x_again", "y_again")]
    return nodes, shaped


def _constant(model: Model, value: Value) -> onnx.TensorProto:
    sizes = model.fixed or {}
    shape = [sizes.get(f"{value.name}.{dim}", sizes[dim]) for dim in value.dims]
    generator = np.random.default_rng(0)
    kind = _type(model, value)
    if kind == "i8":
        return numpy_helper.from_array(generator.integers(-128, 128, shape, np.int8), value.name)
    array = generator.standard_normal(shape).astype(np.float32)
    if kind == "scale":
        array /= 64
    return numpy_helper.from_array(array.astype(ml_dtypes.bfloat16) if kind == "bf16" else array, value.name)


def _type(model: Model, value: Value) -> str:
    if value.scale_of:
        return "scale"
    if value.type == "W":
        return model.types.get(value.name, model.weights)
    return model.tokens if value.type == "T" else ELEMENT_TYPES[value.type][0]
