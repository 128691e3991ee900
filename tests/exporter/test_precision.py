"""`--precision bf16-experts` on the trained MNIST model: what is stored, what graphs answer, what validation reports."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import ml_dtypes
import numpy as np
import numpy_vmoe
import onnx
import pytest
import safetensors
import torch
from damaged_files import DENSE, assert_command_refuses, golden_tensors, written
from image_parts import in_parts

from vmoe_export import ExportOptions, export_bundle, open_checkpoint
from vmoe_export.cli import main
from vmoe_export.export import ExportResult, plan_export, write_bundle
from vmoe_export.model.torch_model import Vmoe
from vmoe_export.validation.reference import validation_images
from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.openvino_cpu import OpenVinoBackend
from vmoe_runtime.bundle.manifest_reader import parse_manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.op_library import find_library
from vmoe_runtime.profiles import Profile

pytestmark = pytest.mark.long

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SETTINGS = [(ratio, k, bpr) for ratio in (0.1, 0.2, 0.3, 0.5, 1.05, 2.0) for k in (1, 2) for bpr in (True, False)]
GRAPHS = ("model.onnx", "model.inlined.onnx")
RUNNERS = ("onnxruntime-canonical", "onnxruntime-inlined", "openvino", "numpy")
EXPERT_KERNELS = ("/Moe/Mlp/Dense_0/kernel", "/Moe/Mlp/Dense_1/kernel")
LAYERS = 5
GROUP_IMAGES = 16
COMPARED = 384  # images at each setting
OUTPUTS = ["logits", *(f"encoderblock_{i}/{what}" for i in range(LAYERS) for what in ("expert", "kept", "weight"))]

Run = list[np.ndarray]
"""Logits, then expert, kept and weight of each MoE layer."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> ExportResult:
    """The export of conftest's `mnist_bundle`, in bfloat16, with validation at two profiles."""
    target = tmp_path_factory.mktemp("bf16") / "mnist.vmoe"
    options = ExportOptions(
        capacity=[0.3, 1.05], k=[1], group=str(GROUP_IMAGES), config=MNIST / "config.json", precision="bf16-experts"
    )
    with open_checkpoint(mnist_checkpoint) as checkpoint:
        return write_bundle(plan_export(checkpoint, options), target)


@pytest.fixture(scope="module")
def images(mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """float32[1536,28,28,1] in [-1, 1]."""
    return (mnist_images["images"] / 127.5 - 1).astype(np.float32)[..., None]


@pytest.fixture(scope="module")
def checkpoint_tensors(mnist_checkpoint: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(mnist_checkpoint) as checkpoint:
        return dict(checkpoint)


@pytest.fixture(scope="module")
def network(result: ExportResult) -> Vmoe:
    plan = result.plan
    return Vmoe(plan.model, plan.grouping.tokens).load_weights(result.path / "weights.safetensors")


@pytest.fixture(scope="module", params=["standard ops", *(["op library"] if find_library() else [])])
def graphs(request: pytest.FixtureRequest, result: ExportResult, mnist_bundle: Path) -> list[OnnxRuntimeBackend]:
    """The graphs with expert weights in bfloat16 and in float32."""
    library = find_library() if request.param == "op library" else None
    name = "model.inlined.onnx" if library is None else "model.onnx"
    return [OnnxRuntimeBackend(path / name, threads=1, library=library) for path in (result.path, mnist_bundle)]


# What is stored.


def nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16 values, ties to even, by integer arithmetic on finite float32."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def test_expert_kernels_are_stored_rounded_and_all_else_as_it_was(
    result: ExportResult, checkpoint_tensors: dict[str, np.ndarray]
) -> None:
    rounded = []
    with safetensors.safe_open(result.path / "weights.safetensors", framework="pt") as file:
        assert set(file.keys()) == checkpoint_tensors.keys()
        for name, original in checkpoint_tensors.items():
            stored = file.get_tensor(name)
            if name.endswith(EXPERT_KERNELS):
                assert stored.dtype == torch.bfloat16
                np.testing.assert_array_equal(stored.view(torch.uint16).numpy(), nearest_bfloat16(original))
                rounded.append(name)
            else:
                assert stored.dtype == torch.float32
                np.testing.assert_array_equal(stored.numpy(), original)
    assert len(rounded) == 2 * LAYERS


def test_the_weights_file_is_smaller_by_two_bytes_for_each_expert_weight(
    result: ExportResult, mnist_bundle: Path, checkpoint_tensors: dict[str, np.ndarray]
) -> None:
    whole = sum(array.nbytes for array in checkpoint_tensors.values())
    saved = sum(2 * array.size for name, array in checkpoint_tensors.items() if name.endswith(EXPERT_KERNELS))
    assert result.plan.weight_bytes == whole - saved
    size, size_fp32 = ((path / "weights.safetensors").stat().st_size for path in (result.path, mnist_bundle))
    # Headers differ by the names of the types and shorter offsets, in steps of the alignment.
    assert abs((size_fp32 - size) - saved) < 512


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_pass_the_full_checker_and_strict_shape_inference(result: ExportResult, name: str) -> None:
    onnx.checker.check_model(result.path / name, full_check=True)
    graph = onnx.load(result.path / name, load_external_data=False)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)


