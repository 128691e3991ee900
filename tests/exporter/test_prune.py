"""Tests for `vmoe prune`, and for models whose layers have different numbers of experts.

They check which experts are kept, the outputs, and what is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import ml_dtypes
import numpy as np
import pytest
from command_runs import Vmoe, npz
from damaged_files import read_tensors
from plain_graph import plain_graph
from safetensors.numpy import load_file, save_file

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend

MNIST = Path(__file__).parents[2] / "samples" / "mnist"
COUNTS = (8, 5, 8, 3, 4)

Tensors = dict[str, np.ndarray]


def moe(block: int, what: str) -> str:
    return f"Encoder/encoderblock_{block}/Moe/{what}"


def router(block: int) -> str:
    return moe(block, "Router/dense/kernel")


def keep_first(tensors: Tensors, block: int, count: int) -> None:
    """Remove all experts of a block except the first `count`."""
    for name in tensors:
        if name.startswith(moe(block, "")):
            tensors[name] = tensors[name][:, :count] if name == router(block) else tensors[name][:count]


def saved(path: Path, tensors: Tensors) -> Path:
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return path


def before(tensors: Tensors) -> Tensors:
    """Return the tensors as they might have been before fine-tuning.

    Each expert's router weights are scaled by a random factor.
    """
    rng = np.random.default_rng(7)
    return {
        name: t * rng.uniform(0.5, 1.5, t.shape[1:]) if name.endswith("dense/kernel") else t for name, t in tensors.items()
    }


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the MNIST model. Its layers have 8, 5, 8, 3 and 4 experts."""
    folder = tmp_path_factory.mktemp("pruned")
    checkpoint = folder / "few.safetensors"
    tensors = read_tensors(MNIST / "vmoe_mnist")
    for block, count in enumerate(COUNTS):
        keep_first(tensors, block, count)
    given = {"capacity": [0.3], "k": [1], "config": MNIST / "config.json", "tensorrt": True}
    return export_bundle(saved(checkpoint, tensors), folder / "few.vmoe", **given).path  # also validates every graph


