"""Traces the torch model into `model.onnx`: nested vmoe functions, weights outside, nothing of this machine inside."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import defs, helper
from onnxscript import opset18, values

from vmoe_export import __version__
from vmoe_export.bundle.weights_file import Span
from vmoe_export.graphs.graph_description import describe
from vmoe_export.graphs.node_names import name_nodes
from vmoe_export.model.grouping import Grouping
from vmoe_export.model.parameters import graph_shape
from vmoe_export.model.torch_model import Vmoe
from vmoe_export.ops.functions import IR_VERSION, OPSET, function_bodies
from vmoe_export.ops.onnx_lines import ONNX_TYPES
from vmoe_export.ops.table import DOMAIN, ELEMENT_TYPES, OPS, PLUGIN_ATTRIBUTES, VERSION, Op
from vmoe_export.precision import PRECISIONS, StoredType, WeightType, hidden_chunk
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.profiles import Profile

IMAGE = "image"
BATCH_DIM, MEMBER_DIM, GROUP_DIM, CHOICE_DIM = "batch", "members", "groups", "k"

_TRACED_OPS = (
    "VmoeRoute",
    "VmoeLinear",
    "VmoeDenseMlp",
    "VmoeAttention",
    "VmoeAttentionBlock",
    "VmoeMlpBlock",
    "VmoeRouterBlock",
    "VmoeExpertBlock",
    "VmoeExpertMlp",
    "VmoeChooseTokens",
    "VmoeSoftRouter",
    "VmoeSoftDispatch",
    "VmoeSoftCombine",
)
_BLOCKS = ("VmoeAttentionBlock", "VmoeMlpBlock", "VmoeExpertBlock")
_STORED: Mapping[StoredType, ir.DataType] = {
    "F32": ir.DataType.FLOAT,
    "BF16": ir.DataType.BFLOAT16,
    "I8": ir.DataType.INT8,
}
_TRACED_GROUPS = 2  # any number but 0 and 1, which torch takes for constants


def trace(model: Vmoe, grouping: Grouping, weights: Mapping[str, Span], default: Profile | None) -> onnx.ModelProto:
    """The canonical graph of a model.

    Args:
        model: the torch model, with its weights.
        grouping: which batches the graph must take.
        weights: where each parameter lies in the weights file.
        default: the profile whose settings become the inputs' default values; None for a dense ViT and a Soft MoE.

    Returns:
        A model with the inputs `image` and what its routing kind sets, with defaults; the outputs `logits`, `members` or
        `features`, then `<block>/<name>` of each MoE layer for the names of `layer_outputs`. Weights are external data.
    """
    settings = default.inputs() if default else {}
    traced = _export(model, grouping, settings)
    _point_to_weights(traced.graph, weights)
    proto = ir.to_proto(traced)
    graph = proto.graph
    _name_outputs(graph, model)
    _strip(proto)
    name_nodes(graph, values=True)
    _name_slots(graph)
    describe(proto, model, grouping, default)
    for value in (*graph.input, *graph.output):
        _name_dims(value, grouping.batch_multiple, per_image=value.name in (IMAGE, graph.output[0].name))
    for node in graph.node:
        if node.domain == DOMAIN:
            node.attribute.extend(helper.make_attribute(name, value) for name, value in PLUGIN_ATTRIBUTES.items())
    _name_block_shapes(graph, model, grouping)
    proto.functions.extend(_called(graph, _bodies(model, policies="pool" in settings)))
    for name, numbers in settings.items():
        graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [len(numbers)], numbers.tolist()))
    return proto


def _export(model: Vmoe, grouping: Grouping, settings: Iterable[str]) -> ir.Model:
    config = model.config
    count = _TRACED_GROUPS * grouping.batch_multiple
    image_type = torch.uint8 if model.uint8_input else torch.float32
    arguments = [torch.zeros((count, *config.image_size, config.channels), dtype=image_type)]
    inputs = [IMAGE, *settings]
    for name in inputs[1:]:
        count = len(config.moe.layers) if config.moe and name == "capacity" else 1
        arguments.append(torch.ones(count, dtype=torch.int64))
    groups = torch.export.Dim("groups", min=1)
    batch = groups if grouping.batch_multiple == 1 else grouping.batch_multiple * groups
    with _quiet():
        exported = torch.export.export(
            model.eval(),
            tuple(arguments),
            dynamic_shapes=({0: batch}, *[None] * (len(arguments) - 1)),
        )
        program = torch.onnx.export(
            exported,
            (),
            input_names=inputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={
                getattr(torch.ops.vmoe, op.torch_name.removeprefix(f"{DOMAIN}::")).default: partial(_vmoe_node, op)
                for op in map(OPS.__getitem__, _TRACED_OPS)
            }
            | {torch.ops.vmoe.regroup.default: partial(_reshape, config.hidden_size)},
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """torch reports its own progress, missing torchvision and deprecations of its own code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _vmoe_node(op: Op, *inputs: Any, **attributes: Any) -> Any:
    """Writes a torch op of the domain vmoe as the ONNX op of the table."""
    names = {name: f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})" for name, kind in ONNX_TYPES.items()}
    single, optional = defs.OpSchema.FormalParameterOption.Single, defs.OpSchema.FormalParameterOption.Optional
    schema = defs.OpSchema(
        op.name,
        DOMAIN,
        VERSION,
        inputs=[
            defs.OpSchema.FormalParameter(v.name, v.type, param_option=optional if v.optional else single) for v in op.inputs
        ],
        outputs=[defs.OpSchema.FormalParameter(v.name, v.type) for v in op.outputs],
        type_constraints=[(key, [names[t] for t in types], "") for key, types in ELEMENT_TYPES.items()],
        attributes=[defs.OpSchema.Attribute(name, defs.OpSchema.AttrType.INT, "") for name in op.attributes],
    )
    tensors, numbers = list(inputs[: len(op.inputs)]), inputs[len(op.inputs) :]
    attributes.update(zip(op.attributes, numbers, strict=False))
    while tensors[-1] is None:  # scales, which only int8 has, and policies
        tensors.pop()
    return values.Op(values.Opset(DOMAIN, VERSION), op.name, schema)(*tensors, **attributes)