def test_graphs_point_at_the_stored_bfloat16_of_each_expert(
    result: ExportResult, checkpoint_tensors: dict[str, np.ndarray]
) -> None:
    model = onnx.load(result.path / "model.inlined.onnx", load_external_data=False)
    content = (result.path / "weights.safetensors").read_bytes()
    found = set()
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.BFLOAT16:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        stored = content[int(place["offset"]) : int(place["offset"]) + int(place["length"])]
        name, _, expert = tensor.name.rpartition("/")
        expected = nearest_bfloat16(checkpoint_tensors[name][int(expert)])
        np.testing.assert_array_equal(np.frombuffer(stored, np.uint16).reshape(tuple(tensor.dims)), expected)
        found.add(tensor.name)
    assert len(found) == 2 * LAYERS * 8


def test_moe_layers_of_the_canonical_graph_differ_in_types_alone(result: ExportResult, mnist_bundle: Path) -> None:
    graphs = [onnx.load(path / "model.onnx", load_external_data=False).graph for path in (result.path, mnist_bundle)]
    narrow, whole = ([node for node in graph.node if node.op_type == "VmoeExpertBlock"] for graph in graphs)
    assert [node.SerializeToString() for node in narrow] == [node.SerializeToString() for node in whole]
    assert len(narrow) == LAYERS
    types = {tensor.name: tensor.data_type for tensor in graphs[0].initializer}
    for node in narrow:
        w1, b1, w2, b2 = node.input[6:]
        assert [types[name] for name in (w1, w2)] == [onnx.TensorProto.BFLOAT16] * 2
        assert [types[name] for name in (b1, b2)] == [onnx.TensorProto.FLOAT] * 2
    assert list(types.values()).count(onnx.TensorProto.BFLOAT16) == 2 * LAYERS


def test_the_manifest_says_the_precision_and_one_without_it_means_fp32(result: ExportResult, mnist_bundle: Path) -> None:
    assert Bundle.open(result.path).manifest.precision == "bf16-experts"
    content = json.loads((mnist_bundle / "manifest.json").read_text())
    assert content.pop("precision") == "fp32"
    assert parse_manifest(json.dumps(content).encode()).precision == "fp32"


