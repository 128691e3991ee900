"""Exports hundreds of transformers, timm and open_clip models, and compares each one with its library.

    $ pip install transformers timm open_clip_torch
    $ PYTHONPATH=tests/support python tests/support/family_sweep.py [--only WORD] [--every N]

Each model has a different configuration, few blocks and random weights. The exporter must either refuse the model or write a
bundle whose outputs are close to the library's. The difference may be at most 5e-5 of the library's largest output.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import family_weights
import numpy as np
import safetensors.torch
import torch

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError

MOST = 5e-5
Colours = tuple[tuple[float, ...], tuple[float, ...]]
HALF, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
NONE = ((0.0,) * 3, (1.0,) * 3)


@dataclass
class Made:
    """A saved model, with everything that is needed to export it and to compare it with its library.

    `library` computes the library's outputs from pixel values. `size`, `channels` and `colours` describe the images that the
    model takes. `options` are the export's options. `answers` are values for further options, which the exporter may
    require.
    """

    library: Callable[[torch.Tensor], Any]
    size: tuple[int, int]
    colours: Colours
    options: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    answers: dict[str, Any] = field(default_factory=dict)


Make = Callable[[Path], Made]


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Give a model random weights whose magnitude is typical of trained weights.

    If the model's device is "meta", move the model to the CPU.
    """
    torch.manual_seed(0)
    if any(value.is_meta for value in model.parameters()):
        model = model.to_empty(device="cpu")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.normal_(*family_weights.mean_and_deviation(name, value.shape))
    return model.eval()


