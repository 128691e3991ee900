"""Checkpoints that resemble readable ones, but are damaged or belong to a model that the exporter can't read.

Each one is a good checkpoint from `family_files` with a change. The exporter must refuse it with an error message that is
one sentence.
"""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from family_files import Layout, Tensors, families, write_files

Change = Callable[[dict[str, Any], Tensors], object]


@dataclass(frozen=True)
class Lookalike:
    """A checkpoint that the exporter must refuse. It is the good checkpoint `base` with changes.

    `changes` alter the config and the tensors before they are written. `damage` alters the written files.
    """

    name: str
    base: str
    words: str  # tensors, fields or files at fault; the error message must contain at least one of these names
    changes: tuple[Change, ...] = ()
    layout: Layout = "safetensors"
    damage: Callable[[Path], object] = lambda folder: folder

    def __str__(self) -> str:
        return self.name

    def write(self, folder: Path) -> Path:
        """Write the changed checkpoint into `folder`, and return `folder`."""
        config, tensors = copy.deepcopy(families()[self.base].config), families()[self.base].tensors
        for change in self.changes:
            change(config, tensors)
        write_files(folder, config or None, tensors, self.layout)
        self.damage(folder)
        return folder


def rename(pattern: str, replacement: str | None) -> Change:
    """Return a change that renames all tensors whose names match `pattern`. At least one name must match.

    If `replacement` is None, the change removes these tensors and doesn't rename any.
    """

    def change(_config: dict[str, Any], tensors: Tensors) -> None:
        found = [name for name in tensors if re.search(pattern, name)]
        assert found, pattern
        for name in found:
            value = tensors.pop(name)
            if replacement is not None:
                tensors[re.sub(pattern, replacement, name)] = value

    return change


def put(name: str, *shape: int, value: float = 0.5, dtype: type = np.float32) -> Change:
    """Return a change that sets the tensor `name` to an array filled with `value`."""
    return lambda _config, tensors: tensors.update({name: np.full(shape, value, dtype)})


def field(**fields: Any) -> Change:
    """Return a change that sets these fields in config.json and, if the config is timm's, also in its model arguments."""

    def change(config: dict[str, Any], _tensors: Tensors) -> None:
        config.update(fields)
        config.get("model_args", {}).update({name: value for name, value in fields.items() if name != "architecture"})

    return change


