"""The sentences of a report. A number and its unit stay on one line."""

from __future__ import annotations

import math

from vmoe_tools.bench.report import PointReport
from vmoe_tools.command_line import printable
from vmoe_tools.report.contents import ClassMap, Report
from vmoe_tools.report.findings import ROUNDING

_MUCH = 0.05  # of a capacity ratio: whole places that come to more or less than that are told of


def percent(share: float | None, digits: int = 1) -> str:
    """A share as people read it.

    Example:
        >>> percent(0.98765).replace("\u00a0", " "), percent(None)
        ('98.8 %', '-')
    """
    return "-" if share is None else f"{share * 100:.{digits}f}\u00a0%"


def points_of(share: float) -> str:
    """A difference of shares in points of a hundred.

    Example:
        >>> [points_of(share).replace("\u00a0", " ") for share in (0.01, 0.0216)]
        ['1 point', '2.2 points']
    """
    text = f"{share * 100:.1f}".removesuffix(".0")
    return f"{text}\u00a0point{'' if text == '1' else 's'}"


def real_ratio(asked: float | None, effective: float | None) -> str | None:
    """The capacity ratio that whole places come to, where that is more than 5 % off what was asked for; else None.

    Example:
        >>> real_ratio(0.1, 1.28), real_ratio(1.05, 1.06), real_ratio(None, None)
        ('1.28', None, None)
    """
    if asked is None or effective is None or abs(effective - asked) <= _MUCH * asked:
        return None
    return f"{effective:.3g}"


def lead(report: Report) -> list[str]:
    """The answer to which capacity to deploy, in a few sentences."""
    bundle, first = report.bundles[0], report.curves[0]
    count = f"{report.points[first.points[0]].images:,}"
    article = "an" if bundle.summary[:1] in "AEIO" else "a"
    sentences = [f"{bundle.name} is {article} {bundle.summary}."]
    fall = report.fall
    if fall is None:
        return [*sentences, *_without_labels(report, count)]
    best = report.points[fall.best]
    lowest = f"{best.capacity_ratio:g}" if fall.last_good == fall.best else _ratio(report, fall.last_good)
    most = f"On {count} images it is right on {percent(best.top1)} at most with {first.title}"
    sentences.append(f"{most}, at capacity ratio {_ratio(report, fall.best)}.")
    within = f"{points_of(report.max_drop)} of that"
    if fall.first_bad is None:
        sentences.append(f"Accuracy stays within {within} down to the lowest ratio that was measured, {lowest}.")
    else:
        bad = report.points[fall.first_bad]
        lost = points_of((best.top1 or 0.0) - (bad.top1 or 0.0))
        sentences.append(
            f"Accuracy stays within {within} down to ratio {lowest} and begins to fall below it: "
            f"at {_ratio(report, fall.first_bad)} it is {lost} lower."
        )
    return sentences


def headline(report: Report) -> str | None:
    """The name of the recommended setting; None where there is none."""
    if report.recommended is None:
        return None
    return f"Recommended: {report.points[report.recommended].profile}{bundle_of(report, report.recommended)}."


def bundle_of(report: Report, place: int) -> str:
    """In which bundle a point is, where several precisions are shown; else nothing."""
    return f" in {report.points[place].bundle}" if len(_own(report)) > 1 else ""


def recommendation(report: Report) -> str | None:
    """Which setting to take, and what it costs; None where there is none."""
    if report.recommended is None:
        return None
    point = report.points[report.recommended]
    asked = [p for p in report.points if p.top1 is not None and p.bundle in _own(report)]
    best = max(asked, key=lambda p: (p.top1 or 0.0, p.images_per_second or 0.0))
    parts = [f"The fastest setting that loses at most {points_of(report.max_drop)}: right on {percent(point.top1)}"]
    if best.profile != point.profile or best.bundle != point.bundle:
        where = "" if best.bundle == point.bundle else f" in {best.bundle}"
        parts.append(f"where {best.profile}{where} has {percent(best.top1)}")
        if point.images_per_second and best.images_per_second:
            parts.append(f"{point.images_per_second / best.images_per_second:.2f} times its speed")
        if point.flops_per_image and best.flops_per_image:
            parts.append(f"{percent(point.flops_per_image / best.flops_per_image, 0)} of its FLOPs")
    real = real_ratio(point.capacity_ratio, report.effective[report.recommended])
    return ", ".join(parts) + "." + ("" if real is None else f" Its places come to a capacity ratio of {real}.")


def whole_places(report: Report) -> str | None:
    """That charts have the ratios that were asked for, where whole places come to others; None where they don't."""
    asked = {place: report.points[place].capacity_ratio or 0.0 for curve in report.curves for place in curve.points}
    real = {place: real_ratio(ratio, report.effective[place]) for place, ratio in asked.items()}
    off = {place: abs(math.log((report.effective[place] or ratio) / ratio)) for place, ratio in asked.items() if real[place]}
    if not off:
        return None
    example = max(off, key=lambda place: off[place])
    return (
        "Capacity ratios are drawn as they were asked for. Places are whole, so they may come to another ratio: "
        f"those of {report.points[example].profile} come to {real[example]}."
    )


