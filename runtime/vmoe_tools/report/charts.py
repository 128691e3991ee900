"""Where everything of a line chart stands: ticks, lines and dots in the units of an SVG picture. The template draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 388, 14, 222
_MOST_TICKS = 6
_NEAREST_RATIOS = 1.45  # of two capacity ratios that are both written at the axis


@dataclass(frozen=True)
class Dot:
    """One measured setting.

    Attributes:
        x, y: in the units of the axes.
        step: place of its capacity ratio among those of the slider; None for what has no capacity.
        name: of the setting; empty for the end of a line that is no setting.
        best: whether it gets a ring: nothing beats it.
    """

    x: float
    y: float
    step: int | None
    name: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """Dots that belong together.

    Attributes:
        name: for the legend.
        style: the CSS classes that say its colour and dashes.
        shape: of its dots: 0 for a circle, 1 for a square, 2 for a triangle, 3 for a diamond.
        dots: in the order of x.
        level: whether it is a level that has no x of its own and goes right across.
    """

    name: str
    style: str
    shape: int
    dots: tuple[Dot, ...]
    level: bool = False


@dataclass(frozen=True)
class Axis:
    """How numbers become places.

    Attributes:
        label: what it shows, with its unit.
        logarithmic: whether equal factors are equally long.
        percent: whether it shows shares, 0 to 1, as percent.
        from_zero: whether it begins at 0.
    """

    label: str
    logarithmic: bool = False
    percent: bool = False
    from_zero: bool = False

    def text(self, value: float) -> str:
        """A value as it is written at the axis or in a table."""
        return f"{value:.2%}" if self.percent else f"{value:.4g}"


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        id: of its element in the page.
        title: what it shows, in few words.
        caption: what is to be seen, in a sentence.
        x, y: the axes.
        lines: what to draw; lines without dots are left out.
        moves: whether a vertical line stands at the slider's capacity ratio, which is only right where x is that.
    """

    id: str
    title: str
    caption: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    moves: bool = False


@dataclass(frozen=True)
class Drawing:
    """A chart in the units of its picture, WIDTH x HEIGHT, the origin at the top left.

    Attributes:
        chart: what is drawn.
        box: left, right, top and bottom of the axes.
        x_ticks, y_ticks: place and text of each.
        paths: the `d` of each line.
        dots: of each line its dots, each with its x and y.
        guides: x of each step of the slider; empty where no line moves.
    """

    chart: Chart
    box: tuple[int, int, int, int]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    paths: tuple[str, ...]
    dots: tuple[tuple[tuple[Dot, float, float], ...], ...]
    guides: tuple[float, ...]


def drawing(chart: Chart) -> Drawing | None:
    """Places everything of a chart; None where there is nothing to draw."""
    dots = [dot for line in chart.lines for dot in line.dots]
    if not dots:
        return None
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    x_ticks = _ratio_ticks(xs) if chart.x.logarithmic else _even_ticks(*_span(xs, chart.x))
    y_ticks = _even_ticks(*_span(ys, chart.y))
    low, high = (min(xs) / 1.08, max(xs) * 1.08) if chart.x.logarithmic else _ends(xs, x_ticks)
    across = _scale(low, high, _LEFT, _RIGHT, math.log if chart.x.logarithmic else float)
    up = _scale(*_ends(ys, y_ticks), _BOTTOM, _TOP, float)
    places = tuple(tuple((dot, across(dot.x), up(dot.y)) for dot in line.dots) for line in chart.lines)
    steps = {dot.step: across(dot.x) for dot in dots if dot.step is not None} if chart.moves else {}
    return Drawing(
        chart,
        (_LEFT, _RIGHT, _TOP, _BOTTOM),
        tuple(
            (across(value), f"{value:g}" if chart.x.logarithmic else _short(value, chart.x, x_ticks)) for value in x_ticks
        ),
        tuple((up(value), _short(value, chart.y, y_ticks)) for value in y_ticks),
        tuple("M" + " L".join(f"{x:g},{y:g}" for _, x, y in line) if line else "" for line in places),
        places,
        tuple(steps[step] for step in sorted(steps)),
    )


def _scale(low: float, high: float, start: float, end: float, warp: Callable[[float], float]) -> Callable[[float], float]:
    """From values to places, to a tenth of a unit."""
    first, last = warp(low), warp(high)
    length = (last - first) or 1.0
    return lambda value: round(start + (warp(value) - first) / length * (end - start), 1)


def _span(values: Iterable[float], axis: Axis) -> tuple[float, float]:
    values = list(values)
    low, high = (0.0 if axis.from_zero else min(values)), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    return low, min(high, 1.0) if axis.percent else high


def _even_ticks(low: float, high: float) -> list[float]:
    """Round numbers, from one at or below `low` to one at or above `high`."""
    raw = (high - low) / (_MOST_TICKS - 2)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _ratio_ticks(values: Iterable[float]) -> list[float]:
    """The measured ratios, but none too near to the one before."""
    shown: list[float] = []
    for value in sorted(set(values)):
        if not shown or value >= shown[-1] * _NEAREST_RATIOS:
            shown.append(value)
    return shown


def _ends(values: Sequence[float], ticks: Sequence[float]) -> tuple[float, float]:
    return min(*values, *ticks), max(*values, *ticks)


def _short(value: float, axis: Axis, ticks: Sequence[float]) -> str:
    """A tick's text: as many digits as tell it from its neighbours."""
    if not axis.percent:
        return f"{value:,.10g}"
    step = round((ticks[1] - ticks[0]) * 100, 9) if len(ticks) > 1 else 1.0
    digits = next((digits for digits in range(9) if round(step, digits) == step), 9)
    return f"{value * 100:.{digits}f}\u00a0%"
