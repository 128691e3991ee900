"""Tests for the contents of an exported bundle: its files, graphs and manifest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file

from vmoe_export import export_bundle, open_checkpoint
from vmoe_export.ops.table import DOMAIN, OPS
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.settings import SETTINGS

pytestmark = pytest.mark.fast

GRAPHS = ("model.onnx", "model.inlined.onnx")


def graph_of(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load(bundle / name, load_external_data=False)


def test_a_bundle_holds_exactly_its_five_files(mnist_bundle: Path) -> None:
    names = ["README.md", "manifest.json", *sorted(GRAPHS), "weights.safetensors"]
    assert sorted(path.name for path in mnist_bundle.iterdir()) == names


def test_the_manifest_has_the_size_and_hash_of_every_other_file_but_the_model_card(mnist_bundle: Path) -> None:
    manifest = json.loads((mnist_bundle / "manifest.json").read_text())
    found = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in mnist_bundle.iterdir()
        if path.name not in ("manifest.json", "README.md")
    }
    assert manifest["files"] == found


def test_the_weights_are_the_checkpoint_under_its_own_names(mnist_bundle: Path, mnist_checkpoint: Path) -> None:
    stored = load_file(mnist_bundle / "weights.safetensors")
    with open_checkpoint(mnist_checkpoint) as checkpoint:
        assert stored.keys() == checkpoint.keys()
        for name in checkpoint:
            np.testing.assert_array_equal(stored[name], checkpoint[name])


def test_a_bundle_is_little_more_than_its_weights(mnist_bundle: Path) -> None:
    with open_checkpoint(Path(__file__).parents[2] / "samples" / "mnist" / "vmoe_mnist") as checkpoint:
        weights = sum(array.nbytes for array in checkpoint.values())
    overhead = sum(path.stat().st_size for path in mnist_bundle.iterdir()) - weights
    assert overhead < 300_000


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_passes_the_full_checker_and_strict_shape_inference(mnist_bundle: Path, name: str) -> None:
    onnx.checker.check_model(mnist_bundle / name, full_check=True)
    onnx.shape_inference.infer_shapes(graph_of(mnist_bundle, name), check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("name", GRAPHS)
def test_all_weights_lie_in_the_weights_file_aligned_for_mapping(mnist_bundle: Path, name: str) -> None:
    for tensor in graph_of(mnist_bundle, name).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            assert place["location"] == "weights.safetensors"
            assert int(place["offset"]) % 4 == 0
        else:
            assert len(tensor.raw_data) <= 64 and np.prod(tensor.dims) <= 16


def test_the_canonical_graph_has_defaults_and_nested_functions(mnist_bundle: Path) -> None:
    model = graph_of(mnist_bundle, "model.onnx")
    assert [value.name for value in model.graph.input] == ["image", *SETTINGS]
    defaults = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in model.graph.initializer if t.name in SETTINGS}
    assert defaults == {"capacity": [10] * 5, "k": [1], "bpr": [1], "pool": [0], "max_experts": [8], "merge": [0]}
    # The graph contains only the functions that its nodes call. The functions in `others` are not called. For example, this
    # model has no dense block, and no op that both routes and dispatches.
    others = {"VmoeDenseMlp", "VmoeMlpBlock", "VmoeGates", "VmoeRouteDispatch", "VmoeChooseTokens"}
    others |= {name for name in OPS if name.startswith("VmoeSoft") or name in ("VmoeClassAttentionBlock", "VmoeRotate")}
    assert {function.name for function in model.functions} == OPS.keys() - others
    assert {function.domain for function in model.functions} == {DOMAIN}
    layers = [f"encoderblock_{i}/{what}" for i in range(5) for what in ("expert", "kept", "weight", "token")]
    assert [value.name for value in model.graph.output] == ["logits", *layers]
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    ops = [node.op_type for node in nodes]
    # All five blocks are sparse. The VmoeLinear node is the patch embedding.
    assert ops == ["VmoeLinear", *["VmoeAttentionBlock", "VmoeRouterBlock", "VmoeExpertBlock"] * 5]
    for node in nodes:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        own = {
            "VmoeExpertBlock": {"dispatch_bf16": 0, "hidden_chunk": 0},
            "VmoeAttentionBlock": {"num_heads": 4, "prefix": 1},
        }.get(node.op_type, {})
        assert attributes == {**own, "plugin_namespace": b"vmoe", "plugin_version": b"1"}


def test_function_bodies_have_no_string_attributes(mnist_bundle: Path) -> None:
    for function in graph_of(mnist_bundle, "model.onnx").functions:
        for node in function.node:
            assert all(a.type != onnx.AttributeProto.STRING for a in node.attribute)


def test_the_inlined_graph_has_standard_ops_only_and_plain_inputs(mnist_bundle: Path) -> None:
    model = graph_of(mnist_bundle, "model.inlined.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [opset.domain for opset in model.opset_import] == [""]
    initializers = {tensor.name for tensor in model.graph.initializer}
    assert not initializers & {value.name for value in model.graph.input}
    experts = [t for t in model.graph.initializer if "/Moe/Mlp/Dense_0/kernel/" in t.name]
    assert len(experts) == 5 * 8 and all(list(t.dims) == [64, 128] for t in experts)


def test_batch_groups_and_choices_are_named_dimensions(mnist_bundle: Path, mnist_image_bundle: Path) -> None:
    def dims(bundle: Path) -> dict[str, list[str | int]]:
        graph = graph_of(bundle, "model.onnx").graph
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*graph.input, *graph.output)
        }

    grouped, single = dims(mnist_bundle), dims(mnist_image_bundle)
    assert grouped["image"] == single["image"] == ["batch", 28, 28, 1]
    assert grouped["logits"] == ["batch", 10]
    for what in ("expert", "kept", "weight"):
        assert grouped[f"encoderblock_0/{what}"] == ["groups", "encoderblock_0_tokens", "k"]
        assert single[f"encoderblock_0/{what}"] == ["batch", "encoderblock_0_tokens", "k"]
    assert grouped["encoderblock_0/token"] == ["batch", 50]


def test_stock_onnxruntime_runs_the_canonical_graph_with_the_first_profile_by_default(
    mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    from vmoe_runtime import Engine

    images = mnist_images["images"][:16]
    scaled = (images[..., None] / np.float32(255) * np.float32(2) - 1).astype(np.float32)
    session = onnxruntime.InferenceSession(mnist_bundle / "model.onnx")
    logits = session.run(["logits"], {"image": scaled})[0]
    with Engine.load(mnist_bundle, profile="c0.1-k1") as engine:
        np.testing.assert_allclose(logits, engine(images), rtol=0, atol=1e-5)


def test_the_same_export_gives_the_same_bytes(mnist_image_bundle: Path, mnist_checkpoint: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.vmoe"
    export_bundle(mnist_checkpoint, again, capacity=[0.3, 1.05], k=[1, 2], validate=False)
    for path in mnist_image_bundle.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    assert Bundle.open(again).identity == Bundle.open(mnist_image_bundle).identity
