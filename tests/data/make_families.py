"""Records in `families.json` and `families.npz` what models of transformers and timm give for made-up weights.

It runs in an environment of its own:

    $ pip install torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 timm==1.0.31 safetensors pillow
    $ PYTHONPATH=tests/support python tests/data/make_families.py

A case has config.json and preprocessor_config.json as the library saves them, the names and shapes of the tensors in its
file, and its output on two pictures of its own size and of another one, computed in float32 and in float64.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import timm
import timm.models
import torch
import transformers
from family_weights import pictures, tensors

FOLDER = Path(__file__).parent
LABELS = {"id2label": dict(enumerate(("apple", "bear", "cup", "door", "eel")))}
SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
DINO = SHAPE | {"mlp_ratio": 2}
TOWER = SHAPE | {"intermediate_size": 64}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
BOTH = {"vision_config": TOWER, "text_config": TEXT | {"max_position_embeddings": 6, "eos_token_id": 1, "bos_token_id": 0}}
ARGS = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0, "num_classes": 5}
NO_CLASS = {"class_token": False, "global_pool": "avg"}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("ViTForImageClassification", TOWER | LABELS, "logits"),
    "vit_pooler": ("ViTModel", TOWER | {"hidden_size": 40, "num_attention_heads": 2}, "pooler_output"),
    "vit_tanh": (
        "ViTForImageClassification",
        TOWER | LABELS | {"hidden_size": 36, "layer_norm_eps": 1e-6, "hidden_act": "gelu_new"},
        "logits",
    ),
    "vit_no_qkv_bias": ("ViTForImageClassification", TOWER | LABELS | {"qkv_bias": False, "num_hidden_layers": 3}, "logits"),
    "dinov2": ("Dinov2Model", DINO, "pooler_output"),
    "dinov2_classifier": ("Dinov2ForImageClassification", DINO | LABELS, "logits"),
    "dinov2_registers": ("Dinov2WithRegistersModel", DINO | {"num_register_tokens": 4}, "pooler_output"),
    "dinov2_registers_classifier": ("Dinov2WithRegistersForImageClassification", DINO | LABELS, "logits"),
    "clip": ("CLIPModel", BOTH | {"projection_dim": 24}, "image_embeds"),
    "clip_vision": ("CLIPVisionModel", TOWER | {"hidden_size": 40, "num_attention_heads": 2}, "pooler_output"),
    "clip_projection": (
        "CLIPVisionModelWithProjection",
        TOWER | {"projection_dim": 20, "hidden_act": "gelu"},
        "image_embeds",
    ),
    "clip_short_config": ("CLIPVisionModel", TOWER | {"num_attention_heads": 12, "patch_size": 16}, "pooler_output"),
    "siglip": ("SiglipModel", BOTH, "pooler_output"),
    "siglip_vision": ("SiglipVisionModel", TOWER | {"num_attention_heads": 4}, "pooler_output"),
}
"""By name the class, its config, and the output that is recorded."""

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm_token": ("vit_tiny_patch16_224", {}),
    "timm_avg": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "timm_avg_norm_first": ("vit_tiny_patch16_224", NO_CLASS | {"fc_norm": False, "depth": 3}),
    "timm_map": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "map", "embed_dim": 40, "num_heads": 2}),
    "timm_registers": ("vit_base_patch14_reg4_dinov2", {"init_values": 1e-5}),
    "timm_registers_with_positions": ("vit_tiny_patch16_224", NO_CLASS | {"class_token": True, "reg_tokens": 3}),
    "timm_layer_scale": ("vit_tiny_patch16_224", {"init_values": 1e-5, "embed_dim": 36}),
    "timm_qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "timm_clip_quick": ("vit_base_patch16_clip_quickgelu_224", {}),
    "timm_clip": ("vit_base_patch16_clip_224", {}),
    "timm_no_qkv_bias": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "timm_siglip": ("vit_base_patch32_siglip_256", {"num_classes": 0}),
    "timm_siglip_mean": ("vit_base_patch32_siglip_gap_256", {}),
    "timm_no_head": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "timm_wide": ("vit_tiny_patch16_224", {"img_size": (24, 40)}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
}
"""By name the architecture and what its arguments are besides `ARGS`."""

PROCESSORS = {"ViT": "ViTImageProcessor", "Dinov2": "BitImageProcessor", "CLIP": "CLIPImageProcessor"}

Run = Callable[[torch.Tensor], torch.Tensor]


def from_transformers(name: str, seed: int, folder: Path) -> tuple[dict[str, Any], Callable[[bool], Run]]:
    """What is to be written of that case, and a function from "in another size" to the model."""
    class_name, settings, output = TRANSFORMERS[name]
    model_class = getattr(transformers, class_name)
    saved = model_class(model_class.config_class(**settings))
    saved.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if name == "clip_short_config":
        default = model_class.config_class().to_dict()
        config = {key: value for key, value in config.items() if key == "model_type" or default.get(key) != value}
        (folder / "config.json").write_text(json.dumps(config))
    preprocessing = processor(class_name)
    preprocessing.save_pretrained(folder)
    shapes = fill(folder / "model.safetensors", seed)
    model, loading = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    model.eval()

    def run(other_size: bool) -> Run:
        def call(images: torch.Tensor) -> torch.Tensor:
            double = model.double() if images.dtype == torch.float64 else model.float()
            resized = {"interpolate_pos_encoding": True} if other_size and not class_name.startswith("Dinov2") else {}
            if class_name in ("CLIPModel", "SiglipModel"):
                found: torch.Tensor = double.get_image_features(pixel_values=images, **resized).pooler_output
            else:
                found = double(pixel_values=images, **resized)[output]
            return found

        return call

    written = json.loads((folder / "preprocessor_config.json").read_text())
    return {
        "made_by": class_name,
        "config": config,
        "preprocessor_config": written,
        "output": output,
        "size": [32, 32],
        "tensors": shapes,
    }, run


def processor(class_name: str) -> Any:
    """The image processor of that model's family, for pictures of 32 x 32."""
    name = next((PROCESSORS[start] for start in PROCESSORS if class_name.startswith(start)), "SiglipImageProcessor")
    if name in ("BitImageProcessor", "CLIPImageProcessor"):
        size: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
        if name == "BitImageProcessor":
            size |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    else:
        size = {"size": {"height": 32, "width": 32}}
    return getattr(transformers, name)(**size)


