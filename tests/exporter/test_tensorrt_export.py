"""Tests for `vmoe export --tensorrt`, which writes the graphs for TensorRT.

ONNX Runtime runs these graphs unchanged here. The tests also check that they contain only allowed ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import numpy as np
import onnx
import onnx.parser
import onnx.reference
import onnxruntime
import pytest
from command_runs import Refuse
from damaged_files import DENSE, SPARSE, read_tensors, refusal, written
from family_files import families
from image_parts import in_parts
from onnx import TensorProto
from variants import VARIANTS, Variant

from vmoe_export import export_bundle
from vmoe_export.errors import ExportError
from vmoe_export.graphs import graph_files
from vmoe_export.graphs.graph_files import tensorrt_graph
from vmoe_export.ops.table import DOMAIN
from vmoe_export.validation.short_emulation import emulate_short
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.op_library import find_library
from vmoe_runtime.precisions import TensorRtPrecision

pytestmark = pytest.mark.long

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
CASES = golden.cases()
COMPARED = 512  # images of MNIST
LIBRARIES = ("no library", *(["op library"] if find_library() else []))
PRECISIONS: dict[TensorRtPrecision, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}
CONFIGS = list({(case.model, case.group, case.bfloat16): case for case in CASES}.values())
"""A case of every golden model, routing group and dispatcher."""

# Ops that TensorRT 10.1's ONNX parser supports for float32, float16, bfloat16, int32 and int64.
PARSED = {
    "Add", "Cast", "Concat", "Constant", "Div", "Expand", "Gather", "Gelu", "LayerNormalization", "MatMul", "Mul",
    "ReduceMean", "Reshape", "Shape", "Slice", "Softmax", "Sub", "Tanh", "Transpose",
}  # fmt: skip
PLUGINS = {"VmoeGates": 2, "VmoeRouteDispatch": 2, "VmoeCombine": 3}
"""The plugins of a graph, and how many inputs each has."""

Outputs = list[np.ndarray]


def session(graph: Path, library: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(str(find_library()))
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def graph_of(case: golden.Case, precision: TensorRtPrecision = "fp32") -> tuple[Path, onnx.ModelProto]:
    """Write the graph for a case's setting into the folder with the model's weights. Return its path and the graph."""
    folder, network, grouping, spans = golden.parts(case.model, case.group, case.bfloat16)
    graph, _ = tensorrt_graph(replace(golden.exported_model(network), grouping=grouping), spans, case.profile, precision)
    path = folder / f"{precision}.tensorrt.onnx"
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return path, graph


@pytest.mark.sample(15)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_and_kept_pairs_of_an_unchanged_float32_file_are_the_official_ones(case: golden.Case, library: str) -> None:
    run = session(graph_of(case)[0], library == "op library")
    logits, *routes = run.run(None, {"image": case.images})
    assert logits.dtype == np.float32
    difference = np.abs(logits - case.logits)
    assert difference.max() <= (3e-3 if case.bfloat16 else 1e-5)
    assert difference.mean() <= 1.5e-4
    check_slots(case, routes, atol=3e-3 if case.bfloat16 else 1e-5)


def check_slots(case: golden.Case, routes: Outputs, atol: float) -> None:
    for slot, weight, (gates, kept) in zip(routes[::2], routes[1::2], case.layers(), strict=True):
        assert case.profile is not None
        np.testing.assert_array_equal(golden.kept_slots(slot, case.profile.slots[0], kept.shape[-1]), kept)
        if gates is not None:
            np.testing.assert_allclose(weight, -np.sort(-gates)[..., : weight.shape[-1]], rtol=0, atol=atol)


# Contents of a graph.


@pytest.mark.sample(15)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CONFIGS, ids=str)
def test_onnx_accepts_the_file_and_knows_every_type(case: golden.Case, precision: TensorRtPrecision) -> None:
    path, graph = graph_of(case, precision)
    onnx.checker.check_model(path, full_check=True)
    types = value_types(graph)
    allowed = {TensorProto.FLOAT, PRECISIONS[precision], TensorProto.INT32, TensorProto.INT64}
    # If the dispatcher uses bfloat16, the graph contains bfloat16 in every precision.
    assert set(types.values()) <= allowed | ({TensorProto.BFLOAT16} if case.bfloat16 else set())
    for node in graph.graph.node:
        # In a strongly typed network, these ops need inputs and outputs of the same type.
        if node.op_type in {"MatMul", "Add", "Mul", "Sub", "Div", "Concat", "LayerNormalization"}:
            assert len({types[name] for name in (*node.input, *node.output)}) == 1, node
        if node.op_type in PLUGINS:
            assert TensorProto.INT64 not in {types[name] for name in (*node.input, *node.output)}
    assert len(path.read_bytes()) < 100_000


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CONFIGS, ids=str)
def test_the_main_graph_has_the_plugins_and_ops_that_tensorrt_parses(
    case: golden.Case, precision: TensorRtPrecision
) -> None:
    _, model = graph_of(case, precision)
    graph, profile = model.graph, case.profile
    plugins = [node for node in graph.node if node.domain == DOMAIN]
    assert {node.op_type for node in graph.node if node.domain == ""} <= PARSED
    assert {node.domain for node in graph.node} <= {"", DOMAIN}
    layers = case.raw["layers"]
    assert [node.op_type for node in plugins] == [*PLUGINS] * len(layers)
    for node in plugins:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes.pop("plugin_namespace") == b"vmoe" and attributes.pop("plugin_version") == b"1"
        setting = {} if profile is None else {"capacity": profile.slots[0], "k": profile.k, "bpr": int(profile.bpr)}
        assert attributes == (setting if node.op_type == "VmoeRouteDispatch" else {})
        assert len(node.input) == PLUGINS[node.op_type] and all(node.input)
    # Runtimes without the plugin run the graph's functions. The main graph calls only the functions for the plugin's
    # ops. These functions in turn call VmoeRoute and VmoeDispatch.
    expected = {*PLUGINS, "VmoeRoute", "VmoeDispatch"} if layers else set()
    assert {function.name for function in model.functions} == expected
    names = [node.name for node in graph.node]
    assert all(names) and len(set(names)) == len(names)
    assert all(attribute.type != onnx.AttributeProto.GRAPH for node in graph.node for attribute in node.attribute)
    assert len([node for node in graph.node if node.op_type in ("Shape", "Expand")]) <= 2
    locations = {entry.value for t in graph.initializer for entry in t.external_data if entry.key == "location"}
    assert locations == {"weights.safetensors"}
    (image,) = graph.input
    dims = image.type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch" and all(dim.dim_value for dim in dims[1:])
    assert [output.name for output in graph.output] == [
        "logits", *(f"{layer}/{what}" for layer in layers for what in ("slot", "weight"))
    ]  # fmt: skip
    for output in graph.output:
        kind = TensorProto.INT32 if output.name.endswith("/slot") else TensorProto.FLOAT
        assert output.type.tensor_type.elem_type == kind


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("case", CONFIGS, ids=str)
def test_router_residual_stream_and_head_are_float32_and_the_large_products_are_not(
    case: golden.Case, precision: TensorRtPrecision
) -> None:
    _, model = graph_of(case, precision)
    types = value_types(model)
    short = PRECISIONS[precision]
    for node in model.graph.node:
        (kind, *_) = [types[name] for name in node.output]
        if node.op_type == "MatMul":
            exact = node.name.startswith(("head/", "pre_logits/"))
            assert kind == (TensorProto.FLOAT if exact else short), node.name
        elif node.op_type in ("LayerNormalization", "ReduceMean"):
            assert kind == TensorProto.FLOAT
        elif node.op_type == "Softmax":
            assert kind == short
        elif node.op_type == "VmoeGates":
            assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
        elif node.op_type == "VmoeRouteDispatch":
            assert [types[name] for name in (*node.input, *node.output)] == [
                TensorProto.FLOAT, short, TensorProto.INT32, TensorProto.FLOAT, short,
            ]  # fmt: skip
        elif node.op_type == "VmoeCombine":
            assert [types[name] for name in (*node.input, *node.output)] == [
                short, TensorProto.INT32, TensorProto.FLOAT, short,
            ]  # fmt: skip
    adds = [node for node in model.graph.node if node.op_type == "Add" and types[node.output[0]] == TensorProto.FLOAT]
    # Each block contains two additions to the residual stream.
    assert len(adds) >= 2 * golden.settings(case.model)["model"]["encoder"]["num_layers"]


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value in a graph, from strict type inference.

    The values include inputs and initializers.
    """
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    missing = {name for node in inferred.node for name in (*node.input, *node.output)} - types.keys()
    assert not missing
    return types


