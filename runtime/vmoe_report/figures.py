"""Which charts a report has, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmoe_bench.report import PointReport
from vmoe_report.charts import Axis, Chart, Dot, Line
from vmoe_report.contents import CurveContents, Report

_SHAPES = {"bpr": 0, "vanilla": 1, "pool": 2, "choice": 0}
_RATIO = Axis("capacity ratio", logarithmic=True)

Value = Callable[[int, PointReport], float | None]


def charts_of(report: Report) -> list[Chart]:
    """The charts of a report; those without any dot stay empty."""
    quality, axis, best = _quality(report)
    title = axis.label.capitalize()
    charts = [
        _over_capacity(report, "over-capacity", f"{title} over capacity", axis, quality, best),
        _over_time(report, title, axis, quality),
        _over_capacity(
            report, "speed", "Speed over capacity", Axis("images per second", from_zero=True),
            lambda _, point: point.images_per_second,
            "Batch size over the median time of a call; all settings took turns.",
        ),
        _over_capacity(
            report, "kept", "Kept pairs over capacity", Axis("kept pairs", percent=True, from_zero=True),
            lambda _, point: point.kept_pairs,
            "Share of the (token, choice) pairs that got a place; the rest was dropped.",
        ),
        _over_capacity(
            report, "flops", "Compute over capacity", Axis("MFLOP per image", from_zero=True),
            lambda _, point: None if point.flops_per_image is None else point.flops_per_image / 1e6,
            "Of matrix products; those of experts for the pairs that were kept.",
        ),
    ]  # fmt: skip
    steps = _two_steps(report)
    return charts if steps is None else [*charts, steps]


def line_of(report: Report, curve: CurveContents) -> Line:
    """The name and style of a curve, without dots: one bundle's curves differ in colour, several bundles do."""
    names = [bundle.name for bundle in report.bundles]
    several = len(names) > 1
    shape = _SHAPES[curve.kind]
    colour = names.index(curve.bundle) if several else shape
    name = f"{curve.bundle}, {curve.title}" if several else curve.title
    return Line(name, f"colour{colour % 6} dash{shape}", shape, ())


def _quality(report: Report) -> tuple[Value, Axis, str]:
    """What stands for accuracy, as far as it is known."""
    if report.labelled:
        caption = (
            "Share of right answers. Batch Priority Routing drops the least important patches, vanilla order the last ones."
        )
        return lambda _, point: point.top1, Axis("accuracy", percent=True), caption
    if any(share is not None for share in report.same):
        reference = report.points[report.curves[0].points[-1]].profile
        caption = f"Share of the images that get the answer of {reference}, as there are no labels."
        return lambda place, _: report.same[place], Axis("same answers", percent=True), caption
    caption = "Share of the pairs that got a place, as there are no answers to compare."
    return lambda _, point: point.kept_pairs, Axis("kept pairs", percent=True), caption


def _over_capacity(report: Report, name: str, title: str, axis: Axis, value: Value, caption: str) -> Chart:
    lines = [_line(report, curve, lambda place: report.points[place].capacity_ratio, value) for curve in report.curves]
    ratios = [dot.x for line in lines for dot in line.dots]
    if ratios:
        lines += _flat(report, min(ratios), max(ratios), value)
    return Chart(name, title, caption, _RATIO, axis, tuple(line for line in lines if line.dots), moves=True)


def _flat(report: Report, low: float, high: float, value: Value) -> list[Line]:
    """A line across for what has no capacity."""
    lines = []
    for place in report.others:
        point = report.points[place]
        level = value(place, point)
        if level is not None:
            ends = (Dot(low, level, None, ""), Dot(high, level, None, f"{point.bundle}, no capacity"))
            lines.append(Line(point.bundle, f"colour{_bundle(report, point) % 6} dash3", 0, ends))
    return lines


def _over_time(report: Report, title: str, axis: Axis, value: Value) -> Chart:
    def milliseconds(place: int) -> float | None:
        speed = report.points[place].images_per_second
        return None if speed is None else 1000 / speed

    lines = [_line(report, curve, milliseconds, value, ringed=True) for curve in report.curves]
    for place in report.others:
        point = report.points[place]
        x, y = milliseconds(place), value(place, point)
        if x is not None and y is not None:
            dot = Dot(x, y, None, f"{point.bundle}, no capacity", bool(point.pareto))
            lines.append(Line(point.bundle, f"colour{_bundle(report, point) % 6} dash3", 0, (dot,)))
    caption = "Up and to the left is better."
    if report.labelled:
        caption += " A ring marks the Pareto front: no other setting is as fast and as accurate."
    return Chart("over-time", f"{title} over time", caption, Axis("milliseconds per image"), axis, _drawn(lines))


def _line(
    report: Report, curve: CurveContents, across: Callable[[int], float | None], up: Value, *, ringed: bool = False
) -> Line:
    look = line_of(report, curve)
    several = len(report.bundles) > 1
    dots = []
    for place, step in zip(curve.points, curve.steps, strict=True):
        point = report.points[place]
        x, y = across(place), up(place, point)
        if x is not None and y is not None:
            name = f"{point.bundle} {point.profile}" if several else str(point.profile)
            dots.append(Dot(x, y, step, name, ringed and bool(point.pareto)))
    return Line(look.name, look.style, look.shape, tuple(dots))


def _two_steps(report: Report) -> Chart | None:
    found = report.two_steps
    if found is None:
        return None
    own = [curve for curve in report.curves if curve.bundle == report.bundles[0].name]
    most = max(report.points[place].flops_per_image or 0 for curve in own for place in curve.points)

    def flops(place: int) -> float | None:
        count = report.points[place].flops_per_image
        return None if count is None else count / 1e6

    lines = [_line(report, curve, flops, lambda _, point: point.top1) for curve in own]
    dots = tuple(
        Dot(cost / 1e6, top1, None, f"{share:.1%} sent on", index == found.enough)
        for index, (share, top1, cost) in enumerate(zip(found.shares, found.top1, found.flops_per_image, strict=True))
        if cost <= most
    )
    lines.append(Line("two steps", "colour5 steps", 0, dots))
    first, then = report.points[found.first].profile, report.points[found.then].profile
    caption = (
        f"All images at {first}, a growing share of them again at {then}. The ring is where that is right as often as "
        f"{then} alone."
    )
    axes = Axis("MFLOP per image"), Axis("accuracy", percent=True)
    return Chart("two-steps", "Two steps: accuracy over compute", caption, *axes, _drawn(lines))


def _drawn(lines: Sequence[Line]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line.dots)


def _bundle(report: Report, point: PointReport) -> int:
    return [bundle.name for bundle in report.bundles].index(point.bundle)
