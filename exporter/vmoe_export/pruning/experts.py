"""Choose the experts that a model keeps, and write a checkpoint without the other experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from vmoe_export.bundle.weights_file import layout
from vmoe_export.checkpoint import Array, BundleCheckpoint, Checkpoint
from vmoe_export.errors import CheckpointError, OptionError
from vmoe_export.model.model_config import MoeConfig, Soft, TopK
from vmoe_export.model.model_description import count_layers
from vmoe_export.model.model_facts import ModelFacts
from vmoe_export.model.moe_description import describe_moe
from vmoe_export.model.parameters import StoredTensor
from vmoe_measure.image_source import ImageSource
from vmoe_runtime import Engine, Routing

_IMAGES_PER_CALL = 16


@dataclass(frozen=True)
class PrunedLayer:
    """The choice of experts in a MoE layer.

    Attributes:
        scores: f64[E], the score of each expert. The experts with the highest scores are kept.
        kept: i64[N], the experts that are kept, in ascending order. In an ensemble (E3), every member keeps the same
            number of experts.
    """

    scores: Array
    kept: Array


def prunable_moe(checkpoint: Checkpoint, ensemble_size: int | None = None) -> MoeConfig:
    """Return the MoE layers of a checkpoint. Raise an error if the checkpoint's experts can't be pruned.

    Raises:
        OptionError: the model has no MoE layers, is a Soft MoE, or comes from another library.
        CheckpointError: a tensor of the experts is missing, or its number of experts differs from the router's.
        ConfigError: the tensors are not those of a V-MoE.
    """
    if checkpoint.family_title:
        raise OptionError(f"{checkpoint.path} is a {checkpoint.family_title}; only official models can be pruned")
    config = checkpoint.config if isinstance(checkpoint, BundleCheckpoint) else {}
    flags = {} if ensemble_size is None else {"ensemble_size": ensemble_size}
    facts = ModelFacts({name: info.shape for name, info in checkpoint.info.items()}, config, flags)
    moe = describe_moe(facts, count_layers(facts))
    if moe is None or isinstance(moe.routing, Soft):
        why = "dense ViT without experts" if moe is None else "Soft MoE, whose experts all take part of every token"
        raise OptionError(f"{checkpoint.path} is a {why}, which cannot be pruned")
    for layer, experts in zip(moe.layers, moe.experts, strict=True):
        for part in ("Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias"):
            name = f"Encoder/encoderblock_{layer}/Moe/Mlp/{part}"
            if name not in checkpoint or checkpoint.info[name].shape[:1] != (experts,):
                raise CheckpointError(f"{checkpoint.path} has no tensor {name} of {experts} experts, as its router has them")
    return moe


def router_growth(checkpoint: Checkpoint, before: Checkpoint, moe: MoeConfig) -> list[Array]:
    """Compute how much the norm of each expert's router column has grown in fine-tuning.

    Source: "A Provably Effective Method for Pruning Experts in Fine-tuned Sparse Mixture-of-Experts" (arXiv 2405.16646).

    Args:
        checkpoint: the fine-tuned checkpoint.
        before: the pre-trained checkpoint that it was fine-tuned from.
        moe: the MoE layers of both checkpoints.

    Returns:
        f64[E] for each MoE layer.

    Raises:
        CheckpointError: the checkpoints are not of the same model, or their routers are equal, or a router has NaN or
            infinite values.
    """
    growth = []
    for layer, experts in zip(moe.layers, moe.experts, strict=True):
        name = f"Encoder/encoderblock_{layer}/Moe/Router/dense/kernel"
        now, then = (each[name].astype(np.float64) if name in each else np.empty(0) for each in (checkpoint, before))
        if len(then) != len(now) or then.size != now.size:  # the router of an E3 may have an extra axis for the members
            raise CheckpointError(f"{before.path} has no tensor {name} of the shape that {checkpoint.path} has")
        norm, before_norm = (np.linalg.norm(router.reshape(-1, experts), axis=0) for router in (now, then))
        growth.append(norm - before_norm)
        if not np.isfinite(growth[-1]).all():
            raise CheckpointError(f"{before.path} or {checkpoint.path}: tensor {name} holds NaN or infinite values")
    if not any(map(np.any, growth)):
        raise CheckpointError(f"{before.path} and {checkpoint.path} have equal routers, so their experts cannot be ranked")
    return growth


def class_token_use(engine: Engine, source: ImageSource) -> list[Array]:
    """Count how many class tokens choose each expert at the engine's profile.

    To break ties, each count is increased by the expert's share of all tokens' choices. The share is below 1.

    Args:
        engine: an engine of the model's bundle.
        source: the images to run. If the last images do not fill a routing group, they are left out.

    Returns:
        f64[E] for each MoE layer.

    Raises:
        OptionError: the classifier reads no class token, or there are too few images.
        VmoeError: the images don't fit the model.
    """
    manifest = engine.manifest
    if manifest.model.get("classifier") not in ("token", "0"):
        raise OptionError("the model's classifier reads no class token, so --images cannot rank its experts; pass --before")
    multiple = manifest.batch_multiple
    whole, size = len(source) // multiple * multiple, -(-_IMAGES_PER_CALL // multiple) * multiple
    if not whole:
        raise OptionError(f"a group needs {multiple} images, and --images has {len(source)}")
    assert manifest.moe_layers
    of_class, of_all = ([np.zeros(experts) for experts in manifest.rules.experts] for _ in range(2))
    for start in range(0, whole, size):
        batch = source.batch(start, min(size, whole - start), manifest.input)
        for i, routing in enumerate(engine.routing(batch).values()):
            chosen = _chosen(routing)
            of_class[i] += np.bincount(chosen[:, 0][chosen[:, 0] >= 0], minlength=routing.experts)
            of_all[i] += np.bincount(chosen[chosen >= 0], minlength=routing.experts)
    return [first + rest / (rest.sum() + 1) for first, rest in zip(of_class, of_all, strict=True)]


def _chosen(routing: Routing) -> Array:
    """Return the experts that process each token. For an ensemble, the experts of all members are included.

    The result is i32[N,T,C], for N images with T tokens each and up to C experts per token. Entries without an expert
    are -1.
    """
    assert routing.kept is not None and routing.layout is not None
    expert = routing.expert
    if expert is None:  # experts choose
        expert = np.where(routing.kept, np.arange(routing.experts), -1)
    layout = routing.layout
    return expert.reshape(-1, layout.tokens, layout.members * expert.shape[2])


def choose_experts(scores: Sequence[Array], moe: MoeConfig, counts: Sequence[int]) -> dict[int, PrunedLayer]:
    """Choose the experts with the highest scores in each MoE layer. On ties, keep the expert with the lower index.

    Args:
        scores: f64[E] for each MoE layer.
        moe: the MoE layers.
        counts: the number of experts to keep in each layer, or one number for all layers.

    Returns:
        The choice for each MoE layer, by the number of its block.

    Raises:
        OptionError: a count is larger than the number of experts, or not a multiple of the number of members.
        OptionError: there is neither a single count nor one count for each layer.
    """
    if len(counts) not in (1, len(moe.layers)):
        raise OptionError(f"--experts has {len(counts)} numbers, and there are {len(moe.layers)} MoE layers")
    members = moe.routing.ensemble_size if isinstance(moe.routing, TopK) else 1
    layers = {}
    for i, (layer, experts) in enumerate(zip(moe.layers, moe.experts, strict=True)):
        count = counts[i % len(counts)]
        if count > experts or count % members:
            fits = f"at most {experts}" + (f", and a multiple of the {members} members" if members > 1 else "")
            raise OptionError(f"--experts {count} doesn't fit block {layer}, which can keep {fits}")
        of_member = scores[i].reshape(members, -1)
        best = np.argsort(-of_member, axis=1, kind="stable")[:, : count // members]
        kept = np.sort(best, axis=1) + np.arange(members)[:, None] * (experts // members)
        layers[layer] = PrunedLayer(scores[i], kept.ravel())
    return layers


def write_pruned(file: IO[bytes], checkpoint: Checkpoint, layers: Mapping[int, PrunedLayer]) -> None:
    """Write a checkpoint that has only the kept experts, as a safetensors file with official names.

    Only one tensor is in memory at a time. bfloat16 tensors stay bfloat16. All other tensors become float32.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    moe = {f"Encoder/encoderblock_{layer}/Moe/": pruned.kept for layer, pruned in layers.items()}
    kept = {name: next((kept for part, kept in moe.items() if name.startswith(part)), None) for name in checkpoint.info}
    tensors = {
        name: StoredTensor(_pruned_shape(name, info.shape, kept[name]), "BF16" if info.dtype.name == "bfloat16" else "F32")
        for name, info in checkpoint.info.items()
    }
    header, spans = layout(tensors)
    file.write(header)
    for name, span in spans.items():
        array = checkpoint[name]
        if (experts := kept[name]) is not None:
            is_router = name.endswith("/Router/dense/kernel")
            array = array.reshape(len(array), -1)[:, experts] if is_router else array[experts]
        file.write(array.astype(array.dtype if span.dtype == "BF16" else np.float32).tobytes())


def _pruned_shape(name: str, shape: tuple[int, ...], kept: Array | None) -> tuple[int, ...]:
    if kept is None:
        return shape
    if not name.endswith("/Router/dense/kernel"):
        return len(kept), *shape[1:]
    return (*shape[:-1], len(kept) // (shape[1] if len(shape) == 3 else 1))
