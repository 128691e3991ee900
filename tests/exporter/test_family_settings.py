"""Tests for properties of other libraries' ViTs that tensors don't show: options, configs and architectures.

The tests also include samples from a sweep over such properties.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family_files import families, write_files
from family_sweep import Make, cases, timm_model, verdict

from vmoe_export import export_bundle
from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_runtime.errors import VmoeError

SMALL_CLIP = {"quick_gelu": True, "vision_cfg": {"width": 128, "layers": 3, "patch_size": 8, "image_size": 32}}
CLIP_MOE = Path(__file__).parents[1] / "data" / "clip_moe"
TINY, DISTILLED = "timm vit_tiny_patch16_224", "timm deit_tiny_distilled_patch16_224"
NO_HEADS = "give the number of attention heads; pass --heads N, or the model's config.json with --config"
NO_ACTIVATION = "give the activation of the MLPs; pass --activation"
NO_POOLING = "class token or the mean of the patches; pass --architecture NAME, or --pooling"
SAMPLES = {
    "transformers vit, no eps": "",
    "transformers vit, a vision_config": "",
    "transformers vit, no config, heads": NO_ACTIVATION,
    "transformers dinov2, an intermediate_size": "",
    "transformers dinov2, under backbone": "",
    "transformers clip, no config, heads": NO_ACTIVATION,
    "transformers siglip, no config, heads": "",
    "transformers siglip, no head": "",
    "transformers siglip_classes, plain": "",
    "transformers siglip_classes, no head": "",
    "transformers siglip2, no head": "",
    "transformers siglip2_classes, plain": "",
    "transformers clip_classes, plain": "",
    "transformers clip_classes, eps 0.001": "",
    "transformers clip_classes, another size": "",
    "transformers siglip2_both, plain": "",
    "transformers siglip2, another size": "",
    "transformers siglip2, larger table": "",
    "transformers siglip2, eps 1e-05": "layer_norm_eps 1e-05",
    "transformers siglip2, no config, heads": "",
    "transformers internvl, plain": "",
    "transformers internvl, another size": "",
    "transformers internvl, attention bias": "",
    "transformers internvl, eps 1e-05": "",
    "transformers internvl, last norm, eps 1e-5": "",
    "transformers internvl, no config, heads": "",
    "transformers internvl, rms_norm": "",
    "transformers internvl, use_qk_norm": "",
    "transformers internvl, rms_norm, use_qk_norm": "",
    "transformers internvl, use_qk_norm, 1 head": "use_qk_norm",
    "transformers internvl, rms_norm, last norm": "RMS norms in blocks followed by a layer norm",
    "transformers tipsv2_both, plain": "",
    "transformers tipsv2, another size": "",
    "transformers tipsv2, eps 1e-05": "",
    "transformers tipsv2, gelu_new": "",
    "transformers tipsv2, 3 registers": "",
    "transformers tipsv2, no config, heads": "",
    "transformers tipsv2, swiglu, relu": "",
    "transformers dinov2, swiglu": "",
    "transformers dinov2_classes, swiglu, relu": "",
    "transformers dinov3, gated": "",
    "transformers dinov3, gated, silu": "",
    "transformers dinov3, no heads": "",
    "transformers dinov3, no proj and mlp bias": "",
    "transformers dinov3, few fields": "",
    "meta vit_small_patch16_dinov3": "",
    "meta vit_small_patch16_dinov3, no periods": "",
    "meta vit_small_plus_patch16_dinov3_qkvb": "",
    "meta vit_small_plus_patch16_dinov3_qkvb, no bias_mask": "bias_mask",
    "transformers aimv2, rms eps 1e-3": "",
    "transformers aimv2, biases": "",
    "transformers aimv2, few fields": "",
    "transformers aimv2, native": "",
    "transformers aimv2, no pool": "",
    "transformers aimv2, no config, heads": "",
    "transformers aimv2_both, gelu": "",
    "timm vit_base_patch14_reg1_tipsv2": "",
    "timm vit_giant_patch14_reg1_tipsv2": "",
    f"{TINY}, no proj bias, scales": "",
    "timm vit_intern300m_patch14_448": "",
    f"{TINY}, no final_norm": "",
    "timm vit_base_patch16_clip_quickgelu_224, no final_norm": "",
    "timm vit_base_patch16_clip_quickgelu_224, global_pool map": "",
    "timm eva02_tiny_patch14_224, wide": "",
    "timm eva02_tiny_patch14_224, not gated": "",
    "timm eva02_tiny_patch14_224, global_pool map": "an attention pool of an EVA",
    "timm eva02_tiny_patch14_224, another order": "rope_grid_indexing",
    "timm eva02_base_patch16_clip_224, fused": "",
    "timm eva02_base_patch16_clip_224, rows and columns apart": "",
    "timm eva02_tiny_patch14_336, architecture": "",
    "timm eva_giant_patch14_224, split": "",
    "timm vit_medium_patch16_rope_reg1_gap_256, gated, norms": "",
    "timm vit_pe_core_tiny_patch16_384, rows and columns apart": "",
    "timm vit_pe_core_tiny_patch16_384, global_pool avg": "",
    "timm vit_pe_core_tiny_patch16_384, registers": "",
    "timm vit_pe_core_tiny_patch16_384, layer scale": "",
    "timm vit_pe_core_tiny_patch16_384, a wide pool": "wider (192) than the blocks' (96)",
    "timm vit_pe_core_tiny_patch16_384, architecture": "",
    "timm vit_pe_spatial_gigantic_patch14_448, no classes": "",
    "timm vit_pe_spatial_gigantic_patch14_448, global_pool map": "an attention pool",
    "open_clip EVA02-B-16": "",
    "open_clip --architecture PE-Core-T-16-384": "",
    f"{TINY}, global_pool empty": "global_pool ''",
    f"{TINY}, qk_norm, map": "",
    f"{TINY}, fc_norm, map": "fc_norm.weight",
    f"{TINY}, heads of the name": NO_HEADS,
    f"{TINY}, architecture": "",
    f"{TINY}, architecture, avgmax": "class token or the mean of the patches; pass --pooling",
    f"{TINY}, architecture, avg": "",
    f"{TINY}, no config, avgmax": NO_POOLING,
    f"{TINY}, no config, no class token": NO_POOLING,
    f"{DISTILLED}, no classes": "",
    "open_clip plain, plain GELU": "",
    "open_clip head_width 16, quick GELU": "",
    "open_clip tanh, plain GELU": "",
    "open_clip eps 1e-06, plain GELU": "",
    "open_clip avg, plain GELU": "",
    "open_clip avg, norm last, plain GELU": "",
    "open_clip no_ln_pre, plain GELU": "",
    "open_clip layer scale, plain GELU": "",
    "open_clip attentional_pool, plain GELU": "attentional_pool True",
    "open_clip timm avg, linear, quick GELU": "",
    "open_clip timm token, None, plain GELU": "",
    "open_clip timm token, mlp, plain GELU": "timm_proj 'mlp'",
    "open_clip file training, quick GELU": "",
    "open_clip file bin, plain GELU": "",
    "open_clip file inner, plain GELU": "",
    "open_clip file openai, quick GELU": "",
    "open_clip no config, 0 options": "pass --architecture NAME, or --activation gelu, gelu_tanh, quick_gelu or silu and "
    "--heads N and --pooling token or --pooling avg, or the model's config.json",
    "open_clip no config, 2 options": NO_POOLING,
    "open_clip no config, 3 options": "",
    "open_clip --architecture ViT-B-32": "",
    "open_clip --architecture ViT-H-14": "",
}
"""Cases of the sweep by name, with the words of the refusal; those without must compute the library's outputs."""
LOOKALIKES = (
    *(f"eva02_{size}" for size in ("tiny_patch14_224", "small_patch14_336", "base_patch14_224", "large_patch14_448")),
    *(f"eva02_{size}_clip_224" for size in ("base_patch16", "large_patch14", "enormous_patch14")),
    *("eva_giant_patch14_224", "eva_giant_patch14_clip_224", "beit_base_patch16_224", "vit_relpos_small_patch16_224"),
    *(f"vit_{size}_dinov3" for size in ("small_patch16", "small_plus_patch16", "huge_plus_patch16", "7b_patch16")),
    *("vit_base_patch16_dinov3_qkvb", "vit_base_patch16_lingbot", "vit_base_patch16_sapiens2", "samvit_base_patch16"),
    *(f"vit_base_patch16_{rope}_224" for rope in ("rope", "rope_ape", "rope_mixed", "rope_mixed_ape")),
    *("vit_medium_patch16_rope_reg1_gap_256", "vit_betwixt_patch16_rope_reg4_gap_256"),
    *(f"vit_pe_core_tiny_patch16_384{pool}" for pool in ("", ", token", ", avg")),
    *(f"vit_pe_core_gigantic_patch14_448{pool}" for pool in ("", ", avg")),
    *("vit_pe_lang_large_patch14_448", "vit_pe_spatial_tiny_patch16_512", "vit_pe_spatial_gigantic_patch14_448"),
    *("aimv2_large_patch14_224", "aimv2_huge_patch14_448", "vit_base_patch16_clip_224", "vit_giant_patch16_lingbot"),
    *(f"vit_{size}_patch14_reg1_tipsv2" for size in ("so400m", "giant")),
)
"""Cases of the sweep with names of plain ViTs."""


