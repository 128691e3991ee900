"""Routing statistics over many images: load of each expert, dropped pairs, gates, and the classes of each expert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_runtime import Routing, RoutingError
from vmoe_runtime.errors import shown
from vmoe_runtime.routing import Array
from vmoe_runtime.routing_kinds import ModelKind
from vmoe_runtime.settings import as_whole

BINS = 20
"""Bins of a gate histogram, of equal width from 0 to 1; the last one includes 1."""
_EDGES = np.linspace(0, 1, BINS + 1, dtype=np.float32)[1:-1]


@dataclass(frozen=True)
class Choices:
    """C choices of each of T tokens, in the order of the images.

    With expert choice and in a Soft MoE, every expert is a choice of every token, so C = E. In an ensemble (E3), a token has
    one row for each member.

    Attributes:
        expert: i32[T,C], the expert of each choice; -1 if a TensorRT graph dropped the choice.
        kept: bool[T,C], whether the choice got a slot. In a Soft MoE, every choice gets a slot.
        weight: f32[T,C], raw gates. In a Soft MoE, it is the share that the expert's slots have in the token's output.
        complete: whether each row of `weight` contains the gates of all experts. Complete gates sum to 1.
    """

    expert: Array
    kept: Array
    weight: Array
    complete: bool


def choices_of(routing: Routing) -> Choices:
    """Return the choices of one MoE layer. Its G groups of S tokens are flattened to one row per token."""
    if routing.kept is None:
        assert routing.combine is not None
        weight = routing.combine.sum(axis=3)
        kept = np.ones(weight.shape, bool)
    else:
        assert routing.weight is not None
        kept, weight = routing.kept, routing.weight
    choices, expert, complete = kept.shape[2], routing.expert, True
    if expert is None:
        expert = np.broadcast_to(np.arange(choices, dtype=np.int32), kept.shape)
    else:
        complete = choices == routing.experts and (routing.layout is None or routing.layout.members == 1)
    return Choices(expert.reshape(-1, choices), kept.reshape(-1, choices), weight.reshape(-1, choices), complete)


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one MoE layer with E experts over all added images.

    A pair consists of a token and one of its choices. With expert choice, a pair consists of a token and any expert, and it
    is kept if the expert chose the token. A Soft MoE has no pairs and drops nothing. In a Soft MoE, an expert's share of a
    token's output replaces the gate.

    Attributes:
        kind: "top-k", "experts-choice" or "soft".
        images: number of images.
        load: f64[E], number of pairs that each expert kept. In a Soft MoE, it is the sum of the expert's shares over the
            outputs of all tokens.
        requested: i64[E], number of pairs that chose each expert; None if tokens do not choose experts, and for TensorRT
            graphs.
        expert_dropped: f64[E], dropped share of `requested`. It is NaN for experts whose `requested` is 0. The attribute is
            None if `requested` is None.
        pairs_dropped: share of all pairs that got no slot; None in a Soft MoE.
        patches_dropped: share of the patches that no expert processed; None if the manifest does not say which tokens are
            patches.
        load_entropy: entropy of `load` from 0 to 1, where 1 is an even load; NaN if nothing was kept.
        gate_entropy: mean entropy of a token's gates from 0 to 1, where 1 means equal gates. None if only the gates of the
            token's k choices are known.
        gates_kept: i64[BINS], histogram of the gates of kept pairs.
        gates_dropped: i64[BINS], histogram of the gates of dropped pairs.
        class_weight: f64[classes,E], mean routing weight of each class and expert. It is computed over the images of the
            class: the sum of the gates of kept pairs, divided by the number of tokens. NaN for a class without images. The
            attribute is None if there are no labels.
        class_images: i64[classes], number of images of each class; None if there are no labels.
    """

    kind: ModelKind
    images: int
    load: Array
    requested: Array | None
    expert_dropped: Array | None
    pairs_dropped: float | None
    patches_dropped: float | None
    load_entropy: float
    gate_entropy: float | None
    gates_kept: Array
    gates_dropped: Array
    class_weight: Array | None
    class_images: Array | None


class RoutingStatistics:
    """Routing statistics that are accumulated over batches. Only the routing of one batch is in memory at a time.

    Examples:
        >>> from vmoe_runtime import Engine
        >>> with Engine.load(bundle, profile="c2-k1") as engine:
        ...     statistics = RoutingStatistics(num_classes=10)
        ...     statistics.add(engine.routing(images), images=16, labels=None)
        >>> layer = statistics.layers()["encoderblock_0"]
        >>> int(layer.load.sum()), layer.load.shape
        (800, (8,))
    """

    def __init__(self, num_classes: int | None = None) -> None:
        """Start with no batches.

        Args:
            num_classes: number of label classes; None if there are no labels.
        """
        self._num_classes = num_classes
        self._sums: dict[str, dict[str, Any]] = {}
        self._kinds: dict[str, ModelKind] = {}

    def add(self, routing: Mapping[str, Routing], images: int, labels: Array | Sequence[int] | None = None) -> None:
        """Add a batch.

        Args:
            routing: the result of `Engine.routing`, by MoE layer.
            images: number of images in the batch.
            labels: integers[images], from 0 to num_classes - 1; None if there are no labels.

        Raises:
            RoutingError: the routing doesn't fit the number of images, or a label is invalid. In either case, nothing is
                added.
        """
        added = {name: _count(layer, images, labels, self._num_classes) for name, layer in routing.items()}
        for name, counts in added.items():
            sums = self._sums.get(name)
            self._sums[name] = counts if sums is None else {key: sums[key] + count for key, count in counts.items()}
            self._kinds[name] = routing[name].kind

    def layers(self) -> dict[str, LayerStatistics]:
        """Return the statistics of each MoE layer by its name.

        The result is empty before the first batch, and for a dense ViT.
        """
        return {name: _statistics(self._kinds[name], sums) for name, sums in self._sums.items()}