@torch.no_grad()
def verdict(make: Make) -> tuple[str, str]:
    """Return "right", "wrong", "refused" or "no model", and the relative difference or the reason.

    The verdict is "no model" if the library can't make or run the model.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        try:
            made = make(folder)
            pixels = np.random.default_rng(0).uniform(0, 1, (2, *made.size, made.channels)).astype(np.float32)
            mean, std = (np.array(each[: made.channels]) for each in made.colours)
            output = made.library(torch.from_numpy(((pixels - mean) / std).transpose(0, 3, 1, 2)).double())
            expected = (output[0] if isinstance(output, tuple) else output).numpy()  # open_clip models may return a tuple
        except Exception as error:  # the library may raise any exception
            return "no model", f"{type(error).__name__}: {error}".splitlines()[0]
        try:
            bundle = answered(folder, Path(name) / "model.vmoe", made)
        except VmoeError as error:
            return "refused", str(error).removeprefix(f"{folder}/")
        engine = Engine.load(bundle)
        if (size := (engine.manifest.input.height, engine.manifest.input.width)) != made.size:
            return "wrong", f"images of {size}, not {made.size}"
        found = engine(2 * pixels - 1)
        if found.shape != expected.shape:
            return "wrong", f"outputs {found.shape}, not {expected.shape}"
        off = np.abs(found - expected).max() / np.abs(expected).max()
        return ("right" if off <= MOST else "wrong"), f"{off:.1e}"


def answered(folder: Path, target: Path, made: Made) -> Path:
    """Export a model, and return the path of its bundle.

    Whenever the exporter requires an option for which `answers` has a value, try again with that option.

    Raises:
        VmoeError: the exporter refuses the model.
    """
    options = dict(made.options)
    while True:
        try:
            return export_bundle(folder, target, validate=False, **options).path
        except VmoeError as error:
            asked = (name for name in made.answers if name not in options and f"--{name} " in str(error))
            if (name := next(asked, None)) is None:
                raise
            options[name] = made.answers[name]


# --- transformers ---

SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
TOWER = SHAPE | {"intermediate_size": 64}
NAFLEX = {key: value for key, value in TOWER.items() if key != "image_size"} | {"num_patches": 16}
CLASSES = {"num_labels": 5}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
BOTH = {"text_config": TEXT | {"max_position_embeddings": 6, "eos_token_id": 1, "bos_token_id": 0}, "vision_config": TOWER}
KINDS: dict[str, tuple[str, dict[str, Any], str, str, Colours]] = {
    "vit": ("ViTForImageClassification", TOWER | CLASSES, "logits", "ViT", HALF),
    "vit_model": ("ViTModel", TOWER, "pooler_output", "ViT", HALF),
    "deit": ("DeiTForImageClassification", TOWER | CLASSES, "logits", "DeiT", IMAGENET),
    "deit_teacher": ("DeiTForImageClassificationWithTeacher", TOWER | CLASSES, "logits", "DeiT", IMAGENET),
    "dinov2": ("Dinov2Model", SHAPE, "pooler_output", "Bit", IMAGENET),
    "dinov2_classes": ("Dinov2ForImageClassification", SHAPE | CLASSES, "logits", "Bit", IMAGENET),
    "dinov2_registers": ("Dinov2WithRegistersModel", SHAPE, "pooler_output", "Bit", IMAGENET),
    "clip": ("CLIPVisionModelWithProjection", TOWER | {"projection_dim": 20}, "image_embeds", "CLIP", CLIP),
    "clip_vision": ("CLIPVisionModel", TOWER, "pooler_output", "CLIP", CLIP),
    "clip_both": ("CLIPModel", BOTH | {"projection_dim": 20}, "", "CLIP", CLIP),
    "clip_classes": ("CLIPForImageClassification", BOTH | CLASSES, "logits", "CLIP", CLIP),
    "siglip": ("SiglipVisionModel", TOWER, "pooler_output", "Siglip", HALF),
    "siglip_both": ("SiglipModel", BOTH, "", "Siglip", HALF),
    "siglip_classes": ("SiglipForImageClassification", BOTH | CLASSES, "logits", "Siglip", HALF),
    "siglip2": ("Siglip2VisionModel", NAFLEX, "pooler_output", "Siglip2", HALF),
    "siglip2_both": ("Siglip2Model", BOTH | {"vision_config": NAFLEX}, "", "Siglip2", HALF),
    "siglip2_classes": (
        "Siglip2ForImageClassification",
        BOTH | {"vision_config": NAFLEX} | CLASSES,
        "logits",
        "Siglip2",
        HALF,
    ),
    "aimv2": ("Aimv2VisionModel", TOWER, "pooler_output", "CLIP", CLIP),
    "aimv2_both": ("Aimv2Model", BOTH | {"projection_dim": 20}, "", "CLIP", CLIP),
    "dinov3": ("DINOv3ViTModel", TOWER | {"num_register_tokens": 2}, "pooler_output", "DINOv3ViT", IMAGENET),
    "internvl": ("InternVLVisionModel", TOWER, "last_hidden_state", "GotOcr2", IMAGENET),
    "tipsv2": ("Tipsv2VisionModel", SHAPE | {"mlp_ratio": 2.5}, "pooler_output", "Tipsv2", NONE),
    "tipsv2_both": ("Tipsv2Model", {"text_config": TEXT | {"hidden_size": 48}, "vision_config": SHAPE}, "", "Tipsv2", NONE),
}
"""Class, config, output, image processor and channels."""
FLAGS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{act: {"hidden_act": act} for act in ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "gelu_python")},
    **{f"eps {eps}": {"layer_norm_eps": eps} for eps in (1e-12, 1e-6, 1e-5, 1e-3)},
    **{f"{heads} heads": {"num_attention_heads": heads} for heads in (1, 2, 6, 12)},
    "no qkv bias": {"qkv_bias": False},
    "wide": {"image_size": [24, 40]},
    "long patches": {"patch_size": [8, 4]},
    "grey": {"num_channels": 1},
    "3 blocks": {"num_hidden_layers": 3, "hidden_size": 36},
    "pooler relu": {"pooler_act": "relu"},
    "swiglu": {"use_swiglu_ffn": True},
    "no mask": {"use_mask_token": False},
    "no head": {"vision_use_head": False},
    **{f"{count} registers": {"num_register_tokens": count} for count in (0, 3)},
    "attention bias": {"attention_bias": True},
    "last norm": {"use_mean_pooling": False},
    "last norm, eps 1e-5": {"use_mean_pooling": False, "layer_norm_eps": 1e-5},
    "rms_norm": {"norm_type": "rms_norm"},
    "use_qk_norm": {"use_qk_norm": True},
    "use_qk_norm, 1 head": {"use_qk_norm": True, "num_attention_heads": 1},
    "rms_norm, use_qk_norm": {"norm_type": "rms_norm", "use_qk_norm": True},
    "rms_norm, last norm": {"norm_type": "rms_norm", "use_mean_pooling": False},
    "rms eps 1e-3": {"rms_norm_eps": 1e-3},
    "silu": {"hidden_act": "silu"},
    "swiglu, relu": {"use_swiglu_ffn": True, "hidden_act": "relu"},
    "gated": {"use_gated_mlp": True},
    "gated, silu": {"use_gated_mlp": True, "hidden_act": "silu"},
    "native": {"is_native": True},
    "no pool": {"use_head": False},
    "biases": {"qkv_bias": True, "mlp_bias": True},
    "key bias": {"key_bias": True},
    "no proj and mlp bias": {"proj_bias": False, "mlp_bias": False},
    "theta": {"rope_theta": 30.0},
    "larger table": {"num_patches": 49},
}
"""Fields of configs; a kind uses those that its class has."""
SPARE = ("rms_norm_eps", "rope_theta", "use_gated_mlp", "key_bias", "mlp_bias", "is_native", "use_head", "qkv_bias")
EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], dict[str, Any]]] = {
    "no activation": (lambda config: config.pop("hidden_act", 0), {}),
    "no eps": (lambda config: config.pop("layer_norm_eps", 0), {}),
    "no heads": (lambda config: config.pop("num_attention_heads", 0), {}),
    "few fields": (lambda config: [config.pop(key, 0) for key in SPARE], {}),
    "a vision_config": (lambda config: config.update(vision_config={"num_attention_heads": 2}), {}),
    "an intermediate_size": (lambda config: config.update(intermediate_size=100), {}),
    "under backbone": (lambda _: None, {}),
    "no config": (dict.clear, {}),
    "no config, heads": (dict.clear, {"heads": 3}),
    "no config, all": (dict.clear, {"heads": 3, "activation": "gelu"}),
    "other options": (lambda _: None, {"heads": 6, "activation": "quick_gelu"}),
    "another size": (lambda _: None, {"image_size": (40, 24)}),
}
"""Changes to the saved config.json, and options."""


def transformers_model(kind: str, fields: dict[str, Any], edit: str, folder: Path) -> Made:
    import transformers

    made_by, base, output, processor, colours = KINDS[kind]
    change, options = EDITS.get(edit, (lambda _: None, {}))
    model_class, settings = getattr(transformers, made_by), copy.deepcopy(base)
    settings.get("vision_config", settings).update(fields)
    model = fill(model_class(model_class.config_class(**settings)))
    model.save_pretrained(folder)
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = json.loads(path.read_text())
    change(config["vision_config"] if "vision_config" in base and change is not dict.clear else config)
    path.write_text(json.dumps(config))
    if config:
        model = model_class.from_pretrained(folder)
    else:
        path.unlink()
        usual = {"CLIP": "quick_gelu", "Siglip": "gelu_tanh", "Siglip2": "gelu_tanh"}.get(processor, "gelu")
        usual = "silu" if "aimv2" in kind else usual
        options = options | ({"activation": usual} if "activation" in options else {})
    if edit == "under backbone":
        tensors = safetensors.torch.load_file(weights)
        safetensors.torch.save_file({f"backbone.{name}": value for name, value in tensors.items()}, weights)
    size, channels = options.get("image_size", fields.get("image_size", (32, 32))), fields.get("num_channels", 3)
    pictures = {"size": {"height": size[0], "width": size[1]}, "do_resize": True, "do_center_crop": False}
    pictures |= {"patch_size": 8, "max_num_patches": math.prod(size) // 64}  # only Siglip2
    pictures |= {key: each[:channels] for key, each in zip(("image_mean", "image_std"), colours, strict=True)}
    (folder / "preprocessor_config.json").write_text(
        json.dumps(pictures | {"image_processor_type": f"{processor}ImageProcessor"})
    )
    model = model.eval().double()
    if output == "pooler_output" and False in (fields.get("use_head"), fields.get("vision_use_head")):
        output, options = "tokens", options | {"output": "tokens"}
    if output == "last_hidden_state":
        pooling = "avg" if model.config.use_mean_pooling else "token"
        options = options | {"pooling": pooling}
    resizes = processor in ("ViT", "DeiT", "CLIP", "Siglip")  # optionally
    more: dict[str, Any] = {"interpolate_pos_encoding": True} if "image_size" in options and resizes else {}

    def run(values: torch.Tensor) -> torch.Tensor:
        if processor == "Siglip2":
            count, _, height, width = values.shape
            more["spatial_shapes"] = torch.tensor([[height // 8, width // 8]] * count)
            values = torch.nn.functional.unfold(values, 8, stride=8).unflatten(1, (3, 64)).permute(0, 3, 2, 1).flatten(2)
            more["pixel_attention_mask"] = torch.ones(values.shape[:2])
        if not output:
            return model.get_image_features(pixel_values=values, **more).pooler_output
        found = model(pixel_values=values, **more)["last_hidden_state" if output == "tokens" else output]
        if output == "last_hidden_state":
            return found[:, 1:].mean(dim=1) if options["pooling"] == "avg" else found[:, 0]
        return found

    return Made(run, tuple(size), colours, options, channels)


def transformers_cases() -> Iterator[tuple[str, Make]]:
    import transformers

    for kind, (made_by, base, *_) in KINDS.items():
        known = getattr(transformers, made_by).config_class()
        known = known.vision_config if "vision_config" in base else known
        is_dinov2, is_tower = "dinov2" in kind, bool(known.base_config_key)
        for name, fields in FLAGS.items():
            if all(hasattr(known, key) for key in fields):
                yield f"transformers {kind}, {name}", partial(transformers_model, kind, fields, "")
        for name in EDITS:
            fits = is_dinov2 or name not in ("an intermediate_size", "under backbone")
            if fits and not (is_tower and name == "a vision_config"):
                fields = {"num_attention_heads": 12} if name == "no heads" else {}
                yield f"transformers {kind}, {name}", partial(transformers_model, kind, fields, name)


# --- timm ---

ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0, "num_classes": 5}
TIMM: dict[str, dict[str, Any]] = {
    **{f"global_pool {pool or 'empty'}": {"global_pool": pool} for pool in ("", "avg", "avgmax", "max", "map")},
    **{act: {"act_layer": act} for act in ("gelu_tanh", "quick_gelu", "relu", "silu")},
    "qk_norm": {"qk_norm": True},
    "qk_norm, map": {"qk_norm": True, "global_pool": "map"},
    "fc_norm, map": {"fc_norm": True, "global_pool": "map"},
    "fc_norm, token": {"fc_norm": True},
    "avg, no fc_norm": {"global_pool": "avg", "fc_norm": False},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "registers, no_embed_class": {"reg_tokens": 4, "no_embed_class": True},
    "registers, map": {"reg_tokens": 2, "global_pool": "map"},
    "pool_include_prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "pre_norm": {"pre_norm": True},
    "no final_norm": {"final_norm": False},
    "init_values": {"init_values": 0.1},
    "no qkv bias": {"qkv_bias": False},
    "no proj bias": {"proj_bias": False},
    "no proj bias, scales": {"proj_bias": False, "init_values": 0.1},
    "no positions": {"pos_embed": "none"},
    "dynamic": {"dynamic_img_size": True},
    "no classes": {"num_classes": 0},
    "wide": {"img_size": (24, 40)},
    "heads of the name": {"num_heads": None},
    "grey": {"in_chans": 1},
    "scale_attn_norm": {"scale_attn_norm": True},
}
"""Arguments in addition to `ARGS`."""


EVA: dict[str, dict[str, Any]] = {
    **{f"global_pool {pool or 'empty'}": {"global_pool": pool} for pool in ("", "token", "avg", "avgmax", "map")},
    "wide": {"img_size": (24, 40)},
    "rows and columns apart": {"img_size": (16, 64), "patch_size": (4, 8)},
    "no classes": {"num_classes": 0},
    "grey": {"in_chans": 1},
    "2 heads": {"num_heads": 2},
    "odd pairs": {"num_heads": 8},
    "fc_norm": {"use_fc_norm": True},
    "registers": {"num_reg_tokens": 3},
    "no_embed_class": {"no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "no positions": {"use_abs_pos_emb": False},
    "layer scale": {"init_values": 0.1},
    "layer scale of attention": {"init_values": 0.1, "attn_only_layer_scale": True},
    "no qkv bias": {"qkv_bias": False},
    "fused": {"qkv_fused": True},
    "split": {"qkv_fused": False},
    "qk_norm": {"qk_norm": True},
    "gated": {"swiglu_mlp": True, "scale_mlp": False},
    "gated, aligned": {"swiglu_mlp": True, "scale_mlp": False, "swiglu_align_to": 8},
    "gated, norms": {"swiglu_mlp": True, "scale_mlp": True},
    "not gated": {"swiglu_mlp": False},
    "not gated, no norms": {"swiglu_mlp": False, "scale_mlp": False},
    "norms": {"scale_mlp": True, "scale_attn_inner": True},
    "post norm": {"use_post_norm": True},
    "not rotated": {"use_rot_pos_emb": False},
    "another reference": {"ref_feat_shape": 8},
    "another offset": {"rope_grid_offset": 2.0},
    "another order": {"rope_grid_indexing": "xy"},
    "another temperature": {"rope_temperature": 100.0},
    "halves": {"rope_rotate_half": True},
    "mixed": {"rope_type": "mixed"},
    "dinov3": {"rope_type": "dinov3"},
    "norm first": {"use_pre_transformer_norm": True},
    "a wide pool": {"attn_pool_mlp_ratio": 4.0},
    "a narrow pool": {"attn_pool_mlp_ratio": 1.5},
    "heads of the pool": {"attn_pool_num_heads": 4},
    "dynamic": {"dynamic_img_size": True},
}
"""Arguments of timm's Eva in addition to `ARGS`."""


