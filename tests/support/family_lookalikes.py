"""Files that look like one of the ViTs that the exporter reads, but compute something else, or nothing.

Each is a good checkpoint of `family_files` with one change. Who refuses it says in one sentence why.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from family_files import Layout, Tensors, families, write_files

Change = Callable[[dict[str, Any], Tensors], None]
Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Lookalike:
    """A good checkpoint's name, what is done to its config and tensors or to its files, and what a refusal says of it."""

    name: str
    base: str
    names: str  # words, of which a refusal has one at least: the tensor, field or file that is at fault
    change: Change = lambda _config, _tensors: None
    damage: Damage = lambda _folder: None
    layout: Layout = "safetensors"

    def __str__(self) -> str:
        return self.name

    def write(self, folder: Path) -> Path:
        """Makes the folder with the wrong files; returns it."""
        config, tensors = families()[self.base].config, families()[self.base].tensors
        self.change(config, tensors)
        write_files(folder, config or None, tensors, self.layout)
        self.damage(folder)
        return folder

    def is_named_in(self, sentence: str) -> bool:
        return any(word in sentence for word in self.names.split())


def drop(pattern: str) -> Change:
    """Takes away the tensors whose names match, of which there must be some."""

    def change(_config: dict[str, Any], tensors: Tensors) -> None:
        for name in matching(tensors, pattern):
            del tensors[name]

    return change


def rename(pattern: str, replacement: str) -> Change:
    """Gives other names to the tensors whose names match, of which there must be some."""

    def change(_config: dict[str, Any], tensors: Tensors) -> None:
        for name in matching(tensors, pattern):
            tensors[re.sub(pattern, replacement, name)] = tensors.pop(name)

    return change


def put(name: str, *shape: int, value: Any = 0.5, dtype: type = np.float32) -> Change:
    """Adds a tensor, or puts it in the place of one."""
    return lambda _config, tensors: tensors.update({name: np.full(shape, value, dtype)})


def reshape(pattern: str, *shape: int) -> Change:
    """Keeps the values of the tensors whose names match, in another shape."""

    def change(_config: dict[str, Any], tensors: Tensors) -> None:
        for name in matching(tensors, pattern):
            tensors[name] = tensors[name].reshape(shape)

    return change


def configure(**fields: Any) -> Change:
    """Sets fields of config.json."""
    return lambda config, _tensors: config.update(fields)


def model_args(**fields: Any) -> Change:
    return lambda config, _tensors: config["model_args"].update(fields)


def no_config(config: dict[str, Any], _tensors: Tensors) -> None:
    config.clear()


def both(*changes: Change) -> Change:
    def change(config: dict[str, Any], tensors: Tensors) -> None:
        for one in changes:
            one(config, tensors)

    return change


def matching(tensors: Tensors, pattern: str) -> list[str]:
    found = [name for name in tensors if re.search(pattern, name)]
    assert found, pattern
    return found


