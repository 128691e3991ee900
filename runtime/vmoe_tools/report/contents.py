"""The contents of a report, as plain values: `vmoe report --json` writes them, and the page and the pictures show them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vmoe_tools.bench.result import PointResult
from vmoe_tools.inspect.image_run import OtherBundle
from vmoe_tools.inspect.interference import Interference


@dataclass(frozen=True)
class Curve:
    """Settings of one bundle that differ only in the capacity ratio.

    Attributes:
        bundle: name of the bundle.
        kind: such as "bpr", "vanilla" or "pool"; "choice" if experts choose.
        title: the same for people.
        points: indices of its settings among the report's points, by ascending capacity.
    """

    bundle: str
    kind: str
    title: str
    points: tuple[int, ...]


@dataclass(frozen=True)
class BundleContents:
    """A bundle: its name, the precision of its large products, the model in a few words, whether it is another model than
    the first one, and sections of rows, each a name and a text.
    """

    name: str
    precision: str
    summary: str
    compared: bool
    sections: list[tuple[str, list[tuple[str, str]]]]


@dataclass(frozen=True)
class Sample:
    """A sample image: its index among all images, a `data:` address, and its label, None if it isn't known."""

    index: int
    picture: str
    label: str | None


@dataclass(frozen=True)
class SettingContents:
    """What the first bundle does at one setting, in detail.

    Attributes:
        point: index among the report's points.
        slots: per expert and group, in the first MoE layer.
        layers: statistics of each MoE layer over all images:
            - `load`: share of all kept pairs that each expert has; `requested`: the same for all pairs that chose it
            - `expert_dropped`: share of the pairs that chose an expert and were dropped
            - `pairs_dropped`, `patches_dropped`: shares of all pairs, and of the patches that no expert processed
            - `load_entropy`: 0 to 1, 1 if all experts have the same load; `gate_entropy`: mean of the tokens' gates
            - `gates_kept`, `gates_dropped`: how many pairs were kept and dropped by gate, in bins of equal width
        answers: for each sample the predicted class, its probability, and whether it is correct (None without labels); empty
            if the bundle returns no logits.
        patches: base64 of unsigned integers [layers, samples, rows, columns], `patch_bytes` long each, the lowest byte
            first: 0 for a patch that was dropped, else 1 + its expert. If tokens are merged, as many numbers follow: the
            token that contains the patch. None if it isn't known which tokens are patches.
    """

    point: int
    slots: int
    layers: list[dict[str, Any]]
    answers: list[tuple[str, float, bool | None]]
    patches: str | None


@dataclass(frozen=True)
class Fall:
    """Where accuracy begins to fall along a curve.

    Attributes:
        best: index of the most accurate setting among the points; among equals, the one with the lowest capacity.
        last_good: index of the lowest capacity such that every setting from there to the best is accurate enough.
        first_bad: index of the next lower capacity; None if even the lowest is accurate enough.
    """

    best: int
    last_good: int
    first_bad: int | None


@dataclass(frozen=True)
class Report:
    """The whole report. Parts that the model or the images don't allow are None or empty, and `notes` says why.

    Attributes:
        command: the command line that made it.
        made: when, in UTC.
        max_drop: accuracy that a recommended setting may lose, 0 to 1.
        machine: see `vmoe_tools.engines.describe_machine`.
        images: the npz file or folder.
        labelled: whether accuracy is known.
        bundles: the first one is shown in detail.
        points: as in `vmoe bench`, the Pareto front marked among them and the cascades together.
        cascades: as in `vmoe bench`, two settings of a bundle each. Empty without labels, logits or FLOPs, if images
            share a group, if there is only one batch of images, or if no setting is cheaper than the most accurate one.
        same: for each point, the share of images with the same answer as at the first curve's largest capacity.
        effective: for each point, the capacity ratio after rounding to whole slots; None if it has no capacity.
        ratios: capacity ratios of the slider, as requested.
        curves: those of the first bundle come first.
        others: indices of the points of other models, such as a dense ViT, which are on no curve.
        fall: along the first bundle's curve that contains its most accurate setting.
        recommended: index of the recommended setting among the points.
        equally_fast: indices of the settings that are as fast within the noise of the timing, the recommended one first.
        start: index of the point that the page begins with: the recommended setting, or the first curve's largest capacity.
        batch_multiple: images that are routed together; 1 if each is routed alone.
        experts: E.
        layers: names of the MoE layers.
        grid: rows and columns of patches.
        patch_bytes: bytes of each number in `SettingContents.patches`.
        samples: the images that are shown.
        settings: the settings of the first bundle's curves.
        interference: at `start`; None if every image is routed alone, or if there are too few images.
        agreements: of the other bundles of the same model with the first one, at `start`.
        notes: sentences about what is left out.
        merged: sentences about ratios that round to the same slots as another one.
    """

    command: str
    made: str
    max_drop: float
    machine: dict[str, Any]
    images: str
    labelled: bool
    bundles: list[BundleContents]
    points: list[PointResult]
    cascades: list[PointResult]
    same: list[float | None]
    effective: list[float | None]
    ratios: list[float]
    curves: list[Curve]
    others: list[int]
    fall: Fall | None
    recommended: int | None
    equally_fast: list[int]
    start: int
    batch_multiple: int
    experts: int
    layers: tuple[str, ...]
    grid: tuple[int, int] | None
    patch_bytes: int
    samples: list[Sample]
    settings: list[SettingContents]
    interference: Interference | None
    agreements: tuple[OtherBundle, ...]
    notes: list[str]
    merged: list[str]

    def record(self) -> dict[str, Any]:
        """The keys and values of the JSON."""
        measured = {name: [point.record() for point in getattr(self, name)] for name in ("points", "cascades")}
        return {**asdict(self), **measured}

    @property
    def faster_cascades(self) -> list[PointResult]:
        """The cascades that are faster than their second setting alone, which they replace."""
        speeds = {(point.bundle, point.profile): point.images_per_second or 0.0 for point in self.points}
        return [one for one in self.cascades if (one.images_per_second or 0.0) > speeds[one.bundle, one.then]]

    @property
    def own_curves(self) -> list[Curve]:
        """The curves of the first bundle."""
        return [curve for curve in self.curves if curve.bundle == self.bundles[0].name]