def timm_model(
    name: str, args: dict[str, Any], options: dict[str, Any] | None, folder: Path, *, answers: bool = False
) -> Made:
    """Save a timm model.

    If `options` is None, config.json is saved too. Otherwise, the export gets these options, and there is no config.json. If
    `answers` is true, the result contains values for the options that the exporter may require.
    """
    import timm

    # When these models are created, they compute tables, which is impossible on the meta device.
    computes = re.search("relpos|beit|dinov3|lingbot|eva|rope|_pe_", name)
    with torch.device("cpu" if computes else "meta"):
        model = timm.create_model(name, **{key: value for key, value in args.items() if value is not None})
    timm.models.save_for_hf(fill(model), folder, safe_serialization=True)
    size, channels = model.patch_embed.img_size, args.get("in_chans", 3)
    colours = IMAGENET if "distilled" in name else HALF
    if options is None or "architecture" in options:
        saved = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        colours = tuple(tuple(saved[key]) for key in ("mean", "std"))
    if options is not None:
        (folder / "config.json").unlink()
    if getattr(model, "dynamic_img_size", False) or "architecture" in (options or {}):
        size = model.pretrained_cfg["input_size"][1:]
        model.set_input_size(size)
    known = {"heads": args.get("num_heads"), "activation": "gelu", "pooling": model.global_pool} if answers else {}
    return Made(model.double(), size, colours, options or {}, channels, known)