def test_the_experts_stay_whose_router_grew_most(tmp_path: Path, vmoe: Vmoe) -> None:
    tensors = read_tensors(MNIST / "vmoe_mnist")
    earlier = before(tensors)
    saved(tmp_path / "before.safetensors", earlier)
    out = tmp_path / "few.safetensors"
    words = ("prune", MNIST / "vmoe_mnist", "--before", tmp_path / "before.safetensors", "-o", out)
    found = vmoe.json(*words, "--experts", ",".join(map(str, COUNTS)))
    written = load_file(out)
    assert written.keys() == tensors.keys()
    for block, count in enumerate(COUNTS):
        growth = np.linalg.norm(tensors[router(block)], axis=0) - np.linalg.norm(earlier[router(block)], axis=0)
        kept = sorted(np.argsort(growth)[8 - count :])
        assert found["layers"][f"encoderblock_{block}"]["kept"] == kept
        np.testing.assert_allclose(found["layers"][f"encoderblock_{block}"]["scores"], growth, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(written.pop(router(block)), tensors[router(block)][:, kept])
        for name in [name for name in written if name.startswith(moe(block, ""))]:
            np.testing.assert_array_equal(written.pop(name), tensors[name][kept])
    assert all(tensor.tobytes() == tensors[name].tobytes() for name, tensor in written.items())
    text, _ = vmoe.run(*words, "--experts", 4)
    assert text.count(" of 8 experts; without ") == 5 and "weaker" not in text
    assert [load_file(out)[router(block)].shape for block in range(5)] == [(64, 4)] * 5


def test_without_a_checkpoint_from_before_those_go_that_class_tokens_use_least(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    out = tmp_path / "few.safetensors"
    text, _ = vmoe.run("prune", mnist_image_bundle, "--images", mnist_digits, "--experts", 3, "-o", out)
    assert "Warning: " in text and "weaker evidence" in text
    with np.load(mnist_digits) as data, Engine.load(mnist_image_bundle) as engine:
        routing = engine.routing(data["images"])
    tensors, written = read_tensors(mnist_image_bundle), load_file(out)
    for block, layer in enumerate(routing.values()):
        of_class = np.bincount(layer.expert[:, 0].ravel(), minlength=8)
        stay = sorted(np.lexsort((-np.bincount(layer.expert.ravel(), minlength=8), -of_class))[:3])
        np.testing.assert_array_equal(written[router(block)], tensors[router(block)][:, stay])


@pytest.mark.parametrize(("model", "words"), [("g5", ()), ("g5p", ("--ensemble-size", 2))])
def test_each_member_of_an_ensemble_keeps_as_many(model: str, words: tuple[Any, ...], tmp_path: Path, vmoe: Vmoe) -> None:
    tensors = read_tensors(golden.FOLDER / model)  # routers have shape [D,M,E/M], or [D,E] in pre-trained models
    saved(tmp_path / "before.safetensors", before(read_tensors(golden.FOLDER / "g5")))
    out = tmp_path / "few.safetensors"
    words = ("prune", golden.FOLDER / model, "--before", tmp_path / "before.safetensors", "-o", out, *words)
    layers = vmoe.json(*words, "--experts", "8,4")["layers"]
    assert layers["encoderblock_1"]["kept"] == list(range(8))
    kept = np.array(layers["encoderblock_3"]["kept"])
    assert (kept < 4).tolist() == [True, True, False, False]
    found, whole = load_file(out)[router(3)], tensors[router(3)]
    assert found.shape == (*whole.shape[:-1], whole.shape[-1] // 2)
    np.testing.assert_array_equal(found.reshape(len(found), 4), whole.reshape(len(whole), 8)[:, kept])
    np.testing.assert_array_equal(load_file(out)[moe(3, "Mlp/Dense_0/kernel")], tensors[moe(3, "Mlp/Dense_0/kernel")][kept])
    assert "a multiple of the 2 members" in vmoe.complaint(2, *words, "--experts", 3)


def test_bfloat16_stays_bfloat16(tmp_path: Path, vmoe: Vmoe) -> None:
    tensors = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in read_tensors(MNIST / "vmoe_mnist").items()}
    saved(tmp_path / "short.safetensors", tensors)
    words = ("--before", MNIST / "vmoe_mnist", "--experts", 8, "-o", tmp_path / "few.safetensors")
    vmoe.run("prune", tmp_path / "short.safetensors", *words)
    assert {name: t.tobytes() for name, t in load_file(tmp_path / "few.safetensors").items()} == {
        name: t.tobytes() for name, t in tensors.items()
    }


CKPT = MNIST / "vmoe_mnist"
REFUSED: dict[str, tuple[int, list[Any], str]] = {
    "no evidence": (2, [CKPT, "--experts", 4], "--before CKPT0"),
    "both": (2, [CKPT, "--experts", 4, "--before", CKPT, "--images", MNIST / "test_data.npz"], "either"),
    "no number": (2, [CKPT, "--experts", "half", "--before", CKPT], "'half'"),
    "more experts than there are": (2, [CKPT, "--experts", 9, "--before", "BEFORE"], "at most 8"),
    "numbers for other layers": (2, [CKPT, "--experts", "4,4", "--before", "BEFORE"], "5 MoE layers"),
    "the same checkpoint": (1, [CKPT, "--experts", 4, "--before", CKPT], "cannot be ranked"),
    "another model": (1, [CKPT, "--experts", 4, "--before", golden.FOLDER / "g1"], "of the shape"),
    "images for a checkpoint": (2, [CKPT, "--experts", 4, "--images", MNIST / "test_data.npz"], "vmoe export"),
    "a dense model": (2, [golden.FOLDER / "g4", "--experts", 4, "--before", CKPT], "dense ViT"),
    "a Soft MoE": (2, [golden.FOLDER / "g6", "--experts", 4, "--before", CKPT], "Soft MoE"),
    "another suffix": (2, [CKPT, "--experts", 4, "--before", "BEFORE", "-o", "few.npz"], ".safetensors"),
    "its own source": (2, ["BEFORE", "--experts", 4, "--before", CKPT, "-o", "BEFORE"], "is used by this command"),
    "a router with NaN": (
        1,
        ["NAN", "--experts", 4, "--before", CKPT],
        "Encoder/encoderblock_2/Moe/Router/dense/kernel holds NaN",
    ),
    "experts of other tensors": (1, ["ODD", "--experts", 4, "--before", CKPT], "of 7 experts"),
}


@pytest.mark.parametrize(("code", "words", "says"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_pruned_is_refused_and_nothing_is_written(
    code: int, words: list[Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    tensors = read_tensors(CKPT)
    files = {"BEFORE": saved(tmp_path / "before.safetensors", before(tensors))}
    files["ODD"] = saved(tmp_path / "odd.safetensors", {**tensors, router(2): tensors[router(2)][:, :7]})
    files["NAN"] = saved(tmp_path / "nan.safetensors", {**tensors, router(2): tensors[router(2)] + [0, np.nan] * 4})
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    content = files["BEFORE"].read_bytes()
    assert says in vmoe.complaint(code, "prune", *(files.get(str(word), word) for word in words))
    assert list((tmp_path / "out").iterdir()) == [] and files["BEFORE"].read_bytes() == content


def test_the_use_by_class_tokens_needs_some(tmp_path: Path, vmoe: Vmoe) -> None:
    images = npz(tmp_path / "images.npz", images=np.zeros((2, 40, 40, 3), np.uint8))
    path = golden.bundle("g7", tmp_path / "g7.vmoe", image_size=(40, 40))
    words = ("prune", path, "--experts", 4, "--images", images, "-o", tmp_path / "few.safetensors")
    assert "reads no class token" in vmoe.complaint(2, *words)


def test_layers_of_different_experts_route_alike_everywhere(pruned: Path, mnist_images: dict[str, np.ndarray]) -> None:
    images = mnist_images["images"][:32]
    with Engine.load(pruned) as engine, Engine.load(pruned, backend="openvino") as openvino:
        assert [layer.experts for layer in engine.routing(images).values()] == list(COUNTS)
        assert engine.manifest.summary.startswith("V-MoE, 5 blocks, E=8/5/8/3/4")
        plain = OnnxRuntimeBackend(plain_graph(pruned / "model.inlined.onnx"), threads=1)
        for setting in ("c0.3-k1", "c1.05-k3-vanilla", "c0.2-k1-pool-m4", "c7-k1"):
            logits, routing = engine.logits_and_routing(images, setting)
            others = openvino.logits_and_routing(images, setting)
            np.testing.assert_allclose(others[0], logits, rtol=0, atol=1e-4)
            names = ["logits", *(f"{layer}/{what}" for layer in routing for what in ("expert", "kept"))]
            feeds = {"image": images[..., None].astype(np.float32) / 127.5 - 1, **engine.setting(setting).inputs}
            feeds.pop("merge")  # this graph has no input for merging
            output, *routes = plain.run(feeds, names)
            np.testing.assert_allclose(output, logits, rtol=0, atol=1e-4)
            for i, (name, layer) in enumerate(routing.items()):
                for expert, kept in ((others[1][name].expert, others[1][name].kept), routes[2 * i : 2 * i + 2]):
                    np.testing.assert_array_equal(expert, layer.expert)
                    np.testing.assert_array_equal(kept, layer.kept)


@pytest.mark.parametrize("model", ["g5", "g6", "g7"])
def test_other_kinds_with_layers_of_different_experts_are_those_of_the_reference(model: str, tmp_path: Path) -> None:
    checkpoint = golden.without_experts(model, tmp_path / "few.safetensors")
    path = golden.bundle(model, tmp_path / "few.vmoe", checkpoint, validate=True)
    images = golden.arrays(model)["images"][:4]
    with Engine.load(path) as engine, Engine.load(path, backend="openvino") as openvino:
        one, other = engine.routing(images), openvino.routing(images)
        assert len({layer.experts for layer in one.values()}) == 2
        for name, layer in one.items():
            if model == "g6":
                np.testing.assert_allclose(other[name].combine, layer.combine, rtol=0, atol=1e-4)
            else:
                np.testing.assert_array_equal(other[name].kept, layer.kept)


@pytest.mark.slow
def test_a_bundle_with_fewer_experts_is_described_measured_and_exported_again(
    pruned: Path, mnist_digits: Path, tmp_path: Path, vmoe: Vmoe
) -> None:
    text, _ = vmoe.run("inspect", pruned)
    assert "8/5/8/3/4 in each" in text and "1 of 8/5/8/3/4 experts" in text
    found = vmoe.json("inspect", pruned, "--images", mnist_digits)
    assert [len(layer["load"]) for layer in found["on_images"]["layers"].values()] == list(COUNTS)
    assert found["routing"]["layer_experts"] == list(COUNTS)
    assert found["profiles"][0]["capacity"] == [2, 3, 2, 5, 4]
    vmoe.run("report", pruned, "--images", mnist_digits, "--duration", "0.01", "-o", tmp_path / "report.html", "-q")
    again = vmoe.json("export", pruned, "--precision", "bf16", "--no-validate", "-o", tmp_path / "bf16.vmoe")
    assert again["model"]["moe"]["layer_experts"] == list(COUNTS)


def test_one_expert_in_each_layer_is_exported_by_default_without_drops(tmp_path: Path, vmoe: Vmoe) -> None:
    tensors = read_tensors(MNIST / "vmoe_mnist")
    for block in range(len(COUNTS)):
        keep_first(tensors, block, 1)
    one = saved(tmp_path / "one.safetensors", tensors)
    for config in ((), ("--config", MNIST / "config.json")):  # also with the unpruned model's config, where k is 2
        found = vmoe.json("export", one, "--dry-run", *config)
        assert [profile["name"] for profile in found["profiles"]] == ["c1-k1"]
        assert found["model"]["moe"]["routing"]["k"] == 1
    assert any("num_selected_experts of 2 is not" in note for note in found["notes"])


def test_the_config_of_the_whole_model_suits_a_pruned_one(tmp_path: Path, vmoe: Vmoe) -> None:
    checkpoint = golden.without_experts("g1", tmp_path / "few.safetensors")
    tensors = load_file(checkpoint)
    keep_first(tensors, 1, 6)
    saved(checkpoint, tensors)
    (tmp_path / "model.json").write_text('{"encoder": {"moe": {"num_experts": 8}}}')
    text, _ = vmoe.run("export", checkpoint, "--config", tmp_path / "model.json", "--dry-run")
    assert "6/7 experts" in text and "num_experts of 8 is not" in text
    (tmp_path / "model.json").write_text('{"encoder": {"moe": {"num_experts": 6}}}')
    assert "num_experts 6" in vmoe.complaint(1, "export", checkpoint, "--config", tmp_path / "model.json", "--dry-run")