def half(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[: (folder / file).stat().st_size // 2])


class _Command:
    """An object that, when unpickled, creates a file named "ran" in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def pickle_a_command(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(pickle.dumps({"vit.layernorm.bias": _Command()}))


def name_parts(old: str, new: str) -> Callable[[Path], object]:
    """Return a change that replaces `old` with `new` in the index's file names.

    The files themselves keep their names.
    """

    def change(folder: Path) -> None:
        (index,) = folder.glob("*.index.json")
        places = json.loads(index.read_text())["weight_map"]
        index.write_text(json.dumps({"weight_map": {name: file.replace(old, new) for name, file in places.items()}}))

    return change


def move_a_part(folder: Path) -> None:
    """Move one of a checkpoint's two weight files to the parent folder, and update the file's path in the index."""
    (part,) = folder.glob("*-00002-of-00002.*")
    part.rename(folder.parent / part.name)
    name_parts(part.name, f"../{part.name}")(folder)


_QUERY, _DENSE = "vit.encoder.layer.1.attention.attention.query.weight", "vit.encoder.layer.1.output.dense.bias"
_PART = "pytorch_model-00001-of-00002.bin"
_FC1, _FC2, _PATCH = "blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc2.weight", "patch_embed.proj.weight"
_META = (rename("reg_token", "storage_tokens"), rename(r"gamma_(\d)", r"ls\1.gamma"))
_MODELS: dict[str, list[tuple[Any, ...]]] = {
    "vit": [
        ("width of one kernel", _QUERY, put(_QUERY, 48, 40)),
        ("no bias in one layer", _DENSE, rename(re.escape(_DENSE), None)),
        ("no classes", "classifier", put("classifier.weight", 0, 48), put("classifier.bias", 0)),
        ("a layer more in the config", "num_hidden_layers encoder.layer.2", field(num_hidden_layers=3)),
        ("a layer less in the config", "num_hidden_layers encoder.layer.1", field(num_hidden_layers=1)),
        ("another width in the config", "hidden_size", field(hidden_size=60)),
        ("another MLP in the config", "intermediate_size", field(intermediate_size=128)),
        ("other patches in the config", "patch_size", field(patch_size=16)),
        ("heads that don't divide the width", "num_attention_heads", field(num_attention_heads=5)),
        ("heads as text", "num_attention_heads", field(num_attention_heads="3")),
        ("a negative epsilon", "layer_norm_eps", field(layer_norm_eps=-1e-6)),
        ("ReLU", "relu", field(hidden_act="relu")),
        ("another model type", "vit_msn", field(model_type="vit_msn")),
    ],
    "hf_deit_distilled": [
        ("one of two classifiers", "cls_classifier", rename(r"^cls_classifier", None)),
        ("positions without the second token", "position_embeddings", put("deit.embeddings.position_embeddings", 1, 17, 36)),
    ],
    "dinov2": [
        ("grey pictures", "projection.weight", put("embeddings.patch_embeddings.projection.weight", 48, 1, 8, 8)),
        ("more positions", "position_embeddings image_size", put("embeddings.position_embeddings", 1, 26, 48)),
        ("SwiGLU", "weights_out", field(use_swiglu_ffn=True), rename("fc1", "weights_in"), rename("fc2", "weights_out")),
        ("SwiGLU in the config", "use_swiglu_ffn", field(use_swiglu_ffn=True)),
    ],
    "dinov2_gated": [
        ("a plain MLP in the config", "use_swiglu_ffn", field(use_swiglu_ffn=False)),
        ("no halves", "divided by 2", put("encoder.layer.0.mlp.weights_in.weight", 255, 48)),
    ],
    "tipsv2_gated": [("TIPSv2 with a plain MLP in the config", "use_swiglu_ffn", field(use_swiglu_ffn=False))],
    "dinov3_gated": [
        ("DINOv3 with a plain MLP in the config", "use_gated_mlp", field(use_gated_mlp=False)),
        ("no word of the gate", "use_gated_mlp", lambda config, _: config.pop("use_gated_mlp")),
        ("a gate without a config", "--activation", lambda config, _: config.clear()),
        ("a register more in the config", "num_register_tokens", field(num_register_tokens=3)),
        ("a bias of keys alone", "key_bias", put("layer.0.attention.k_proj.bias", 48)),
        ("biases that the config lacks", "proj_bias", field(proj_bias=True)),
    ],
    "timm_dinov3": [
        ("Meta's names, no mask", "bias_mask", *_META, put("blocks.0.attn.qkv.bias", 144)),
        ("Meta's names, no periods", "--heads", *_META),
        ("Meta's names, other periods", "rope_embed.periods", *_META, put("rope_embed.periods", 5)),
        ("Meta's names, two norms", "cls_norm", *_META, put("rope_embed.periods", 4), put("cls_norm.weight", 48)),
    ],
    "timm_dinov3_gated": [
        ("EVA-02's norm in an MLP", "mlp.norm", put("blocks.0.mlp.norm.weight", 96)),
        ("a bias of keys", "k_bias", put("blocks.0.attn.k_bias", 48)),
        ("a table of positions", "pos_embed", put("pos_embed", 1, 17, 48)),
        ("DINOv3 with learned frequencies", "rope.freqs", put("rope.freqs", 2, 2, 3, 8)),
        ("DINOv3 without a config", "--architecture", lambda config, _: config.clear()),
        ("no gate in a block", "fc1_g", rename(r"blocks\.1\.mlp\.fc1_g", None)),
    ],
    "aimv2": [
        ("sines in the config", "is_native", field(is_native=True)),
        ("no head in the config", "use_head", field(use_head=False)),
        ("no head", "use_head", rename(r"^head\.", None)),
        ("biases in the config", "qkv_bias", field(qkv_bias=True)),
        ("a layer norm", "rms_norm.bias", put("rms_norm.bias", 48)),
        ("pictures of more patches", "position_embedding image_size", field(image_size=40)),
        ("AIMv2 without a config", "--heads", lambda config, _: config.clear()),
        ("a head with a query", "head.q_proj", put("head.q_proj.weight", 48, 48)),
    ],
    "aimv2_both": [
        ("AIMv2's text tower alone", "--families", rename("vision_model|visual_projection", None)),
        (
            "a projection of nothing",
            "visual_projection",
            lambda config, _: config["vision_config"].update(use_head=False),
            rename(r"vision_model\.head", None),
        ),
    ],
    "timm_aimv2": [
        ("AIMv2 of timm without a config", "--architecture", lambda config, _: config.clear()),
        ("AIMv2 under its own names", "--families", rename("fc1_g", "fc1"), rename("fc1_x", "fc3"), rename("^", "trunk.")),
        ("an attention pool", "global_pool", field(global_pool="map")),
        ("another activation of the gate", "act_layer", field(act_layer="gelu")),
        ("a class token", "cls_token", put("cls_token", 1, 1, 48)),
        ("a layer norm of the patches", "patch_embed.norm.bias", put("patch_embed.norm.bias", 48)),
        ("AIMv2's heads as text", "num_heads", field(num_heads="3")),
    ],
    "clip": [("text tower alone", "--families", rename("vision_model|visual_projection", None))],
    "siglip_vision": [
        ("flat patch kernel", "siglip_vision_model", put("embeddings.patch_embedding.weight", 48, 192)),
        ("NaFlex", "siglip2_vision_model", field(model_type="siglip2_vision_model")),
    ],
    "clipmoe": [
        ("PE under its own names", "attn_pool.probe", put("visual.attn_pool.probe", 1, 1, 128)),
        ("PE-Spatial under its own names", "ln_post", rename("ln_post", None)),
        ("an expert fewer", "experts.3", rename(r"resblocks\.2\.experts\.3", None)),
        ("a gate for more experts", "gate.weight experts.4", put("visual.transformer.resblocks.1.gate.weight", 5, 128)),
        ("no heads", "attention heads", field(vision_heads=0)),
        ("no experts of a token", "top_k", field(top_k=0)),
        ("a gate with bias", "gate.bias", put("visual.transformer.resblocks.1.gate.bias", 4)),
        ("a block without MLP", "resblocks.1", rename(r"resblocks\.1\.gate|resblocks\.1\.experts", None)),
    ],
    "timm_avg": [
        ("pooled maxima", "global_pool avgmax", field(global_pool="avgmax")),
        ("mean with the class token", "pool_include_prefix", field(pool_include_prefix=True)),
    ],
    "timm_map": [
        (
            "PE without a config",
            "--architecture",
            lambda config, _: config.clear(),
            put("norm_pre.weight", 40),
            put("norm_pre.bias", 40),
        ),
    ],
    "timm_eva02": [
        ("EVA without a config", "--architecture", lambda config, _: config.clear()),
        ("EVA with norms behind", "eva02_enormous", field(architecture="eva02_enormous_patch14_clip_224")),
        ("EVA with the name of a BEiT", "beit_base_patch16_224", field(architecture="beit_base_patch16_224")),
        ("EVA with the name of a ViT", "q_bias", field(architecture="vit_tiny_patch16_224")),
        ("EVA of a size that we don't know", "eva02_huge", field(architecture="eva02_huge_patch14_224")),
        ("EVA under its own names", "mlp.w12", rename(r"mlp\.fc1\.", "mlp.w12."), rename(r"mlp\.fc2\.", "mlp.w3.")),
        ("EVA with another unit of positions", "ref_feat_shape", field(ref_feat_shape=[24, 24])),
        ("EVA with a rotation of halves", "rope_rotate_half", field(rope_rotate_half=True)),
        ("EVA with learned frequencies", "rope.freqs", put("rope.freqs", 2, 2, 3, 8)),
        ("EVA with relative positions", "rel_pos_bias", put("rel_pos_bias.relative_position_bias_table", 52, 3)),
        ("EVA without positions", "pos_embed", rename("pos_embed", None)),
        ("EVA with a bias of keys", "k_bias", put("blocks.0.attn.k_bias", 48)),
        ("EVA without a bias of values", "v_bias", rename(r"1\.attn\.v_bias", None)),
        ("EVA with a scale of one block", "blocks.1.gamma_1", put("blocks.1.gamma_1", 48)),
        ("EVA without a half of a gate", "fc1", put("blocks.1.mlp.fc1.weight", 96, 48)),
        ("EVA with other heads", "num_heads", field(num_heads=5)),
        ("EVA of another width", "embed_dim", field(embed_dim=64)),
        ("EVA with pooled maxima", "global_pool", field(global_pool="avgmax")),
    ],
    "timm_eva02_split": [
        ("EVA-02 under its own names", "mlp.w1 mlp.ffn_ln", rename(r"mlp\.norm", "mlp.ffn_ln"), rename(r"fc1_g", "w1")),
        ("EVA-02 without a norm", "blocks.1.mlp.norm", rename(r"1\.mlp\.norm", None)),
        ("EVA-02 without a gate", "fc1", rename(r"mlp\.fc1_g", None)),
        ("EVA-02 with keys of fewer heads", "k_proj", put("blocks.0.attn.k_proj.weight", 16, 48)),
    ],
    "timm_eva02_clip": [
        ("EVA-CLIP under its own names", "inner_attn_ln", rename(r"attn\.norm", "attn.inner_attn_ln")),
        ("EVA-CLIP in its own file", "inner_attn_ln", rename(r"attn\.norm", "attn.inner_attn_ln"), rename("^", "visual.")),
        ("EVA-CLIP without a norm", "blocks.1.attn.norm", rename(r"1\.attn\.norm", None)),
        ("EVA-CLIP without a class token", "cls_token", rename("cls_token", None)),
    ],
    "timm_rotary_registers": [
        ("registers without a config", "--architecture", lambda config, _: config.clear()),
        ("registers with positions", "pos_embed", put("pos_embed", 1, 17, 48)),
        ("registers of a NAVER", "vit_small_patch16_rope_224", field(architecture="vit_small_patch16_rope_224")),
        ("registers of a Sapiens", "vit_base_patch16_sapiens2", field(architecture="vit_base_patch16_sapiens2")),
    ],
    "timm_pe_core": [
        ("PE-Core without a config", "--architecture", lambda config, _: config.clear()),
        ("PE-Core of a size that we don't know", "vit_pe_core_huge", field(architecture="vit_pe_core_huge_patch14_448")),
        ("PE-Core with the name of a PE-Spatial", "attn_pool", field(architecture="vit_pe_spatial_tiny_patch16_512")),
        ("PE-Core that pools a mean", "pooling", field(global_pool="avg")),
        ("PE-Core with another offset", "rope_grid_offset", field(rope_grid_offset=0.0)),
        ("PE-Core with other heads of its pool", "attn_pool_num_heads", field(attn_pool_num_heads=4)),
        ("PE-Core with norms of queries", "q_norm", put("blocks.0.attn.q_norm.weight", 16)),
        ("PE-Core without the first norm", "norm_pre", rename("norm_pre", None)),
        ("PE-Core without the last norm", "norm.weight", rename(r"^norm\.", None)),
        ("PE-Core of RMS norms", "norm1.bias", rename(r"norm1\.bias", None)),
        (
            "PE-Core with a wide pool",
            "wider",
            put("attn_pool.mlp.fc1.weight", 104, 48),
            put("attn_pool.mlp.fc1.bias", 104),
            put("attn_pool.mlp.fc2.weight", 48, 104),
        ),
    ],
    "timm_pe_spatial": [
        ("PE-Spatial without a config", "--architecture", lambda config, _: config.clear()),
        ("PE-Spatial with a last norm", "norm.bias", put("norm.weight", 48), put("norm.bias", 48)),
        ("PE-Spatial with the name of a PE-Core", "norm.weight", field(architecture="vit_pe_core_tiny_patch16_384")),
        ("PE-Spatial with the name of an EVA", "eva02_tiny", field(architecture="eva02_tiny_patch14_224")),
    ],
    "timm_token": [
        ("an extra tensor", "blocks.0.adapter.weight", put("blocks.0.adapter.weight", 48, 48)),
        ("not a number", _FC1, put(_FC1, 96, 48, value=np.nan)),
        ("whole numbers", _FC2, put(_FC2, 48, 96, dtype=np.int8)),
        ("video's patch kernel", _PATCH, put(_PATCH, 48, 3, 2, 8, 8)),
        ("no positions", "pos_embed", rename("pos_embed", None)),
        ("pictures that are no object", "pretrained_cfg", field(pretrained_cfg="augreg_in21k")),
        ("no config", "--activation", lambda config, _: config.clear()),
        ("an unknown architecture", "eva02_tiny_patch14_336", field(architecture="eva02_tiny_patch14_336")),
        ("norms after the branches", "vit_base_patch16_rpn_224", field(architecture="vit_base_patch16_rpn_224")),
        ("DINOv3 under its own names", "pos_embed", rename("pos_embed", None), put("storage_tokens", 1, 4, 48)),
        ("DINOv2 under its own names", "DINOv2 heads", put("register_tokens", 1, 4, 48)),
        ("learned frequencies", "rope.freqs", put("rope.freqs", 2, 2, 3, 8)),
        ("no last norm", "norm.weight", rename(r"^norm\.", None)),
        ("no last norm, no config", "--architecture", lambda config, _: config.clear(), rename(r"^norm\.", None)),
        ("InternViT with a last norm", "norm.bias", field(architecture="vit_intern300m_patch14_448")),
        ("rotary positions", "vit_small_patch16_rope_224", field(architecture="vit_small_patch16_rope_224")),
        ("another class's attention", "vit_pe_core_tiny_patch16_384", field(architecture="vit_pe_core_tiny_patch16_384")),
        ("RMSNorm", "norm1.bias norm.bias", rename(r"norm\d?\.bias", None)),
        ("parallel blocks", "attns norm1", rename(r"norm1\.", "attns.0.norm."), rename(r"0\.attn\.", "0.attns.0.attn.")),
        ("gated MLP", "fc1_g fc1.weight", rename(r"mlp\.fc1\.", "mlp.fc1_x."), put("blocks.0.mlp.fc1_g.weight", 96, 48)),
        ("packed gated MLP", _FC2, put(_FC2, 48, 48)),
        ("BEiT", "q_bias qkv.bias", rename(r"attn\.qkv\.bias", "attn.q_bias")),
        ("relative positions", "rel_pos", put("blocks.0.attn.rel_pos.mlp.fc1.weight", 16, 2)),
    ],
}
LOOKALIKES = [
    *(Lookalike(name, base, words, tuple(changes)) for base in _MODELS for name, words, *changes in _MODELS[base]),
    Lookalike("half a file", "vit", "model.safetensors", damage=half("model.safetensors")),
    Lookalike("half a config", "vit", "config.json", damage=half("config.json")),
    Lookalike("a pickled command", "vit", "pytorch_model.bin", layout="bin", damage=pickle_a_command("pytorch_model.bin")),
    Lookalike("a part elsewhere", "vit", "model-00002-of-00002 ../", layout="sharded", damage=move_a_part),
    Lookalike("a torch part elsewhere", "vit", "model-00002-of-00002 ../", layout="sharded_bin", damage=move_a_part),
    Lookalike("a pickled command in a part", "vit", _PART, layout="sharded_bin", damage=pickle_a_command(_PART)),
    Lookalike("half a torch part", "vit", _PART, layout="sharded_bin", damage=half(_PART)),
    Lookalike("tensors elsewhere", "vit", "holds tensor", layout="sharded_bin", damage=name_parts("-00002-", "-00001-")),
]