@functools.cache
def _cases() -> dict[str, Make]:
    return dict(cases())


@pytest.mark.sample(9)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_model_is_what_its_library_computes_or_is_refused(name: str) -> None:
    kind, why = verdict(_cases()[name])
    assert (kind, SAMPLES[name] in why) == ("refused" if SAMPLES[name] else "right", True), why


@pytest.mark.sample(25)
@pytest.mark.parametrize("config", ["", ", no config"], ids=["config", "no config"])
@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_lookalike_is_never_computed_as_another_model(name: str, config: str) -> None:
    kind, why = verdict(_cases()[f"lookalike {name}{config}"])
    assert kind in ("refused", "right"), why


def _export(folder: Path, name: str, change: Callable[[dict[str, Any]], object] | None = None, **options: Any) -> Any:
    """Export a `family_files` model with the config that `change` has edited.

    If `change` is None, export the model without a config.
    """
    family = families()[name]
    config = json.loads(json.dumps(family.config))
    if change:
        change(config)
    write_files(folder / "model", config if change else None, family.tensors)
    return export_bundle(folder / "model", folder / "model.vmoe", validate=False, force=True, **options).plan


def test_openais_own_file_needs_no_option_and_cannot_be_another_model(tmp_path: Path) -> None:
    plan = _export(tmp_path, "clipmoe_dense")
    values = "epsilon 1e-05, activation quick_gelu, heads 2, pooling token"
    assert f"no file sets these, so the family's usual values are used: {values}" in plan.notes
    with pytest.raises(VmoeError, match="OpenAI's own files have quick GELU"):
        _export(tmp_path, "clipmoe_dense", activation="gelu")
    assert export_bundle(CLIP_MOE / "clip_moe.pt", tmp_path / "moe.vmoe", heads=1, validate=False).plan.model.num_heads == 1


