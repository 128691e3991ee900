"""Record the outputs of transformers, timm and CLIP-MoE models in families.json and families.npz.

The models have generated weights. The script runs in a separate environment, with a checkout of OpenSparseLLMs/CLIP-MoE
(commit 971b29f):

    $ pip install torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 timm==1.0.31 safetensors pillow
    $ PYTHONPATH=tests/support:CLIP-MoE/clipmoe python tests/data/make_families.py

A case consists of three parts: a model's config.json and preprocessor_config.json as its library saves them, the names and
shapes of its tensors, and its outputs in float32 and in float64. The outputs are for two pictures of the model's own size,
and two pictures of another size. CLIP-MoE supports only one size, and its code saves no configs. So for CLIP-MoE, the entry
"arguments" contains the arguments of that code.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import timm
import torch
import transformers
from family_weights import pictures, tensors
from model_clipmoe import CLIP

FOLDER = Path(__file__).parent
LABELS = {"id2label": dict(enumerate(("apple", "bear", "cup", "door", "eel")))}
SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
DINO = SHAPE | {"mlp_ratio": 2}
TOWER = SHAPE | {"intermediate_size": 64}
VIT, HEAD = "ViTForImageClassification", TOWER | LABELS
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
BOTH = {"vision_config": TOWER, "text_config": TEXT | {"max_position_embeddings": 6, "eos_token_id": 1, "bos_token_id": 0}}
ARGS = {
    "img_size": (32, 32),
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2.0,
    "num_classes": 5,
}
NO_CLASS = {"class_token": False, "global_pool": "avg"}

TOWERS = {
    **{"embed_dim": 20, "image_resolution": 32, "vision_layers": 3, "vision_width": 128, "vision_patch_size": 8},
    **{"transformer_width": 16, "transformer_heads": 2, "transformer_layers": 1, "vocab_size": 20, "context_length": 6},
}
OPENAI = ("input_resolution", "context_length", "vocab_size")
"""Numbers that are in OpenAI's own files and distinguish them from other files. The model without experts has them."""
ONE_SIZE = ("aimv2", "aimv2_both")
"""Models of transformers that support only one size."""
CLIP_MOE = "CLIP-MoE"
Case = tuple[str, dict[str, Any], str]


def of_timm(architecture: str, more: dict[str, Any], output: str = "logits") -> Case:
    """Return the case of a timm model. The model gets the arguments in `ARGS` and those in `more`."""
    return architecture, ARGS | more, "pre_logits" if more.get("num_classes") == 0 else output


def clip_moe(experts: list[Any] | None) -> Case:
    """Return the test case for a CLIP-MoE model.

    `experts` lists, in this order, the number of experts, the number of experts per token, the dropout, and how many of the
    last blocks have experts. If it is None, the model has no experts.
    """
    return CLIP_MOE, TOWERS | {"MoE_args": experts}, "image_embeds"


