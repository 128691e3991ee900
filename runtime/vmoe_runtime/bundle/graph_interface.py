"""Whether a graph is the one that the manifest describes: its inputs, its outputs and its weights, read without onnx.

A manifest that contradicts a graph would be noticed in the first call, or never. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, IMAGE_INPUT, INLINED_GRAPH, Manifest, Precision
from vmoe_runtime.bundle.protobuf_fields import fields, messages
from vmoe_runtime.errors import BundleError
from vmoe_runtime.routing import Element, layer_outputs
from vmoe_runtime.routing_kinds import SoftRules

FLOAT, UINT8, INT8, INT32, INT64, BOOL, BFLOAT16 = 1, 2, 3, 6, 7, 9, 16
"""Element types, as TensorProto.DataType numbers them."""

MAX_OPSET = 1000
"""The highest version of an operator set that a graph may import: a runtime may count up to it one by one."""

_TYPE_NAMES = {
    FLOAT: "float32",
    UINT8: "uint8",
    INT8: "int8",
    INT32: "int32",
    INT64: "int64",
    BOOL: "bool",
    BFLOAT16: "bfloat16",
}
_ELEMENTS: Mapping[Element, int] = {"bool": BOOL, "int32": INT32, "float32": FLOAT}
_PART = re.compile(r"(/[0-9]+)+\Z")  # an expert's part of a tensor, or a chunk of that
_ROUTER = re.compile(r"Encoder/(encoderblock_[0-9]{1,6})/Moe/Router/dense/kernel")
_SOFT_ROUTER = re.compile(r"Encoder/(encoderblock_[0-9]{1,6})/Moe/Router/mu")
_FLOAT32_KERNELS = {"head", "pre_logits", "Router"}

Shape = tuple[int | None, ...]
"""Extents; None where a dimension varies."""


@dataclass(frozen=True)
class Tensor:
    """An input, an output or an initializer of a graph.

    Attributes:
        element: element type as onnx numbers it; 0 where the graph doesn't say.
        shape: its extents, or None where the graph doesn't say.
    """

    element: int
    shape: Shape | None

    def __str__(self) -> str:
        shape = "[?]" if self.shape is None else "[" + ",".join("N" if n is None else str(n) for n in self.shape) + "]"
        return _TYPE_NAMES.get(self.element, f"type {self.element}") + shape


@dataclass(frozen=True)
class Interface:
    """What the main graph of a model takes, gives and holds, by name."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    initializers: dict[str, Tensor] = field(default_factory=dict)


def graph_interface(graph: bytes) -> Interface:
    """The interface of a serialized ONNX model.

    Raises:
        BundleError: the bytes are not a readable ONNX model, or name something twice.
    """
    interface = Interface()
    places = {5: (interface.initializers, _initializer), 11: (interface.inputs, _value), 12: (interface.outputs, _value)}
    try:
        for part, payload in messages(memoryview(graph)):
            if part == 8:
                _check_opset(payload)
            elif part == 25:  # a FunctionProto
                for opset in _of(payload, 9):
                    _check_opset(opset)
            elif part == 7:  # runtimes join the parts of a graph that stands there twice
                for number, message in messages(payload):
                    if number in places:
                        found, read = places[number]
                        name, tensor = read(message)
                        if found.setdefault(name, tensor) is not tensor:
                            raise ValueError(f"{name!r:.60} stands there twice")
    except (IndexError, ValueError) as error:
        raise BundleError(f"not a readable ONNX model ({error})") from None
    return interface


def check_graph(name: str, graph: bytes, manifest: Manifest) -> None:
    """Refuses a graph whose inputs, outputs or weights are not what the manifest says. Graphs that it gives no role pass.

    Raises:
        BundleError: with the name of the graph and what differs.
    """
    fixed_to = {file: profile for profile, file in (manifest.tensorrt.graphs if manifest.tensorrt else {}).items()}
    if name not in (CANONICAL_GRAPH, INLINED_GRAPH) and name not in fixed_to:
        return
    try:
        interface = graph_interface(graph)
    except BundleError as error:
        raise BundleError(f"{name} is {error}") from None
    profile = manifest.profiles.get(fixed_to.get(name, ""))
    is_fixed = name in fixed_to
    inputs = _expected_inputs(manifest, settings=not is_fixed)
    if interface.inputs.keys() != inputs.keys():
        took, wanted = (", ".join(sorted(names)) for names in (interface.inputs, inputs))
        raise BundleError(f"{name} takes {took!r:.200}, and by the manifest it takes {wanted!r}")
    outputs = _expected_outputs(manifest, is_fixed, None if profile is None else profile.k)
    for kind, found, expected in (("takes", interface.inputs, inputs), ("gives", interface.outputs, outputs)):
        for key, tensor in expected.items():
            if found.get(key) != tensor:
                raise BundleError(
                    f"{name} {kind} '{key}' as {found.get(key, 'nothing')}, and by the manifest it is {tensor}"
                )
    _check_weights(name, interface.initializers, manifest)