def lookalike_cases() -> Iterator[tuple[str, Make]]:
    """Yield models whose names resemble those of timm's ViTs. Most of them have different blocks.

    Each model comes twice: with a config, and without a config but with answers for the options that the exporter requires.
    """
    import timm

    modules = ("eva", "beit", "vision_transformer_relpos", "vision_transformer_sam")
    names = [name for module in modules for name in timm.list_models(module=module)]
    for name in [*names, *timm.list_models("aimv2*"), *timm.list_models("*tipsv2"), *timm.list_models("vit_*_clip_224")]:
        side = 2 * int(found[1]) if (found := re.search(r"patch(\d+)", name)) else 32
        args = {"depth": 1, "embed_dim": 64, "num_heads": 2, "img_size": side, "num_classes": 5}
        args |= {"num_kv_heads": 1} if "sapiens" in name else {}
        args |= {"mlp_ratio": 4} if "giant_patch14_reg1_tipsv2" in name else {}
        for pool in ["", "token", "avg"] if "_pe_core" in name else [""]:
            told, own = f"lookalike {name}{pool and ', '}{pool}", args | ({"global_pool": pool} if pool else {})
            yield told, partial(timm_model, name, own, None)
            yield f"{told}, no config", partial(timm_model, name, own, {}, answers=True)


