"""Tests for bundles that return tokens.

The tokens are all tokens after the last norm, or the residual stream after selected blocks.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from family_files import Family, families
from test_families import in_range
from variants import VARIANTS

from vmoe_export import ExportError, ExportOptions, OptionError, export_bundle, open_checkpoint
from vmoe_export.export_plan import plan_export
from vmoe_export.families.image_processors import processor_steps
from vmoe_export.validation.reference_model import ReferenceModel, Stream
from vmoe_export.validation.reference_weights import official_weights
from vmoe_runtime import Engine, RoutingError
from vmoe_runtime.backends import onnxruntime_cpu
from vmoe_torch import load_model

ATOL = 5e-5
OF_LIBRARIES = [
    "vit_pooler", "dinov2", "dinov2_registers", "siglip_vision", "hf_deit_pooler",
    "timm_token", "timm_avg", "timm_map", "timm_registers", "timm_registers_with_positions", "timm_clip", "deit_distilled",
    "dinov3", "dinov3_gated", "dinov2_gated", "aimv2", "timm_dinov3", "timm_dinov3_gated", "timm_aimv2",
    "timm_eva02", "timm_eva02_clip", "timm_pe_core", "timm_pe_spatial",
]  # fmt: skip
CHOICE = replace(VARIANTS[5], options={**VARIANTS[5].options, "router": "experts-choice"})
OFFICIAL = {
    "V-MoE, classifier 0": VARIANTS[0],
    "V-MoE, groups of two images": VARIANTS[2],
    "V-MoE, three blocks": VARIANTS[6],
    "V-MoE, groups that cut images": VARIANTS[10],
    "dense, map head": VARIANTS[7],
}


def answers(bundle: Path, images: np.ndarray, backend: str = "onnxruntime") -> dict[str, np.ndarray]:
    with Engine.load(bundle, backend=backend) as engine:
        return engine.outputs(images)


def check_every_engine(
    bundle: Path, images: np.ndarray, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the outputs of the op library, standard ops and OpenVINO with expected outputs."""
    found = [answers(bundle, images), answers(bundle, images, "openvino")]
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime_cpu.op_library, "usable_library", lambda: (None, ""))
        found.append(answers(bundle, images))
    for each in found:
        assert each.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(each[name], values, rtol=0, atol=ATOL, err_msg=name)