def _reshape(hidden_size: int, x: Any, _: Any, tokens: int) -> Any:
    """Writes vmoe::regroup. How many groups there are follows from the batch."""
    shape: Any = opset18.Constant(value_ints=[-1, tokens, hidden_size])
    return opset18.Reshape(x, shape)


def _bodies(model: Vmoe, *, policies: bool) -> list[onnx.FunctionProto]:
    """The functions of all ops, written for the model."""
    config, moe, numbers = model.config, model.config.moe, PRECISIONS[model.precision]

    def chunks(hidden: int, weights: WeightType) -> int:
        return hidden // (hidden_chunk(hidden, weights) or hidden)

    bf16 = bool(moe and moe.dispatch_bf16)
    is_soft = bool(moe and moe.routing.kind == "soft")
    return function_bodies(
        dense=numbers.dense,
        experts=numbers.experts,
        dispatch_bf16=bf16 and not is_soft,
        soft_bf16=bf16 and is_soft,
        dense_chunks=chunks(config.mlp_dim, numbers.dense),
        expert_chunks=chunks(moe.mlp_dim, numbers.experts) if moe else 1,
        policies=policies,
    )


def _called(graph: onnx.GraphProto, functions: list[onnx.FunctionProto]) -> list[onnx.FunctionProto]:
    """The functions that the graph's nodes call, directly or through another."""
    bodies = {function.name: function for function in functions}
    names = {node.op_type for node in graph.node}
    while more := {node.op_type for name in names & bodies.keys() for node in bodies[name].node} - names:
        names |= more
    return [function for function in functions if function.name in names]


def _point_to_weights(graph: ir.Graph, weights: Mapping[str, Span]) -> None:
    """Replaces every parameter's data by where it lies in the weights file, under its official name."""
    for value in list(graph.initializers.values()):
        name = str(value.name).replace(".", "/")
        if name not in weights:
            continue  # a small constant of the trace
        span = weights[name]
        value.name = name
        value.const_value = ir.ExternalTensor(
            WEIGHTS_NAME,
            span.offset,
            span.length,
            _STORED[span.dtype],
            shape=ir.Shape(graph_shape(name, span.shape)),
            name=name,
            base_dir=Path(),
        )


def _name_outputs(graph: onnx.GraphProto, model: Vmoe) -> None:
    names: list[str] = [model.output]
    if model.config.moe:
        names += [f"encoderblock_{i}/{what}" for i in model.config.moe.layers for what in model.layer_outputs]
    renamed = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    for value in graph.output:
        value.name = renamed[value.name]
    _rename(graph, renamed)


def _name_slots(graph: onnx.GraphProto) -> None:
    """Slots are no outputs, but the graphs for TensorRT put them out."""
    routers = [node.output for node in graph.node if node.op_type in ("VmoeRoute", "VmoeRouterBlock")]
    _rename(graph, {outputs[0]: outputs[3].replace("/expert", "/slot") for outputs in routers})


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    for node in graph.node:
        for ports in (node.input, node.output):
            ports[:] = [renamed.get(port, port) for port in ports]


def _strip(proto: onnx.ModelProto) -> None:
    """Removes what the tracer noted about source files and itself, and shapes that name its symbols."""
    proto.producer_name, proto.producer_version = "vmoe-export", __version__
    proto.ir_version = IR_VERSION
    proto.graph.name = "vmoe"
    del proto.graph.value_info[:]
    for message in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.initializer,
    ):
        message.ClearField("doc_string")
        message.ClearField("metadata_props")


def _name_block_shapes(graph: onnx.GraphProto, model: Vmoe, grouping: Grouping) -> None:
    """Says what the encoder blocks take and give: a runtime that knows that both are the same size computes in place."""
    config = model.config
    groups = BATCH_DIM if grouping.batch_multiple == 1 else GROUP_DIM
    if grouping.tokens != config.num_tokens * config.ensemble_size:
        groups = GROUP_DIM
    expert_shape = (groups, grouping.tokens, config.hidden_size)
    known = {value.name for value in (*graph.input, *graph.output)}
    rows = BATCH_DIM
    for node in graph.node:
        if node.op_type == "VmoeExpertBlock" and config.ensemble_size > 1:
            rows = MEMBER_DIM  # from the first one on, each image is there once for each member
        shape = expert_shape if node.op_type == "VmoeExpertBlock" else (rows, config.num_tokens, config.hidden_size)
        for name in (node.input[0], node.output[0]) if node.op_type in _BLOCKS else ():
            if name not in known:
                known.add(name)
                graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))


def _name_dims(value: onnx.ValueInfoProto, batch_multiple: int, *, per_image: bool) -> None:
    """Gives dimensions that vary their names in the contract instead of the tracer's symbols."""
    for position, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_param:
            outer = BATCH_DIM if per_image or batch_multiple == 1 else GROUP_DIM
            dim.dim_param = outer if position == 0 else CHOICE_DIM
