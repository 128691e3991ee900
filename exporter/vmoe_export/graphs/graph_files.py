"""Write a bundle's graphs, and check them with ONNX.

The files contain nothing that is specific to this machine, such as paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from vmoe_export.bundle.weights_file import Span
from vmoe_export.errors import ExportError
from vmoe_export.graphs.model_nodes import ModelNodes
from vmoe_export.graphs.standard_nodes import StandardNodes
from vmoe_export.graphs.tensorrt_nodes import TensorRtNodes
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.model_config import Soft, TopK
from vmoe_export.ops.functions import fixed_function_bodies
from vmoe_export.ops.table import DOMAIN, IR_VERSION, OPSET, VERSION
from vmoe_export.precision import PRECISIONS
from vmoe_runtime import __version__
from vmoe_runtime.bundle.manifest import (
    CANONICAL_GRAPH,
    DENSE_GRAPH_KEY,
    IMAGE_INPUT,
    INLINED_GRAPH,
    MERGING_GRAPH,
    WEIGHTS_NAME,
)
from vmoe_runtime.installation import oldest_supported
from vmoe_runtime.precisions import TensorRtPrecision
from vmoe_runtime.profiles import Profile, by_layer
from vmoe_runtime.routing_kinds import KIND_NAMES, TOKEN_OUTPUT
from vmoe_runtime.settings import ROWS

BATCH_DIM, MEMBER_DIM, GROUP_DIM, CHOICE_DIM = "batch", "members", "groups", "k"


@dataclass(frozen=True)
class WrittenGraph:
    """A graph of a bundle.

    Attributes:
        file: the name of its file.
        cuts: the values passed from each part of the model to the next part. See `ModelNodes`.
        profile: the profile whose settings are fixed in the graph. It is None if the settings are inputs, or if the graph
            has no settings.
    """

    file: str
    cuts: tuple[tuple[str, ...], ...]
    profile: Profile | None = None

    def suits(self, profile: Profile | None) -> bool:
        """Return whether a profile is meant to run on this graph, given the graph's fixed settings and its merging."""
        merges = bool(profile and profile.merge)
        in_standard_ops = {INLINED_GRAPH: not merges, MERGING_GRAPH: merges}
        return self.profile in (None, profile) and in_standard_ops.get(self.file, True)


def write_graphs(
    folder: Path, model: ExportedModel, weights: Mapping[str, Span], profiles: Sequence[Profile]
) -> list[WrittenGraph]:
    """Write the graphs for CPUs next to the weights file that they reference.

    - `model.onnx` has ops of the domain vmoe, and the functions that define these ops. The settings of profiles, such as the
      capacity, are inputs with default values.
    - `model.inlined.onnx` has standard ops only. The settings are inputs without default values. This graph does not merge
      tokens.
    - `model.merging.onnx` is like `model.inlined.onnx`, but merges tokens. It is written only if a profile merges tokens.

    Args:
        folder: the folder of the weights file.
        model: the model that the graphs compute.
        weights: the position of each parameter in the weights file.
        profiles: the bundle's profiles. The settings of the first profile, except `merge`, become the default values of
            `model.onnx`.

    Returns:
        The graphs, in the order above.

    Raises:
        ExportError: ONNX's full checker or its strict shape inference rejects a graph.
    """
    written = []
    kinds: dict[str, type[ModelNodes]] = {CANONICAL_GRAPH: ModelNodes, INLINED_GRAPH: StandardNodes}
    if any(profile.merge for profile in profiles):
        kinds[MERGING_GRAPH] = StandardNodes
    merging = {name: np.array([row.default], np.int64) for name, row in ROWS.items() if row.merging} if model.merges else {}
    oldest = oldest_supported("onnxruntime")
    for file, kind in kinds.items():
        settings = (profiles[0].inputs if profiles else {}) | merging
        if file == INLINED_GRAPH:
            settings = {name: value for name, value in settings.items() if name not in merging}
        nodes = kind(model, weights, list(settings))
        nodes.write_model()
        graph = _graph(nodes, settings)
        _name_block_shapes(graph, nodes, merges=bool(settings.keys() & merging))
        functions = []
        values, how = "must be given", f"Standard ops only: any ONNX Runtime from {oldest} on runs it, and OpenVINO."
        if file == CANONICAL_GRAPH:
            for name, numbers in settings.items():
                graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers.tolist()))
            functions = _called(graph, nodes.functions)
            values = "have default values"
            how = f"Any ONNX Runtime from {oldest} on runs it; vmoe_runtime and its op library make it fast."
            if profiles and profiles[0].merge:
                how = f"By default it merges no tokens. {how}"
        if settings:
            how = f"Its settings are inputs that {values}: {', '.join(settings)}. {how}"
        opset, default = max(OPSET, PRECISIONS[model.precision].experts.opset), profiles[0] if profiles else None
        _write(folder / file, _model(graph, model, default, model.precision, how, functions, opset))
        written.append(WrittenGraph(file, tuple(nodes.cuts)))
    return written


