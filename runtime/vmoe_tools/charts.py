"""Charts of measurements and experts. Only `charts` and `patch_pictures` need matplotlib."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vmoe_runtime.settings import ROWS
from vmoe_tools.bench.point_result import PointResult
from vmoe_tools.inspect.statistics import LayerStatistics, class_name
from vmoe_tools.output import write_bytes

# With `parse_math`, matplotlib would draw a name that contains dollar signs as a formula.
matplotlib.rcParams |= {
    "font.family": "DejaVu Sans", "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "vmoe",
}  # fmt: skip

_PIXELS_PER_INCH = 150
_KEPT, _DROPPED = "#0072b2", "#b0b0b0"
_NEAREST_RATIOS = 1.33  # a capacity ratio is labelled if it is at least this many times the previous labelled one
_MOST_COLUMNS = 5
_MOST_NAMED_CLASSES = 40
_MOST_TICKS = 11
_LONGEST_NAME = 32
_COLOURS, _MARKERS = 10, "o^sv"  # after 10 lines, the colours repeat with another marker
_MOST_COVERED = 4  # maximum number of lines in a legend inside a chart; a longer legend is drawn below
_NAME_WIDTH, _NAME_HEIGHT = 2.6, 0.19  # size in inches of one entry of a legend below the charts


@dataclass(frozen=True)
class Scale:
    """The quantity on an axis of a line chart.

    Attributes:
        label: label of the axis, with the unit.
        value: returns the quantity of a point; None if it is unknown.
        percent: whether the quantity is a share, shown in percent.
        ratios: whether the quantity is a capacity ratio, shown on a logarithmic axis.
        from_zero: whether the axis begins at 0.
    """

    label: str
    value: Callable[[PointResult], float | None]
    percent: bool = False
    ratios: bool = False
    from_zero: bool = False


CAPACITY = Scale("capacity ratio C", lambda point: None if point.compared else point.capacity_ratio, ratios=True)
COMPUTE = Scale("MFLOP per image", lambda point: point.mega_flops)
TIME = Scale("milliseconds per image", lambda point: point.ms_per_image)
ACCURACY = Scale("top-1", lambda point: point.top1, percent=True)
KEPT_PAIRS = Scale("kept pairs", lambda point: point.kept_pairs, percent=True)


def overview(points: Sequence[PointResult]) -> Figure:
    """Draw three charts: accuracy against capacity, accuracy against FLOPs, and accuracy against time per image.

    Without labels, the share of kept pairs replaces the accuracy. If no point has a capacity ratio, the first chart is left
    out.
    """
    figure = Figure((14.0, 4.4), layout="constrained")
    up = ACCURACY if any(point.top1 is not None for point in points) else KEPT_PAIRS
    scales = [CAPACITY, COMPUTE, TIME] if any(CAPACITY.value(point) for point in points) else [COMPUTE, TIME]
    panels = figure.subplots(1, len(scales), sharey=True)
    for axes, across in zip(panels, scales, strict=True):
        _draw_lines(axes, points, across, up)
        axes.label_outer()
    _name_lines(figure)
    return figure


def line_chart(points: Sequence[PointResult], across: Scale, up: Scale) -> Figure:
    """Draw one chart: `up` on the vertical axis, `across` on the horizontal axis."""
    figure = Figure((5.4, 3.9), layout="constrained")
    _draw_lines(figure.subplots(), points, across, up)
    _name_lines(figure)
    return figure


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path's suffix specifies.

    Raises:
        click.ClickException: the file can't be written. An existing file stays unchanged.
    """
    write_bytes(path, _saved(figure, path.suffix[1:].lower()))


def data_address(figure: Figure) -> str:
    """Return a `data:` URL that contains the figure as an SVG picture."""
    return f"data:image/svg+xml;base64,{base64.b64encode(_saved(figure, 'svg')).decode()}"


def chart_loads(layers: Mapping[str, LayerStatistics]) -> Figure:
    """Draw, for each layer, one bar per expert.

    The bar shows the number of pairs that the expert kept. If the number of dropped pairs is known, it is stacked on top.
    """
    figure, panels = _panels(len(layers), 2.4, 2.1, sharey=True)
    for axes, (name, layer) in zip(panels, layers.items(), strict=True):
        experts = np.arange(len(layer.load))
        axes.bar(experts, layer.load, color=_KEPT, width=0.8, label="kept")
        if layer.requested is not None:
            axes.bar(experts, layer.requested - layer.load, bottom=layer.load, color=_DROPPED, width=0.8, label="dropped")
        axes.axhline(layer.load.mean(), color="#d55e00", linewidth=1.0, linestyle="--", label="even load")
        axes.set_title(f"{layer_name(name)}, entropy {layer.load_entropy:.3f}", fontsize=8)
        _number_experts(axes, len(layer.load))
        axes.tick_params(labelsize=7)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")
    what = "shares of tokens" if _is_soft(layers) else "(token, choice) pairs"
    _describe(figure, panels[0], f"Load of each expert, in {what}", "expert")
    return figure


