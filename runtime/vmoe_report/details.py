"""What the first bundle does in detail: its layers at each setting, patches of the samples, and experts by class."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmoe_inspect.statistics import LayerStatistics
from vmoe_report.contents import ClassMap, LayerContents, SettingContents
from vmoe_report.observer import Observed
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]

_DIGITS = 4


def setting_contents(
    point: int, profile: Profile, seen: Observed, samples: Sequence[int], names: Sequence[str], labels: Array | None
) -> SettingContents:
    """The details of a setting.

    Args:
        point: its place among the report's points.
        profile: the setting.
        seen: what was observed at it.
        samples: places of the sample images.
        names: of the classes.
        labels: i64[N], what the images show; None where that isn't known.
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
        places=profile.capacity[0],
        layers=tuple(_layer(layer) for layer in seen.layers.values()),
        answers=answers,
        patches=None if seen.patches is None else encode_patches(seen.patches, patch_bytes(seen.layers)),
    )


def patch_bytes(layers: Any) -> int:
    """Bytes of a number that tells all experts of a model from a dropped patch."""
    experts = max((len(layer.load) for layer in layers.values()), default=0)
    return 1 if experts < 255 else 2


def encode_patches(experts: Array, size: int) -> str:
    """Base64 of experts i64[...], each as an unsigned integer of so many bytes, one more than the expert; -1 is 0.

    Example:
        >>> encode_patches(np.array([[-1, 0], [7, 2]]), 1)
        'AAEIAw=='
    """
    return base64.b64encode((experts + 1).astype(f"<u{size}").tobytes()).decode()


def class_map(point: int, seen: Observed, names: Sequence[str]) -> ClassMap | None:
    """The mean routing weight by class and expert; None without labels.

    Args:
        point: place of the setting among the report's points.
        seen: what was observed at it.
        names: of the classes.
    """
    layers = list(seen.layers.values())
    counts = layers[0].class_images if layers else None
    if counts is None:
        return None
    shown = np.flatnonzero(counts)
    return ClassMap(
        point,
        tuple(names[int(index)] for index in shown),
        tuple(int(count) for count in counts[shown]),
        tuple(
            tuple(tuple(round(float(weight), _DIGITS) for weight in row) for row in layer.class_weight[shown])
            for layer in layers
            if layer.class_weight is not None
        ),
    )


def _layer(layer: LayerStatistics) -> LayerContents:
    return LayerContents(
        load=_shares(layer.load),
        asked=None if layer.asked is None else _shares(layer.asked),
        expert_dropped=None if layer.expert_dropped is None else tuple(_number(share) for share in layer.expert_dropped),
        pairs_dropped=_number(layer.pairs_dropped),
        patches_dropped=_number(layer.patches_dropped),
        load_entropy=_number(layer.load_entropy),
        gate_entropy=_number(layer.gate_entropy),
    )


def _shares(counts: Array) -> tuple[float | None, ...]:
    total = counts.sum()
    return tuple(_number(count / total) if total else None for count in counts)


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), _DIGITS)
