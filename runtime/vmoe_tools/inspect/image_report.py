"""What is found about a bundle with images: what its routers do, and how its answers move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vmoe_runtime.profiles import Profile
from vmoe_tools.inspect.agreement import Agreement
from vmoe_tools.inspect.interference import Interference
from vmoe_tools.inspect.statistics import LayerStatistics


@dataclass(frozen=True)
class OtherBundle:
    """Another bundle of the same model, such as one of another precision, beside the inspected one.

    Attributes:
        bundle: its name, or its path where several have that name.
        precision: what its large products are computed in.
        group: who shares its places; None for a dense ViT.
        backend: what it ran on, in words.
        agreement: of its answers and routes with those of the inspected bundle.
    """

    bundle: str
    precision: str
    group: str | None
    backend: str
    agreement: Agreement


@dataclass(frozen=True)
class Neighbours:
    """How far the answers of one bundle move with the images that share a batch.

    Attributes:
        bundle: its name, as for `OtherBundle`, or that of the inspected bundle.
        group: who shares its places; None for a dense ViT.
        interference: what was measured.
    """

    bundle: str
    group: str | None
    interference: Interference


@dataclass(frozen=True)
class ImageReport:
    """What a bundle does with the user's images. `to_json` has the same names.

    Attributes:
        bundle: its name.
        source: the npz file or folder, as it was given.
        images: how many were run, in whole groups.
        left_over: how many were not, because they make no whole group.
        labelled: whether it is known what they show.
        class_names: of the model; None where the bundle has none.
        backend: what ran, in words.
        group: who shares places: "image", "batch", a number of images or "tokens:S"; None for a dense ViT.
        profile: the setting; None for a dense ViT and a Soft MoE.
        top1: share of right answers; None without labels.
        layers: the statistics of each MoE layer by its name.
        others: other bundles of the same model.
        neighbours: the inspected bundle first, then the others; empty where that wasn't asked for.
        notes: what can't be said of this model or these images, a sentence each.
    """

    bundle: str
    source: str
    images: int
    left_over: int
    labelled: bool
    class_names: tuple[str, ...] | None
    backend: str
    group: str | None
    profile: Profile | None
    top1: float | None
    layers: Mapping[str, LayerStatistics]
    others: tuple[OtherBundle, ...]
    neighbours: tuple[Neighbours, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report ready for JSON: an object for each class, a key for each attribute; arrays are lists, and None and
        what is no finite number are null.
        """
        content: dict[str, Any] = _plain(asdict(self))
        return content


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