CASES: dict[str, Case] = {
    "vit": (VIT, HEAD, "logits"),
    "vit_pooler": ("ViTModel", TOWER | {"hidden_size": 40, "num_attention_heads": 2}, "pooler_output"),
    "vit_tanh": (VIT, HEAD | {"hidden_size": 36, "layer_norm_eps": 1e-6, "hidden_act": "gelu_new"}, "logits"),
    "vit_no_qkv_bias": (VIT, HEAD | {"qkv_bias": False, "num_hidden_layers": 3}, "logits"),
    "dinov2": ("Dinov2Model", DINO, "pooler_output"),
    "dinov2_classifier": ("Dinov2ForImageClassification", DINO | LABELS, "logits"),
    "dinov2_registers": ("Dinov2WithRegistersModel", DINO | {"num_register_tokens": 4}, "pooler_output"),
    "dinov2_registers_classifier": ("Dinov2WithRegistersForImageClassification", DINO | LABELS, "logits"),
    "clip": ("CLIPModel", BOTH | {"projection_dim": 24}, "image_embeds"),
    "clip_vision": ("CLIPVisionModel", TOWER | {"hidden_size": 40, "num_attention_heads": 2}, "pooler_output"),
    "clip_gelu": ("CLIPVisionModelWithProjection", TOWER | {"projection_dim": 20, "hidden_act": "gelu"}, "image_embeds"),
    "clip_short_config": ("CLIPVisionModel", TOWER | {"num_attention_heads": 12, "patch_size": 16}, "pooler_output"),
    "siglip": ("SiglipModel", BOTH, "pooler_output"),
    "siglip_vision": ("SiglipVisionModel", TOWER | {"num_attention_heads": 4}, "pooler_output"),
    "timm_token": of_timm("vit_tiny_patch16_224", {}),
    "timm_avg": of_timm("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "timm_avg_norm_first": of_timm("vit_tiny_patch16_224", NO_CLASS | {"fc_norm": False, "depth": 3}),
    "timm_map": of_timm(
        "vit_tiny_patch16_224", {"class_token": False, "global_pool": "map", "embed_dim": 40, "num_heads": 2}
    ),
    "timm_registers": of_timm("vit_base_patch14_reg4_dinov2", {"init_values": 1e-5}),
    "timm_registers_with_positions": of_timm("vit_tiny_patch16_224", NO_CLASS | {"class_token": True, "reg_tokens": 3}),
    "timm_layer_scale": of_timm("vit_tiny_patch16_224", {"init_values": 1e-5, "embed_dim": 36}),
    "timm_qk_norm": of_timm("vit_tiny_patch16_224", {"qk_norm": True}),
    "timm_clip_quick": of_timm("vit_base_patch16_clip_quickgelu_224", {}),
    "timm_clip": of_timm("vit_base_patch16_clip_224", {}),
    "timm_no_qkv_bias": of_timm("vit_tiny_patch16_224", {"qkv_bias": False}),
    "timm_siglip": of_timm("vit_base_patch32_siglip_256", {"num_classes": 0}),
    "timm_siglip_mean": of_timm("vit_base_patch32_siglip_gap_256", {}),
    "timm_no_head": of_timm("vit_tiny_patch16_224", {"num_classes": 0}),
    "timm_wide": of_timm("vit_tiny_patch16_224", {"img_size": (24, 40)}),
    "deit": of_timm("deit_tiny_patch16_224", {}),
    "deit_distilled": of_timm("deit_tiny_distilled_patch16_224", {}),
    "clipmoe": clip_moe([4, 2, 0.1, 2]),
    "clipmoe_top1": clip_moe([3, 1, 0.1, 3]),
    "clipmoe_dense": clip_moe(None),
    "hf_deit": ("DeiTForImageClassification", HEAD, "logits"),
    "hf_deit_distilled": ("DeiTForImageClassificationWithTeacher", HEAD | {"hidden_size": 36}, "logits"),
    "hf_deit_pooler": ("DeiTModel", TOWER | {"pooler_output_size": 24}, "pooler_output"),
    "dinov3": ("DINOv3ViTModel", TOWER | {"num_register_tokens": 3}, "pooler_output"),
    "dinov3_key_bias": (
        "DINOv3ViTModel",
        TOWER | {"hidden_size": 64, "num_attention_heads": 2, "key_bias": True},
        "pooler_output",
    ),
    "timm_dinov3": of_timm("vit_small_patch16_dinov3", {"num_classes": 0, "global_pool": "avg"}),
    "timm_dinov3_token": of_timm(
        "vit_base_patch16_dinov3",
        {"num_classes": 0, "global_pool": "token", "embed_dim": 64, "num_heads": 2},
    ),
    "dinov3_gated": (
        "DINOv3ViTModel",
        TOWER | {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu", "proj_bias": False},
        "pooler_output",
    ),
    "dinov2_gated": ("Dinov2WithRegistersModel", SHAPE | {"use_swiglu_ffn": True}, "pooler_output"),
    "tipsv2_gated": ("Tipsv2VisionModel", SHAPE | {"use_swiglu_ffn": True}, "pooler_output"),
    "aimv2": ("Aimv2VisionModel", TOWER | {"num_attention_heads": 4}, "pooler_output"),
    "aimv2_both": ("Aimv2Model", BOTH | {"projection_dim": 24}, "image_embeds"),
    "aimv2_native": ("Aimv2VisionModel", TOWER | {"is_native": True, "mlp_bias": True}, "pooler_output"),
    "timm_dinov3_gated": of_timm("vit_small_plus_patch16_dinov3_qkvb", {"num_classes": 0, "global_pool": "avg"}),
    "timm_dinov2_gated": of_timm("vit_giant_patch14_reg4_dinov2", {"num_classes": 0}),
    "timm_aimv2": of_timm("aimv2_large_patch14_224", {}, "pre_logits"),
    "timm_eva02": of_timm("eva02_tiny_patch14_224", {}),
    "timm_eva02_split": of_timm("eva02_base_patch14_224", {"num_classes": 0}),
    "timm_eva02_clip": of_timm("eva02_base_patch16_clip_224", {"global_pool": "token"}),
    "timm_eva": of_timm("eva_giant_patch14_224", {}),
    "timm_rotary_registers": of_timm("vit_medium_patch16_rope_reg1_gap_256", {"num_heads": 2}),
    "timm_pe_core": of_timm("vit_pe_core_tiny_patch16_384", {"global_pool": "map", "attn_pool_mlp_ratio": 1.5}),
    "timm_pe_core_gigantic": of_timm(
        "vit_pe_core_gigantic_patch14_448",
        {"global_pool": "map", "attn_pool_mlp_ratio": 2.0, "num_heads": 2, "img_size": (24, 40)},
    ),
    "timm_pe_spatial": of_timm("vit_pe_spatial_tiny_patch16_512", {"num_classes": 0}),
    "timm_pe_lang": of_timm("vit_pe_lang_gigantic_patch14_448", {"num_heads": 2}),
    "timm_clip_map": of_timm("vit_base_patch16_clip_224", {"global_pool": "map"}),
}
"""By name: a class of transformers or an architecture of timm, its config, and the output to record. New cases come last,
because positions are seeds.
"""

SQUASH = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vi": ("ViTImageProcessor", SQUASH),
    "hf": ("DeiTImageProcessor", CROP | IMAGENET | {"size": {"height": 36, "width": 36}}),
    "dinov3": ("DINOv3ViTImageProcessor", SQUASH | IMAGENET),
    "di": ("BitImageProcessor", CROP | IMAGENET),
    "cl": ("CLIPImageProcessor", CROP),
    "si": ("SiglipImageProcessor", SQUASH),
    "tips": ("Tipsv2ImageProcessor", SQUASH),
    "ai": ("CLIPImageProcessor", CROP),
}
"""By the beginning of a name; the first match counts."""


def save(name: str, folder: Path) -> None:
    """Save a model with its own library, before it gets its generated weights."""
    made_by, settings, _ = CASES[name]
    if timm.is_model(made_by):
        model = timm.create_model(made_by, **settings)
        timm.models.save_for_hf(model, folder, model_args=settings, safe_serialization=True)
        return
    if made_by == CLIP_MOE:
        states = CLIP(**copy.deepcopy(settings), load_from_clip=False).state_dict()
        if settings["MoE_args"] is None:
            states |= {number: torch.tensor(1.0) for number in OPENAI}
        safetensors.torch.save_file(states, folder / "model.safetensors")
        return
    model_class = getattr(transformers, made_by)
    model_class(model_class.config_class(**settings)).save_pretrained(folder)
    processor, how = next(chosen for start, chosen in PROCESSORS.items() if name.startswith(start))
    getattr(transformers, processor)(**how).save_pretrained(folder)
    if name == "clip_short_config":
        config, default = json.loads((folder / "config.json").read_text()), model_class.config_class().to_dict()
        short = {key: value for key, value in config.items() if key == "model_type" or default.get(key) != value}
        (folder / "config.json").write_text(json.dumps(short))


def run(name: str, folder: Path, images: torch.Tensor) -> np.ndarray:
    """Run the model that is saved in a folder.

    Return its outputs [2,outputs] in the type of the images.
    """
    made_by, settings, output = CASES[name]
    size = tuple(images.shape[2:])
    if timm.is_model(made_by):
        model = timm.create_model(made_by, **settings)
        model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        model.set_input_size(size)
        return model.eval().to(images.dtype)(images).numpy()
    if made_by == CLIP_MOE:
        model = CLIP(**copy.deepcopy(settings), load_from_clip=False)
        states = safetensors.torch.load_file(folder / "model.safetensors")
        model.load_state_dict({name: value for name, value in states.items() if name not in OPENAI})
        found = model.eval().visual.to(images.dtype)(images)
        return (found if settings["MoE_args"] is None else found[0]).numpy()
    model, loading = getattr(transformers, made_by).from_pretrained(folder, dtype=images.dtype, output_loading_info=True)
    assert not any(loading.values()), loading
    is_asked = size != (32, 32) and not name.startswith(("dinov", "tips", "aimv2"))
    resized = {"interpolate_pos_encoding": True} if is_asked else {}
    if made_by in ("CLIPModel", "SiglipModel", "Aimv2Model"):
        return model.get_image_features(pixel_values=images, **resized).pooler_output.numpy()
    return model(pixel_values=images, **resized)[output].numpy()


def record(name: str, seed: int, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a case's entry in families.json, and the outputs of its model."""
    made_by, given, output = CASES[name]
    save(name, folder)
    weights = folder / "model.safetensors"
    shapes = {key: list(value.shape) for key, value in safetensors.numpy.load_file(weights).items()}
    safetensors.numpy.save_file(tensors(shapes, seed), weights, {"format": "pt"})
    written = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*config.json"))}
    grid, patch = ((5, 3), (3, 7), (2, 8))[seed % 3], given.get("patch_size", 8)
    if made_by == CLIP_MOE:
        written = {"config": {}, "arguments": given}
    if made_by == CLIP_MOE or name in ONE_SIZE:
        grid = 4, 4
    sizes = {"size": given.get("img_size", (32, 32)), "other_size": (grid[0] * patch, grid[1] * patch)}
    arrays = {}
    for key, size in sizes.items():
        for kind in (torch.float32, torch.float64):
            found = run(name, folder, torch.from_numpy(pictures(size, seed)).to(kind))
            arrays[f"{name}/{key}/{found.dtype}"] = found
    print(name, made_by, "standard deviation", found.std(), flush=True)
    return {"made_by": made_by, "seed": seed, "output": output} | sizes | written | {"shapes": shapes}, arrays


@torch.no_grad()
def main() -> None:
    cases, arrays = {}, {}
    for seed, name in enumerate(CASES):
        with tempfile.TemporaryDirectory() as folder:
            cases[name], found = record(name, seed, Path(folder))
        arrays |= found
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    versions = {module.__name__: module.__version__ for module in (torch, transformers, timm)}
    (FOLDER / "families.json").write_text(f'{{"made_with": {json.dumps(versions)},\n"cases": {{\n{lines}\n}}}}\n')
    np.savez_compressed(FOLDER / "families.npz", **arrays)


if __name__ == "__main__":
    main()
