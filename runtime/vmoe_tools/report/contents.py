"""What a report says, as plain values: `vmoe-report --json` writes it, and the page and the pictures show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vmoe_tools.bench.report import PointReport
from vmoe_tools.inspect.agreement import Agreement
from vmoe_tools.inspect.interference import Interference
from vmoe_tools.report.findings import Fall


@dataclass(frozen=True)
class CurveContents:
    """Settings of one bundle that differ in the capacity ratio alone.

    Attributes:
        bundle: name of the bundle.
        kind: "bpr", "vanilla", "pool" or "choice".
        title: the same for people.
        points: their places among the report's points, capacity rising.
        steps: place of each one's capacity ratio among the report's ratios; None where it isn't one of them.
    """

    bundle: str
    kind: str
    title: str
    points: tuple[int, ...]
    steps: tuple[int | None, ...]


@dataclass(frozen=True)
class BundleContents:
    """A bundle.

    Attributes:
        name: of its folder.
        precision: of its large products.
        summary: the model in a few words.
        compared: it is another model than the first one.
        card: sections of rows, each a name and a text.
    """

    name: str
    precision: str
    summary: str
    compared: bool
    card: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True)
class Sample:
    """A sample image.

    Attributes:
        place: among all images.
        picture: a `data:` address.
        label: what it shows, None where that isn't known.
    """

    place: int
    picture: str
    label: str | None


@dataclass(frozen=True)
class LayerContents:
    """A MoE layer with E experts at one setting, over all images. What isn't known is None, as is a share of nothing.

    Attributes:
        load: share of all kept pairs that each expert has.
        asked: the same of all pairs that asked for it.
        expert_dropped: share of the pairs that asked for an expert and were dropped.
        pairs_dropped: share of all pairs that were dropped.
        patches_dropped: share of the patches that no expert processed.
        load_entropy: 0 to 1, 1 where all experts have equally much.
        gate_entropy: mean entropy of a token's gates, 0 to 1; None where only some gates are known.
        gates_kept, gates_dropped: how many pairs were kept and dropped by gate, in bins of equal width from 0 to 1, the last
            of which has the gates of 1, too.
    """

    load: tuple[float | None, ...]
    asked: tuple[float | None, ...] | None
    expert_dropped: tuple[float | None, ...] | None
    pairs_dropped: float | None
    patches_dropped: float | None
    load_entropy: float | None
    gate_entropy: float | None
    gates_kept: tuple[int, ...]
    gates_dropped: tuple[int, ...]


@dataclass(frozen=True)
class SettingContents:
    """What the first bundle does at one setting, in detail.

    Attributes:
        point: place among the report's points.
        places: per expert and group, in the first MoE layer.
        layers: of each MoE layer.
        answers: of each sample the class that was answered, its probability, and whether it is right (None without
            labels); empty where the bundle puts out no logits.
        patches: base64 of unsigned integers [layers, samples, rows, columns], `patch_bytes` long each, the lowest byte
            first: 0 for a patch that was dropped, else 1 + its expert; None where it isn't known which tokens are patches.
        classes: base64 of unsigned integers of two bytes [layers, followed classes, E], the lowest byte first: the mean
            routing weights of `ClassMap.followed` in ten thousandths; None without labels.
    """

    point: int
    places: int
    layers: tuple[LayerContents, ...]
    answers: tuple[tuple[str, float, bool | None], ...]
    patches: str | None
    classes: str | None


@dataclass(frozen=True)
class ClassMap:
    """Mean routing weight by class and expert: gates of kept pairs per token of the images of a class.

    Attributes:
        point: place of the setting that `weight` is of among the report's points.
        classes: names of the classes that any image shows.
        images: of each of them.
        weight: [layers][classes][E].
        followed: places in `classes`, rising, of those that `SettingContents.classes` tells of at every setting: all of
            them, or as many of those with most images as the page has room for.
    """

    point: int
    classes: tuple[str, ...]
    images: tuple[int, ...]
    weight: tuple[tuple[tuple[float, ...], ...], ...]
    followed: tuple[int, ...]


@dataclass(frozen=True)
class BundleAgreement:
    """How alike another bundle of the same model answers and routes; see `vmoe_tools.inspect.agreement`."""

    bundle: str
    setting: str
    agreement: Agreement


@dataclass(frozen=True)
class Report:
    """Everything. What a model or the images don't have is None or empty, and `notes` says why.

    Attributes:
        command: what made it.
        made: when, in UTC.
        max_drop: accuracy that a recommended setting may lose, 0 to 1.
        machine: see `vmoe_tools.bench.machine.describe_machine`.
        images: what --images said.
        labelled: whether accuracy is known.
        bundles: the first one is shown in detail.
        points: of vmoe-bench, the Pareto front among them and the cascades together.
        cascades: of vmoe-bench, two settings of a bundle each, their accuracy on images that the margin was not calibrated
            on. Empty without labels, logits or FLOPs, where images share a group, where there is but one batch of images,
            or where no setting is cheaper than the most accurate one.
        same: for each point the share of images that get the answer of the first curve's largest capacity.
        effective: for each point the capacity ratio that its whole places come to; None for what has no capacity.
        ratios: capacity ratios of the slider, as they were asked for.
        curves: those of the first bundle come first.
        others: places of the points that are on no curve, such as those of a dense ViT.
        fall: along the first curve.
        recommended: place of the recommended setting among the points.
        start: place of the point that the page begins with: the recommended setting, or the first curve's largest capacity.
        experts: E.
        layers: names of the MoE layers.
        grid: rows and columns of patches.
        patch_bytes: of each number in `SettingContents.patches`.
        samples: the images that are shown.
        settings: of the curves of the first bundle.
        class_map: None without labels.
        interference: at `start`; None where every image is routed alone, or there are too few images.
        agreements: of the other bundles of the same model with the first one, at `start`.
        notes: sentences about what is left out.
        merged: sentences about ratios that round to the same places as another one.
    """

    command: str
    made: str
    max_drop: float
    machine: dict[str, Any]
    images: str
    labelled: bool
    bundles: tuple[BundleContents, ...]
    points: tuple[PointReport, ...]
    cascades: tuple[PointReport, ...]
    same: tuple[float | None, ...]
    effective: tuple[float | None, ...]
    ratios: tuple[float, ...]
    curves: tuple[CurveContents, ...]
    others: tuple[int, ...]
    fall: Fall | None
    recommended: int | None
    start: int
    experts: int
    layers: tuple[str, ...]
    grid: tuple[int, int] | None
    patch_bytes: int
    samples: tuple[Sample, ...]
    settings: tuple[SettingContents, ...]
    class_map: ClassMap | None
    interference: Interference | None
    agreements: tuple[BundleAgreement, ...]
    notes: tuple[str, ...]
    merged: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """An object for each class, a key for each attribute; None and what is no finite number are null, a tuple a list."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
