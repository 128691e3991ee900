"""Tests for precisions shorter than float32, on the MNIST model.

They check stored values and results, and how much the results differ from those in float32.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import safetensors.numpy
from command_runs import Refuse, npz
from damaged_files import DENSE, read_tensors, written
from picture_file import write_pictures
from plain_graph import plain_graph
from variants import Variant

from vmoe_export import export_bundle
from vmoe_export.calibration import round_for_inputs
from vmoe_export.errors import ExportError
from vmoe_export.export import ExportResult
from vmoe_export.precision import hidden_chunk
from vmoe_export.validation.limits import distance_limit
from vmoe_export.weight_types import BFLOAT16, FLOAT32, INT4, INT8, WeightType
from vmoe_export.weight_types.int4 import quantize_groups, spread_groups
from vmoe_export.weight_types.int8 import quantize_columns
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.images import ImageWarning

pytestmark = pytest.mark.long

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
SHORT = ("bf16", "int8", "int4", "bf16-experts")
EVERY_SHORT = pytest.mark.parametrize("precision", SHORT)
SETTINGS = ((0.3, 1, True), (1.05, 2, False))
LAYERS = [f"encoderblock_{i}" for i in range(5)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, mnist_checkpoint: Path) -> dict[str, ExportResult]:
    """Export the MNIST model in each short precision, with validation.

    The bundles have two profiles and groups of 16 images.
    """
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
    return read_tensors(mnist_checkpoint)


@pytest.fixture(scope="module")
def images(mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """Return the MNIST images as float32[1536,28,28,1] in [-1, 1]."""
    return (mnist_images["images"] / 127.5 - 1).astype(np.float32)[..., None]


# Stored values.


def is_short(name: str, precision: str) -> bool:
    """Return whether a tensor is stored in a type shorter than float32.

    With `bf16-experts`, only the experts' kernels are stored in such a type. In every other precision, all kernels are,
    except those of the routers and the head.
    """
    if not name.endswith("/kernel") or "Router" in name or name.startswith("head/"):
        return False
    return "/Moe/" in name or precision != "bf16-experts"


def columns(name: str, kernel: np.ndarray) -> np.ndarray:
    """Return the kernel `name` in the shape float32[..., inputs, outputs]."""
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return kernel.reshape(len(kernel), -1)
    return kernel if "/Moe/" in name else kernel.reshape(-1, kernel.shape[-1])


def stored(result: ExportResult) -> dict[str, np.ndarray]:
    """Read the tensors in an export's weights file. For bfloat16 tensors, use the type from ml_dtypes."""
    return safetensors.numpy.load_file(result.path / "weights.safetensors")


