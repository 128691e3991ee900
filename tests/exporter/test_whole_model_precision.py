"""`--precision bf16` and `int8`: what is stored, how small it is, what graphs answer, and how far from float32 that is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import safetensors.numpy
from damaged_files import DENSE
from image_parts import in_parts
from variants import Variant

from vmoe_export import export_bundle, open_checkpoint
from vmoe_export.cli import main
from vmoe_export.export import ExportResult
from vmoe_export.precision import hidden_chunk, weight_type
from vmoe_export.validation.limits import TOLERANCES
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.openvino_cpu import OpenVinoBackend
from vmoe_runtime.bundle.reader import Bundle

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SHORT = ("bf16", "int8")
EVERY_SHORT = pytest.mark.parametrize("precision", SHORT)
# All that order may do, which is little, at few and at many places per expert.
SETTINGS = (
    (0.1, 1, True),
    (0.2, 2, False),
    (0.3, 1, True),
    (0.5, 2, True),
    (1.05, 1, False),
    (1.05, 2, True),
    (2.0, 2, True),
)
TOP1 = {"bf16": 0.002, "int8": 0.005}
LAYERS = [f"encoderblock_{i}" for i in range(5)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> dict[str, ExportResult]:
    """The exports of conftest's `mnist_bundle` at two profiles, with what validation found."""
    folder = tmp_path_factory.mktemp("precision")
    return {
        precision: export_bundle(
            mnist_checkpoint, folder / f"{precision}.vmoe", capacity=[0.3, 1.05], k=[1], group="16",
            config=MNIST / "config.json", precision=precision,
        )
        for precision in SHORT
    }  # fmt: skip


