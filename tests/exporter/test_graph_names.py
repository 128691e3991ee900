"""Tests for the texts in a graph that viewers show.

Nodes must be named after their block, and the graph must describe the file and its use.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

import vmoe_runtime
from vmoe_export import export_bundle
from vmoe_runtime.installation import oldest_supported

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SPARSE = GOLDEN / "g1"  # a model with 8 experts in each of its MoE blocks 1 and 3
PLACES = {"embedding", "cls", "posembed_input", "encoder_norm", "pre_logits", "head", "MapHead", "Encoder"}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, onnx.ModelProto]:
    target = tmp_path_factory.mktemp("names") / "x.vmoe"
    export_bundle(SPARSE, target, tensorrt=True, precision="fp16", validate=False)
    return {path.name: onnx.load(path, load_external_data=False) for path in target.glob("*.onnx")}


def test_nodes_of_the_canonical_graph_are_the_layers_of_the_model(graphs: Mapping[str, onnx.ModelProto]) -> None:
    names = [node.name for node in graphs["model.onnx"].graph.node]
    assert "embedding/VmoeLinear" in names and "head/MatMul" in names
    for block in range(4):
        assert f"encoderblock_{block}/SelfAttention/VmoeAttentionBlock" in names
        mlp = "Moe/Mlp/VmoeExpertBlock" if block in (1, 3) else "Mlp/VmoeMlpBlock"
        assert f"encoderblock_{block}/{mlp}" in names


@pytest.mark.parametrize("file", ["model.onnx", "model.inlined.onnx", "c1.05-k2.tensorrt.onnx"])
def test_every_node_has_a_name_of_its_own_that_says_its_block(file: str, graphs: Mapping[str, onnx.ModelProto]) -> None:
    graph = graphs[file].graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for name in names:
        place = name.removeprefix("Encoder/").split("/")[0]
        assert re.fullmatch(r"encoderblock_[0-3]", place) or place in PLACES, name
    # A node may use only weights of its own block.
    for node in graph.node:
        blocks = {re.search(r"encoderblock_\d+", name) for name in node.input if name.startswith("Encoder/encoderblock")}
        for block in filter(None, blocks):
            assert block[0] in node.name


def test_a_graph_says_what_it_is_and_how_it_is_run(graphs: Mapping[str, onnx.ModelProto]) -> None:
    for file in ("model.onnx", "model.inlined.onnx", "c1.05-k2.tensorrt.onnx"):
        model = graphs[file]
        assert (model.producer_name, model.producer_version) == ("vmoe-export", vmoe_runtime.__version__)
        facts = {entry.key: entry.value for entry in model.metadata_props}
        assert facts == {
            "model": "V-MoE of 4 blocks with 8 experts in blocks 1, 3; hidden size 40, patches of 32x32 px",
            "precision": "fp16" if "tensorrt" in file else "fp32",
            "input": "image float32[N,96,96,3] in [-1, 1]",
            "output": "logits float32[N,10]",
            "routing_group": "image, 10 tokens; N is a multiple of 1",
            "profile": "c1.05-k2",
        }
        for part in (facts["model"], facts["input"], facts["output"], "weights.safetensors", "vmoe-export"):
            assert part in model.doc_string


@pytest.mark.parametrize("name", ["g4", "g1"])
def test_a_graph_names_the_runtimes_that_run_it(name: str, tmp_path: Path) -> None:
    options = {} if name == "g4" else {"capacity": [1.05], "k": [2]}
    export_bundle(GOLDEN / name, tmp_path / "x.vmoe", tensorrt=True, precision="bf16", validate=False, **options)
    texts = {path.name: onnx.load(path, load_external_data=False).doc_string for path in tmp_path.glob("x.vmoe/*.onnx")}
    (fixed,) = (text for file, text in texts.items() if "tensorrt" in file)
    tensorrt = "TensorRT" if name == "g4" else f"TensorRT from {oldest_supported('tensorrt')} on with the vmoe plugin"
    # the text omits ONNX Runtime, because ONNX Runtime has no bfloat16 matrix product on CPUs
    assert f"For {tensorrt}. " in fixed
    settings = "merge" if name == "g4" else "capacity, k, bpr, pool, max_experts, merge"
    assert f"Its settings are inputs that have default values: {settings}. " in texts["model.onnx"]


def test_nothing_of_the_exporting_machine_is_in_a_graph_and_it_is_the_same_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        export_bundle(SPARSE, tmp_path / folder / "x.vmoe", tensorrt=True, validate=False)
    for path in (tmp_path / "a" / "x.vmoe").glob("*.onnx"):
        held = path.read_bytes()
        assert held == (tmp_path / "b" / "x.vmoe" / path.name).read_bytes()
        places = (str(tmp_path), str(Path.cwd()), str(Path.home()), f"/{getpass.getuser()}/")
        for secret in (*places, "site-packages", "torch", ".py"):
            assert secret.encode() not in held