def _count(routing: Routing, images: int, labels: Array | Sequence[int] | None, num_classes: int | None) -> dict[str, Any]:
    """Return one layer's counts for a batch. The counts of several batches can be summed."""
    choices, experts = choices_of(routing), routing.experts
    kept_expert, kept_weight = choices.expert[choices.kept], choices.weight[choices.kept]
    try:
        patches = routing.patch_mask()
    except RoutingError:
        patches = np.zeros(0, bool)
    count, known = as_whole(images) or 0, [patches, patches if routing.token is None else routing.token]
    # Both arrays in `known` may be empty, so also check that the tokens divide evenly among the images.
    if count < 1 or len(choices.kept) % count or any(len(values) not in (0, count) for values in known):
        raise RoutingError(f"the routing is not that of {shown(images)} images")
    by_class: Array = np.zeros((num_classes or 0, experts))
    class_images: Array = np.zeros(num_classes or 0, np.int64)
    if labels is not None and num_classes:
        labels = _checked_labels(labels, count, num_classes)
        cells = (np.repeat(labels, len(choices.kept) // count)[:, None] * experts + choices.expert)[choices.kept]
        by_class = np.bincount(cells, kept_weight, num_classes * experts).reshape(num_classes, experts)
        class_images = np.bincount(labels, minlength=num_classes)
    return {
        "images": count,
        "pairs": choices.kept.size,
        "load": np.bincount(kept_expert, kept_weight if routing.kind == "soft" else None, experts).astype(np.float64),
        "requested": np.bincount(np.maximum(choices.expert, 0).ravel(), minlength=experts),
        "unknown": np.count_nonzero(choices.expert < 0),
        "patches": patches.size,
        "patches_kept": np.count_nonzero(patches),
        "rows": len(choices.kept),
        "tokens": len(choices.kept) // (1 if routing.layout is None else routing.layout.members),
        "entropy": _entropies(choices.weight.astype(np.float64)).sum() if choices.complete else np.nan,
        "gates_kept": _histogram(kept_weight),
        "gates_dropped": _histogram(choices.weight[~choices.kept]),
        "by_class": by_class,
        "class_images": class_images,
    }


def _checked_labels(labels: Any, images: int, num_classes: int) -> Array:
    """Convert labels, a list or an array, to i64[images]. Refuse invalid labels."""
    try:
        found = np.asarray(labels)
        if found.shape == (images,) and found.dtype.kind in "iu" and found.min() >= 0 and found.max() < num_classes:
            return found.astype(np.int64)
    except ValueError:  # numpy refuses a list of lists of different lengths
        pass
    raise RoutingError(f"labels must be {images} whole numbers from 0 to {num_classes - 1}, not {shown(labels)}")


def _statistics(kind: ModelKind, sums: Mapping[str, Any]) -> LayerStatistics:
    load, requested = sums["load"], None if kind != "top-k" or sums["unknown"] else sums["requested"]
    class_images, tokens = sums["class_images"], sums["tokens"] // sums["images"]
    labelled = class_images.any()
    return LayerStatistics(
        kind=kind,
        images=sums["images"],
        load=load,
        requested=requested,
        expert_dropped=None if requested is None else _ratio(requested - load, requested),
        pairs_dropped=None if kind == "soft" or not sums["pairs"] else float(1 - load.sum() / sums["pairs"]),
        patches_dropped=float(1 - sums["patches_kept"] / sums["patches"]) if sums["patches"] else None,
        load_entropy=float(_entropies(_ratio(load, load.sum())[None])[0]),
        gate_entropy=None if math.isnan(sums["entropy"]) else float(sums["entropy"] / sums["rows"]),
        gates_kept=sums["gates_kept"],
        gates_dropped=sums["gates_dropped"],
        class_weight=_ratio(sums["by_class"], (class_images * tokens)[:, None]) if labelled else None,
        class_images=class_images if labelled else None,
    )


def class_name(index: int, class_names: Sequence[str] | None, longest: int) -> str:
    """Return the name of a class, or its index if there are no names. Cut a long name to `longest` characters.

    Examples:
        >>> class_name(1, ("tench", "West Highland white terrier"), 20), class_name(7, None, 20)
        ('West Highland whi...', '7')
    """
    name = str(index) if class_names is None else class_names[index]
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def _histogram(gates: Array) -> Array:
    counts: Array = np.bincount(_EDGES.searchsorted(gates[~np.isnan(gates)], "right"), minlength=BINS)
    return counts


def _ratio(part: Array, whole: Array) -> Array:
    """Divide element by element. The result is NaN where the divisor is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Array = np.where(whole != 0, part / whole, np.nan)
    return share


def _entropies(shares: Array) -> Array:
    """Return f64[N]: the entropy of each row of `shares` [N,E], divided by the largest possible entropy.

    Each row must sum to 1. The result is 1 if E is 1.
    """
    experts = shares.shape[1]
    if experts == 1:
        return np.ones(len(shares))
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropies: Array = -(shares * logs).sum(axis=1) / math.log(experts)
    return entropies
