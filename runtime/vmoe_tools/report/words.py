"""The sentences of a report. Non-breaking spaces keep a number and its unit on one line."""

from __future__ import annotations

from vmoe_tools.bench.point_result import ROUNDING, PointResult, comparison, equally_fast, share_interval, why
from vmoe_tools.program import printable
from vmoe_tools.report.contents import Report

_MUCH = 0.05  # relative difference above which the effective capacity ratio is shown beside the requested one


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share in percent. None becomes a dash.

    Examples:
        >>> percent(0.98765).replace("\u00a0", " "), percent(None)
        ('98.8 %', '-')
    """
    return "-" if share is None else f"{share * 100:.{digits}f}\u00a0%"


def points_of(share: float, digits: int = 1) -> str:
    """Format a difference of shares in percentage points.

    Examples:
        >>> [points_of(share).replace("\u00a0", " ") for share in (0.01, 0.0216)]
        ['1 point', '2.2 points']
    """
    text = f"{share * 100:.{digits}f}".removesuffix(".0")
    return f"{text}\u00a0point{'' if text == '1' else 's'}"


def effective_ratio(requested: float | None, effective: float | None) -> str | None:
    """Format the effective capacity ratio if it differs from the requested one by more than 5 %.

    Otherwise, return None.

    Examples:
        >>> effective_ratio(0.1, 1.28), effective_ratio(1.05, 1.06), effective_ratio(None, None)
        ('1.28', None, None)
    """
    if requested is None or effective is None or abs(effective - requested) <= _MUCH * requested:
        return None
    return f"{effective:.3g}"


def opening(report: Report) -> list[str]:
    """Return the first sentences of the page.

    They describe the model, and report the capacity ratio below which accuracy begins to fall.
    """
    bundle = report.bundles[0]
    article = "an" if bundle.summary[:1] in "AEIO" else "a"
    sentences = [f"{bundle.name} is {article} {bundle.summary}."]
    count, fall = _images(report.points[0].images), report.fall
    if fall is None:
        last = report.curves[0].points[-1]
        if report.same[last] is None:
            return [*sentences, f"The curves show {count}."]
        reference = report.points[last].profile
        text = f"Without labels of the {count}, the curves show how often a setting agrees with {reference}"
        return [*sentences, f"{text}, and no setting is recommended."]
    best = report.points[fall.best]
    lowest = f"{best.capacity_ratio:g}" if fall.last_good == fall.best else _ratio(report, fall.last_good)
    most = f"On {count} its best accuracy is {percent(best.top1)}, with {best.profile}"
    sentences.append(f"{most} at capacity ratio {_ratio(report, fall.best)}.")
    within = f"Accuracy stays within {points_of(report.max_drop)} of that"
    if fall.first_bad is None:
        return [*sentences, f"{within} down to the lowest ratio that was measured, {lowest}."]
    drop = (best.top1 or 0.0) - (report.points[fall.first_bad].top1 or 0.0)
    # The drop exceeds `max_drop`. If both numbers would look equal with one decimal, show the drop with two decimals.
    lost = points_of(drop, 2 if points_of(drop) == points_of(report.max_drop) else 1)
    bad = _ratio(report, fall.first_bad)
    return [*sentences, f"{within} down to ratio {lowest} and begins to fall below it: at {bad} it is {lost} lower."]


def recommended(report: Report, point: PointResult) -> str:
    """Return the name of the recommended setting.

    If the report covers several precisions of the model, the name of the bundle follows.
    """
    return f"{point.profile}{f' in {point.bundle}' if len(_own(report)) > 1 else ''}"


def recommendation(report: Report) -> str | None:
    """Return sentences on the accuracy and cost of the recommended setting.

    Return None if no setting is recommended.
    """
    if report.recommended is None:
        return None
    point = report.points[report.recommended]
    measured = [p for p in report.points if p.top1 is not None and p.bundle in _own(report)]
    named = None if report.fall is None else report.points[report.fall.best]  # `opening` names this setting
    best = max(measured, key=lambda p: (p.top1 or 0.0, p is named))
    fastest = f"The fastest setting that loses at most {points_of(report.max_drop)} is {recommended(report, point)}"
    parts = [f"{fastest}: {percent(point.top1)} accuracy"]
    if (best.profile, best.bundle) != (point.profile, point.bundle):
        where = "" if best.bundle == point.bundle else f" in {best.bundle}"
        parts.append(f"compared with {percent(best.top1)} at {best.profile}{where}")
        if point.flops_per_image and best.flops_per_image:
            parts.append(f"for {percent(point.flops_per_image / best.flops_per_image, 0)} of the FLOPs")
    effective = effective_ratio(point.capacity_ratio, report.effective[report.recommended])
    ratio = "" if effective is None else f" Its effective capacity ratio is {effective}."
    sentences = [f"{', '.join(parts)}.{ratio}", why(report.points, report.equally_fast)]
    return " ".join(filter(None, [*sentences, comparison(point, report.points, percent)]))


def certainty(report: Report) -> str | None:
    """Return a sentence with the confidence interval of the best accuracy.

    Return None if the images have no labels.
    """
    known = [point for point in report.points if point.top1 is not None]
    if not known:
        return None
    best = max(known, key=lambda point: point.top1 or 0.0)
    share = best.top1 or 0.0
    low, high = share_interval(round(share * best.images), best.images)
    interval = f"a 95\u00a0% confidence interval of {percent(low)} to {percent(high)}"
    return f"An accuracy of {percent(share)} on {_images(best.images)} has {interval}."


def whole_slots(report: Report) -> str | None:
    """Return a note that charts show requested capacity ratios.

    Return None if every effective ratio is close to the requested one.
    """
    for point, effective in zip(report.points, report.effective, strict=True):
        if (ratio := effective_ratio(point.capacity_ratio, effective)) and not point.compared:
            return (
                "Charts show the requested capacity ratios. The number of slots is rounded to an integer, so the effective "
                f"ratio may differ: that of {point.profile} is {ratio}."
            )
    return None


def cascade(report: Report) -> str | None:
    """Return sentences on the fastest cascade within the allowed loss of accuracy.

    Return None if there is no such cascade.
    """
    own = [point for point in report.points if point.bundle == report.bundles[0].name]
    least = max((point.top1 or 0.0 for point in own), default=0.0) - report.max_drop - ROUNDING
    cascades = [one for one in report.faster_cascades if one.bundle == report.bundles[0].name]
    fitting = [index for index, one in enumerate(cascades) if (one.top1 or 0.0) >= least]
    if not fitting:
        return None
    found = cascades[equally_fast(cascades, fitting)[0]]
    alone = next(point for point in own if point.profile == found.then)
    speed = (found.images_per_second or 0.0) / (alone.images_per_second or 1.0)
    flops = (found.flops_per_image or 0) / (alone.flops_per_image or 1)
    return (
        f"The fastest cascade that loses at most {points_of(report.max_drop)} runs all images at {found.profile}, and the "
        f"{percent(found.escalated)} with the lowest confidence again at {found.then}: {percent(found.top1)} accuracy, "
        f"compared with {percent(alone.top1)} at {found.then} alone, at {speed:.2f} times its speed and {percent(flops, 0)} "
        "of its FLOPs. The margin is cross-validated: calibrated on each half of the batches, and tested on the other."
    )


def neighbours(report: Report) -> str:
    """Return a sentence that says how much an image's result depends on the other images in its batch."""
    found, multiple = report.interference, report.batch_multiple
    if found is None and multiple > 1:
        return (
            f"Images compete for slots here: {multiple} are routed together. Measuring how much an output changes with its "
            f"neighbours takes at least {2 * multiple} images."
        )
    if found is None:
        return "Every image is routed alone here, so its answer doesn't depend on the others of its batch."
    changed = "" if found.top1_changed is None else f"; {percent(found.top1_changed)} of the predicted classes change"
    return (
        f"Images compete for slots here: with other images in its batch ({found.sets} sets for each of {found.images} "
        f"images, {found.images_per_call} per call) an output changes by {found.mean_difference:.2g} on average and by "
        f"{found.max_difference:.2g} at most{changed}."
    )