@pytest.mark.parametrize(
    ("family", "package", "name"),
    [("clipmoe_dense", "open_clip", "ViT-H-14"), ("timm_token", "timm", "vit_tiny_patch16_224")],
)
def test_a_name_of_an_architecture_needs_its_library(
    family: str, package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VmoeError, match=f"--architecture x is not an architecture of {package} "):
        _export(tmp_path, family, architecture="x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VmoeError, match=f"{name} is looked up in {package}, which is not installed; pip install {package}"):
        _export(tmp_path, family, architecture=name)


def test_a_wrong_architecture_of_timm_is_refused(tmp_path: Path) -> None:
    timm_model("vit_small_patch16_224", {"depth": 12}, {}, tmp_path)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("vit_base_patch16_224", {"heads": 6}, "num_features 768, but the checkpoint has 384"),
        ("vit_small_patch32_224", {}, r"patch_size \[32, 32\], but the checkpoint has \[16, 16\]"),
        ("vit_small_patch16_36x1_224", {}, "depth 36, but the checkpoint has 12"),
        ("deit_small_distilled_patch16_224", {}, "num_prefix_tokens 2, but the checkpoint has 1"),
        ("vit_small_r26_s32_224", {}, "is not one of timm's vision_transformer or deit"),
    ]
    for name, options, words in wrong:
        with pytest.raises(VmoeError, match=words):
            export_bundle(tmp_path, tmp_path / "x.vmoe", architecture=name, **options)
    with pytest.raises(VmoeError, match="pre_norm True, but the checkpoint has False"):
        _export(tmp_path, "timm_token", heads=3, config={"architecture": "vit_tiny_patch16_224", "pre_norm": True})


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("vit", {"pooling": "avg"}, "omit --pooling"),
        ("vit", {"architecture": "ViT-B-32"}, "omit --architecture"),
        ("vit", {"heads": 2}, "--heads is 2, but the config says num_attention_heads 3"),
        ("vit", {"activation": "gelu_tanh"}, "--activation is gelu_tanh, but the config says hidden_act gelu"),
        ("vit", {"config": {"vision_cfg": {}}}, "the config is for open_clip"),
        ("clipmoe_dense", {"config": SMALL_CLIP | {"vision_cfg": {"width": 128}}}, "patch_size 16, but the checkpoint has"),
        ("clipmoe_dense", {"config": SMALL_CLIP, "heads": 4}, "--heads is 4, but the config says the number of heads 2"),
        (
            "clip",
            {"config": {"vision_config": {"hidden_act": "gelu"}, "vision_config_dict": {"hidden_act": "relu"}}},
            "_dict",
        ),
        ("timm_token", {"pooling": "avg"}, "--pooling is avg, but the config says global_pool token"),
    ],
)
def test_an_option_must_be_needed_and_agree_with_the_config(
    family: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(VmoeError, match=words):
        _export(tmp_path, family, lambda config: config, **options)


def test_without_a_file_of_pictures_dinov2_takes_those_of_its_processor(tmp_path: Path) -> None:
    plan = _export(tmp_path, "dinov2", lambda config: config)
    assert plan.model.image_size == (224, 224)
    assert "images have 224x224 px, as the family's image processor makes them" in plan.notes


def test_an_older_config_of_timm_has_the_colours_beside_the_architecture(tmp_path: Path) -> None:
    def flatten(config: dict[str, Any]) -> None:
        config.update(config.pop("pretrained_cfg") | {"mean": [0.1, 0.2, 0.3]})

    notes = _export(tmp_path / "flat", "timm_token", flatten).notes
    _export(tmp_path / "new", "timm_token", lambda config: config["pretrained_cfg"].update(mean=[0.1, 0.2, 0.3]))
    flat, new = (tmp_path / name / "model.vmoe" / WEIGHTS_NAME for name in ("flat", "new"))
    assert flat.read_bytes() == new.read_bytes() and not any("no file sets the preprocessing" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "timm_dinov3",
            lambda config: config["model_args"].update(rope_temperature=50.0),
            "have rope_temperature",
        ),
        ("timm_dinov3", lambda config: config["model_args"].update(depth=3), "depth 3, but the checkpoint has 2"),
        ("timm_dinov3", lambda config: config["model_args"].pop("num_heads"), "--heads N"),
        ("dinov3", lambda config: config.update(query_bias=False), "query_bias False, but the checkpoint has True"),
        ("dinov3", lambda config: config.update(key_bias=True), "key_bias True, but the checkpoint has False"),
    ],
)
def test_what_a_dinov3s_config_says_is_so_or_refused(name: str, change: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(VmoeError, match=said):
        _export(tmp_path, name, change)


def test_only_an_aimv2_of_transformers_whose_positions_are_computed_takes_other_sizes(tmp_path: Path) -> None:
    with pytest.raises(VmoeError, match="supports this AIMv2 only with 4 x 4 patches"):
        _export(tmp_path, "aimv2", lambda config: config, image_size=(16, 64))
    plan = _export(tmp_path / "native", "aimv2_native", lambda config: config, image_size=(16, 64))
    assert plan.model.image_size == (16, 64)


def test_swiglu_has_silu_and_a_gated_dinov3_what_its_config_says_or_transformers_assumes(tmp_path: Path) -> None:
    with pytest.raises(VmoeError, match="--activation is gelu, but SwiGLU has silu"):
        _export(tmp_path, "dinov2_gated", lambda config: config, activation="gelu")
    plan = _export(tmp_path / "gelu", "dinov3_gated", lambda config: config.pop("hidden_act"))
    assert plan.model.activation == "gelu_erf"
    assert "no file sets these, so the family's usual values are used: activation gelu" in plan.notes


def test_a_model_that_pools_nothing_must_be_told_what_to_return(tmp_path: Path) -> None:
    make = _cases()["transformers internvl, plain"]
    (tmp_path / "model").mkdir()
    make(tmp_path / "model")
    with pytest.raises(VmoeError, match="returns only its tokens; pass --output tokens"):
        export_bundle(tmp_path / "model", tmp_path / "model.vmoe")
    tokens = export_bundle(tmp_path / "model", tmp_path / "tokens.vmoe", output="tokens")
    assert tokens.plan.model.pools is False
    first = export_bundle(tmp_path / "model", tmp_path / "model.vmoe", pooling="token")
    again = export_bundle(first.path, tmp_path / "again.vmoe")
    assert not again.plan.model.encoder_norm
    assert (first.path / WEIGHTS_NAME).read_bytes() == (again.path / WEIGHTS_NAME).read_bytes()


@pytest.mark.sample(4)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", ["siglip2", "tipsv2", "internvl", "dinov3", "aimv2"])
def test_validation_accepts_every_precision_of_a_model(kind: str, precision: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made = _cases()[f"transformers {kind}, plain"](tmp_path / "model")
    result = export_bundle(tmp_path / "model", tmp_path / "model.vmoe", precision=precision, merge=1, **made.options)
    assert result.comparisons and (precision == "fp32") == (not result.distances)
