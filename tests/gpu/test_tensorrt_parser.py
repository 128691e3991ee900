"""Run the parser and the builder of NVIDIA's TensorRT-RTX, which need no GPU, on the graphs for TensorRT.

TensorRT-RTX doesn't support plugins. The parser therefore replaces each op by the ONNX function that the file defines for
it. The builder gets a graph from which the ops are removed. The results of the removed ops
are inputs of that graph.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import sdk_build
from onnx import TensorProto, helper
from wheels import wheel_folder

from vmoe_export import export_bundle
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.precisions import TensorRtPrecision

RTX_WHEELS = ("tensorrt-rtx-cu13-libs==1.7.1.116", "tensorrt-rtx-cu13-bindings==1.7.1.116", "numpy>=2")
MNIST = Path(__file__).parents[2] / "samples" / "mnist"
IMAGES, LARGEST = 4, 8
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Shapes = Mapping[str, Sequence[Sequence[int]]]
TENSORRT_TYPES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}

PARSE = """
import json, sys
import tensorrt_rtx_libs, tensorrt_rtx_bindings as trt
builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, builder.logger)
parser.parse_from_file(sys.argv[1])
layers = [network.get_layer(index) for index in range(network.num_layers)]
products = [layer.get_output(0).dtype.name for layer in layers if layer.type == trt.LayerType.MATRIX_MULTIPLY]
outputs = [network.get_output(index) for index in range(network.num_outputs)]
report = {
    "errors": [parser.get_error(index).desc() for index in range(parser.num_errors)],
    "products": products,
    "outputs": {output.name: output.dtype.name for output in outputs},
}
if sys.argv[2:]:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM120, 0)
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for name, shapes in json.loads(sys.argv[2]).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    report["built"] = builder.build_serialized_network(network, config) is not None
print(json.dumps(report))
"""


def graph_of(bundle: Bundle) -> Path:
    graphs = bundle.manifest.tensorrt
    assert graphs is not None
    return bundle.path / next(iter(graphs.graphs.values()))


def parsed(graph: Path, shapes: Shapes | None = None) -> Mapping[str, Any]:
    """Return a report with the parser's messages.

    If the inputs' `shapes` are given, the report also contains the builder's result.
    """
    command = (sys.executable, "-c", PARSE, graph, *([] if shapes is None else [json.dumps(shapes)]))
    report: Mapping[str, Any] = json.loads(sdk_build.built(*command, PYTHONPATH=str(wheel_folder(*RTX_WHEELS))))
    assert report["errors"] == []
    return report


def without_ops(bundle: Bundle, precision: TensorRtPrecision, rounds: bool) -> tuple[Path, Shapes]:
    """Remove the nodes of VmoeRouteDispatch and VmoeCombine from a graph.

    The inputs of these nodes become outputs of the graph, and their outputs become inputs of the graph. Return the path of
    the graph, and the range of shapes for each input.
    """
    graph = graph_of(bundle)
    model = onnx.load(graph, load_external_data=False)
    manifest, rules = bundle.manifest, bundle.manifest.rules
    assert rules is not None
    calls = tuple(images * manifest.batch_multiple for images in (1, IMAGES, LARGEST))
    # If tokens are merged, the number of tokens differs between layers, so get it for each layer.
    shapes_of = {output.name: output.type.tensor_type.shape.dim for output in model.graph.output}
    left = [shapes_of[f"{layer}/slot"][1].dim_value for layer in bundle.manifest.moe_layers]
    tokens, hidden = next(tensor.dims[1:] for tensor in model.graph.initializer if tensor.name.endswith("pos_embedding"))
    groups = [images * tokens // rules.group_tokens for images in calls]
    (profile,) = bundle.manifest.profiles.values()
    places = profile.slots[0]
    dispatched = TensorProto.BFLOAT16 if rounds else TYPES[precision]
    size = manifest.input
    shapes = {"image": [[images, size.height, size.width, size.channels] for images in calls]}
    nodes, given = [], []
    taken: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type == "VmoeRouteDispatch":
            given.append(helper.make_tensor_value_info(node.output[2], dispatched, [rules.num_experts, None, hidden]))
            shapes[node.output[2]] = [[rules.num_experts, count * places, hidden] for count in groups]
            taken |= {node.input[0]: TensorProto.FLOAT, node.input[1]: dispatched}
        elif node.op_type == "VmoeCombine":
            of_group = left.pop(0)
            given.append(helper.make_tensor_value_info(node.output[0], TYPES[precision], [None, of_group, hidden]))
            shapes[node.output[0]] = [[count, of_group, hidden] for count in groups]
            taken[node.input[0]] = TYPES[precision]
        else:
            nodes.append(node)
    outputs = [value for value in model.graph.output if not value.name.endswith(("/slot", "/weight"))]
    del model.graph.node[:], model.graph.output[:]
    for function in [function for function in model.functions if function.name != "VmoeGates"]:
        model.functions.remove(function)  # VmoeGates is kept: without a plugin, its function is a matrix product
    model.graph.node.extend(nodes)
    model.graph.input.extend(given)
    model.graph.output.extend(outputs)
    model.graph.output.extend(helper.make_tensor_value_info(name, dtype, None) for name, dtype in taken.items())
    cut = graph.with_name("cut.onnx")
    onnx.save(model, cut)
    return cut, shapes


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("fp32", {"dispatch_bf16": True}),
        ("fp16", {"input": "uint8"}),
        ("fp16", {"group": "batch", "batch_size": IMAGES}),
        ("bf16", {}),
        ("fp32", {"merge": 8}),
        ("fp16", {"merge": 13, "group": "2"}),
    ],
    ids=str,
)
def test_nvidias_parser_takes_the_file_and_its_builder_all_but_the_plugins(
    precision: TensorRtPrecision, options: dict[str, Any], tmp_path: Path
) -> None:
    wheel_folder(*RTX_WHEELS)
    setting: dict[str, Any] = {"config": MNIST / "config.json", "capacity": [0.3], "k": [2], **options}
    export_bundle(MNIST / "vmoe_mnist", tmp_path / "own.vmoe", tensorrt=True, precision=precision, validate=False, **setting)
    bundle = Bundle.open(tmp_path / "own.vmoe")
    layers = bundle.manifest.moe_layers
    assert parsed(graph_of(bundle))["outputs"] == {
        "logits": "FLOAT",
        **{f"{layer}/slot": "INT32" for layer in layers},
        **{f"{layer}/weight": "FLOAT" for layer in layers},
        **{f"{layer}/token": "INT32" for layer in layers if "merge" in options},
    }
    report = parsed(*without_ops(bundle, precision, "dispatch_bf16" in options))
    assert report["built"]
    # In every precision, the matrix products in routers and in the head are in float32.
    short = [dtype for dtype in report["products"] if dtype != "FLOAT"]
    assert set(short) == ({TENSORRT_TYPES[precision]} - {"FLOAT"})
    if short:
        # merging adds three products to each layer: key similarities, counts of merged tokens, and means of merged tokens
        in_merging = 3 * len(layers) if "merge" in options else 0
        assert len(report["products"]) - len(short) == len(layers) + 1 + in_merging