# What the graphs answer.


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("setting", [(0.3, 1, True), (1.05, 2, False)], ids=str)
def test_every_runtime_answers_as_the_torch_model(
    result: ExportResult,
    network: Vmoe,
    images: np.ndarray,
    checkpoint_tensors: dict[str, np.ndarray],
    runner: str,
    setting: tuple[float, int, bool],
) -> None:
    profile = profile_of(result, *setting)
    batch = images[: 4 * GROUP_IMAGES]
    expected = run_torch(network, batch, profile)
    if runner == "numpy":
        logits, kept = run_numpy(checkpoint_tensors, batch, result.plan.grouping.tokens, profile)
    else:
        found = backend(result, runner).run({"image": batch, **profile.inputs()}, OUTPUTS)
        logits, kept = found[0], kept_pairs(found)
    pairs = [a == b for a, b in zip(kept, kept_pairs(expected), strict=True)]
    alike = np.all([same.reshape(len(batch), -1).all(axis=1) for same in pairs], axis=0)
    difference = np.abs(logits - expected[0])[alike]
    # Runtimes sum in different orders, so float32 differs in the last bits. Where a value lies that close to the middle of
    # two bfloat16, it rounds to the other one: one step in 256 for that value, 1e-3 in the logits of some images, and
    # rarely enough to decide between two tokens with nearly the same gate. Most logits see none of it.
    assert alike.mean() >= 0.85
    assert np.median(difference) <= 1e-4
    assert difference.max() <= 5e-3


@pytest.mark.parametrize(("ratio", "k", "bpr"), SETTINGS)
def test_predictions_are_those_of_fp32(
    result: ExportResult,
    graphs: list[OnnxRuntimeBackend],
    images: np.ndarray,
    ratio: float,
    k: int,
    bpr: bool,
) -> None:
    profile = profile_of(result, ratio, k, bpr)
    settings = profile.inputs()
    narrow, exact = (
        in_parts(lambda part, graph=graph: graph.run({"image": part, **settings}, OUTPUTS), images[:COMPARED])
        for graph in graphs
    )
    assert (narrow[0].argmax(axis=1) == exact[0].argmax(axis=1)).mean() >= 0.99
    assert np.abs(narrow[0] - exact[0]).max() > 1e-3
    agreement = agreement_by_layer(narrow, exact)
    # No expert has rounded anything before the first router.
    assert agreement[0] == 1
    assert min(agreement) >= 0.99


def test_an_engine_runs_the_bundle(result: ExportResult, mnist_images: dict[str, np.ndarray]) -> None:
    with Engine.load(result.path) as engine:
        answers = engine(mnist_images["images"][:256], capacity=1.05, k=1).argmax(axis=1)
    assert (answers == mnist_images["labels"][:256]).mean() > 0.9


# What validation reports.


def test_validation_compares_graphs_with_the_torch_model_of_the_same_precision(result: ExportResult) -> None:
    assert {(c.graph, c.profile) for c in result.comparisons} == {(g, p.name) for g in GRAPHS for p in result.plan.profiles}
    distance = max(d.max_difference for d in result.distances)
    assert all(c.max_difference < distance and c.agreement > 0.995 for c in result.comparisons)
    assert all(c.max_difference > 0 for c in result.comparisons)


def test_validation_says_how_far_the_model_is_from_float32(result: ExportResult, network: Vmoe, mnist_bundle: Path) -> None:
    plan = result.plan
    exact = Vmoe(plan.model, plan.grouping.tokens).load_weights(mnist_bundle / "weights.safetensors")
    batch = validation_images(network, plan.grouping.batch_multiple)
    for profile, distance in zip(plan.profiles, result.distances, strict=True):
        runs = [run_torch(model, batch, profile) for model in (exact, network)]
        # The same sums in the same order: the same bits.
        assert distance.max_difference == np.abs(runs[0][0] - runs[1][0]).max() > 1e-4
        agreement = agreement_by_layer(*runs)
        assert distance.agreement == {f"encoderblock_{i}": share for i, share in enumerate(agreement)}
        assert (distance.profile, distance.images) == (profile.name, len(batch))