def meta_model(name: str, fields: dict[str, Any], left: str, folder: Path) -> Made:
    """Save a timm DINOv3 model under the tensor names in Meta's own files.

    Tensors whose names match `left` are left out.
    """
    import timm

    args = {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 32, "global_pool": "token", "num_classes": 0}
    model = fill(timm.create_model(name, **(args | fields)))
    names = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    names |= {"fc1_g": "w1", "fc1_x": "w2", **({"fc2": "w3"} if "plus" in name else {})}
    states = {"mask_token": torch.zeros(1, 96), "rope_embed.periods": torch.ones(8, dtype=torch.bfloat16)}
    for key, value in model.state_dict().items():
        states[re.sub("|".join(names), lambda found: names[found[0]], key)] = value
    for key in [key for key in states if key.endswith("attn.q_bias")]:
        query, value = states.pop(key), states.pop(key.replace("q_bias", "v_bias"))
        own = key.replace("q_bias", "qkv.bias")
        states[own] = torch.cat([query, torch.ones_like(query), value])
        states[f"{own}_mask"] = torch.cat([torch.ones_like(query), torch.zeros_like(query), torch.ones_like(value)])
    torch.save({key: value for key, value in states.items() if not re.search(left or "$^", key)}, folder / "model.pth")
    options = {"image_size": (32, 32)}
    return Made(model.double(), (32, 32), IMAGENET, options, answers={"heads": 3} if left else {})


