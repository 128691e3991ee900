"""Draws a measurement: accuracy over capacity, FLOPs and time of an image. The only module that needs matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vmoe_tools.bench.report import PointReport
from vmoe_tools.command_line import CommandError

_SIZE_INCHES = (14.0, 4.4)
_PIXELS_PER_INCH = 150


def draw(points: Sequence[PointReport], path: Path) -> None:
    """Draws one line per bundle, backend, batch size and everything else but the capacity; stars are the Pareto front.

    Lines go from one capacity to the next. Two steps stand at the capacity of the first one, on dashed lines.

    Without labels the share of kept pairs stands for the accuracy.

    Args:
        points: what was measured.
        path: the picture; its suffix says its format.

    Raises:
        CommandError: it can't be written.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vmoe-bench"}):
        figure = Figure(_SIZE_INCHES, layout="constrained")
        by_capacity, by_flops, by_time = figure.subplots(1, 3, sharey=True)
        has_labels = any(point.top1 is not None for point in points)
        height: Callable[[PointReport], float | None] = (lambda p: p.top1) if has_labels else (lambda p: p.kept_pairs)
        for index, (name, line) in enumerate(_lines(points).items()):
            # A line that has no place in a chart keeps its colour in the others.
            colour = f"C{index}"
            _draw_line(by_capacity, name, colour, line, lambda p: p.capacity_ratio, height)
            _draw_line(by_flops, name, colour, line, lambda point: point.mega_flops, height)
            _draw_line(by_time, name, colour, line, lambda point: point.ms_per_image, height)
        by_capacity.set_xscale("log")
        by_capacity.set_xticks(_ratios(points), labels=[f"{ratio:g}" for ratio in _ratios(points)])
        by_capacity.minorticks_off()
        by_capacity.set(xlabel="capacity ratio C", ylabel="top-1" if has_labels else "kept pairs")
        by_flops.set(xlabel="MFLOP per image")
        by_time.set(xlabel="milliseconds per image")
        by_capacity.yaxis.set_major_formatter(PercentFormatter(1))
        for axes in (by_capacity, by_flops, by_time):
            axes.grid(alpha=0.3)
        if len(by_time.lines) > 1:
            by_time.legend(fontsize="small")
        write_picture(figure, path)


def write_picture(figure: Figure, path: Path) -> None:
    """Writes a figure by way of a temporary file beside it, which is then renamed.

    Raises:
        CommandError: it can't be written; a file that was there before is unchanged.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        figure.savefig(part, dpi=_PIXELS_PER_INCH, metadata={"Date": None} if path.suffix == ".svg" else None)
        part.replace(path)
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _ratios(points: Sequence[PointReport]) -> list[float]:
    """Capacity ratios to write at the axis: of those that were measured, none nearer to the one before than a third."""
    shown: list[float] = []
    for ratio in sorted({point.capacity_ratio for point in points if point.capacity_ratio is not None}):
        if not shown or ratio >= shown[-1] * 1.33:
            shown.append(ratio)
    return shown


def _lines(points: Sequence[PointReport]) -> dict[str, list[PointReport]]:
    """The points of each line, by what tells it from the others."""
    parts = [
        {
            "bundle": point.bundle,
            "k": None if point.k is None else f"K={point.k}",
            "order": None if point.bpr is None else "BPR" if point.bpr else "vanilla",
            "pool": None if point.pool is None else "pool" if point.pool else "no pool",
            "limit": None if point.max_experts is None else f"{point.max_experts} experts",
            "backend": point.backend,
            "batch": f"batch {point.batch_size}",
            "at once": f"{point.concurrency} at once",
            "steps": f"then {point.then}" if point.then else None,
        }
        for point in points
    ]
    differ = [key for key in parts[0] if len({part[key] for part in parts}) > 1]
    lines: dict[str, list[PointReport]] = {}
    for point, part in zip(points, parts, strict=True):
        name = ", ".join(str(part[key]) for key in differ if part[key]) or point.bundle
        lines.setdefault(name, []).append(point)
    return lines


def _draw_line(
    axes: Axes,
    name: str,
    colour: str,
    points: Sequence[PointReport],
    across: Callable[[PointReport], float | None],
    up: Callable[[PointReport], float | None],
) -> None:
    by_capacity = sorted(points, key=lambda point: point.capacity_ratio or 0)
    known = [
        (x, y, bool(point.pareto))
        for point in by_capacity
        if (x := across(point)) is not None and (y := up(point)) is not None
    ]
    if not known:
        return
    xs, ys, front = zip(*known, strict=True)
    stars = [index for index, is_best in enumerate(front) if is_best]
    dashes, label = "--" if points[0].then else "-", name.replace("$", r"\$")
    axes.plot(xs, ys, dashes, color=colour, marker="o", markersize=4, label=label)
    axes.plot([xs[i] for i in stars], [ys[i] for i in stars], "*", color="black", markersize=9, label="_stars")