def of_library(family: Family, folder: Path, given: np.ndarray) -> dict[str, np.ndarray]:
    """Return the original library's outputs for preprocessed pictures."""
    pictures, blocks = torch.from_numpy(given), list[torch.Tensor]()
    with torch.no_grad():
        if name := family.config.get("architecture"):
            model = timm.create_model(name, **family.config["model_args"]).eval()
            model.load_state_dict({name: torch.from_numpy(values) for name, values in family.tensors.items()})
            for block in model.blocks:
                block.register_forward_hook(lambda _module, _inputs, output: blocks.append(output))
            tokens = model.forward_features(pictures)
        else:
            found = transformers.AutoModel.from_pretrained(folder)(pictures, output_hidden_states=True)
            tokens, blocks = found.last_hidden_state, found.hidden_states[1:]
    return {"tokens": tokens.numpy()} | {f"layer{number}": values.numpy() for number, values in enumerate(blocks)}


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", OF_LIBRARIES)
def test_tokens_and_layers_are_those_of_the_library(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = families()[name]
    folder = family.write(tmp_path / "model")
    pictures = family.pictures() / 4  # scaled to the range that engines accept
    expected = of_library(family, folder, pictures)
    layers = list(range(len(expected) - 1))
    bundle = export_bundle(
        folder, tmp_path / "model.vmoe", output="tokens", layers=layers, image_size=tuple(family.size)
    ).path
    _, mean, std = processor_steps(family.preprocessor_config or family.config["pretrained_cfg"])
    check_every_engine(bundle, in_range(pictures, mean, std), expected, monkeypatch)


@pytest.mark.parametrize("name", OFFICIAL)
def test_tokens_and_layers_are_those_of_the_reference(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = OFFICIAL[name]
    options = {**variant.export_options, "output": "tokens", "layers": [0, variant.layers - 1]}
    bundle = export_bundle(variant.write(tmp_path), tmp_path / "model.vmoe", **options).path
    images = variant.images(2 * variant.batch_multiple)
    with open_checkpoint(tmp_path / "ckpt.safetensors") as checkpoint:
        plan = plan_export(checkpoint, ExportOptions(**options))
        model = plan.exported
        reference = ReferenceModel(model, official_weights(checkpoint, plan.model, plan.weight_shapes))
        stream, streams = Stream(images), dict[str, np.ndarray]()
        for part in model.parts:
            stream, _ = reference.run(part, stream, [next(iter(plan.profiles), None)])
            streams[part] = stream.x
    last = {part.partition("/")[0]: x for part, x in streams.items()}
    layers = {f"layer{number}": last[f"encoderblock_{number}"] for number in (0, variant.layers - 1)}
    check_every_engine(bundle, images, {"tokens": last["head"], **layers}, monkeypatch)


@pytest.mark.parametrize("variant", [VARIANTS[8], CHOICE, VARIANTS[9]], ids=["top-k", "expert choice", "dense"])
def test_layers_change_no_bit_of_the_usual_output(variant: Any, tmp_path: Path) -> None:
    checkpoint, images = variant.write(tmp_path), variant.images(2 * variant.batch_multiple)
    options = {
        name: value for name, value in variant.export_options.items() if variant is not CHOICE or name not in ("k", "bpr")
    }
    plain = export_bundle(checkpoint, tmp_path / "plain.vmoe", validate=False, **options).path
    both = export_bundle(checkpoint, tmp_path / "both.vmoe", validate=False, layers=[1], **options).path
    usual, found = answers(plain, images), answers(both, images)
    (name,) = usual
    assert list(found) == [name, "layer1"] and found["layer1"].shape == (len(images), variant.tokens, variant.hidden)
    np.testing.assert_array_equal(found[name], usual[name])
    with Engine.load(plain) as one, Engine.load(both) as several:
        assert isinstance(one(images), np.ndarray) and several(images).keys() == found.keys()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_validation_covers_lower_precisions(precision: Any, tmp_path: Path) -> None:
    variant = VARIANTS[6]
    options = {**variant.export_options, "output": "tokens", "layers": [0, 2]}
    checkpoint = variant.write(tmp_path)
    result = export_bundle(checkpoint, tmp_path / "model.vmoe", precision=precision, tensorrt=precision == "bf16", **options)
    assert result.comparisons and result.distances and (precision == "int8" or result.tensorrt_comparisons)
    with pytest.raises(ExportError, match="--max-distance"):
        export_bundle(checkpoint, tmp_path / "strict.vmoe", precision=precision, max_distance=1e-4, **options)


def test_a_bundle_of_tokens_is_exported_again_as_such_only(tmp_path: Path) -> None:
    variant = VARIANTS[7]
    options = {**variant.export_options, "output": "tokens", "layers": [1]}
    first = export_bundle(variant.write(tmp_path), tmp_path / "first.vmoe", validate=False, **options).path
    again = export_bundle(first, tmp_path / "again.vmoe", validate=False).path
    assert (first / "model.onnx").read_bytes() == (again / "model.onnx").read_bytes()
    manifest = json.loads((again / "manifest.json").read_text())
    assert manifest["output"] == {"name": "tokens", "size": 24, "tokens": 9}
    assert manifest["layers"] == {"blocks": [1], "tokens": 9, "size": 24}
    assert not [name for name in manifest["files"] if "Map" in name]
    with pytest.raises(OptionError, match="returns only its tokens; pass --output tokens"):
        export_bundle(first, tmp_path / "features.vmoe", output="features")
    with pytest.raises(OptionError, match="not tokens"):
        load_model(first)


MISTAKES = {
    "out of range": (VARIANTS[0], {"layers": [0, 2]}, "no block 2 for --layers: the model has 0 to 1"),
    "twice": (VARIANTS[0], {"layers": [1, 1]}, "in ascending order"),
    "unsorted": (VARIANTS[0], {"layers": [1, 0]}, "in ascending order"),
    "negative": (VARIANTS[0], {"layers": [-1]}, "in ascending order"),
    "no number": (VARIANTS[0], {"layers": [True]}, "in ascending order"),
    "merging tokens": (
        VARIANTS[9],
        {"output": "tokens", "merge": 2},
        "tokens can't be merged .* where a bundle returns tokens",
    ),
    "merging behind layers": (VARIANTS[0], {"layers": [0], "merge": 2}, "tokens can't be merged"),
    "a head": (VARIANTS[0], {"output": "tokens", "head": "head.npz"}, "--output tokens excludes --head"),
    "probabilities": (VARIANTS[0], {"output": "tokens", "probabilities": "sigmoid"}, "would return tokens"),
    "normalized tokens": (VARIANTS[0], {"output": "tokens", "normalize": True}, "would return tokens; omit it"),
    "class names": (VARIANTS[0], {"output": "tokens", "class_names": ["a", "b"]}, "has no outputs"),
    "logits without a head": (replace(VARIANTS[0], classes=None), {"output": "logits"}, "no head, so it returns no logits"),
    "tokens of an ensemble": (VARIANTS[5], {"output": "tokens", "ensemble_size": 2}, "tokens of each member"),
    "layers of an ensemble": (
        replace(VARIANTS[5], classes=7),
        {"layers": [0], "ensemble_size": 2},
        "cannot return layers; omit --layers",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused(name: str, tmp_path: Path) -> None:
    variant, given, message = MISTAKES[name]
    with pytest.raises((OptionError, RoutingError), match=message):
        export_bundle(variant.write(tmp_path), tmp_path / "model.vmoe", **{**variant.export_options, **given})


@pytest.mark.parametrize("variant", [VARIANTS[9], VARIANTS[5]], ids=["dense", "V-MoE"])
def test_a_call_that_merges_is_refused(variant: Any, tmp_path: Path) -> None:
    options = {**variant.export_options, "output": "tokens"}
    bundle = export_bundle(variant.write(tmp_path), tmp_path / "model.vmoe", validate=False, **options).path
    with Engine.load(bundle) as engine, pytest.raises(RoutingError, match="tokens can't be merged"):
        engine(variant.images(1), merge=2)