def meta_cases() -> Iterator[tuple[str, Make]]:
    for name in ("small_patch16_dinov3", "small_patch16_dinov3_qkvb", "small_plus_patch16_dinov3_qkvb"):
        for left in ("", "periods", "bias_mask", "w1", "storage_tokens"):
            yield f"meta vit_{name}{left and ', no '}{left}", partial(meta_model, f"vit_{name}", {}, left)


def timm_cases() -> Iterator[tuple[str, Make]]:
    import timm

    for name in [
        *timm.list_models(module="vision_transformer"),
        *timm.list_models(module="deit"),
        *timm.list_models(module="eva"),
    ]:
        side = 2 * int(found[1]) if (found := re.search(r"patch(\d+)", name)) else 32
        if not re.search(r"aimv2_\db|beit3_giant|sapiens2|7b_|_giant_.*lingbot", name):
            yield f"timm {name}", partial(timm_model, name, {"depth": 1, "img_size": side, "num_classes": 5}, None)
    for name in ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_base_patch16_clip_quickgelu_224"):
        for what, args in TIMM.items():
            yield f"timm {name}, {what}", partial(timm_model, name, ARGS | args, None)
        known = {"heads": 3, "activation": "quick_gelu" if "quick" in name else "gelu", "pooling": "token"}
        for count in range(4):
            options = dict([*known.items()][:count])
            yield f"timm {name}, no config, {count} options", partial(timm_model, name, ARGS, options)
        mean = ARGS | {"global_pool": "avg", "fc_norm": False}
        yield f"timm {name}, no config, avg", partial(timm_model, name, mean, known | {"pooling": "avg"})
        del known["pooling"]
        yield f"timm {name}, no config, avgmax", partial(timm_model, name, ARGS | {"global_pool": "avgmax"}, known)
        yield f"timm {name}, no config, no class token", partial(timm_model, name, mean | {"class_token": False}, known)
        for pool, told in (("avgmax", {}), ("avg", {"pooling": "avg"})):
            options = {"architecture": name, **told}
            yield f"timm {name}, architecture, {pool}", partial(timm_model, name, {"global_pool": pool}, options)
        yield f"timm {name}, architecture", partial(timm_model, name, {}, {"architecture": name})
        yield f"timm {name}, narrow architecture", partial(timm_model, name, ARGS, {"architecture": name})


