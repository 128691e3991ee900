"""Functions that measure the contents of a report and put them together."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from vmoe_measure.image_source import ImageSource, open_images
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.images import to_batch
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import Array, TokenLayout
from vmoe_tools.bench.measurement import Measured, measure
from vmoe_tools.bench.planned_points import recommendable, without_accuracy
from vmoe_tools.bench.point_result import ROUNDING, PointResult, near_chance, recommend
from vmoe_tools.engines import LoadedBundle, describe_machine
from vmoe_tools.inspect.display import summary_sections
from vmoe_tools.inspect.image_run import OtherBundle, run_images
from vmoe_tools.inspect.interference import Interference, interference
from vmoe_tools.inspect.samples import Samples, shown_pixels, take_samples
from vmoe_tools.inspect.statistics import LayerStatistics
from vmoe_tools.inspect.summary import summarize
from vmoe_tools.report.contents import BundleContents, Fall, Report, Sample, SettingContents
from vmoe_tools.report.observer import PointObserver
from vmoe_tools.report.plan import Plan, patch_bytes
from vmoe_tools.terminal import Progress

_DIGITS = 4
_OF_A_LAYER = (
    "expert_dropped", "pairs_dropped", "patches_dropped", "load_entropy", "gate_entropy", "gates_kept", "gates_dropped",
)  # fmt: skip
_COMPARED_IMAGES, _MOVED_IMAGES = 512, 64
_SETS_OF_NEIGHBOURS = 10
_LARGEST_PNG = 64  # pixels per side; larger images are probably photographs, which are smaller as JPEG
_LARGEST_SIDE = 224
_QUALITY = 82


@dataclass(frozen=True)
class Collected:
    """A report, and further data for its charts and pictures.

    Attributes:
        report: the report.
        layers: statistics of each MoE layer at `report.start`.
        samples: a few samples at several capacity ratios. All other settings are those of `report.start`. None if the
            manifest doesn't say which tokens are patches.
    """

    report: Report
    layers: dict[str, LayerStatistics]
    samples: Samples | None


class Collection:
    """The measurements behind a report."""

    def __init__(self, plan: Plan, given: dict[str, Any], progress: Progress) -> None:
        """Measure everything in the plan.

        Args:
            plan: the settings to measure.
            given: the values of the command's other options.
            progress: shows the progress.

        Raises:
            VmoeError: the images don't fit the models, or a backend failed.
            KeyboardInterrupt: the measurement was interrupted.
        """
        self.plan, self.given, self.progress = plan, given, progress
        self.first = plan.engines[0]
        self.manifest: Manifest = self.first.engine.manifest
        manifest, has_logits = self.manifest, self.manifest.output == "logits"
        outputs = manifest.outputs if has_logits else None
        self.source: ImageSource = open_images(given["images"], manifest.class_names, outputs, given["labels"])
        self.labels = self.source.labels
        available = min(len(self.source) // point.batch_size * point.batch_size for point in plan.points)
        self.samples = choose_samples(self.labels, available, plan.samples)
        classes = None if self.labels is None else manifest.outputs
        self.seen = [
            PointObserver(self.samples, point.engine.manifest, classes, has_routing=point.loaded is self.first)
            for point in plan.points
        ]
        # A cascade's margin is calibrated on some batches and tested on the others, so at least two batches are needed.
        self.may_cascade = has_logits and manifest.batch_multiple == 1 and self.labels is not None
        self.has_halves = all(len(self.source) >= 2 * point.batch_size for point in plan.points)
        cascades = self.may_cascade and self.has_halves
        self.measured: Measured = measure(
            plan.points, self.source, given["duration"], progress, self.seen, cascades=cascades
        )
        if self.measured.interrupt:
            raise self.measured.interrupt
        self.names = manifest.class_names or [f"class {index}" for index in range(manifest.outputs)]
        points = self.measured.points
        self.equal = [] if self.labels is None else recommend(points, recommendable(plan.points), given["max_drop"])
        self.start = _start(plan, points, self.equal)

    def put_together(self, command: str) -> Collected:
        """Assemble the report.

        To measure interference and agreement and to draw pictures, this method also runs the bundles on some of the images.

        Args:
            command: the command line, which the page shows.

        Raises:
            VmoeError: a backend failed.
        """
        plan, points, manifest = self.plan, self.measured.points, self.manifest
        layout, seen = TokenLayout.of(manifest), self.seen[self.start]
        experts = manifest.rules.num_experts
        pictures = [to_batch(self.source.images[index : index + 1], manifest.input) for index in self.samples]
        report = Report(
            command=command,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            max_drop=self.given["max_drop"],
            machine=describe_machine(plan.engines),
            images=str(self.given["images"]),
            labelled=self.labels is not None,
            bundles=[_bundle(loaded) for loaded in plan.engines],
            points=points,
            cascades=self.measured.cascades,
            same=self._same(),
            effective=[None if point.profile is None else point.profile.effective_ratio for point in plan.points],
            ratios=plan.ratios,
            curves=plan.curves,
            others=[index for index, point in enumerate(points) if point.compared],
            fall=find_fall(points, _best_curve(plan, points), self.given["max_drop"]),
            recommended=self.equal[0] if self.equal else None,
            equally_fast=self.equal,
            start=self.start,
            batch_multiple=manifest.batch_multiple,
            experts=experts,
            layers=manifest.moe_layers,
            grid=None if layout is None else (layout.rows, layout.columns),
            patch_bytes=patch_bytes(self.first.engine),
            samples=[
                Sample(index, data_address(picture[0]), None if self.labels is None else self.names[self.labels[index]])
                for index, picture in zip(self.samples, pictures, strict=True)
            ],
            settings=[self._setting(index) for index in plan.own],
            interference=self._neighbours(points[self.start].profile),
            agreements=self._agreements(plan.points[self.start].profile),
            notes=self._notes(),
            merged=plan.notes,
        )
        return Collected(report, seen.layers, self._frames(pictures))

    def _same(self) -> list[float | None]:
        reference = self.seen[self.plan.curves[0].points[-1]].classes
        return [
            None if reference is None or one.classes is None else float(np.mean(one.classes == reference))
            for one in self.seen
        ]

    def _setting(self, index: int) -> SettingContents:
        seen, profile, labels = self.seen[index], self.plan.points[index].profile, self.labels
        assert profile is not None
        answers: list[tuple[str, float, bool | None]] = []
        if seen.classes is not None and seen.probabilities is not None:
            for sample, share in zip(self.samples, seen.probabilities, strict=True):
                answer = int(seen.classes[sample])
                correct = None if labels is None else bool(answer == labels[sample])
                answers.append((self.names[answer], round(float(share), _DIGITS), correct))
        patches = None
        if seen.patches is not None:
            expert, token = np.stack(list(seen.patches.values()), axis=1)
            numbers = np.stack([expert + 1, token] if profile.merge else [expert + 1])
            patches = base64.b64encode(numbers.astype(f"<u{patch_bytes(self.first.engine)}").tobytes()).decode()
        return SettingContents(index, profile.slots[0], [_layer(layer) for layer in seen.layers.values()], answers, patches)

    def _frames(self, pictures: Sequence[Array]) -> Samples | None:
        """Run samples at several capacity ratios.

        If several images share a routing group, the chosen samples can't be run alone. Then the first routing groups of the
        source are run instead.
        """
        point = self.plan.points[self.start]
        if not pictures or self.seen[self.start].patches is None:
            return None
        labels = None if self.labels is None else self.labels[self.samples]
        alone = self.manifest.batch_multiple == 1
        source = ImageSource(np.concatenate(pictures), labels) if alone else self.source
        return take_samples(point.engine, source, point.profile)

    def _neighbours(self, setting: str | None) -> Interference | None:
        """Measure how much the output for an image changes if the other images of its batch change.

        The result is None if every image is routed alone, or if there are too few images.
        """
        engine, multiple = self.first.engine, self.manifest.batch_multiple
        if multiple == 1 or len(self.source) < 2 * multiple:
            return None
        some = to_batch(self.source.images[: max(_MOVED_IMAGES, 4 * multiple)], self.manifest.input)
        with self.progress.step("neighbours", _SETS_OF_NEIGHBOURS) as advance:
            return interference(engine, some, setting, _SETS_OF_NEIGHBOURS, after_set=lambda images: advance(1, images))

    def _agreements(self, profile: Profile | None) -> tuple[OtherBundle, ...]:
        """Measure, on some images, how far the model's other bundles agree with the first bundle."""
        others = [each for each in self.plan.engines[1:] if not each.compared and each.path != self.first.path]
        if not others:
            return ()
        some = ImageSource(self.source.images[: max(_COMPARED_IMAGES, self.manifest.batch_multiple)])
        with self.progress.step("agreement", len(some)) as advance:
            return run_images([self.first, *others], some, profile, lambda images: advance(images, images)).others

    def _notes(self) -> list[str]:
        notes, source = [], self.source
        if self.manifest.output != "logits":
            notes.append(f"The bundle returns {self.manifest.output}, so there are no answers to compare.")
        elif self.labels is None:
            why = f": {source.note}" if source.note else ""
            notes.append(f"The images have no labels, so accuracy and everything that depends on it is left out{why}.")
        elif source.note:
            notes.append(f"{source.note}.")
        notes += without_accuracy(self.plan.points) if self.manifest.output == "logits" else ()
        notes += filter(None, [near_chance(self.measured.points)])
        if self.samples and self.seen[self.start].patches is None:
            notes.append("The bundle doesn't say which tokens are patches, so no patches are shown.")
        if self.plan.samples < min(self.given["samples"], len(source)):
            notes.append(
                f"{len(self.samples)} instead of {self.given['samples']} samples are shown, to keep the page small."
            )
        if self.may_cascade and not self.has_halves:
            notes.append("Cascades are left out: calibrating and testing a margin needs two batches of images.")
        return notes