# Short types.


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", CONFIGS, ids=str)
def test_a_float16_file_runs_unchanged_and_is_close(case: golden.Case) -> None:
    path, _ = graph_of(case, "fp16")
    logits, *routes = session(path).run(None, {"image": case.images})
    assert logits.dtype == np.float32
    assert np.abs(logits - case.logits).max() < 2e-2
    assert kept_alike(case, routes) > 0.99


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", CONFIGS, ids=str)
def test_a_bfloat16_file_is_close_when_it_is_emulated(case: golden.Case) -> None:
    path, graph = graph_of(case, "bf16")
    with pytest.raises(Exception, match="MatMul"):
        session(path)  # ONNX Runtime has no bfloat16 MatMul on CPUs
    path.write_bytes(emulate_short(graph).SerializeToString())
    logits, *routes = session(path).run(None, {"image": case.images})
    assert np.abs(logits - case.logits).max() > 1e-4
    # In models as small as these, an image's logits change by a tenth if one token gets another expert.
    assert np.sqrt(np.mean((logits - case.logits) ** 2)) < 0.2 * np.sqrt(np.mean(case.logits**2))
    assert kept_alike(case, routes) > 0.94


def kept_alike(case: golden.Case, routes: Outputs) -> float:
    """Return the share of (token, expert) pairs that are kept or dropped as in the official model.

    The share is computed for each layer, and the smallest one is returned.
    """
    shares = [1.0]
    for slot, (_, kept) in zip(routes[::2], case.layers(), strict=True):
        assert case.profile is not None
        shares.append(float((golden.kept_slots(slot, case.profile.slots[0], kept.shape[-1]) == kept).mean()))
    return min(shares)


