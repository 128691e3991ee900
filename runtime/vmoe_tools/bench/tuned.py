"""`vmoe bench --tune`: searches settings on one half of the images, and measures the result on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

import click
import numpy as np

from vmoe_measure.flops import ModelShape, dense_flops
from vmoe_measure.image_source import ImageSource
from vmoe_tools.bench.cascades import PlannedCascade
from vmoe_tools.bench.planned_points import Point
from vmoe_tools.bench.point_result import PointResult, share_interval
from vmoe_tools.bench.tuning import MOST_TRIALS, Search, full_setting, images_that_show
from vmoe_tools.terminal import Progress, number_text, print_section, share_text

_IMAGES_PER_CALL, _LEAST_CALLS = 64, 8  # in the search


@dataclass(frozen=True)
class TunedPoints:
    """The result of the search. It is measured on images that the search has not used.

    Attributes:
        tried: number of settings that were tried.
        single: index of the best single setting in `points`.
        points: the points of the full setting, the single setting and both steps of the cascade, without duplicates.
        cascades: the cascade that was found; empty if none was found.
        test: the images that the search has not used.
        searched: number of images that the search has used.
        truth: the reference for correct predictions: "labels", or the name of a profile.
    """

    tried: int
    single: int
    points: list[Point]
    cascades: list[PlannedCascade]
    test: ImageSource
    searched: int
    truth: str


def tune(
    first: Point, source: ImageSource, max_drop: float, progress: Progress, *, from_first: bool, unmerged: bool
) -> TunedPoints:
    """Search for the cheapest setting and cascade on one half of the images.

    Args:
        first: a point of the engine. Its batch size is used to measure the result.
        source: the images. Without labels, the predictions of the full setting count as correct.
        max_drop: share of the correct predictions that may be lost, 0 to 1.
        progress: shows the progress.
        from_first: whether to use the profile of `first` as the full setting. If false, `full_setting` chooses the full
            setting.
        unmerged: whether to leave out settings that merge tokens.

    Raises:
        click.UsageError: there is nothing to search, or there are too few images.
        VmoeError: the images don't fit the model, or a backend failed.
    """
    engine, size = first.engine, first.batch_size
    manifest, shape = engine.manifest, ModelShape.of(engine.manifest.model, outputs=engine.manifest.answers)
    least = max(2 * images_that_show(max_drop), 2 * size)
    if first.profile is None or manifest.output != "logits":
        what = "model has no capacity; --merge 4 --merge 8 compares merged tokens"
        what = what if manifest.output == "logits" else f"bundle outputs {manifest.output}"
        raise click.UsageError(f"--tune searches the routing settings of a classifier, and this {what}")
    if engine.only_profile is not None:
        raise click.UsageError(f"--tune tries many settings, and the graphs of {engine.backend} are fixed to one each")
    if len(source) < least:
        raise click.UsageError(
            f"--tune searches on one half of the images, and tests on the other; {least} or more can show that at most "
            f"{100 * max_drop:.3g} % of the answers are lost, and --images has {len(source)}"
        )
    full = first.profile if from_first else full_setting(manifest, first.profile)
    point, truth = replace(first, profile=full), "labels"
    if source.labels is None:
        source, truth = _answered(source, point, progress), full.name
    # Search on the even batches, and test on the odd batches.
    halves = (np.flatnonzero(np.arange(len(source)) // size % 2 == which) for which in (0, 1))
    search_half, test_half = map(source.chosen, halves)
    batch_size = max(1, min(_IMAGES_PER_CALL, len(search_half) // _LEAST_CALLS) // size) * size
    with progress.step(f"search of at most {MOST_TRIALS} settings", MOST_TRIALS) as advance:
        search = Search(replace(point, batch_size=batch_size), shape, search_half, max_drop, advance, unmerged=unmerged)
        single, cascade = search.run()
    profiles = dict.fromkeys([full, single, *([cascade.first, cascade.then] if cascade else [])])
    index = {profile: number for number, profile in enumerate(profiles)}
    margins = (cascade.margin, cascade.margin) if cascade else (0.0, 0.0)
    plans = [PlannedCascade(index[cascade.first], index[cascade.then], cascade.margin, margins)] if cascade else []
    points = [replace(point, profile=profile) for profile in profiles]
    return TunedPoints(search.tried, index[single], points, plans, test_half, len(search_half), truth)


def tuned_content(found: TunedPoints, points: Sequence[PointResult], cascades: Sequence[PointResult]) -> dict[str, Any]:
    """Return the JSON object that describes the search and its result.

    Args:
        found: the result of the search.
        points, cascades: the measurements of `found.points` and `found.cascades` on the images that the search did not use.
    """
    manifest = found.points[0].engine.manifest
    dense = dense_flops(ModelShape.of(manifest.model, outputs=manifest.answers))
    full, single = points[0], points[found.single]
    results = []
    for role, one in (("full", full), ("setting", single), *(("cascade", cascade) for cascade in cascades)):
        low, high = share_interval(round((one.top1 or 0.0) * one.images), one.images)
        shares = {"top1": one.top1, "top1_low": low, "top1_high": high, "flops_of_dense": (one.flops_per_image or 0) / dense}
        names = {"profile": one.profile, "then": one.then, "margin": one.margin}
        results.append({"role": role, **names, **shares, "escalated": one.escalated, "p50_ms": one.p50_ms})
    images = {"searched_images": found.searched, "tested_images": full.images, "truth": found.truth}
    return {**images, "tried": found.tried, "results": results}


def print_tuned(content: dict[str, Any], path: object, stream: TextIO) -> None:
    """Print the result of the search, and the Python code that loads the cascade.

    Args:
        content: the result of `tuned_content`.
        path: path of the bundle.
        stream: the stream to print to.
    """
    rows, load = [], ""
    for one in content["results"]:
        name = one["profile"] + (f", then {one['then']} below a margin of {one['margin']:.4f}" if one["then"] else "")
        interval = f"95 % interval {share_text(one['top1_low'])} - {share_text(one['top1_high'])}"
        cost = f"{one['flops_of_dense']:.0%} of the dense FLOPs, {number_text(one['p50_ms'], '.2f')} ms a call"
        rows.append((one["role"], f"{name}: top-1 {share_text(one['top1'])} ({interval}), {cost}"))
        if one["then"]:
            steps = f'first="{one["profile"]}", then="{one["then"]}", margin={one["margin"]!r}'
            load = f'The cascade: Engine.load("{path}").cascade({steps})'
    notes = (
        f"{content['tried']} settings were tried on {content['searched_images']:,} images; "
        "these figures are from the other images."
    )
    full, single, *cascades = content["results"]
    if full["profile"] == single["profile"]:
        notes += " No cheaper setting was shown to lose few enough answers."
    if cascades:
        notes += (
            " The first step of the cascade does not qualify alone: the images of the search didn't show, with 95 % "
            "confidence, that it loses few enough answers."
        )
    if content["truth"] != "labels":
        notes += f" Without labels, top-1 is the share of answers that equal those of {content['truth']}."
    print_section(stream, "Tuned", rows, notes, *filter(None, [load]))


def _answered(source: ImageSource, point: Point, progress: Progress) -> ImageSource:
    """Return the images that fill whole batches. Their labels are the classes that `point` predicts."""
    labels: list[int] = []
    with progress.step("answers of the full setting", len(source)) as advance:
        for batch, _ in source.whole_batches(point.batch_size, point.engine.manifest.input):
            labels += point.logits(batch).argmax(axis=1).tolist()
            advance(len(batch), len(batch))
    return ImageSource(source.images[: len(labels)], np.array(labels))
