"""Tests for `vmoe zeroshot` and `--normalize`.

Classes given by name must get the same probabilities as in transformers and open_clip.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from command_runs import Vmoe, npz

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("open_clip", reason="open_clip is not installed")
from zeroshot_models import MODELS, NAMES, SCALE, TEMPLATES, Zeroshot, pictures

from vmoe_export import export_bundle, export_zeroshot
from vmoe_export.zeroshot.head import openai_templates
from vmoe_runtime import Engine
from vmoe_runtime.bundle.reader import Bundle
from vmoe_tools.program import main
from vmoe_torch import load_model

TEXTS = [TEMPLATES[0].format(name) for name in NAMES]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zeroshot:
    return MODELS[request.param](tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture
def clip(tmp_path: Path) -> Zeroshot:
    return MODELS["hf_clip"](tmp_path / "clip")


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*address: Any) -> None:
        raise AssertionError(f"a connection to {address}")

    with monkeypatch.context() as context:
        context.setattr(socket.socket, "connect", refuse)
        yield


def labels(folder: Path) -> Path:
    (folder / "labels.txt").write_text("\n".join(NAMES))
    return folder / "labels.txt"


def zeroshot(model: Zeroshot, folder: Path, *words: str) -> None:
    """Run `vmoe zeroshot` on a model. The command writes the bundle `x.vmoe` to `folder`."""
    given = [model.folder, "--class-names", labels(folder), "-o", folder / "x.vmoe", "-q"]
    assert main(["zeroshot", *map(str, given), *words]) == 0


def probabilities(bundle: Path, **options: Any) -> np.ndarray:
    """Return the probabilities that an engine's `classify` reports for 20 pictures, as float64[20, classes]."""
    with Engine.load(bundle, **options) as engine:
        answers = engine.classify(pictures(), len(NAMES))
    return np.array([[dict(answer)[name] for name in NAMES] for answer in answers])


@pytest.mark.sample(3)
def test_probabilities_are_those_of_the_library(model: Zeroshot, tmp_path: Path) -> None:
    zeroshot(model, tmp_path)
    found, expected = probabilities(tmp_path / "x.vmoe"), model.expected(pictures(), TEXTS)
    assert expected.std(axis=0).min() > 1e-3  # the pictures differ
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert Bundle.open(tmp_path / "x.vmoe").manifest.probabilities == model.probabilities


