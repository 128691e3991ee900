"""The contents of a report, as plain values.

`vmoe report --json` writes them. The page and the pictures show them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vmoe_tools.bench.point_result import PointResult
from vmoe_tools.inspect.image_run import OtherBundle
from vmoe_tools.inspect.interference import Interference


@dataclass(frozen=True)
class Curve:
    """Settings of one bundle that differ only in the capacity ratio.

    Attributes:
        bundle: name of the bundle.
        kind: such as "bpr", "vanilla" or "pool"; "choice" for expert choice.
        title: the kind in words, for the page.
        points: indices of the settings in the report's points, by ascending capacity.
    """

    bundle: str
    kind: str
    title: str
    points: tuple[int, ...]


@dataclass(frozen=True)
class BundleContents:
    """The description of a bundle.

    Attributes:
        name: name of the bundle.
        precision: precision of the bundle's large matrix products.
        summary: the model in a few words.
        compared: whether the bundle is another model, loaded for comparison.
        sections: the title of each section, with its rows. A row consists of a name and a text.
    """

    name: str
    precision: str
    summary: str
    compared: bool
    sections: list[tuple[str, list[tuple[str, str]]]]


@dataclass(frozen=True)
class Sample:
    """A sample image: its index among all images, its picture as a `data:` URL, and its label (None if unknown)."""

    index: int
    picture: str
    label: str | None


@dataclass(frozen=True)
class SettingContents:
    """The detailed results of the first bundle at one setting.

    Attributes:
        point: index of the setting in the report's points.
        slots: slots per expert and group, in the first MoE layer.
        layers: statistics of each MoE layer over all images:

            - `load`: each expert's share of all kept pairs
            - `requested`: each expert's share of all pairs, kept or dropped
            - `expert_dropped`: for each expert, the dropped share of the pairs that chose it
            - `pairs_dropped`: share of all pairs that were dropped
            - `patches_dropped`: share of the patches that no expert processed
            - `load_entropy`: 0 to 1; 1 if all experts have the same load
            - `gate_entropy`: 0 to 1, mean entropy of the tokens' gates
            - `gates_kept`, `gates_dropped`: histograms of the gates of kept and dropped pairs, in bins of equal width

        answers: for each sample, the predicted class, its probability, and whether it is correct (None if there are no
            labels). Empty if the bundle returns no logits.
        patches: base64 of unsigned little-endian integers [layers, samples, rows, columns] of `patch_bytes` bytes each. An
            integer is 0 for a dropped patch, else 1 + the index of the patch's expert. If tokens are merged, a second array
            with the same shape follows. It contains, for each patch, the token that the patch belongs to. `patches` is None
            if it isn't known which tokens are patches.
    """

    point: int
    slots: int
    layers: list[dict[str, Any]]
    answers: list[tuple[str, float, bool | None]]
    patches: str | None


@dataclass(frozen=True)
class Fall:
    """The capacity on a curve below which accuracy begins to fall. All values are indices in the report's points.

    Attributes:
        best: the most accurate setting. If several settings are equally accurate, the one with the lowest capacity.
        last_good: the lowest capacity such that every setting from there up to `best` is accurate enough.
        first_bad: the next capacity below `last_good`; None if even the lowest capacity is accurate enough.
    """

    best: int
    last_good: int
    first_bad: int | None


@dataclass(frozen=True)
class Report:
    """The whole report. Parts that the model or the images don't allow are None or empty, and `notes` explains why.

    Attributes:
        command: the command line that made the report.
        made: date and time in UTC.
        max_drop: accuracy that a recommended setting may lose, 0 to 1.
        machine: see `vmoe_tools.engines.describe_machine`.
        images: the npz file or folder.
        labelled: whether the images have labels, so that accuracy is known.
        bundles: all bundles; the first one is shown in detail.
        points: results as in `vmoe bench`. The Pareto front is computed over points and cascades together.
        cascades: results as in `vmoe bench`. Empty in any of these cases:

            - there are no labels, logits or FLOPs
            - images share a routing group
            - there is only one batch of images
            - no setting is cheaper than the most accurate setting

        same: for each point, the share of the images that get the same prediction as at the largest capacity of the first
            curve.
        effective: for each point, the capacity ratio after rounding to whole slots; None if the point has no capacity.
        ratios: requested capacity ratios, for the slider.
        curves: the curves of all bundles, beginning with those of the first bundle.
        others: indices of the points of other models, such as a dense ViT. These points are on no curve.
        fall: where accuracy begins to fall on the curve that contains the first bundle's most accurate setting.
        recommended: index of the recommended setting in `points`.
        equally_fast: indices of the settings that are equally fast within timing noise, the recommended one first.
        start: index of the point that the page shows first: the recommended setting, or the largest capacity of the first
            curve.
        batch_multiple: number of images that are routed together; 1 if each image is routed alone.
        experts: number of experts per MoE layer.
        layers: names of the MoE layers.
        grid: rows and columns of patches.
        patch_bytes: bytes of each number in `SettingContents.patches`.
        samples: the sample images.
        settings: detailed results at the settings of the first bundle's curves.
        interference: interference at `start`; None if every image is routed alone, or if there are too few images.
        agreements: how far the other bundles of the same model agree with the first bundle, at `start`.
        notes: sentences about parts that are left out.
        merged: sentences about ratios that were not measured because they round to the same slots as another ratio.
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
        """Return the report as a dictionary with the keys and values of the JSON."""
        measured = {name: [point.record() for point in getattr(self, name)] for name in ("points", "cascades")}
        return {**asdict(self), **measured}

    @property
    def faster_cascades(self) -> list[PointResult]:
        """The cascades that are faster than their second setting alone."""
        speeds = {(point.bundle, point.profile): point.images_per_second or 0.0 for point in self.points}
        return [one for one in self.cascades if (one.images_per_second or 0.0) > speeds[one.bundle, one.then]]

    @property
    def own_curves(self) -> list[Curve]:
        """The first bundle's curves."""
        return [curve for curve in self.curves if curve.bundle == self.bundles[0].name]