@pytest.mark.sample(2)
@EVERY_SHORT
def test_kernels_of_large_products_are_stored_short_and_all_else_as_it_was(
    precision: str, results: dict[str, ExportResult], tensors: dict[str, np.ndarray]
) -> None:
    found = stored(results[precision])
    scales = {f"{name}_scale" for name in tensors if precision in ("int8", "int4") and is_short(name, precision)}
    assert found.keys() == tensors.keys() | scales
    for name, array in tensors.items():
        if not is_short(name, precision):
            np.testing.assert_array_equal(found[name], array)
        elif precision == "int4" and "/Moe/" in name:
            scale = found[f"{name}_scale"]
            assert (found[name].dtype, found[name].shape) == (np.uint8, (*array.shape[:2], array.shape[2] // 2))
            groups = np.split(np.abs(array), range(64, array.shape[1], 64), axis=1)
            largest = np.stack([group.max(axis=1) for group in groups], axis=1)
            np.testing.assert_array_equal(scale, (largest / np.float32(7)).astype(np.float16))
            halves = np.stack([found[name] & 15, found[name] >> 4], axis=-1).reshape(array.shape).astype(np.int8)
            steps = array / np.repeat(scale.astype(np.float32), 64, axis=1)[:, : array.shape[1]]
            np.testing.assert_array_equal((halves ^ 8) - 8, np.clip(np.rint(steps), -7, 7))
        elif precision in ("int8", "int4"):
            weights, scale = columns(name, array), found[f"{name}_scale"]
            assert (found[name].dtype, found[name].shape) == (np.int8, array.shape)
            assert (scale.dtype, scale.shape) == (np.float32, tensors[name.replace("kernel", "bias")].shape)
            scale = scale.reshape(*weights.shape[:-2], -1)
            np.testing.assert_array_equal(scale, np.abs(weights).max(axis=-2) / np.float32(127))
            steps = columns(name, found[name]).astype(np.float64)
            assert np.abs(steps * scale[..., None, :] - weights).max() <= scale.max() / 2 * (1 + 1e-6)
        else:
            assert found[name].dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(found[name], array.astype(ml_dtypes.bfloat16))
    assert results[precision].plan.weight_bytes == sum(array.nbytes for array in found.values())


def test_a_column_of_zeros_has_the_scale_1() -> None:
    weights = np.random.default_rng(0).standard_normal((3, 8, 4)).astype(np.float32)
    weights[1, :, 2] = 0
    steps, scales = quantize_columns(weights)
    assert scales[1, 2] == 1 and not steps[1, :, 2].any()
    steps, scales = quantize_groups(weights[1])
    assert scales[0, 2] == 1 and not steps[:, 2].any()


@pytest.mark.parametrize("kind", [INT8, INT4], ids=lambda kind: kind.name)
def test_columns_of_denormal_weights_are_read_back(kind: WeightType) -> None:
    weights = np.random.default_rng(0).standard_normal((1, 8, 6)).astype(np.float32)
    # such small weights are realistic: under weight decay, float32 weights stop shrinking near 7e-42
    weights *= np.array([1e-45, 1e-43, 2.5e-43, 5e-42, 1e-38, 1], np.float32)
    stored, scales = kind.encode(weights)
    assert scales is not None and (scales > 0).all()
    assert kind.is_nearest(weights[0], kind.decode(stored, weights.shape)[0], scales[0], calibrated=False)


def test_int4_rounded_for_the_inputs_leaves_the_outputs_closer() -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((130, 9)).astype(np.float32)
    inputs = (rng.standard_normal((400, 20)) @ rng.standard_normal((20, 130))).astype(np.float32)
    nearest, scales = quantize_groups(weights)
    found = round_for_inputs(weights, inputs)
    assert np.abs(found).max() <= 7
    off = [np.linalg.norm(inputs @ (steps * spread_groups(scales, 130) - weights)) for steps in (found, nearest)]
    assert off[0] < off[1] / 2
    np.testing.assert_array_equal(round_for_inputs(weights, inputs[:0]), nearest)


@pytest.mark.parametrize(
    ("hidden", "chunk"),
    [(1, 0), (1024, 0), (1100, 0), (1088, 64), (1152, 384), (1280, 320), (1536, 512), (3072, 512), (6144, 512)],
)  # 1100 is not cut, because it has no divisor that is a multiple of 64
def test_hidden_features_are_cut_into_the_largest_chunks_that_fit(hidden: int, chunk: int) -> None:
    assert hidden_chunk(hidden, INT8) == chunk
    assert hidden_chunk(hidden, BFLOAT16) == hidden_chunk(hidden, FLOAT32) == 0


def test_chunks_are_attributes_of_nodes(tmp_path: Path) -> None:
    variant = Variant(
        "wide", classifier="map", position="learned", trained_grid=(2, 2), image_size=(8, 8), hidden=576, moe=(1,),
        experts=2,
    )  # fmt: skip
    scaled = {n: a * np.float32(0.2) if a.ndim > 1 else a for n, a in variant.parameters().items()}
    safetensors.numpy.save_file(scaled, tmp_path / "ckpt.safetensors")
    target = tmp_path / "x.vmoe"
    wide = export_bundle(
        tmp_path / "ckpt.safetensors", target, capacity=[1.05], k=[1], precision="int8", config=variant.config
    )
    assert all(comparison.relative_difference < 1e-2 for comparison in wide.comparisons)
    nodes = onnx.load(target / "model.onnx", load_external_data=False).graph.node
    chunks = {node.op_type: a.i for node in nodes for a in node.attribute if a.name == "hidden_chunk"}
    assert chunks == {"VmoeMlpBlock": 384, "VmoeExpertBlock": 384, "VmoeDenseMlp": 384}


# Distance from float32.


@EVERY_SHORT
def test_validation_holds_graphs_to_the_reference_and_that_to_float32(
    precision: str, results: dict[str, ExportResult]
) -> None:
    result = results[precision]
    assert result.limits and len(result.comparisons) == 4
    for comparison in result.comparisons:
        assert comparison.relative_difference <= result.limits.relative / 2
        assert comparison.agreement == 1
    assert {d.profile for d in result.distances} == {"c0.3-k1", "c1.05-k1"}
    for distance in result.distances:
        assert 0 < distance.part_difference < distance_limit(precision, None) / 2
        assert 0 < distance.relative_difference < 0.1
        assert list(distance.agreement) == LAYERS
        assert (distance.same_top1, distance.top1, distance.top1_float32) == (None, None, None)


def test_a_dense_model_may_be_short_too(tmp_path: Path) -> None:
    (distance,) = export_bundle(DENSE, tmp_path / "x.vmoe", precision="int8").distances
    assert (distance.profile, distance.agreement) == (None, {})
    assert 1e-4 < distance.relative_difference < distance_limit("int8", None)


@pytest.mark.sample(1)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_users_images_show_how_many_answers_change(
    precision: str, tmp_path: Path, mnist_bundle: Path, images: np.ndarray, mnist_images: dict[str, np.ndarray]
) -> None:
    labels = mnist_images["labels"]
    some = npz(tmp_path / "some.npz", images=mnist_images["images"][:170], labels=labels[:170])  # ten in no group
    result = export_bundle(mnist_bundle, tmp_path / "x.vmoe", precision=precision, capacity=[0.3], k=[1], images=some)
    (distance,) = result.distances
    assert distance.images == 160
    # The rounding to int4 is optimized on the images. With plain rounding to the nearest value, the error would be 7 %.
    assert distance.part_difference < 0.05
    graphs = [OnnxRuntimeBackend(plain_graph(path / "model.inlined.onnx"), 1) for path in (result.path, mnist_bundle)]
    feeds = {"image": images[:160], **result.plan.profiles[0].inputs}
    feeds.pop("merge")  # these graphs have no input for merging
    short, exact = (graph.run(feeds, ["logits"])[0].argmax(axis=1) for graph in graphs)
    # torch and ONNX Runtime may choose different experts for one token in a thousand.
    for found, expected in (
        (distance.same_top1, short == exact),
        (distance.top1, short == labels[:160]),
        (distance.top1_float32, exact == labels[:160]),
    ):
        assert found == pytest.approx(expected.mean(), abs=2 / 160)


def test_parts_are_compared_on_every_image(tmp_path: Path, images: np.ndarray) -> None:
    some = images[:40].copy()
    some[39, 0, 0] = np.nan  # this image comes long after the first batch; its outputs are NaN from the embedding on
    options = {"capacity": [1.05], "k": [1], "images": npz(tmp_path / "some.npz", images=some)}
    with pytest.raises(ExportError, match=r"output of embedding at .* is nan%"), pytest.warns(ImageWarning):
        export_bundle(MNIST / "vmoe_mnist", tmp_path / "x.vmoe", precision="bf16", **options)


@pytest.mark.parametrize(("output", "precision"), [("logits", "bf16"), ("features", "bf16"), ("logits", "int4")])
def test_pictures_have_answers_and_features_none(
    output: str, precision: str, tmp_path: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    write_pictures(tmp_path / "pictures", mnist_images["images"][:5])
    result = export_bundle(
        MNIST / "vmoe_mnist", tmp_path / "x.vmoe", capacity=[1.05], k=[1], precision=precision,
        images=tmp_path / "pictures", output=output,
    )  # fmt: skip
    (distance,) = result.distances
    assert (distance.images, distance.same_top1, distance.top1) == (5, 1.0 if output == "logits" else None, None)


# Refusals.


@pytest.mark.parametrize("precision", ["bf16-experts", "int4"])
def test_a_dense_model_has_no_experts_to_store_short(precision: str, tmp_path: Path, refuse_export: Refuse) -> None:
    names = ["dense ViT", f"{precision} does not apply"]
    refuse_export(DENSE, "--precision", precision, names=names, code=2)


@pytest.mark.parametrize(("precision", "what"), [("bf16-experts", "bfloat16"), ("int4", "int4"), ("fp16", "float16")])
def test_an_expert_weight_beyond_a_type_is_refused(precision: str, what: str, tmp_path: Path, refuse_export: Refuse) -> None:
    tensors = read_tensors()
    name = next(name for name in tensors if is_short(name, "bf16-experts"))
    tensors[name].flat[0] = np.finfo(np.float32).max  # rounds to infinity
    words = (written(tmp_path, tensors), "--precision", precision, *(["--tensorrt"] * (precision == "fp16")))
    refuse_export(*words, names=[name, f"too large for {what}"])