def test_a_file_of_open_clips_training_needs_only_its_architecture(tmp_path: Path, vmoe: Vmoe) -> None:
    import open_clip

    made = MODELS["open_clip"](tmp_path / "model")
    config = json.loads((made.folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "small-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-clip.json")
    states = safetensors.torch.load_file(made.folder / "open_clip_model.safetensors")
    training = {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in states.items()}}
    torch.save(training, tmp_path / "epoch_1.pt")
    words = ("zeroshot", tmp_path / "epoch_1.pt", "--class-names", labels(tmp_path), "-o", tmp_path / "x.vmoe")
    says = f"vmoe: the folder of {tmp_path}/epoch_1.pt has no config.json or open_clip_config.json, which describe"
    assert vmoe.complaint(1, *words).startswith(says)
    vmoe.run(*words, "--architecture", "small-clip")
    np.testing.assert_allclose(probabilities(tmp_path / "x.vmoe"), made.expected(pictures(), TEXTS), rtol=0, atol=1e-4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("own", [True, False], ids=["own templates", "those of OpenAI"])
def test_a_class_of_several_texts_is_the_mean_of_their_directions(model: Zeroshot, own: bool, tmp_path: Path) -> None:
    templates = TEMPLATES if own else openai_templates()
    words = [word for each in TEMPLATES for word in ("--template", each)] if own else ["--templates", "openai"]
    zeroshot(model, tmp_path, *words)
    _, by_text, images = model.answers(pictures(), [each.replace("{}", name) for name in NAMES for each in templates])
    mean = by_text.reshape(len(NAMES), len(templates), -1).mean(axis=1)
    logits = images @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T * SCALE + model.bias
    with Engine.load(tmp_path / "x.vmoe") as engine:
        np.testing.assert_allclose(engine(pictures()), logits, rtol=0, atol=1e-4)


@pytest.mark.sample(3)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_precision_and_graph_is_validated(model: Zeroshot, precision: Any, tmp_path: Path) -> None:
    result = export_zeroshot(model.folder, tmp_path / "x.vmoe", NAMES, precision=precision, merge=1, input="uint8")
    fp32 = export_zeroshot(model.folder, tmp_path / "y.vmoe", NAMES, tensorrt=True)
    assert {each.graph for each in result.comparisons} == {"model.onnx", "model.merging.onnx"}
    assert {each.graph for each in fp32.comparisons} == {"model.onnx", "model.inlined.onnx"} and fp32.tensorrt_comparisons
    expected = model.expected(pictures(), TEXTS)
    assert np.abs(probabilities(result.path) - expected).max() < 0.1
    np.testing.assert_allclose(probabilities(fp32.path, backend="openvino"), expected, rtol=0, atol=1e-4)


@pytest.mark.sample(2)
def test_a_head_of_the_library_needs_the_embedding_to_be_normalized(model: Zeroshot, tmp_path: Path) -> None:
    expected, texts, _ = model.answers(pictures(), TEXTS)
    head = npz(tmp_path / "head.npz", kernel=texts.T * SCALE, bias=np.full(len(NAMES), model.bias, np.float32))
    options: dict[str, Any] = {"head": head, "probabilities": model.probabilities, "class_names": NAMES}
    made = {
        normalize: export_bundle(model.folder, tmp_path / f"{normalize}.vmoe", normalize=normalize, **options).path
        for normalize in (True, False)
    }
    with Engine.load(made[True]) as engine, Engine.load(made[False]) as other:
        np.testing.assert_allclose(engine(pictures()), expected, rtol=0, atol=1e-4)
        assert np.abs(other(pictures()) - expected).max() > 0.1
    again = export_bundle(made[True], tmp_path / "again.vmoe").path
    np.testing.assert_allclose(probabilities(again), model.expected(pictures(), TEXTS), rtol=0, atol=1e-4)


@pytest.mark.sample(2)
def test_embeddings_are_divided_by_their_norms(model: Zeroshot, tmp_path: Path) -> None:
    plain, unit = (
        export_bundle(model.folder, tmp_path / f"{normalize}.vmoe", normalize=normalize).path for normalize in (None, True)
    )
    with Engine.load(plain) as engine, Engine.load(unit) as other:
        features = engine(pictures())
        expected = features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        np.testing.assert_allclose(other(pictures()), expected, rtol=0, atol=1e-6)
        assert other(pictures()).tobytes() == b"".join(other(each[None]).tobytes() for each in pictures())
    np.testing.assert_allclose(model.answers(pictures(), TEXTS).images, expected, rtol=0, atol=1e-5)


def test_torch_divides_them_too(mnist_checkpoint: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path) -> None:
    import torch

    options: dict[str, Any] = {"output": "features", "normalize": True}
    bundle = export_bundle(mnist_checkpoint, tmp_path / "x.vmoe", capacity=[1.05], k=[2], **options).path
    images = mnist_images["images"][:4, ..., None].astype(np.float32) / 127.5 - 1
    with Engine.load(bundle) as engine, torch.inference_mode():
        expected = engine(images)
        for source in (bundle, mnist_checkpoint):
            model = load_model(source, capacity=1.05, k=2, **(options if source is mnist_checkpoint else {}))
            np.testing.assert_allclose(model(torch.from_numpy(images)).numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)


def test_a_head_that_may_not_be_trained_for_it_is_noted(mnist_checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"capacity": [1.05], "k": [2], "validate": False}
    result = export_bundle(mnist_checkpoint, tmp_path / "x.vmoe", normalize=True, **options)
    again = export_bundle(result.path, tmp_path / "y.vmoe", validate=False)
    plain = export_bundle(result.path, tmp_path / "z.vmoe", normalize=False, validate=False)
    noted = [any("own head gets normalized" in note for note in each.plan.notes) for each in (result, again, plain)]
    assert noted == [True, False, False]
    assert [each.plan.model.normalize for each in (result, again, plain)] == [True, True, False]


def test_a_folder_without_what_it_needs_is_refused_by_name(clip: Zeroshot, tmp_path: Path, vmoe: Vmoe) -> None:
    target, names = tmp_path / "x.vmoe", labels(tmp_path)

    def complaint(*words: object, code: int = 1) -> str:
        found = vmoe.complaint(code, "zeroshot", *words, "-o", target)
        assert not target.exists()
        return found

    siglip = MODELS["hf_siglip"](tmp_path / "siglip").folder
    settings = siglip / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"padding_side": "left"}))
    assert "siglip: the tokenizer pads on the left" in complaint(siglip, "--class-names", names)
    (siglip / "tokenizer.json").write_text("{")
    assert f"transformers {version('transformers')} can't load its text tower: " in complaint(siglip, "--class-names", names)
    assert "exclude each other" in complaint(
        clip.folder, "--class-names", names, "--template", "{}", "--templates", "openai", code=2
    )
    for template in ("a photo", "{} or {}"):
        assert f"--template '{template}'" in complaint(clip.folder, "--class-names", names, "--template", template, code=2)
    names.write_text("cat\n\ndog")
    assert "class name 2 of 3 is empty" in complaint(clip.folder, "--class-names", names, code=2)
    names.write_text(f"{'a' * 200}cat\n{'a' * 200}dog\n{'a' * 200}cat")
    told = "can't tell class names 1 and 2 apart: 'aaaaaaaa"
    assert told in complaint(clip.folder, "--class-names", names, code=2)
    names = labels(tmp_path)
    assert "is an address" in complaint("gs://bucket/clip", "--class-names", names, code=2)
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (clip.folder / file).unlink()
    assert "has no tokenizer" in complaint(clip.folder, "--class-names", names)
    config = json.loads((clip.folder / "config.json").read_text())
    (clip.folder / "config.json").write_text(json.dumps(config | {"model_type": "clip_vision_model"}))
    assert "config.json says model_type 'clip_vision_model'" in complaint(clip.folder, "--class-names", names)
    (clip.folder / "config.json").unlink()
    assert "has no config.json or open_clip_config.json" in complaint(clip.folder, "--class-names", names)
    shutil.rmtree(clip.folder)
    assert "clip is not there" in complaint(clip.folder, "--class-names", names)
