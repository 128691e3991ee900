"""Measures everything that a report says, and puts it together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from vmoe_measure.image_source import ImageSource, open_images
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.routing import TokenLayout
from vmoe_tools.bench.choice import Wish, mark_front, recommend
from vmoe_tools.bench.loading import MeasuredEngine
from vmoe_tools.bench.machine import describe_machine
from vmoe_tools.bench.quality import images_assessed
from vmoe_tools.bench.report import PointReport
from vmoe_tools.bench.run import measure
from vmoe_tools.inspect.card import make_card
from vmoe_tools.inspect.display import card_rows
from vmoe_tools.report.arguments import Arguments
from vmoe_tools.report.contents import BundleContents, Report, Sample, SettingContents
from vmoe_tools.report.details import class_map, most_shown, setting_contents
from vmoe_tools.report.findings import find_fall
from vmoe_tools.report.more_runs import measure_agreements, measure_neighbours
from vmoe_tools.report.observer import Observed, PointObserver
from vmoe_tools.report.planning import Plan, make_plan
from vmoe_tools.report.sample_images import choose_samples, data_uri, sample_pixels
from vmoe_tools.report.size import Room, patch_bytes, room_of

if TYPE_CHECKING:
    from vmoe_tools.bench.display import Progress


@dataclass(frozen=True)
class _Measured:
    """What everything else is made of.

    Attributes:
        plan: what was measured.
        source: the images.
        room: what the page has room for.
        samples: places of the images that are shown.
        points: the numbers of each point.
        cascades: those of two points each.
        seen: what was observed at each point.
        recommended: place of the recommended point.
        start: place of the point that the page begins with.
    """

    plan: Plan
    source: ImageSource
    room: Room
    samples: tuple[int, ...]
    points: tuple[PointReport, ...]
    cascades: tuple[PointReport, ...]
    seen: tuple[Observed, ...]
    recommended: int | None
    start: int

    @property
    def manifest(self) -> Manifest:
        """Of the first bundle."""
        return self.plan.engines[0].engine.manifest

    @property
    def names(self) -> Sequence[str]:
        """Of the classes."""
        return self.manifest.class_names or [f"class {index}" for index in range(self.manifest.outputs)]


def collect(arguments: Arguments, command: str, progress: Progress) -> Report:
    """Measures and counts.

    Args:
        arguments: what was asked for.
        command: the command line, for the page.
        progress: where it shows how far it is.

    Raises:
        VmoeError: the images or bundles don't fit, a backend failed, or there are more settings than a page has room for.
        KeyboardInterrupt: it was interrupted.
    """
    with ExitStack() as closing:
        plan = make_plan(arguments, closing)
        measured = _measure(arguments, plan, progress)
        return _put_together(arguments, command, measured, progress)


def _measure(arguments: Arguments, plan: Plan, progress: Progress) -> _Measured:
    manifest = plan.engines[0].engine.manifest
    has_logits = manifest.output == "logits"
    room = _room(plan, arguments.samples)
    source = open_images(arguments.images, manifest.class_names, manifest.outputs if has_logits else None, arguments.labels)
    available = min(images_assessed(point, source) for point in plan.points)
    samples = choose_samples(source.labels, available, room.samples)
    experts = manifest.rules.num_experts if manifest.rules else None
    classes = manifest.outputs if source.labels is not None else None
    observers = [
        PointObserver(
            samples, has_logits=has_logits, experts=experts if point.loaded is plan.engines[0] else None, classes=classes
        )
        for point in plan.points
    ]
    cascades = _may_take_two_steps(manifest, source) and _has_halves(plan, source)
    measured = measure(plan.points, source, arguments.duration, progress, observers, cascades=cascades)
    if measured.interrupted:
        raise KeyboardInterrupt
    everything = mark_front([*measured.reports, *measured.cascades])
    points, two_steps = everything[: len(plan.points)], everything[len(plan.points) :]
    recommended = _recommended(plan, points, arguments.max_drop)
    seen = tuple(observer.result() for observer in observers)
    start = _start(plan, points, recommended)
    return _Measured(plan, source, room, tuple(samples), tuple(points), tuple(two_steps), seen, recommended, start)


def _room(plan: Plan, samples: int) -> Room:
    manifest = plan.engines[0].engine.manifest
    layout = TokenLayout.of(manifest)
    patches = 0 if layout is None else layout.rows * layout.columns
    experts = manifest.rules.num_experts if manifest.rules else 0
    return room_of(len(plan.points), len(plan.own), len(manifest.moe_layers), experts, patches, samples)


def _may_take_two_steps(manifest: Manifest, source: ImageSource) -> bool:
    return manifest.output == "logits" and manifest.batch_multiple == 1 and source.labels is not None


def _has_halves(plan: Plan, source: ImageSource) -> bool:
    """Whether a margin can be calibrated on some batches and tried on others."""
    return all(len(source) >= 2 * point.batch_size for point in plan.points)


def _put_together(arguments: Arguments, command: str, measured: _Measured, progress: Progress) -> Report:
    plan, points, manifest, labels = measured.plan, measured.points, measured.manifest, measured.source.labels
    layout, start = TokenLayout.of(manifest), measured.start
    followed = most_shown(measured.seen[start], measured.room.classes)
    setting = points[start].profile or ""
    return Report(
        command=command,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        max_drop=arguments.max_drop,
        machine=describe_machine(plan.engines),
        images=str(arguments.images),
        labelled=labels is not None,
        bundles=tuple(_bundle(loaded) for loaded in plan.engines),
        points=points,
        cascades=measured.cascades,
        same=_same(measured),
        effective=tuple(None if point.profile is None else point.profile.effective_ratio for point in plan.points),
        ratios=plan.ratios,
        curves=plan.curves,
        others=plan.others,
        fall=find_fall(points, plan.curves[0].points, arguments.max_drop),
        recommended=measured.recommended,
        start=start,
        experts=manifest.rules.num_experts if manifest.rules else 0,
        layers=manifest.moe_layers,
        grid=None if layout is None else (layout.rows, layout.columns),
        patch_bytes=patch_bytes(manifest.rules.num_experts if manifest.rules else 0),
        samples=_samples(measured),
        settings=tuple(_setting(measured, place, followed) for place in plan.own),
        class_map=class_map(start, measured.seen[start], measured.names, followed),
        interference=measure_neighbours(plan.engines[0].engine, measured.source, setting, progress),
        agreements=measure_agreements(plan.engines, measured.source, setting, points[start].batch_size, progress),
        notes=_notes(measured, arguments.samples),
        merged=plan.notes,
    )


def _setting(measured: _Measured, place: int, followed: Sequence[int]) -> SettingContents:
    profile = measured.plan.points[place].profile
    assert profile is not None
    labels = measured.source.labels
    return setting_contents(place, profile, measured.seen[place], measured.samples, measured.names, labels, followed)


def _samples(measured: _Measured) -> tuple[Sample, ...]:
    labels = measured.source.labels
    pictures = sample_pixels(measured.source, measured.samples, measured.manifest.input)
    return tuple(
        Sample(place, data_uri(pixels), None if labels is None else measured.names[labels[place]])
        for place, pixels in zip(measured.samples, pictures, strict=True)
    )


def _recommended(plan: Plan, points: Sequence[PointReport], max_drop: float) -> int | None:
    """The place of the recommended point; None without labels."""
    asked = [place for place, point in enumerate(plan.points) if not point.loaded.compared]
    if any(points[place].top1 is None for place in asked):
        return None
    chosen = recommend([points[place] for place in asked], Wish(max_drop))
    return next(place for place in asked if points[place] is chosen)


def _start(plan: Plan, points: Sequence[PointReport], recommended: int | None) -> int:
    """The recommended point, or that of the first bundle at the same setting; else the first curve's largest capacity."""
    wanted = None if recommended is None else points[recommended].profile
    return next((place for place in plan.own if points[place].profile == wanted), plan.curves[0].points[-1])