def luck(report: Report) -> str | None:
    """How far an accuracy is known; None without labels."""
    known = [point for point in report.points if point.top1 is not None]
    if not known:
        return None
    best = max(known, key=lambda point: point.top1 or 0.0)
    share = best.top1 or 0.0
    error = math.sqrt(share * (1 - share) / best.images) * 100
    return f"An accuracy of {percent(share)} on {best.images:,} images is known to about {error:.1f} points, give or take."


def two_steps(report: Report) -> str | None:
    """What the fastest two steps cost and give of those that lose as little as a recommended setting may; None without."""
    own = [point for point in report.points if point.bundle == report.bundles[0].name]
    least = max((point.top1 or 0.0 for point in own), default=0.0) - report.max_drop - ROUNDING
    fitting = [one for one in report.cascades if one.bundle == report.bundles[0].name and (one.top1 or 0.0) >= least]
    if not fitting:
        return None
    found = max(fitting, key=lambda one: one.images_per_second or 0.0)
    alone = next(point for point in own if point.profile == found.then)
    speed = (found.images_per_second or 0.0) / (alone.images_per_second or 1.0)
    flops = (found.flops_per_image or 0) / (alone.flops_per_image or 1)
    again = percent(found.escalated)
    return (
        f"The fastest two steps that lose at most {points_of(report.max_drop)}: all images at {found.profile}, and the "
        f"{again} that it is least sure of again at {found.then}. That is right on {percent(found.top1)}, "
        f"where {found.then} alone is on {percent(alone.top1)}, at {speed:.2f} times its speed for {percent(flops, 0)} of "
        "its FLOPs. How sure is sure enough was calibrated on every other batch and tried on those between."
    )


def followed_classes(found: ClassMap) -> str | None:
    """Which classes are shown; None where all are."""
    all_classes, shown = len(found.classes), len(found.followed)
    if shown == all_classes:
        return None
    return f"Of {all_classes:,} classes the {shown:,} with most images are shown, so that the page stays small."


def neighbours(report: Report) -> str:
    """Whether an image's answer depends on the others of its batch."""
    found = report.interference
    if found is None:
        return "Every image is routed alone here, so its answer doesn't depend on the others of its batch."
    changed = "" if found.top1_changed is None else f"; {percent(found.top1_changed)} of the answers name another class then"
    return (
        f"Images compete for places here: among other neighbours ({found.sets} sets for each of {found.images} images, "
        f"{found.images_per_call} a call) an output moves by {found.mean_difference:.2g} on average and by "
        f"{found.max_difference:.2g} at most{changed}."
    )


def agreement(report: Report) -> list[str]:
    """How alike the bundles of the model are, a sentence each."""
    sentences = []
    for one in report.agreements:
        found = one.agreement
        same = (
            "" if found.same_top1 is None else f"the same class for {percent(found.same_top1)} of {found.images:,} images; "
        )
        routed = min(found.same_experts.values(), default=None)
        alike = (
            ""
            if routed is None
            else f"{percent(routed)} of the tokens go to the same experts in the layer that differs most; "
        )
        sentences.append(
            f"{one.bundle} against {report.bundles[0].name} at {one.setting}: {same}{alike}"
            f"outputs differ by {found.mean_difference:.2g} on average, {found.max_difference:.2g} at most."
        )
    return sentences


def machine_rows(report: Report) -> list[tuple[str, str]]:
    """What the numbers were measured on."""
    machine = report.machine
    backends = "; ".join(machine["backends"].values())
    return [
        ("command", report.command),
        ("made", report.made),
        ("images", printable(report.images)),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}"),
        ("runtime", backends),
        ("threads", _threads(report.points[0])),
        ("versions", f"vmoe-export {machine['vmoe_runtime']}, Python {machine['python']}, numpy {machine['numpy']}"),
    ]


def _threads(point: PointReport) -> str:
    number = "the runtime's own choice" if point.threads is None else str(point.threads)
    return f"{number}; {point.batch_size} images per call"


def _own(report: Report) -> set[str]:
    return {bundle.name for bundle in report.bundles if not bundle.compared}


def _ratio(report: Report, place: int) -> str:
    asked = report.points[place].capacity_ratio
    real = real_ratio(asked, report.effective[place])
    return f"{asked:g}" if real is None else f"{asked:g} (its places come to {real})"


def _without_labels(report: Report, count: str) -> list[str]:
    last = report.curves[0].points[-1]
    reference = report.points[last].profile
    if report.same[last] is None:
        return [f"The curves show {count} images."]
    return [
        f"What {count} images show is not known, so the curves show how often a setting answers as {reference} does, "
        "and no setting is recommended."
    ]