def from_timm(name: str, seed: int, folder: Path) -> tuple[dict[str, Any], Callable[[bool], Run]]:
    """What is to be written of that case, and a function from "in another size" to the model."""
    architecture, arguments = TIMM[name]
    arguments = ARGS | arguments
    made = timm.create_model(architecture, **arguments)
    timm.models._hub.save_for_hf(made, folder, model_args=arguments, safe_serialization=True)
    shapes = fill(folder / "model.safetensors", seed)

    def run(other_size: bool) -> Run:
        def call(images: torch.Tensor) -> torch.Tensor:
            model = timm.create_model(architecture, **arguments)
            model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors(shapes, seed).items()})
            if other_size:
                model.set_input_size(tuple(images.shape[2:]))
            found: torch.Tensor = model.eval().to(images.dtype)(images)
            return found

        return call

    size = arguments["img_size"]
    return {
        "made_by": architecture,
        "config": json.loads((folder / "config.json").read_text()),
        "output": "logits" if arguments["num_classes"] else "pre_logits",
        "size": list(size) if isinstance(size, tuple) else [size, size],
        "tensors": shapes,
    }, run


def fill(path: Path, seed: int) -> dict[str, list[int]]:
    """Replaces the values of a file's tensors; returns their shapes."""
    shapes = {name: list(value.shape) for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(tensors(shapes, seed), path, {"format": "pt"})
    return shapes


@torch.no_grad()
def main() -> None:
    cases, arrays = {}, {}
    for seed, name in enumerate((*TRANSFORMERS, *TIMM)):
        torch.manual_seed(seed)
        make = from_transformers if name in TRANSFORMERS else from_timm
        with tempfile.TemporaryDirectory() as folder:
            case, run = make(name, seed, Path(folder))
            patch = case["config"].get("patch_size", 8)
            rows, columns = ((5, 3), (3, 7), (2, 8))[seed % 3]
            case |= {"seed": seed, "other_size": [rows * patch, columns * patch]}
            for prefix, size in (("", case["size"]), ("other_size/", case["other_size"])):
                images = torch.from_numpy(pictures(size, seed))
                for kind in (torch.float32, torch.float64):
                    found = run(bool(prefix))(images.to(kind)).numpy()
                    arrays[f"{name}/{prefix}{found.dtype}"] = found
            gap = np.abs(arrays[f"{name}/float32"] - arrays[f"{name}/float64"]).max()
            print(f"{name}: {found.shape}, standard deviation {found.std():.2f}, float32 differs by {gap:.1g}", flush=True)
            cases[name] = case
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    versions = {module.__name__: module.__version__ for module in (torch, transformers, timm)}
    (FOLDER / "families.json").write_text(f'{{"made_with": {json.dumps(versions)},\n"cases": {{\n{lines}\n}}}}\n')
    np.savez_compressed(FOLDER / "families.npz", **arrays)


if __name__ == "__main__":
    main()
