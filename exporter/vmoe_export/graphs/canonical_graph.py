"""Writes `model.onnx`, the canonical graph: nested vmoe functions, weights outside, nothing of this machine inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, helper

from vmoe_export import __version__
from vmoe_export.bundle.weights_file import Span
from vmoe_export.graphs.graph_description import describe
from vmoe_export.graphs.model_nodes import IMAGE, ModelNodes
from vmoe_export.graphs.node_names import name_nodes
from vmoe_export.model.grouping import Grouping
from vmoe_export.model.parameters import graph_shape
from vmoe_export.model.routing_config import Soft, TopK
from vmoe_export.model.torch_model import Vmoe
from vmoe_export.ops.functions import IR_VERSION, OPSET, function_bodies
from vmoe_export.ops.table import DOMAIN, VERSION
from vmoe_export.precision import PRECISIONS, StoredType, WeightType, hidden_chunk
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.profiles import Profile

BATCH_DIM, MEMBER_DIM, GROUP_DIM, CHOICE_DIM = "batch", "members", "groups", "k"

_BLOCKS = ("VmoeAttentionBlock", "VmoeMlpBlock", "VmoeExpertBlock")
_STORED: Mapping[StoredType, int] = {"F32": TensorProto.FLOAT, "BF16": TensorProto.BFLOAT16, "I8": TensorProto.INT8}


def canonical_graph(
    model: Vmoe, grouping: Grouping, weights: Mapping[str, Span], default: Profile | None
) -> onnx.ModelProto:
    """The canonical graph of a model.

    Args:
        model: the torch model, of which only the description is used.
        grouping: which batches the graph must take.
        weights: where each parameter lies in the weights file.
        default: the profile whose settings become the inputs' default values; None for a dense ViT and a Soft MoE.

    Returns:
        A model with the inputs `image` and what its routing kind sets, with defaults; the outputs `logits`, `members` or
        `features`, then `<block>/<name>` of each MoE layer for the names of `layer_outputs`. Weights are external data.
    """
    settings = default.inputs() if default else {}
    model_nodes = ModelNodes(model, list(settings))
    graph = helper.make_graph(
        model_nodes.nodes,
        "vmoe",
        [_image(model), *(helper.make_tensor_value_info(name, TensorProto.INT64, [len(n)]) for name, n in settings.items())],
        list(_outputs(model, grouping, model_nodes.outputs)),
        list(model_nodes.constants.values()),
    )
    graph.initializer.extend(_weight(name, span) for name, span in weights.items())
    name_nodes(graph, model_nodes.unnamed)
    _name_block_shapes(graph, model, grouping)
    for name, numbers in settings.items():
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers.tolist()))
    proto = helper.make_model(
        graph,
        producer_name="vmoe-export",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=_called(graph, _bodies(model, policies="pool" in settings)),
    )
    describe(proto, model, grouping, default)
    return proto


def _image(model: Vmoe) -> onnx.ValueInfoProto:
    kind = TensorProto.UINT8 if model.uint8_input else TensorProto.FLOAT
    return helper.make_tensor_value_info(IMAGE, kind, [BATCH_DIM, *model.config.image_size, model.config.channels])


def _outputs(model: Vmoe, grouping: Grouping, names: list[str]) -> Iterator[onnx.ValueInfoProto]:
    config, moe = model.config, model.config.moe
    sizes = {"logits": [config.num_classes], "members": [config.ensemble_size, config.num_classes]}
    yield helper.make_tensor_value_info(
        names[0], TensorProto.FLOAT, [BATCH_DIM, *sizes.get(names[0], [config.feature_size])]
    )
    if moe is None:
        return
    per_token: list[str | int] = [CHOICE_DIM] if isinstance(moe.routing, TopK) else [moe.num_experts]
    if isinstance(moe.routing, Soft):
        per_token.append(moe.routing.slots_per_expert)
    kinds = {"expert": TensorProto.INT32, "kept": TensorProto.BOOL}
    for name in names[1:]:
        kind = kinds.get(name.rpartition("/")[2], TensorProto.FLOAT)
        yield helper.make_tensor_value_info(name, kind, [_groups(model, grouping), grouping.tokens, *per_token])


def _groups(model: Vmoe, grouping: Grouping) -> str:
    """What the number of groups is called: a group that is an image is counted as one."""
    return BATCH_DIM if grouping.tokens == model.config.num_tokens * model.config.ensemble_size else GROUP_DIM


def _weight(name: str, span: Span) -> onnx.TensorProto:
    """A parameter under its official name: where it lies in the weights file."""
    tensor = TensorProto(name=name, data_type=_STORED[span.dtype], dims=graph_shape(name, span.shape))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_NAME), ("offset", span.offset), ("length", span.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


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


def _name_block_shapes(graph: onnx.GraphProto, model: Vmoe, grouping: Grouping) -> None:
    """Says what the encoder blocks take and give: a runtime that knows that both are the same size computes in place."""
    config = model.config
    expert_shape = (_groups(model, grouping), grouping.tokens, config.hidden_size)
    known = {value.name for value in (*graph.input, *graph.output)}
    rows = BATCH_DIM
    for node in graph.node:
        if node.op_type == "VmoeExpertBlock" and config.ensemble_size > 1:
            rows = MEMBER_DIM  # from the first one on, each image is there once for each member
        shape = expert_shape if node.op_type == "VmoeExpertBlock" else (rows, config.num_tokens, config.hidden_size)
        for name in (node.input[0], node.output[0]) if node.op_type in _BLOCKS else ():
            if name not in known:
                known.add(name)
                graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