def write_tensorrt_graphs(
    folder: Path,
    model: ExportedModel,
    weights: Mapping[str, Span],
    profiles: Sequence[Profile],
    precision: TensorRtPrecision,
) -> list[WrittenGraph]:
    """Write `PROFILE.tensorrt.onnx` for each profile, or `model.tensorrt.onnx` if there are no profiles.

    Args:
        folder, model, weights: same as in `write_graphs`.
        profiles: the bundle's profiles. For a dense ViT that does not merge tokens, there are none.
        precision: type of the large products.

    Returns:
        The graphs in the order of the profiles.

    Raises:
        ExportError: ONNX's full checker or its strict shape inference rejects a graph.
    """
    written = []
    for profile in profiles or (None,):
        file = f"{profile.name if profile else DENSE_GRAPH_KEY}.tensorrt.onnx"
        graph, cuts = tensorrt_graph(model, weights, profile, precision)
        _write(folder / file, graph)
        written.append(WrittenGraph(file, cuts, profile))
    return written


def tensorrt_graph(
    model: ExportedModel,
    weights: Mapping[str, Span],
    profile: Profile | None,
    precision: TensorRtPrecision,
) -> tuple[onnx.ModelProto, tuple[tuple[str, ...], ...]]:
    """Build the TensorRT graph for one profile.

    Args:
        model, weights: same as in `write_graphs`.
        profile: the profile whose capacity, k, bpr and merge are fixed in the graph. It is None for a dense ViT that does
            not merge tokens.
        precision: type of the large products.

    Returns:
        The graph, and its cuts (see `ModelNodes`). The graph's weights are external data, and its input is `image`. Its
        outputs are

        - those of `model.answers`, which are always float32,
        - `<block>/slot` (int32) and `<block>/weight` (float32) of each MoE layer,
        - `<block>/token` (int32) of each MoE layer, if the profile merges tokens.
    """
    nodes = TensorRtNodes(model, weights, profile, precision)
    nodes.write_model()
    graph = _graph(nodes, {}, CHOICE_DIM if profile is None or profile.k is None else profile.k)
    routes = model.config.moe is not None
    bodies = fixed_function_bodies(dispatched=nodes.dispatched, combined=nodes.product_type) if routes else []
    fixed = f"Fixed to profile {profile.name}. " if profile else ""
    plugin = f" from {oldest_supported('tensorrt')} on with the vmoe plugin" if routes else ""
    # ONNX Runtime can't run a TensorRT graph in bf16, because it has no bfloat16 products on CPUs.
    others = "" if precision == "bf16" else f", and any ONNX Runtime from {oldest_supported('onnxruntime')} on"
    how = f"{fixed}For TensorRT{plugin}{others}."
    return _model(graph, model, profile, precision, how, bodies), tuple(nodes.cuts)


def _graph(nodes: ModelNodes, settings: Mapping[str, Any], choices: int | str = CHOICE_DIM) -> onnx.GraphProto:
    model = nodes.model
    kind = TensorProto.UINT8 if model.uint8_input else TensorProto.FLOAT
    image = helper.make_tensor_value_info(IMAGE_INPUT, kind, [BATCH_DIM, *model.config.image_size, model.config.channels])
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [len(n)]) for name, n in settings.items()]
    return helper.make_graph(nodes.nodes, "vmoe", [image, *inputs], list(_outputs(nodes, choices)), nodes.initializers())


def _outputs(nodes: ModelNodes, choices: int | str) -> Iterator[onnx.ValueInfoProto]:
    config, moe = nodes.model.config, nodes.model.config.moe
    answers = nodes.model.answers
    for name, answer in answers.items():
        yield helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH_DIM, *answer])
    if moe is None:
        return
    slots = [moe.routing.slots_per_expert] if isinstance(moe.routing, Soft) else []
    kinds = {"kept": TensorProto.BOOL, **dict.fromkeys(("expert", "slot", TOKEN_OUTPUT), TensorProto.INT32)}
    experts = {f"encoderblock_{i}": count for i, count in zip(moe.layers, moe.experts, strict=True)}
    for name in nodes.outputs[len(answers) :]:
        block, _, what = name.rpartition("/")
        shape: list[int | str] = [BATCH_DIM, config.num_tokens]
        if what != TOKEN_OUTPUT:
            per_token = choices if isinstance(moe.routing, TopK) else experts[block]
            shape = [_groups(nodes.model), nodes.left.get(block, nodes.model.grouping.tokens), per_token, *slots]
        yield helper.make_tensor_value_info(name, kinds.get(what, TensorProto.FLOAT), shape)