def agreement(report: Report) -> list[str]:
    """Return one sentence for each other bundle of the model. It says how well that bundle agrees with the first one."""
    sentences, setting = [], report.points[report.start].profile
    for one in report.agreements:
        found = one.agreement
        parts = [f"outputs differ by {found.mean_difference:.2g} on average, {found.max_difference:.2g} at most"]
        if found.same_experts:
            routed = percent(min(found.same_experts.values()))
            parts.insert(0, f"{routed} of the tokens go to the same experts in the layer that differs most")
        if found.same_top1 is not None:
            parts.insert(0, f"the same class for {percent(found.same_top1)} of {found.images:,} images")
        sentences.append(f"{one.bundle} compared with {report.bundles[0].name} at {setting}: {'; '.join(parts)}.")
    return sentences


def machine_rows(report: Report) -> list[tuple[str, str]]:
    """Return rows, each with a name and a text, that describe the machine, the versions and the measurement."""
    machine, point = report.machine, report.points[0]
    threads = "the runtime's own choice" if point.threads is None else str(point.threads)
    return [
        ("command", report.command),
        ("made", report.made),
        ("images", printable(report.images)),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}"),
        ("runtime", "; ".join(machine["backends"].values())),
        ("threads", f"{threads}; {point.batch_size} images per call"),
        ("versions", f"vmoe-export {machine['vmoe_runtime']}, Python {machine['python']}, numpy {machine['numpy']}"),
    ]


def diamonds(report: Report) -> str:
    """Return a sentence that says which models the diamonds in the charts represent.

    Return an empty string if there are no diamonds.
    """
    names = " and ".join(report.points[index].name for index in report.others if report.same[index] is not None)
    return f"A diamond is another model: {names}. " if names else ""


def trend(
    report: Report, values: list[tuple[PointResult, float]], others: list[tuple[PointResult, float]], text: str
) -> str:
    """Return the alternative text of a chart.

    The text contains the first and the last value of the first curve, and the values for other models.
    """
    (low, first), (high, last) = values[0], values[-1]
    curve = report.curves[0].title
    more = "".join(f"; {point.name} {value:.4g}" for point, value in others)
    return f"{text}: with {curve} {first:.4g} at {low.profile}, {last:.4g} at {high.profile}{more}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _own(report: Report) -> set[str]:
    return {bundle.name for bundle in report.bundles if not bundle.compared}


def _ratio(report: Report, index: int) -> str:
    requested = report.points[index].capacity_ratio
    effective = effective_ratio(requested, report.effective[index])
    return f"{requested:g}" if effective is None else f"{requested:g} (effectively {effective})"