@pytest.fixture(scope="module")
def tensors(mnist_checkpoint: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(mnist_checkpoint) as checkpoint:
        return dict(checkpoint)


@pytest.fixture(scope="module")
def images(mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """float32[1536,28,28,1] in [-1, 1]."""
    return (mnist_images["images"] / 127.5 - 1).astype(np.float32)[..., None]


# What is stored.


def is_weight(name: str) -> bool:
    """Whether a tensor is the kernel of a large product: all are, but for routers and head."""
    return name.endswith("/kernel") and "Router" not in name and not name.startswith(("head/", "pre_logits/"))


def columns(name: str, kernel: np.ndarray) -> np.ndarray:
    """The kernel as float32[..., inputs, outputs]."""
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return kernel.reshape(len(kernel), -1)
    return kernel if "/Moe/" in name else kernel.reshape(-1, kernel.shape[-1])


def stored(result: ExportResult) -> dict[str, np.ndarray]:
    """Tensors of a weights file; bfloat16 as ml_dtypes has it."""
    return safetensors.numpy.load_file(result.path / "weights.safetensors")


def test_bf16_stores_every_kernel_of_a_large_product_rounded_and_all_else_as_it_was(
    results: dict[str, ExportResult], tensors: dict[str, np.ndarray]
) -> None:
    found = stored(results["bf16"])
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        expected = array.astype(ml_dtypes.bfloat16) if is_weight(name) else array
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    assert sum(is_weight(name) for name in tensors) == 1 + 5 * (4 + 2)


def test_int8_stores_the_nearest_steps_of_each_column_with_their_size_beside(
    results: dict[str, ExportResult], tensors: dict[str, np.ndarray]
) -> None:
    found = stored(results["int8"])
    assert found.keys() == tensors.keys() | {f"{name}_scale" for name in tensors if is_weight(name)}
    for name, array in tensors.items():
        if not is_weight(name):
            np.testing.assert_array_equal(found[name], array)
            continue
        weights, scale = columns(name, array), found[f"{name}_scale"]
        assert (found[name].dtype, found[name].shape) == (np.int8, array.shape)
        assert (scale.dtype, scale.shape) == (np.float32, tensors[name.replace("kernel", "bias")].shape)
        scale = scale.reshape(*weights.shape[:-2], -1)
        np.testing.assert_array_equal(scale, np.abs(weights).max(axis=-2) / np.float32(127))
        steps = columns(name, found[name]).astype(np.float64)
        assert np.abs(steps).max() == 127
        assert np.abs(steps * scale[..., None, :] - weights).max() <= scale.max() / 2 * (1 + 1e-6)


def test_a_column_of_zeros_has_the_scale_1(tmp_path: Path) -> None:
    with open_checkpoint(DENSE) as checkpoint:
        tensors = dict(checkpoint)
    name = "Encoder/encoderblock_0/Mlp/Dense_0/kernel"
    tensors[name] = tensors[name].copy()
    tensors[name][:, 5] = 0
    safetensors.numpy.save_file(tensors, tmp_path / "ckpt.safetensors")
    found = stored(export_bundle(tmp_path / "ckpt.safetensors", tmp_path / "x.vmoe", precision="int8"))
    assert found[f"{name}_scale"][5] == 1
    assert not found[name][:, 5].any()


@EVERY_SHORT
def test_the_weights_are_a_half_and_a_quarter(
    precision: str, results: dict[str, ExportResult], tensors: dict[str, np.ndarray], mnist_bundle: Path
) -> None:
    kernels = sum(array.nbytes for name, array in tensors.items() if is_weight(name))
    rest = sum(array.nbytes for name, array in tensors.items() if not is_weight(name))
    scales = sum(tensors[name.replace("kernel", "bias")].nbytes for name in tensors if is_weight(name))
    expected = kernels // 2 + rest if precision == "bf16" else kernels // 4 + rest + scales
    assert results[precision].plan.weight_bytes == expected
    size, whole = ((path / "weights.safetensors").stat().st_size for path in (results[precision].path, mnist_bundle))
    # The header names each tensor, and this model is so small that biases count.
    assert size - expected < 20_000
    assert size / whole < {"bf16": 0.52, "int8": 0.29}[precision]


@EVERY_SHORT
def test_graphs_take_the_types_of_the_weights_file(precision: str, results: dict[str, ExportResult]) -> None:
    found = stored(results[precision])
    model = onnx.load(results[precision].path / "model.onnx", load_external_data=False)
    types = {tensor.name: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.graph.initializer}
    assert {name: types[name] for name in found} == {name: array.dtype for name, array in found.items()}
    ops = [node.op_type for node in model.graph.node if node.domain == "vmoe"]
    assert ops == ["VmoeLinear", *["VmoeAttentionBlock", "VmoeRouterBlock", "VmoeExpertBlock"] * 5]


@EVERY_SHORT
def test_the_manifest_and_the_command_say_the_precision(
    precision: str, results: dict[str, ExportResult], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    manifest = Bundle.open(results[precision].path).manifest
    assert (manifest.precision, manifest.raw["format_version"]) == (precision, 3)
    with pytest.raises(SystemExit):
        main([str(MNIST / "vmoe_mnist"), "--precision", precision, "--dry-run"])
    assert (
        f"large products in {'bfloat16' if precision == 'bf16' else 'int8'}, all else in float32" in capsys.readouterr().out
    )


# What the graphs answer.


def answers(graph: OnnxRuntimeBackend | OpenVinoBackend, result: ExportResult, images: np.ndarray) -> list[np.ndarray]:
    rules = result.plan.rules
    assert rules is not None
    found = []
    for setting in SETTINGS:
        numbers = rules.profile(*setting).inputs()
        (logits,) = in_parts(lambda part, numbers=numbers: graph.run({"image": part, **numbers}, ["logits"]), images)
        found.append(logits.argmax(axis=1))
    return found


@EVERY_SHORT
def test_as_many_images_are_right_as_in_fp32(
    precision: str, results: dict[str, ExportResult], images: np.ndarray, mnist_images: dict[str, np.ndarray]
) -> None:
    # A half of the images in each runtime.
    graph, half = results[precision].path / "model.inlined.onnx", len(images) // 2
    runtimes = ((OnnxRuntimeBackend, slice(half)), (OpenVinoBackend, slice(half, None)))
    halves = [answers(runtime(graph, 1), results[precision], images[part]) for runtime, part in runtimes]
    labels = mnist_images["labels"]
    with np.load(MNIST / "reference.npz") as official:
        names = [f"pred_K{k}_C{ratio}_{'bpr' if bpr else 'vanilla'}" for ratio, k, bpr in SETTINGS]
        exact_answers = [official[name] for name in names]
    for *parts, exact in zip(*halves, exact_answers, strict=True):
        short = np.concatenate(parts)
        assert (exact == labels).mean() - (short == labels).mean() <= TOP1[precision] + 1e-9
        assert (short == exact).reshape(2, half).mean(axis=1).min() >= 0.985


@EVERY_SHORT
def test_a_dense_model_may_be_short_too(precision: str, tmp_path: Path) -> None:
    result = export_bundle(DENSE, tmp_path / "x.vmoe", precision=precision)
    (distance,) = result.distances
    assert (distance.profile, distance.agreement) == (None, {})
    assert 1e-4 < distance.relative_difference < TOLERANCES[precision].distance
    assert Bundle.open(result.path).manifest.precision == precision


@pytest.mark.parametrize(
    ("hidden", "chunk"),
    [
        (1, 0), (64, 0), (1024, 0),
        (1100, 0),  # no multiple of 64 divides it
        (1088, 64), (1152, 384), (1280, 320), (1536, 512), (2048, 512), (3072, 512), (4096, 512), (5120, 512), (6144, 512),
    ],
)  # fmt: skip
def test_hidden_features_are_cut_into_the_largest_chunks_that_fit(hidden: int, chunk: int) -> None:
    assert hidden_chunk(hidden, "i8") == chunk
    assert hidden_chunk(hidden, "bf16") == hidden_chunk(hidden, "float") == 0
    fitting = [n for n in range(64, 513, 64) if hidden % n == 0]
    assert chunk == (max(fitting, default=0) if hidden > 1024 else 0)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """An int8 model whose 1152 hidden features are cut in three, in a dense block, a MoE block and a map head."""
    variant = Variant(
        "wide", classifier="map", position="learned", trained_grid=(2, 2), image_size=(8, 8), hidden=576, moe=(1,),
        experts=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("wide")
    tensors = {n: a * np.float32(0.2) if a.ndim > 1 else a for n, a in variant.parameters().items()}
    safetensors.numpy.save_file(tensors, folder / "ckpt.safetensors")
    return export_bundle(
        folder / "ckpt.safetensors", folder / "x.vmoe", capacity=[1.05], k=[1], precision="int8", config=variant.config
    )


def test_chunks_are_attributes_of_the_nodes(wide: ExportResult) -> None:
    model = onnx.load(wide.path / "model.onnx", load_external_data=False)
    chunks = {
        node.op_type: attribute.i for node in model.graph.node for attribute in node.attribute
        if attribute.name == "hidden_chunk"
    }  # fmt: skip
    assert chunks == {"VmoeMlpBlock": 384, "VmoeExpertBlock": 384, "VmoeDenseMlp": 384}
    assert all(comparison.relative_difference < 1e-2 for comparison in wide.comparisons)
    assert {comparison.graph for comparison in wide.comparisons} == {"model.onnx", "model.inlined.onnx"}


def test_parts_of_experts_are_parts_of_the_stored_tensors(wide: ExportResult) -> None:
    found, data = stored(wide), (wide.path / "weights.safetensors").read_bytes()
    model = onnx.load(wide.path / "model.inlined.onnx", load_external_data=False)
    parts = {tensor.name: tensor for tensor in model.graph.initializer}
    block = "Encoder/encoderblock_1/Moe/Mlp"
    for expert in range(2):
        w2 = found[f"{block}/Dense_1/kernel"][expert]
        for name, expected in (
            (f"{block}/Dense_0/kernel/{expert}", found[f"{block}/Dense_0/kernel"][expert]),
            (f"{block}/Dense_0/kernel_scale/{expert}", found[f"{block}/Dense_0/kernel_scale"][expert]),
            (f"{block}/Dense_1/kernel/{expert}/0", w2[:384]),
            (f"{block}/Dense_1/kernel/{expert}/2", w2[768:]),
        ):
            place = {entry.key: entry.value for entry in parts[name].external_data}
            start, length = int(place["offset"]), int(place["length"])
            assert tuple(parts[name].dims) == expected.shape
            assert data[start : start + length] == expected.tobytes()


# How far from float32 that is.


@EVERY_SHORT
def test_validation_holds_graphs_to_torch_and_torch_to_float32(precision: str, results: dict[str, ExportResult]) -> None:
    result = results[precision]
    limits, most = TOLERANCES[precision].graphs, TOLERANCES[precision].distance
    assert len(result.comparisons) == 4
    for comparison in result.comparisons:
        assert limits.relative is not None
        assert comparison.relative_difference <= limits.relative
        assert comparison.agreement >= limits.agreement
    for distance in result.distances:
        assert 0 < distance.relative_difference < most / 2
        assert list(distance.agreement) == LAYERS
        assert (distance.same_top1, distance.top1, distance.top1_float32) == (None, None, None)
    assert {d.profile for d in result.distances} == {"c0.3-k1", "c1.05-k1"}


def test_int8_is_further_from_float32_than_bf16_is(results: dict[str, ExportResult]) -> None:
    for narrow, wide in zip(results["int8"].distances, results["bf16"].distances, strict=True):
        assert narrow.relative_difference > 2 * wide.relative_difference


def test_the_users_images_say_how_many_answers_change(
    tmp_path: Path, mnist_checkpoint: Path, mnist_bundle: Path, mnist_data: Path, images: np.ndarray,
    mnist_images: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    count = 330  # the last ten fill no routing group
    labels = mnist_images["labels"]
    np.savez(tmp_path / "some.npz", images=mnist_images["images"][:count], labels=labels[:count])
    target = tmp_path / "x.vmoe"
    with pytest.raises(SystemExit) as stopped:
        main([
            str(mnist_bundle), "--precision", "int8", "-c", "0.3", "--k", "1", "--images", str(tmp_path / "some.npz"),
            "-o", str(target),
        ])  # fmt: skip
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    (distance,) = json.loads((target / "manifest.json").read_text())["validation"]["distance_from_fp32"]
    assert distance["images"] == 320
    graphs = [OnnxRuntimeBackend(path / "model.inlined.onnx", 1) for path in (target, mnist_bundle)]
    feeds = {"image": images[:320], **Bundle.open(target).manifest.profiles["c0.3-k1"].inputs()}
    found = [graph.run(feeds, ["logits"])[0].argmax(axis=1) for graph in graphs]
    # torch and ONNX Runtime may route one token in a thousand otherwise.
    near = 2 / 320
    assert distance["same_top1"] == pytest.approx((found[0] == found[1]).mean(), abs=near)
    assert distance["top1"] == pytest.approx((found[0] == labels[:320]).mean(), abs=near)
    assert distance["top1_float32"] == pytest.approx((found[1] == labels[:320]).mean(), abs=near)
    for part in ("on 320 images", "same top-1", f"{distance['same_top1']:.2%}", f"{distance['top1_float32']:.2%}"):
        assert part in text


def test_pictures_in_a_folder_have_no_classes_but_answers(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(mnist_images["images"][:5]):
        image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    result = export_bundle(
        MNIST / "vmoe_mnist", tmp_path / "x.vmoe", capacity=[1.05], k=[1], precision="bf16", images=tmp_path / "pictures"
    )
    (distance,) = result.distances
    assert (distance.images, distance.same_top1, distance.top1) == (5, 1.0, None)


@pytest.mark.parametrize("name", ["pre_logits/kernel", "head/kernel", "Encoder/encoderblock_1/Moe/Router/dense/kernel"])
@EVERY_SHORT
def test_router_and_head_are_float32_always(precision: str, name: str) -> None:
    assert weight_type(name, precision) == "float"
    assert math.isclose(TOLERANCES[precision].distance, {"bf16": 0.05, "int8": 0.2}[precision])
