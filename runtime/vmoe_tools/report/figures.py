"""Which charts a report has, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from vmoe_tools.bench.report import PointReport
from vmoe_tools.report.charts import Axis, Chart, Dot, Line
from vmoe_tools.report.contents import CurveContents, Report

_SHAPES = {"bpr": 0, "vanilla": 1, "pool": 2, "choice": 0}
_SHAPE_OF_TWO_STEPS, _COLOUR_OF_TWO_STEPS = 3, 5
_RATIO = Axis("capacity ratio", logarithmic=True)

Value = Callable[[int, PointReport], float | None]


def charts_of(report: Report) -> list[Chart]:
    """The charts of a report; those without any dot stay empty."""
    quality, axis, best = _quality(report)
    title = axis.label.capitalize()
    return [
        _over_capacity(report, "over-capacity", f"{title} over capacity", axis, quality, best),
        _over_time(report, title, axis, quality),
        _over_compute(report, title, axis, quality),
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
            lambda _, point: point.mega_flops,
            "Of matrix products; those of experts for the pairs that were kept.",
        ),
    ]  # fmt: skip


def keys_of(report: Report) -> list[Line]:
    """What the legend shows: the lines of curves, of two steps and of what has no capacity, without dots."""
    curves = (_line_of(report, curve) for curve in report.curves)
    return [*curves, *(look for look, _ in _two_steps(report)), *(_level_of(report, place) for place in report.others)]


def _line_of(report: Report, curve: CurveContents) -> Line:
    """The name and style of a curve, without dots: one bundle's curves differ in colour, several bundles do."""
    names = [bundle.name for bundle in report.bundles]
    several = len(names) > 1
    shape = _SHAPES[curve.kind]
    colour = names.index(curve.bundle) if several else shape
    name = f"{curve.bundle}, {curve.title}" if several else curve.title
    return Line(name, f"colour{colour % 6} dash{shape}", shape, ())


def _level_of(report: Report, place: int) -> Line:
    """The name and style of what has no capacity, without dots."""
    point = report.points[place]
    colour = [bundle.name for bundle in report.bundles].index(point.bundle)
    return Line(f"{point.bundle}, no capacity", f"colour{colour % 6} dash3", 0, ())


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
        look, level = _level_of(report, place), value(place, report.points[place])
        if level is not None:
            ends = (Dot(low, level, None, ""), Dot(high, level, None, look.name))
            lines.append(replace(look, dots=ends, level=True))
    return lines


def _over_time(report: Report, title: str, axis: Axis, value: Value) -> Chart:
    caption = _caption(report)
    if report.labelled:
        caption += " A ring marks the Pareto front: nothing else is as fast and as accurate."
    lines = _lines(report, lambda point: point.ms_per_image, value, ringed=True)
    return Chart("over-time", f"{title} over time", caption, Axis("milliseconds per image"), axis, lines)


def _over_compute(report: Report, title: str, axis: Axis, value: Value) -> Chart:
    lines = _lines(report, lambda point: point.mega_flops, value)
    return Chart("over-compute", f"{title} over compute", _caption(report), Axis("MFLOP per image"), axis, lines)


def _caption(report: Report) -> str:
    better = "Up and to the left is better."
    return f"{better} Of two steps those are drawn that no other two steps beat." if report.cascades else better


def _lines(
    report: Report, across: Callable[[PointReport], float | None], up: Value, *, ringed: bool = False
) -> tuple[Line, ...]:
    """Curves, two steps, and what has no capacity; lines without dots are left out."""
    lines = [_line(report, curve, lambda place: across(report.points[place]), up, ringed=ringed) for curve in report.curves]
    for look, cascades in _two_steps(report):
        dots = [
            Dot(x, cascade.top1, None, _cascade_name(report, cascade), ringed and bool(cascade.pareto))
            for cascade in cascades
            if (x := across(cascade)) is not None and cascade.top1 is not None
        ]
        lines.append(replace(look, dots=_unbeaten(dots)))
    for place in report.others:
        look, point = _level_of(report, place), report.points[place]
        x, y = across(point), up(place, point)
        if x is not None and y is not None:
            lines.append(replace(look, dots=(Dot(x, y, None, look.name, ringed and bool(point.pareto)),)))
    return tuple(line for line in lines if line.dots)


def _unbeaten(dots: Iterable[Dot]) -> tuple[Dot, ...]:
    """Those without another one that is as far to the left and as high."""
    kept: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y)):
        if not kept or dot.y > kept[-1].y:
            kept.append(dot)
    return tuple(kept)


def _two_steps(report: Report) -> list[tuple[Line, list[PointReport]]]:
    """Of each bundle that has any, the line of its two steps, without dots, and what is on it."""
    several = len(report.bundles) > 1
    found = []
    for place, bundle in enumerate(report.bundles):
        cascades = [cascade for cascade in report.cascades if cascade.bundle == bundle.name]
        name, colour = (f"{bundle.name}, two steps", place % 6) if several else ("two steps", _COLOUR_OF_TWO_STEPS)
        if cascades:
            found.append((Line(name, f"colour{colour} dash4", _SHAPE_OF_TWO_STEPS, ()), cascades))
    return found


def _cascade_name(report: Report, cascade: PointReport) -> str:
    name = f"{cascade.profile}, then {cascade.then}"
    return f"{cascade.bundle} {name}" if len(report.bundles) > 1 else name


def _line(
    report: Report, curve: CurveContents, across: Callable[[int], float | None], up: Value, *, ringed: bool = False
) -> Line:
    look = _line_of(report, curve)
    several = len(report.bundles) > 1
    dots = []
    for place, step in zip(curve.points, curve.steps, strict=True):
        point = report.points[place]
        x, y = across(place), up(place, point)
        if x is not None and y is not None:
            name = f"{point.bundle} {point.profile}" if several else str(point.profile)
            dots.append(Dot(x, y, step, name, ringed and bool(point.pareto)))
    return Line(look.name, look.style, look.shape, tuple(dots))