def eva_cases() -> Iterator[tuple[str, Make]]:
    import timm

    kinds = ["eva02_tiny_patch14_224", "eva02_base_patch16_clip_224", "eva_giant_patch14_224"]
    kinds += ["vit_pe_core_tiny_patch16_384", "vit_pe_spatial_gigantic_patch14_448", "vit_medium_patch16_rope_reg1_gap_256"]
    for name in kinds:
        own = {"attn_pool_mlp_ratio": 2.0} if "pe_core" in name else {}
        for what, args in EVA.items():
            yield f"timm {name}, {what}", partial(timm_model, name, ARGS | own | args, None)
    for name in timm.list_models(module="eva"):
        if re.search("tiny|small", name):
            yield f"timm {name}, architecture", partial(timm_model, name, {}, {"architecture": name})


# --- open_clip ---

SMALL = {"embed_dim": 24, "text_cfg": {}, "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 32}}
TRUNK = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "plain": {},
    **{f"head_width {width}": {"head_width": width} for width in (16, 32)},
    "tanh": {"act_kwargs": {"approximate": "tanh"}},
    **{f"eps {eps}": {"norm_kwargs": {"eps": eps}} for eps in (1e-6, 1e-4)},
    "avg": {"pool_type": "avg"},
    "avg, norm last": {"pool_type": "avg", "final_ln_after_pool": True},
    "norm last": {"final_ln_after_pool": True},
    "pool none": {"pool_type": "none"},
    "no_ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.1},
    **{
        key: {key: True}
        for key in ("attentional_pool", "qk_norm", "scale_heads", "scale_attn", "scale_attn_inner", "scale_fc")
    },
    "custom": {"block_type": "custom"},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
    "wide": {"image_size": [24, 40]},
    "mlp_ratio": {"mlp_ratio": 2.5},
    "timm": TRUNK,
    "timm bias": TRUNK | {"timm_proj_bias": True},
    **{
        f"timm {pool or 'empty'}, {proj}": TRUNK | {"timm_pool": pool, "timm_proj": proj}
        for pool in ("token", "avg", "", "map")
        for proj in (None, "none", "linear", "mlp")
    },
}
"""Fields of vision_cfg in addition to those of `SMALL`."""