def _groups(model: ExportedModel) -> str:
    """Return the name of the dimension that counts groups. If each group is one image, this is the batch dimension."""
    return BATCH_DIM if model.grouping.tokens == model.config.num_tokens * model.config.ensemble_size else GROUP_DIM


def _name_block_shapes(graph: onnx.GraphProto, nodes: ModelNodes, *, merges: bool) -> None:
    """Declare the shapes of the values between encoder blocks.

    The shapes allow a runtime to compute in place and to fuse the head.
    """
    config = nodes.model.config
    known = {value.name for value in (*graph.input, *graph.output)}
    rows, groups = BATCH_DIM, _groups(nodes.model)
    tokens: int | str = config.num_tokens
    group_tokens: int | str = nodes.model.grouping.tokens

    def declare(name: str, *shape: int | str) -> None:
        if name not in known:
            known.add(name)
            graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (*shape, config.hidden_size)))

    for number, (op, is_class_token, before, after) in enumerate(nodes.blocks):
        if op == "VmoeExpertBlock" and config.ensemble_size > 1:
            rows = MEMBER_DIM  # from the first MoE layer on, the members have separate rows
        if is_class_token:
            tokens = 1
        in_groups = op == "VmoeExpertBlock" and not is_class_token
        declare(before, *((groups, group_tokens) if in_groups else (rows, tokens)))
        if op == "VmoeAttentionBlock" and merges:
            tokens = f"tokens_{number}"
            group_tokens = tokens if groups == BATCH_DIM else f"group_{tokens}"
        declare(after, *((groups, group_tokens) if in_groups else (rows, tokens)))


def _model(
    graph: onnx.GraphProto,
    model: ExportedModel,
    profile: Profile | None,
    precision: str,
    how: str,
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = OPSET,
) -> onnx.ModelProto:
    """Wrap a graph in a ModelProto.

    The result's `metadata_props` describe the model. Its `doc_string` also explains how to run the graph.

    Args:
        graph: the graph.
        model: the model that the graph computes.
        profile: the profile that the graph has as its default or is fixed to. It is None if there are no profiles.
        precision: the precision of the graph's large products.
        how: sentences on how to run the graph.
        functions: the functions that the graph's nodes call.
        opset: the ONNX opset version.
    """
    opsets = {"": opset} | ({DOMAIN: VERSION} if functions else {})
    proto = helper.make_model(
        graph,
        producer_name="vmoe-export",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        functions=functions,
    )
    config, moe, grouping = model.config, model.config.moe, model.grouping
    shape = ",".join(map(str, (*config.image_size, config.channels)))
    pixels = f"uint8[N,{shape}] in 0..255" if model.uint8_input else f"float32[N,{shape}] in [-1, 1]"
    experts = f" with {by_layer(moe.experts)} experts in blocks {', '.join(map(str, moe.layers))}" if moe else ""
    facts = {
        "model": f"{KIND_NAMES[moe.routing.kind] if moe else 'Dense ViT'} of {config.num_layers} blocks{experts}; "
        f"hidden size {config.hidden_size}, patches of {'x'.join(map(str, config.patch_size))} px",
        "precision": precision,
        "input": f"image {pixels}",
        "output": ", ".join(f"{name} float32[N,{','.join(map(str, answer))}]" for name, answer in model.answers.items()),
    }
    if moe:
        facts["routing_group"] = f"{grouping.name}, {grouping.tokens} tokens; N is a multiple of {grouping.batch_multiple}"
    if profile is not None:
        facts["profile"] = profile.name
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    proto.doc_string = (
        f"{facts['model']}; exported by vmoe-export {__version__}. Takes {facts['input']}, returns {facts['output']}. {how} "
        f"Its weights are in {WEIGHTS_NAME} beside it."
    )
    proto.graph.doc_string = proto.doc_string
    return proto


def _called(graph: onnx.GraphProto, functions: Mapping[str, onnx.FunctionProto]) -> list[onnx.FunctionProto]:
    """Return the functions that the graph's nodes call, directly or through other functions."""
    names = {node.op_type for node in graph.node}
    while more := {node.op_type for name in names & functions.keys() for node in functions[name].node} - names:
        names |= more
    return [function for name, function in functions.items() if name in names]


def _write(path: Path, graph: onnx.ModelProto) -> None:
    path.write_bytes(graph.SerializeToString(deterministic=True))
    try:
        onnx.checker.check_model(path, full_check=True)
        onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX refuses {path.name}: {error}") from None