# MNIST.


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> Mapping[str, Path]:
    """Export the MNIST model for TensorRT in every precision, without validation. Groups have 16 images."""
    folder = tmp_path_factory.mktemp("tensorrt")
    for precision in PRECISIONS:
        export_bundle(
            mnist_checkpoint,
            folder / f"{precision}.vmoe",
            capacity=[0.1, 1.05],
            k=[1, 2],
            group="16",
            config=MNIST / "config.json",
            precision=precision,
            tensorrt=True,
            validate=False,
        )
    return {precision: folder / f"{precision}.vmoe" for precision in PRECISIONS}


@pytest.mark.sample(1)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 511), ("fp16", 509), ("bf16", 505)])
def test_mnist_predictions_are_nearly_all_official(
    precision: str, least: int, bundles: Mapping[str, Path], mnist_images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    images = (mnist_images["images"][:COMPARED, ..., None] / 127.5 - 1).astype(np.float32)
    with np.load(MNIST / "reference.npz") as reference:
        for profile, graph in Bundle.open(bundles[precision]).manifest.raw["tensorrt"]["graphs"].items():
            ratio, k = profile.removeprefix("c").split("-k")
            path = bundles[precision] / graph
            if precision != "fp32":
                emulated = emulate_short(onnx.load(path, load_external_data=False))
                path = tmp_path / graph
                path.write_bytes(emulated.SerializeToString())
                (tmp_path / "weights.safetensors").unlink(missing_ok=True)
                (tmp_path / "weights.safetensors").write_bytes((bundles[precision] / "weights.safetensors").read_bytes())
            run = session(path)
            (logits,) = in_parts(lambda part, run=run: run.run(["logits"], {"image": part}), images)
            official = reference[f"pred_K{k}_C{ratio}_bpr"][:COMPARED]
            assert (logits.argmax(axis=1) == official).sum() >= least, profile


@pytest.mark.sample(3)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_kind_of_model_passes_its_validation(variant: Variant, tmp_path: Path) -> None:
    source, options = variant.write(tmp_path), replace(variant, settings=variant.settings[-1:]).export_options
    for precision in ("fp32", "fp16"):
        result = export_bundle(source, tmp_path / f"{precision}.vmoe", tensorrt=True, precision=precision, **options)
        (graph,) = result.tensorrt.values()
        (found,) = result.tensorrt_comparisons
        assert found.graph == graph
        names = [node.name for node in onnx.load(result.path / graph, load_external_data=False).graph.node]
        assert len(set(names)) == len(names)
        assert found.relative_difference < (5e-3 if precision == "fp16" or options.get("dispatch_bf16") else 2e-6)


def test_an_attention_pool_may_have_other_heads_than_the_blocks(tmp_path: Path) -> None:
    source = families()["timm_pe_core"].write(tmp_path / "model")
    (found,) = export_bundle(source, tmp_path / "model.vmoe", tensorrt=True).tensorrt_comparisons
    assert found.relative_difference < 2e-6


# The bundle.


@pytest.mark.sample(3)
@pytest.mark.parametrize("checkpoint", [SPARSE, DENSE], ids=lambda path: path.name)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_manifest_names_the_graphs_and_how_they_were_compared(
    precision: TensorRtPrecision, checkpoint: Path, tmp_path: Path
) -> None:
    result = export_bundle(checkpoint, tmp_path / "x.vmoe", precision=precision, tensorrt=True)
    names = ["c1.05-k2"] if checkpoint == SPARSE else ["model"]
    graphs = {name: f"{name}.tensorrt.onnx" for name in names}
    manifest = Bundle.open(tmp_path / "x.vmoe").manifest.raw
    assert manifest["tensorrt"] == {"precision": precision, "graphs": graphs}
    assert manifest["precision"] == ("bf16" if precision == "bf16" else "fp32")
    assert [entry["graph"] for entry in manifest["validation"]["tensorrt"]] == [*graphs.values()]
    assert {found.graph for found in result.comparisons} == {"model.onnx", "model.inlined.onnx"}


# Refusals.


@pytest.mark.parametrize(
    "factors",
    [
        {"SelfAttention/value/kernel": 1e5, "SelfAttention/value/bias": 1e5, "SelfAttention/out/kernel": 1e-5},
        {"LayerNorm_1/scale": 1e6, "LayerNorm_1/bias": 1e6, "Mlp/Dense_0/kernel": 1e-6},  # only in products
    ],
)
def test_a_model_that_float16_has_no_room_for_is_refused(
    factors: Mapping[str, float], tmp_path: Path, refuse_export: Refuse
) -> None:
    tensors = dict(read_tensors())
    for part, factor in factors.items():
        name = f"Encoder/encoderblock_0/{part}"
        tensors[name] = (tensors[name] * factor).astype(np.float32)
    words = (written(tmp_path, tensors), "--tensorrt", "--precision", "fp16")
    refuse_export(*words, names=["c1.05-k2.tensorrt.onnx", "not finite", "--precision"])


def tanh_for_gelu(node: onnx.NodeProto) -> None:
    if node.op_type == "Gelu":
        node.op_type = "Tanh"
        del node.attribute[:]


def capacity_of_1(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "capacity":
            attribute.i = 1


@pytest.mark.parametrize(
    ("change", "precision", "options", "words"),
    [
        (tanh_for_gelu, "fp32", {"atol": 0.1}, "more than --atol 0.1"),
        (tanh_for_gelu, "fp16", {}, "rounding explains"),
        (tanh_for_gelu, "bf16", {}, "rounding explains"),
        (capacity_of_1, "fp16", {}, "of the pairs as the reference does"),
        (capacity_of_1, "bf16", {}, "of the pairs as the reference does"),
    ],
)
def test_a_graph_that_computes_something_else_is_refused(
    change: Callable[[onnx.NodeProto], None], precision: str, options: dict[str, Any], words: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def wrong(*arguments: Any) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        model, cuts = tensorrt_graph(*arguments)
        for node in model.graph.node:
            change(node)
        return model, cuts

    monkeypatch.setattr(graph_files, "tensorrt_graph", wrong)
    with refusal(ExportError, words, "tensorrt.onnx", "no bundle was written"):
        export_bundle(SPARSE, tmp_path / "x.vmoe", tensorrt=True, precision=precision, **options)
    assert list(tmp_path.iterdir()) == []