def _same(measured: _Measured) -> tuple[float | None, ...]:
    reference = measured.seen[measured.plan.curves[0].points[-1]].answers
    if reference is None:
        return (None,) * len(measured.seen)
    return tuple(
        None if one.answers is None else float(np.mean(one.answers.classes == reference.classes)) for one in measured.seen
    )


def _bundle(loaded: MeasuredEngine) -> BundleContents:
    with Bundle.open(loaded.path, verify=False) as bundle:
        card = make_card(bundle, verified=True)
    return BundleContents(
        name=loaded.bundle,
        precision=loaded.engine.manifest.precision,
        summary=loaded.engine.manifest.summary,
        compared=loaded.compared,
        card=tuple((title, tuple(rows)) for title, rows in card_rows(card)),
    )


def _notes(measured: _Measured, samples: int) -> tuple[str, ...]:
    notes = []
    if measured.manifest.output != "logits":
        notes.append(f"The bundle puts out {measured.manifest.output}, so there are no answers to compare.")
    elif measured.source.labels is None:
        why = f": {measured.source.note}" if measured.source.note else ""
        notes.append(f"The images have no labels, so accuracy and what follows from it are left out{why}.")
    if measured.samples and measured.seen[measured.start].patches is None:
        notes.append("The bundle doesn't say which tokens are patches, so no patches are shown.")
    if measured.room.samples < min(samples, len(measured.source)):
        shown = len(measured.samples)
        notes.append(f"{shown} of the {samples} sample images that were asked for are shown, so that the page stays small.")
    if _may_take_two_steps(measured.manifest, measured.source) and not _has_halves(measured.plan, measured.source):
        notes.append("Two steps are left out, as their margin is calibrated on some batches and tried on others.")
    return tuple(notes)