def open_clip_model(config: dict[str, Any], save: str, options: dict[str, Any] | None, folder: Path) -> Made:
    """Save an open_clip model in the form `save`.

    If `options` is None, open_clip_config.json is saved too. Otherwise, the export gets these options and there is no
    config.
    """
    import open_clip
    import timm
    from open_clip.model import _build_vision_tower

    vision, create = config["vision_cfg"], timm.create_model
    shallow = mock.patch("timm.create_model", lambda *args, **more: create(*args, **more, depth=1))
    # The meta device can't compute the sines of position embeddings.
    has_sines = "pos_embed_type" in vision or re.search("eva|_pe_", vision.get("timm_model_name", ""))
    with shallow, torch.device("cpu" if has_sines else "meta"):
        tower = fill(_build_vision_tower(config["embed_dim"], dict(vision), config.get("quick_gelu", False)))
    states = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    states |= {"logit_scale": torch.tensor(1.0), "text.token_embedding.weight": torch.zeros(3, 2)}
    if save == "openai":
        states |= {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    if save == "training":
        content = {"epoch": 1, "state_dict": {f"module.{key}": value for key, value in states.items()}}
        torch.save(content, folder / "epoch_1.pt")
    elif save in ("bin", "openai"):
        torch.save(states, folder / "open_clip_pytorch_model.bin")
    else:
        safetensors.torch.save_file(states, folder / "open_clip_model.safetensors")
    colours = CLIP if save == "inner" or options is not None else HALF
    if options is None:
        pictures = {"mean": colours[0], "std": colours[1], "interpolation": "bicubic", "resize_mode": "squash"}
        whole = config if save == "inner" else {"model_cfg": config, "preprocess_cfg": pictures}
        (folder / "open_clip_config.json").write_text(json.dumps(whole))
    elif name := options.get("architecture"):
        open_clip.factory._MODEL_CONFIGS[name] = config  # with fewer blocks
        tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
        agreed = {(*tag["mean"], *tag["std"], tag["interpolation"], tag["resize_mode"]) for tag in tags}
        colours = (tags[0]["mean"], tags[0]["std"]) if len(agreed) == 1 else CLIP
    size = vision["image_size"]
    return Made(tower.double(), (size, size) if isinstance(size, int) else tuple(size), colours, options or {})


def open_clip_cases() -> Iterator[tuple[str, Make]]:
    import open_clip

    for gelu in ("plain", "quick"):
        config = SMALL | {"quick_gelu": gelu == "quick"}
        for what, fields in OPEN_CLIP.items():
            changed = config | {"vision_cfg": SMALL["vision_cfg"] | fields}
            yield f"open_clip {what}, {gelu} GELU", partial(open_clip_model, changed, "", None)
        for save in ("training", "bin", "inner"):
            yield f"open_clip file {save}, {gelu} GELU", partial(open_clip_model, config, save, None)
    yield "open_clip file openai, quick GELU", partial(open_clip_model, SMALL | {"quick_gelu": True}, "openai", {})
    known = {"heads": 1, "activation": "gelu", "pooling": "token"}
    for count in range(4):
        options = dict([*known.items()][:count])
        yield f"open_clip no config, {count} options", partial(open_clip_model, SMALL, "", options)
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision = config["vision_cfg"]
        trunk = vision.get("timm_model_name")
        if isinstance(vision.get("layers"), int):
            vision |= {"layers": 1, "image_size": 2 * vision["patch_size"]}
        elif not (trunk and trunk.startswith(("vit_", "eva02_b", "eva02_l")) and vision["image_size"] < 400):
            continue
        yield f"open_clip {name}", partial(open_clip_model, config, "", None)
        yield f"open_clip --architecture {name}", partial(open_clip_model, config, "", {"architecture": name})


def cases() -> Iterator[tuple[str, Make]]:
    """Yield the name of each case and the function that makes its model."""
    for library in (transformers_cases, timm_cases, eva_cases, meta_cases, open_clip_cases, lookalike_cases):
        yield from library()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    for name, make in [case for case in cases() if arguments.only in case[0]][:: arguments.every]:
        kind, why = verdict(make)
        counts[name.split()[0], kind] += 1
        print(f"{kind:8} {name}: {why}", flush=True)
    for (library, kind), count in sorted(counts.items()):
        print(f"{library}: {count} {kind}")


if __name__ == "__main__":
    main()
