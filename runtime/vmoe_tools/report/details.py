"""What the first bundle does in detail: its layers at each setting, patches of the samples, and experts by class."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmoe_runtime.profiles import Profile
from vmoe_tools.inspect.statistics import LayerStatistics
from vmoe_tools.report.contents import ClassMap, LayerContents, SettingContents
from vmoe_tools.report.observer import Observed
from vmoe_tools.report.size import CLASS_BYTES, patch_bytes

Array = np.ndarray[Any, np.dtype[Any]]

_DIGITS = 4
_WEIGHT_UNITS = 10**_DIGITS


def setting_contents(
    point: int,
    profile: Profile,
    seen: Observed,
    samples: Sequence[int],
    names: Sequence[str],
    labels: Array | None,
    classes: Sequence[int],
) -> SettingContents:
    """The details of a setting.

    Args:
        point: its place among the report's points.
        profile: the setting.
        seen: what was observed at it.
        samples: places of the sample images.
        names: of the classes.
        labels: i64[N], what the images show; None where that isn't known.
        classes: those whose experts are told of.
    """
    answers: tuple[tuple[str, float, bool | None], ...] = ()
    if seen.answers is not None:
        answers = tuple(
            (names[answer], round(float(share), _DIGITS), None if labels is None else bool(answer == labels[place]))
            for place, share in zip(samples, seen.answers.probabilities, strict=True)
            for answer in [int(seen.answers.classes[place])]
        )
    return SettingContents(
        point=point,
        places=profile.slots[0],
        layers=tuple(_layer(layer) for layer in seen.layers.values()),
        answers=answers,
        patches=None if seen.patches is None else encode_patches(seen.patches, patch_bytes(_experts(seen))),
        classes=None if _class_images(seen) is None else encode_weights(_weights(seen, classes)),
    )


def encode_patches(experts: Array, size: int) -> str:
    """Base64 of experts i64[...], each as an unsigned integer of so many bytes, one more than the expert; -1 is 0.

    Example:
        >>> encode_patches(np.array([[-1, 0], [7, 2]]), 1)
        'AAEIAw=='
    """
    return base64.b64encode((experts + 1).astype(f"<u{size}").tobytes()).decode()


def encode_weights(weights: Array) -> str:
    """Base64 of routing weights f64[...], each as an unsigned integer of two bytes in ten thousandths.

    Example:
        >>> encode_weights(np.array([0.0001, 0.0258]))
        'AQACAQ=='
    """
    most = 256**CLASS_BYTES - 1
    return base64.b64encode((weights * _WEIGHT_UNITS).round().clip(0, most).astype(f"<u{CLASS_BYTES}").tobytes()).decode()


def most_shown(seen: Observed, most: int) -> list[int]:
    """At most so many classes, rising: those that most images show, of as many the first ones; none without labels."""
    counts = _class_images(seen)
    if counts is None:
        return []
    order = np.argsort(-counts, kind="stable")[: min(most, np.count_nonzero(counts))]
    chosen: list[int] = np.sort(order).tolist()
    return chosen


def class_map(point: int, seen: Observed, names: Sequence[str], followed: Sequence[int]) -> ClassMap | None:
    """The mean routing weight by class and expert; None without labels.

    Args:
        point: place among the report's points of the setting whose weights are told of all classes.
        seen: what was observed at it.
        names: of the classes.
        followed: the classes that are told of at each setting.
    """
    counts = _class_images(seen)
    if counts is None:
        return None
    shown: list[int] = np.flatnonzero(counts).tolist()
    return ClassMap(
        point,
        tuple(names[index] for index in shown),
        tuple(int(counts[index]) for index in shown),
        tuple(
            tuple(tuple(round(float(weight), _DIGITS) for weight in row) for row in layer) for layer in _weights(seen, shown)
        ),
        tuple(shown.index(index) for index in followed),
    )


def _class_images(seen: Observed) -> Array | None:
    return next((layer.class_images for layer in seen.layers.values()), None)


def _weights(seen: Observed, classes: Sequence[int]) -> Array:
    """f64[layers,classes,E] of the given classes."""
    known = [layer.class_weight for layer in seen.layers.values() if layer.class_weight is not None]
    return np.stack([weight[list(classes)] for weight in known])


def _experts(seen: Observed) -> int:
    return max(len(layer.load) for layer in seen.layers.values())


def _layer(layer: LayerStatistics) -> LayerContents:
    return LayerContents(
        load=_shares(layer.load),
        asked=None if layer.asked is None else _shares(layer.asked),
        expert_dropped=None if layer.expert_dropped is None else tuple(_number(share) for share in layer.expert_dropped),
        pairs_dropped=_number(layer.pairs_dropped),
        patches_dropped=_number(layer.patches_dropped),
        load_entropy=_number(layer.load_entropy),
        gate_entropy=_number(layer.gate_entropy),
        gates_kept=tuple(layer.gates_kept.tolist()),
        gates_dropped=tuple(layer.gates_dropped.tolist()),
    )


def _shares(counts: Array) -> tuple[float | None, ...]:
    total = counts.sum()
    return tuple(_number(count / total) if total else None for count in counts)


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), _DIGITS)