def kernel_type(name: str, precision: Precision) -> int | None:
    """The element type that an initializer must have, or None where any will do: it is the kernel of no product.

    Args:
        name: of the official tree, and behind it the number of a part: "head/kernel", "Encoder/.../Dense_0/kernel/3".
        precision: what the manifest says.
    """
    *parents, leaf = _PART.sub("", name).split("/")
    if leaf != "kernel":
        return None
    if precision == "fp32" or not _FLOAT32_KERNELS.isdisjoint(parents):
        return FLOAT
    if precision == "bf16-experts":
        return BFLOAT16 if "Moe" in parents else FLOAT
    return INT8 if precision == "int8" else BFLOAT16


def _expected_inputs(manifest: Manifest, *, settings: bool) -> dict[str, Tensor]:
    image = manifest.input
    element = FLOAT if image.dtype == "float32" else UINT8
    inputs = {IMAGE_INPUT: Tensor(element, (None, image.height, image.width, image.channels))}
    if settings and manifest.rules is not None:
        count = {"capacity": len(manifest.moe_layers)}
        inputs |= {name: Tensor(INT64, (count.get(name, 1),)) for name in manifest.rules.settings}
    return inputs


def _expected_outputs(manifest: Manifest, is_fixed: bool, k: int | None) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {manifest.output: Tensor(FLOAT, (None, *manifest.output_shape))}
    for what, (element, shape) in layer_outputs(manifest, fixed=is_fixed).items():
        if is_fixed:
            shape = (*shape[:2], k)  # noqa: PLW2901
        outputs |= {f"{layer}/{what}": Tensor(_ELEMENTS[element], shape) for layer in manifest.moe_layers}
    return outputs


def _check_weights(name: str, initializers: Mapping[str, Tensor], manifest: Manifest) -> None:
    rules = manifest.rules
    router = _SOFT_ROUTER if isinstance(rules, SoftRules) else _ROUTER
    routers = {}
    for key, tensor in initializers.items():
        expected = kernel_type(key, manifest.precision)
        if expected not in (None, tensor.element):
            raise BundleError(
                f"{name} has {key!r:.100} in {_TYPE_NAMES.get(tensor.element, 'another type')}, "
                f"and the manifest says that the precision is {manifest.precision}"
            )
        if match := router.fullmatch(key):
            routers[match[1]] = tensor
    for layer in (*manifest.moe_layers, *routers):
        if layer not in routers or layer not in manifest.moe_layers:
            what = "has no router" if layer not in routers else "has a router"
            raise BundleError(
                f"{name} {what} in {layer!r:.60}, and the manifest names the MoE layers {manifest.moe_layers!r:.100}"
            )
        assert rules is not None
        outputs: tuple[int, ...] = (rules.num_experts,)
        slots = ""
        if isinstance(rules, SoftRules):
            outputs, slots = (*outputs, rules.slots_per_expert), f" of {rules.slots_per_expert} slots"
        found = routers[layer]
        if found.element != FLOAT or found.shape is None or len(found.shape) < 2 or found.shape[1:] != outputs:
            raise BundleError(
                f"{name} has a router {found} in {layer!r}, and by the manifest there are {rules.num_experts} experts{slots}"
            )


def _of(buffer: memoryview, number: int) -> Iterator[memoryview]:
    return (payload for found, payload in messages(buffer) if found == number)


def _text(payload: memoryview) -> str:
    return bytes(payload).decode()


def _once(buffer: memoryview, *numbers: int) -> dict[int, int | memoryview]:
    """The fields of those numbers; runtimes would join or replace one that stands there twice."""
    found: dict[int, int | memoryview] = {}
    for number, value in fields(buffer):
        if number in numbers and value is not None:
            if number in found:
                raise ValueError(f"field {number} stands there twice")
            found[number] = value
    return found


def _message(content: Mapping[int, int | memoryview], number: int) -> memoryview:
    value = content.get(number)
    return value if isinstance(value, memoryview) else memoryview(b"")


def _number(content: Mapping[int, int | memoryview], number: int) -> int | None:
    value = content.get(number)
    return value if isinstance(value, int) else None


def _value(buffer: memoryview) -> tuple[str, Tensor]:
    """A ValueInfoProto: name = 1, type = 2, in that tensor_type = 1, in that elem_type = 1 and shape = 2."""
    value = _once(buffer, 1, 2)
    tensor = _once(_message(_once(_message(value, 2), 1), 1), 1, 2)
    shape = tuple(map(_extent, _of(_message(tensor, 2), 1))) if 2 in tensor else None
    return _text(_message(value, 1)), Tensor(_number(tensor, 1) or 0, shape)


def _extent(buffer: memoryview) -> int | None:
    """A Dimension: dim_value = 1 or dim_param = 2."""
    content = _once(buffer, 1, 2)
    if len(content) == 2:
        raise ValueError("a dimension that is a number and a name")
    return _number(content, 1)


def _check_opset(buffer: memoryview) -> None:
    """An OperatorSetIdProto: version = 2."""
    for number, value in fields(buffer):
        if number == 2 and isinstance(value, int) and value > MAX_OPSET:
            raise ValueError(f"an operator set of a version above {MAX_OPSET}")


def _initializer(buffer: memoryview) -> tuple[str, Tensor]:
    """A TensorProto: dims = 1, data_type = 2, name = 8."""
    dims: list[int] = []
    for number, value in fields(buffer):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number == 1 and value is not None:
            raise ValueError("packed dimensions")
    content = _once(buffer, 2, 8)
    return _text(_message(content, 8)), Tensor(_number(content, 2) or 0, tuple(dims))