def cut(file: str) -> Damage:
    """Leaves the first half of a file."""
    return lambda folder: (
        (folder / file).write_bytes((folder / file).read_bytes()[: (folder / file).stat().st_size // 2]) and None
    )


class _Command:
    """Pickled, it makes a file named "ran" in the working directory of who unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def pickle_a_command(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"vit.layernorm.bias": _Command()}))


def point_outside(folder: Path) -> None:
    """The index of a sharded checkpoint names a file in the folder above."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    places = {name: f"../{file}" for name, file in index["weight_map"].items()}
    for file in set(index["weight_map"].values()):
        (folder / file).rename(folder.parent / file)
    path.write_text(json.dumps(index | {"weight_map": places}))


LAYER = "vit.encoder.layer.1."
_SWIGLU = both(rename(r"mlp\.fc1", "mlp.weights_in"), rename(r"mlp\.fc2", "mlp.weights_out"), configure(use_swiglu_ffn=True))
_PARALLEL = both(rename(r"norm1\.", "attns.0.norm."), rename(r"(blocks\.\d+)\.attn\.", r"\1.attns.0.attn."))

LOOKALIKES = [
    Lookalike(
        "width of one kernel",
        "vit",
        f"{LAYER}attention.attention.query.weight",
        put(f"{LAYER}attention.attention.query.weight", 48, 40),
    ),
    Lookalike("no bias in one layer", "vit", f"{LAYER}output.dense.bias", drop(re.escape(f"{LAYER}output.dense.bias"))),
    Lookalike("an extra tensor", "timm_token", "blocks.0.adapter.weight", put("blocks.0.adapter.weight", 48, 48)),
    Lookalike(
        "not a number", "clip", "mlp.fc1.weight", put("vision_model.encoder.layers.1.mlp.fc1.weight", 64, 48, value=np.nan)
    ),
    Lookalike(
        "whole numbers", "timm_token", "blocks.1.mlp.fc2.weight", put("blocks.1.mlp.fc2.weight", 48, 96, dtype=np.int8)
    ),
    Lookalike("no classes", "vit", "classifier", both(put("classifier.weight", 0, 48), put("classifier.bias", 0))),
    Lookalike("flat patch kernel", "siglip_vision", "patch_embedding.weight", reshape("patch_embedding.weight", 48, 192)),
    Lookalike(
        "video's patch kernel", "timm_token", "patch_embed.proj.weight", put("patch_embed.proj.weight", 48, 3, 2, 8, 8)
    ),
    Lookalike(
        "grey pictures", "timm_token", "patch_embed.proj.weight in_chans", put("patch_embed.proj.weight", 48, 1, 8, 8)
    ),
    Lookalike(
        "positions of another size",
        "dinov2",
        "position_embeddings image_size",
        put("embeddings.position_embeddings", 1, 26, 48),
    ),
    Lookalike("no positions", "timm_token", "pos_embed", drop("pos_embed")),
    Lookalike("one more layer in the config", "vit", "num_hidden_layers encoder.layer.2", configure(num_hidden_layers=3)),
    Lookalike("one layer less in the config", "vit", "num_hidden_layers encoder.layer.1", configure(num_hidden_layers=1)),
    Lookalike("another width in the config", "vit", "hidden_size", configure(hidden_size=64)),
    Lookalike("another MLP in the config", "siglip_vision", "intermediate_size", configure(intermediate_size=128)),
    Lookalike("other patches in the config", "vit", "patch_size", configure(patch_size=16)),
    Lookalike("heads that don't divide the width", "vit", "num_attention_heads", configure(num_attention_heads=5)),
    Lookalike("heads as text", "vit", "num_attention_heads", configure(num_attention_heads="3")),
    Lookalike("a negative epsilon", "vit", "layer_norm_eps", configure(layer_norm_eps=-1e-6)),
    Lookalike("ReLU", "vit", "hidden_act relu", configure(hidden_act="relu")),
    Lookalike("another model type", "vit", "vit_msn", configure(model_type="vit_msn")),
    Lookalike(
        "masked autoencoder",
        "vit_pooler",
        "vit_mae",
        both(configure(model_type="vit_mae"), put("decoder.decoder_embed.weight", 16, 40)),
    ),
    Lookalike("NaFlex", "siglip_vision", "siglip2_vision_model", configure(model_type="siglip2_vision_model")),
    Lookalike("text tower alone", "clip", "--families", drop("vision_model|visual_projection")),
    Lookalike("SwiGLU", "dinov2", "use_swiglu_ffn weights_in", _SWIGLU),
    Lookalike("no config", "timm_token", "config.json", no_config),
    Lookalike(
        "names of the first DINOv2", "timm_layer_scale", "mask_token config.json", both(no_config, put("mask_token", 1, 36))
    ),
    Lookalike(
        "an unknown architecture", "timm_token", "eva02_tiny_patch14_336", configure(architecture="eva02_tiny_patch14_336")
    ),
    Lookalike(
        "norms after the residual branches",
        "timm_no_qkv_bias",
        "vit_base_patch16_rpn_224",
        configure(architecture="vit_base_patch16_rpn_224"),
    ),
    Lookalike(
        "rotary positions",
        "timm_token",
        "vit_small_patch16_rope_224 pos_embed",
        both(configure(architecture="vit_small_patch16_rope_224"), drop("pos_embed")),
    ),
    Lookalike("RMSNorm", "timm_token", "norm1.bias", drop(r"norm\d?\.bias")),
    Lookalike("parallel blocks", "timm_token", "attns norm1", _PARALLEL),
    Lookalike(
        "gated MLP",
        "timm_token",
        "fc1_g fc1.weight",
        both(put("blocks.0.mlp.fc1_g.weight", 96, 48), rename(r"mlp\.fc1\.", "mlp.fc1_x.")),
    ),
    Lookalike("packed gated MLP", "timm_token", "blocks.0.mlp.fc2.weight", put("blocks.0.mlp.fc2.weight", 48, 48)),
    Lookalike("BEiT", "timm_token", "q_bias qkv.bias", rename(r"attn\.qkv\.bias", "attn.q_bias")),
    Lookalike("relative positions", "timm_token", "rel_pos", put("blocks.0.attn.rel_pos.mlp.fc1.weight", 16, 2)),
    Lookalike("differential attention", "timm_token", "lambda_q1", put("blocks.0.attn.lambda_q1", 8)),
    Lookalike("norm of the attention's output", "timm_token", "blocks.0.attn.norm", put("blocks.0.attn.norm.weight", 48)),
    Lookalike(
        "pooled maxima",
        "timm_avg",
        "global_pool avgmax",
        both(configure(global_pool="avgmax"), model_args(global_pool="avgmax")),
    ),
    Lookalike("mean with the class token", "timm_avg", "pool_include_prefix", model_args(pool_include_prefix=True)),
    Lookalike(
        "Swin",
        "timm_token",
        "--families",
        both(rename("^blocks", "layers.0.blocks"), configure(architecture="swin_tiny_patch4_window7_224")),
    ),
    Lookalike(
        "ConvNeXt",
        "timm_token",
        "--families",
        both(rename("patch_embed.proj", "stem.0"), configure(architecture="convnext_tiny")),
    ),
    Lookalike("half a file", "vit", "model.safetensors", damage=cut("model.safetensors")),
    Lookalike("half a config", "vit", "config.json", damage=cut("config.json")),
    Lookalike("half a pickle", "vit", "pytorch_model.bin", damage=cut("pytorch_model.bin"), layout="bin"),
    Lookalike("a pickled command", "vit", "pytorch_model.bin", damage=pickle_a_command, layout="bin"),
    Lookalike(
        "a missing part",
        "vit",
        "model-00002-of-00002.safetensors",
        damage=lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
        layout="sharded",
    ),
    Lookalike("a part outside", "vit", "../", damage=point_outside, layout="sharded"),
]