def chart_gates(layers: Mapping[str, LayerStatistics]) -> Figure:
    """Draw, for each layer, a histogram of gates. The gates of dropped pairs are stacked on those of kept pairs."""
    figure, panels = _panels(len(layers), 2.4, 2.1, sharey=True)
    for axes, (name, layer) in zip(panels, layers.items(), strict=True):
        bins = len(layer.gates_kept)
        edges = np.arange(bins) / bins
        total = max(int(layer.gates_kept.sum() + layer.gates_dropped.sum()), 1)
        kept, dropped = layer.gates_kept / total, layer.gates_dropped / total
        style: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.3}
        axes.bar(edges, kept, 1 / bins, color=_KEPT, label="kept", **style)
        if layer.kind != "soft":
            axes.bar(edges, dropped, 1 / bins, bottom=kept, color=_DROPPED, label="dropped", **style)
        axes.set(xlim=(0, 1))
        axes.set_title(layer_name(name), fontsize=8)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.tick_params(labelsize=7)
    what = "shares of experts in a token" if _is_soft(layers) else "gates"
    across = "share" if _is_soft(layers) else "gate"
    _describe(figure, panels[0], f"How large the {what} are, in shares of all", across)
    return figure


def chart_classes(layers: Mapping[str, LayerStatistics], class_names: Sequence[str] | None) -> Figure:
    """Draw, for each layer, the mean routing weight of each class and expert as a colour.

    Each column is an expert, and each row is a class. If there are too many classes to show their names, the rows of each
    layer are sorted by the expert that has the largest weight for the class.
    """
    weights = {name: layer.class_weight for name, layer in layers.items() if layer.class_weight is not None}
    first = next(iter(weights.values()))
    shown = np.flatnonzero(~np.isnan(first).all(axis=1))
    named = len(shown) <= _MOST_NAMED_CLASSES
    names = [class_name(int(index), class_names, _LONGEST_NAME) for index in shown] if named else []
    wide = max(0.16 * first.shape[1], 1.2) + 0.065 * max(map(len, names), default=1) + 0.35
    tall = max(0.16 * len(shown) + 0.5, 1.6) if named else 3.2
    figure, panels = _panels(len(weights), min(wide, 4.2), tall)
    largest = max(float(np.nanmax(weight)) for weight in weights.values())
    for axes, (name, weight) in zip(panels, weights.items(), strict=True):
        rows = weight[shown]
        order = np.arange(len(rows)) if named else np.lexsort((-rows.max(axis=1), rows.argmax(axis=1)))
        image = axes.imshow(rows[order], aspect="auto", cmap="viridis", vmin=0, vmax=largest, interpolation="nearest")
        axes.set_title(layer_name(name), fontsize=8)
        _number_experts(axes, rows.shape[1])
        axes.tick_params(labelsize=6.5, length=2)
        axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("mean routing weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle("Which classes go to which experts", fontsize=10)
    figure.supxlabel("expert", fontsize=8)
    figure.supylabel("class" if named else f"{len(shown):,} classes, ordered by their heaviest expert", fontsize=8)
    return figure


def layer_name(layer: str) -> str:
    """Return the name of a MoE layer in charts.

    Examples:
        >>> layer_name("encoderblock_3")
        'block 3'
    """
    return layer.replace("encoderblock_", "block ")


def _saved(figure: Figure, suffix: str) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the font may lack characters of class names
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(file, format=suffix, dpi=_PIXELS_PER_INCH, metadata=metadata)
    return file.getvalue()


def _draw_lines(axes: Axes, points: Sequence[PointResult], across: Scale, up: Scale) -> None:
    """Draw a line for each group of points that differ only in capacity. Stars mark the Pareto front.

    - A line connects its points by ascending capacity.
    - In a chart against capacity, a point without a capacity is drawn as a horizontal line.
    - A diamond marks a point of another model.
    - A dashed line connects cascades. It appears only in charts against FLOPs and time. A cascade is left out if another
      cascade on the same line is at least as cheap and at least as accurate.
    """
    for number, (name, line) in enumerate(_lines(points).items()):
        # Number all lines, including lines without points in this chart, so that each line has the same colour in every
        # chart.
        colour, is_cascade = f"C{number % _COLOURS}", line[0].then is not None
        known = [(x, y, p.pareto) for p in line if (x := across.value(p)) is not None and (y := up.value(p)) is not None]
        levels = [y for p in line if (y := up.value(p)) is not None]
        if across.ratios and not known and levels:
            axes.axhline(levels[0], color=colour, linestyle="-.", label=name)
        if is_cascade:
            ordered = [] if across.ratios else sorted(known, key=lambda dot: (dot[0], -dot[1]))
            known = [dot for i, dot in enumerate(ordered) if all(other[1] < dot[1] for other in ordered[:i])]
        if known:
            xs, ys, front = zip(*known, strict=True)
            stars = [index for index, best in enumerate(front) if best]
            marker, size = ("D", 9) if line[0].compared else (_MARKERS[number // _COLOURS % len(_MARKERS)], 4)
            axes.plot(xs, ys, "--" if is_cascade else "-", color=colour, marker=marker, markersize=size, label=name)
            axes.plot([xs[i] for i in stars], [ys[i] for i in stars], "*", color="black", markersize=9, label="_stars")
    axes.set(xlabel=across.label, ylabel=up.label)
    axes.grid(alpha=0.3)
    if up.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if up.from_zero:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # room for a star
    if across.ratios and (ratios := _ratios(points)):
        axes.set_xscale("log")
        axes.set_xticks(ratios, labels=[f"{ratio:g}" for ratio in ratios])
        axes.minorticks_off()


def _name_lines(figure: Figure) -> None:
    """Add a legend if there are several lines.

    Usually, each chart contains its own legend. If there are many lines, one legend for all charts is drawn below them.
    """
    named = [(axes, *axes.get_legend_handles_labels()) for axes in figure.axes]
    names = {name: handle for _, handles, labels in named for name, handle in zip(labels, handles, strict=True)}
    if len(names) > _MOST_COVERED:
        width, height = figure.get_size_inches()
        columns = int(width / _NAME_WIDTH)
        figure.set_size_inches(width, height + _NAME_HEIGHT * math.ceil(len(names) / columns))
        figure.legend([*names.values()], [*names], loc="outside lower center", ncols=columns, fontsize="small")
        return
    for axes, handles, _ in named:
        if len(names) > 1 and handles:
            axes.legend(fontsize="small")


def _ratios(points: Sequence[PointResult]) -> list[float]:
    """Return the measured capacity ratios that get a label on the axis.

    Ratios that are too close to the previous label are left out.
    """
    shown: list[float] = []
    for ratio in sorted({ratio for point in points if (ratio := CAPACITY.value(point)) is not None}):
        if not shown or ratio >= shown[-1] * _NEAREST_RATIOS:
            shown.append(ratio)
    return shown


def _lines(points: Sequence[PointResult]) -> dict[str, list[PointResult]]:
    """Return the points of each line, sorted by capacity. A line's key lists what distinguishes it from other lines."""
    parts = [
        {
            "bundle": point.name if point.compared else point.bundle,
            **{
                name: None if alone or (value := point.setting[row.stored]) is None else row.text(value)
                for name, row in ROWS.items()
                if name != "capacity"
            },
            "backend": point.backend,
            "batch": f"batch {point.batch_size}",
            "concurrency": f"{point.concurrency} calls",
            "cascade": "cascades" if point.then else None,
        }
        for point, alone in ((p, p.compared or p.then is not None or p.capacity_ratio is None) for p in points)
    ]
    differ = [key for key in parts[0] if len({part[key] for part in parts} - {None}) > 1 or key == "cascade"]
    lines: dict[str, list[PointResult]] = {}
    for point, part in zip(points, parts, strict=True):
        name = ", ".join(str(part[key]) for key in differ if part[key]) or point.bundle
        lines.setdefault(name, []).append(point)
    return {name: sorted(line, key=lambda point: point.capacity_ratio or 0) for name, line in lines.items()}


def _panels(count: int, wide: float, tall: float, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, each `wide` x `tall` inches, with at most five in a row."""
    rows = math.ceil(count / _MOST_COLUMNS)
    columns = math.ceil(count / rows)
    figure = Figure((max(columns * wide, 3.6) + 1.1, rows * tall + 0.9), layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _number_experts(axes: Axes, experts: int) -> None:
    axes.set_xticks(range(0, experts, math.ceil(experts / _MOST_TICKS)))


def _describe(figure: Figure, axes: Axes, title: str, across: str) -> None:
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(across, fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7, frameon=False)


def _is_soft(layers: Mapping[str, LayerStatistics]) -> bool:
    return next(iter(layers.values())).kind == "soft"