def choose_samples(labels: Array | None, available: int, wanted: int) -> list[int]:
    """Choose the images to show, and return their indices in ascending order.

    If there are labels, choose about equally many images of each class. If there are no labels, choose the first images.

    Args:
        labels: i64[N]; None if there are no labels.
        available: choose only from the first `available` images.
        wanted: number of images to show.

    Examples:
        >>> choose_samples(np.array([3, 3, 1, 3, 1, 2]), 6, 4)
        [0, 1, 2, 5]
    """
    if labels is None:
        return list(range(min(wanted, available)))
    seen: dict[int, int] = {}
    ranks = []
    for index, label in enumerate(labels[:available].tolist()):
        seen[label] = seen.get(label, 0) + 1
        ranks.append((seen[label], index))
    return sorted(index for _, index in sorted(ranks)[:wanted])


def data_address(image: Array) -> str:
    """Return a `data:` URL that contains an image. The image is given as an input [H,W,C] of the graph.

    A small image becomes a PNG. A larger image becomes a JPEG with at most 224 pixels per side.
    """
    pixels = np.rint(shown_pixels(image[None])[0] * 255).astype(np.uint8)
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    small = max(picture.size) <= _LARGEST_PNG
    file = io.BytesIO()
    if not small:
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    picture.save(file, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": _QUALITY}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def find_fall(points: Sequence[PointResult], curve: Sequence[int], max_drop: float) -> Fall | None:
    """Find the capacity below which accuracy begins to fall. Return None if there are no labels.

    Args:
        points: the measured points.
        curve: indices of a curve's settings in `points`, by ascending capacity.
        max_drop: accuracy that may be lost relative to the curve's best accuracy, 0 to 1.
    """
    known = [(index, top1) for index in curve if (top1 := points[index].top1) is not None]
    if not known:
        return None
    at = max(range(len(known)), key=lambda i: known[i][1])
    bad = [i for i in range(at) if known[i][1] < known[at][1] - max_drop - ROUNDING]
    good = bad[-1] + 1 if bad else 0
    return Fall(known[at][0], known[good][0], known[bad[-1]][0] if bad else None)


def _best_curve(plan: Plan, points: Sequence[PointResult]) -> Sequence[int]:
    """Return the curve that contains the first bundle's most accurate setting, as indices of points."""
    own = [curve.points for curve in plan.curves if curve.bundle == plan.engines[0].name]
    return max(own, key=lambda curve: max(points[index].top1 or 0.0 for index in curve))


def _start(plan: Plan, points: Sequence[PointResult], recommended: Sequence[int]) -> int:
    """Choose the point that the page shows first: the first bundle at the recommended setting.

    If there is no recommendation, or the first bundle was not measured at that setting, choose the largest capacity of the
    first curve.
    """
    wanted = points[recommended[0]].profile if recommended else None
    return next((index for index in plan.own if points[index].profile == wanted), plan.curves[0].points[-1])


def _bundle(loaded: LoadedBundle) -> BundleContents:
    with Bundle.open(loaded.path, verify=False) as bundle:
        sections = summary_sections(summarize(bundle, verified=True))
    manifest = loaded.engine.manifest
    return BundleContents(loaded.name, manifest.precision, manifest.summary, loaded.compared, sections)


def _layer(layer: LayerStatistics) -> dict[str, Any]:
    """Return a layer's statistics as an item of `SettingContents.layers`."""
    found: dict[str, Any] = {
        "load": layer.load / (layer.load.sum() or np.nan),
        "requested": None if layer.requested is None else layer.requested / (layer.requested.sum() or np.nan),
        **{name: getattr(layer, name) for name in _OF_A_LAYER},
    }
    return {name: value if value is None else np.round(value, _DIGITS) for name, value in found.items()}