def test_the_manifest_and_the_command_say_the_distance(
    mnist_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    arguments = [
        str(mnist_checkpoint),
        "-c",
        "0.3",
        "--k",
        "1",
        "--precision",
        "bf16-experts",
        "-o",
        str(tmp_path / "x.vmoe"),
    ]
    for extra in ([], ["--json", "-", "--force"]):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *extra])
        assert stopped.value.code == 0
    text, _, answer = capsys.readouterr().out.partition("{")
    said = json.loads("{" + answer)
    manifest = json.loads((tmp_path / "x.vmoe" / "manifest.json").read_text())
    (distance,) = said["distance_from_fp32"]
    assert manifest["validation"]["distance_from_fp32"] == said["distance_from_fp32"]
    assert list(distance["agreement"]) == [f"encoderblock_{i}" for i in range(LAYERS)]
    assert (manifest["precision"], said["precision"]) == ("bf16-experts", "bf16-experts")
    assert "experts in bfloat16, all else in float32, 1.7 MB (all in float32: 3.0 MB)" in text
    last = distance["agreement"]["encoderblock_4"]
    for part in ("bf16-experts against fp32", f"{distance['max_difference']:.1e}", f"4: {last:.1%}"):
        assert part in text


def test_an_fp32_export_has_no_distance(mnist_checkpoint: Path, tmp_path: Path) -> None:
    assert export_bundle(mnist_checkpoint, tmp_path / "x.vmoe", capacity=[0.1], k=[1]).distances == ()


# What is refused.


def test_a_dense_model_has_no_experts_to_store_in_bf16(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [str(DENSE), "--precision", "bf16-experts", "-o", str(tmp_path / "x.vmoe")]
    assert_command_refuses(arguments, 2, ["dense ViT", "bf16-experts means nothing"], capfd)
    assert list(tmp_path.iterdir()) == []


def test_an_expert_weight_beyond_bfloat16_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tensors = golden_tensors()
    name = next(name for name in tensors if name.endswith(EXPERT_KERNELS))
    tensors[name] = tensors[name].copy()
    tensors[name].flat[0] = np.finfo(np.float32).max  # rounds to infinity
    arguments = [
        str(written(tmp_path, tensors)),
        "--precision",
        "bf16-experts",
        "-o",
        str(tmp_path / "x.vmoe"),
        "--no-validate",
    ]
    assert_command_refuses(arguments, 1, [name, "too large for bfloat16"], capfd)
    assert not (tmp_path / "x.vmoe").exists()


def profile_of(result: ExportResult, ratio: float, k: int, bpr: bool) -> Profile:
    assert result.plan.rules is not None
    return result.plan.rules.profile(ratio, k, bpr)


def backend(result: ExportResult, runner: str) -> OnnxRuntimeBackend | OpenVinoBackend:
    """A graph on standard ops alone."""
    if runner == "openvino":
        return OpenVinoBackend(result.path / "model.inlined.onnx", threads=1)
    return OnnxRuntimeBackend(result.path / GRAPHS[runner.endswith("inlined")], threads=1)


def run_torch(model: Vmoe, images: np.ndarray, profile: Profile) -> Run:
    with torch.inference_mode():
        return [t.numpy() for t in model(torch.from_numpy(images), *map(torch.from_numpy, profile.inputs().values()))]


def run_numpy(
    tensors: dict[str, np.ndarray], images: np.ndarray, group_tokens: int, profile: Profile
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits and kept pairs of the independent model in float64."""
    rounded = {
        name: array.astype(ml_dtypes.bfloat16) if name.endswith(EXPERT_KERNELS) else array for name, array in tensors.items()
    }
    settings = numpy_vmoe.Settings(
        group_tokens=group_tokens, k=profile.k, capacity=profile.slots[0], bpr=profile.bpr, bf16_weights=True
    )
    answer = numpy_vmoe.forward(rounded, images, settings)
    return answer.output, list(answer.kept.values())


def agreement_by_layer(one: Run, other: Run) -> list[float]:
    """Share of the (token, choice) pairs that both keep at the same expert or both drop, of each MoE layer."""
    placed = [[np.where(k, e, -1) for e, k in zip(run[1::3], run[2::3], strict=True)] for run in (one, other)]
    return [float(np.mean(a == b)) for a, b in zip(*placed, strict=True)]


def kept_pairs(run: Run) -> list[np.ndarray]:
    """bool[G,S,E] of each MoE layer."""
    return [golden.kept_pairs(expert, kept, 8) for expert, kept in zip(run[1::3], run[2::3], strict=True)]
