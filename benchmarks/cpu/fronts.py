"""Pareto fronts of dense and sparse models, as text and as a picture.

The accuracies are published values. The times are measured, in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vmoe_tools.charts import write_picture

Point = Mapping[str, Any]
"""A setting of `published.json` with its `ms` per image. `layers` is None for a dense model, and an accuracy is None if it
is not published."""

_COLORS = {"dense ViT": "#d55e00", "V-MoE": "#0072b2"}
_ACCURACY_POINTS, _LABEL_POINTS = 200, 8  # height of the accuracy axis and of a label, in points
_TRAINED = {"capacity": 1.05, "k": 2}


def front(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the Pareto-optimal points that have an accuracy, the fastest first.

    Examples:
        >>> slow, fast, worse = ({"ms": ms, "top1": top1} for ms, top1 in ((9, 80.0), (5, 70.0), (6, 70.0)))
        >>> front([slow, fast, worse], "top1") == [fast, slow]
        True
    """
    found: list[Point] = []
    for point in sorted((p for p in points if p[metric] is not None), key=lambda p: (p["ms"], -p[metric])):
        if not found or point[metric] > found[-1][metric]:
            found.append(point)
    return found


def name_of(point: Point) -> str:
    """Return a name such as `ViT H/14` or `V-MoE L/16, Every 2`.

    Routing values that differ from those used in training are added to the name.
    """
    if not point["layers"]:
        return f"ViT {point['size']}"
    routing = "".join(f", {key}={point[key]:g}" for key, trained in _TRAINED.items() if point[key] != trained)
    return f"V-MoE {point['size']}, {point['layers']}{routing}"


def words(points: Sequence[Point], metric: str) -> list[str]:
    """Describe in sentences how much time sparse models save at equal accuracy.

    The first sentences compare each model on the dense front with the fastest measured sparse model that is at least as
    accurate. The remaining sentences compare each model on the sparse front with a dense model of equal accuracy. The time
    of that dense model is interpolated between two measured dense models, and the sentences say so.
    """
    dense, sparse = (front([p for p in points if bool(p["layers"]) == kind], metric) for kind in (False, True))
    taken = {id(p): f"{name_of(p)} ({p[metric]:.2f} %) takes {p['ms']:.1f} ms" for p in (*dense, *sparse)}
    found = []
    for own in dense:
        best = next((p for p in sparse if p[metric] >= own[metric]), None)
        end = f"{taken[id(best)]}, {best['ms'] / own['ms']:.2f} x as long" if best else "no V-MoE here is as accurate"
        found.append(f"{taken[id(own)]}; {end}.")
    accuracies, logs = [p[metric] for p in dense], [math.log(p["ms"]) for p in dense]
    for own in sparse:
        if dense and accuracies[0] <= own[metric] <= accuracies[-1]:
            ms = math.exp(np.interp(own[metric], accuracies, logs))
            end = f"a dense model between two measured ones (log time, linear) {ms:.1f} ms: {own['ms'] / ms:.2f} x as long"
            found.append(f"{taken[id(own)]}, {end}.")
    return found


def draw(points: Sequence[Point], metrics: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw one panel per metric.

    If a point's routing differs from training, the point has no label. If a point has no published accuracy, it is drawn as
    a tick on the time axis.
    """
    figure = Figure((5.0 * len(metrics), 4.4), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (metric, about) in zip(panels, metrics.items(), strict=True):
        here = [p for p in points if p["pixels"] == about["pixels"]]
        accuracies = [p[metric] for p in here if p[metric] is not None]
        points_of_one = _ACCURACY_POINTS / max(np.ptp(accuracies), 1e-9)
        for (label, color), kind in zip(_COLORS.items(), (False, True), strict=True):
            own = [p for p in here if bool(p["layers"]) == kind]
            known, line = [p for p in own if p[metric] is not None], front(own, metric)
            axes.plot([p["ms"] for p in line], [p[metric] for p in line], color=color, label=label)
            axes.scatter([p["ms"] for p in known], [p[metric] for p in known], color=color, s=20)
            unknown = [p["ms"] for p in own if p[metric] is None]
            axes.plot(unknown, [0.01] * len(unknown), "|", color=color, transform=axes.get_xaxis_transform())
            side, edge, away = ("right", "bottom", (-4, 2)) if kind else ("left", "top", (4, -2))
            above = -math.inf
            for p in sorted((p for p in known if "=" not in name_of(p)), key=itemgetter(metric)):
                name, place, height = name_of(p).partition(" ")[2], (p["ms"], p[metric]), p[metric] * points_of_one
                above = max(height, above + _LABEL_POINTS)  # keep this label clear of the label below it
                lifted = (away[0], away[1] + above - height)
                axes.annotate(name, place, lifted, textcoords="offset points", ha=side, va=edge, fontsize=7, color=color)
        axes.set(xscale="log", xlabel=f"milliseconds per image, {about['pixels']} pixels", ylabel=f"{about['title']}, %")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3, which="both")
        axes.margins(0.25, 0.15)
    panels[0].legend(loc="lower right", fontsize=8)
    write_picture(figure, path)
