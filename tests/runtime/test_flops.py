"""Check that the FLOPs that commands print equal the FLOPs of all matrix products in the graph.

The graph is the one that contains only standard ops.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden
import numpy as np
import onnx
import onnxruntime
import pytest

from vmoe_export.validation.reference_ops import merged_places
from vmoe_measure.flops import ModelShape, rows_of_all_slots, sparse_flops, tokens_of_blocks
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BundleError

IMAGES = 4
MODELS = {
    "g1": {"capacity": [0.5], "k": [2]},
    "g4": {},
    "g5": {"capacity": [0.5], "k": [1]},
    "g6": {},
    "g7": {"capacity": [1.0]},
}


def products_of(bundle: Path, feeds: dict[str, np.ndarray]) -> int:
    """Return the FLOPs of all matrix products in a run of `model.inlined.onnx`.

    The FLOPs are computed from the shapes of the matrices. Each multiply-add counts as two FLOPs.
    """
    graph = onnx.load(bundle / "model.inlined.onnx", load_external_data=False)
    constant = {tensor.name: list(tensor.dims) for tensor in graph.graph.initializer}
    products = [node for node in graph.graph.node if node.op_type == "MatMul"]
    assert not {"Gemm", "Conv", "Einsum"} & {node.op_type for node in graph.graph.node}
    wanted = sorted({name for node in products for name in (*node.input, *node.output)} - constant.keys())
    given = {value.name for value in graph.graph.input}
    there = {value.name for value in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given | there)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(wanted, {name: array for name, array in feeds.items() if name in given})
    shapes: dict[str, Any] = constant | {name: value.shape for name, value in zip(wanted, found, strict=True)}
    return sum(2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1] for node in products)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flops")
    return {model: golden.bundle(model, folder / f"{model}.vmoe", **given) for model, given in MODELS.items()}


@pytest.mark.parametrize("model", MODELS)
def test_flops_are_those_of_the_graph(model: str, bundles: dict[str, Path]) -> None:
    manifest = Bundle.open(bundles[model]).manifest
    profile = next(iter(manifest.profiles.values()), None)
    shape = ModelShape.of(manifest.model)
    rows = rows_of_all_slots(manifest.rules, profile, shape)
    feeds = {"image": golden.arrays(model)["images"][:IMAGES], **(profile.inputs if profile else {})}
    counted = products_of(bundles[model], feeds) / len(feeds["image"])
    assert sparse_flops(shape, rows) == pytest.approx(counted, rel=0.01)
    if profile is not None:
        assert manifest.raw["flops_per_image"][profile.name] == pytest.approx(counted, rel=0.01)


def test_fewer_rows_of_experts_cost_less(mnist_image_bundle: Path) -> None:
    shape = ModelShape.of(Bundle.open(mnist_image_bundle).manifest.model)
    none, some = sparse_flops(shape, [0.0] * 5), sparse_flops(shape, [10.0, 0, 0, 0, 2.5])
    assert some - none == 12.5 * 4 * 64 * 128


@pytest.mark.parametrize(("front", "reads_class_token"), [(0, False), (0, True), (1, True), (2, False), (5, True)])
def test_blocks_merge_as_many_tokens_as_are_counted(front: int, reads_class_token: bool, mnist_image_bundle: Path) -> None:
    shape = ModelShape.of(Bundle.open(mnist_image_bundle).manifest.model)
    shape = replace(shape, tokens=16 + front, patches=16, num_layers=4, reads_class_token=reads_class_token)
    for merge in range(10):
        *begin, _ = counted = tokens_of_blocks(shape, merge)
        keys = [np.zeros((1, tokens, 1), np.float32) for tokens in begin]
        prefix = front or int(reads_class_token)
        assert counted[1:] == [merged_places(key, merge, prefix=prefix).max() + 1 for key in keys]


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": None}, {"patch_size": [0, 4]}, {"image_size": 28}, {"moe": 5}, {"moe": {"layers": 0}}],
    ids=str,
)
def test_a_model_description_without_sizes_is_one_sentence(change: dict[str, Any], mnist_image_bundle: Path) -> None:
    model = Bundle.open(mnist_image_bundle).manifest.model
    with pytest.raises(BundleError, match="lacks the sizes"):
        ModelShape.of({**model, **change})
