"""The picture: images per second over capacity x k, a line for each contender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws one field per cell: a row for each model and number of threads, a column for each batch size."""
    rows = list(dict.fromkeys((p["model"], p["threads"]) for p in points))
    columns = list(dict.fromkeys(p["batch"] for p in points))
    figure, fields = plt.subplots(
        len(rows), len(columns), figsize=(4.6 * len(columns), 3.6 * len(rows) + 0.8), squeeze=False, layout="constrained"
    )
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(p["contender"] for p in points))}
    for (model, threads), row in zip(rows, fields, strict=True):
        for batch, axes in zip(columns, row, strict=True):
            cell = [p for p in points if (p["model"], p["threads"], p["batch"]) == (model, threads, batch)]
            _draw_cell(axes, cell, colors)
            axes.set_title(f"{model}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}", fontsize=10)
    handles = {
        label: handle for field in fields.flat for handle, label in zip(*field.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 * len(columns), fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_cell(axes: Axes, points: Sequence[Mapping[str, Any]], colors: Mapping[str, str]) -> None:
    for name in dict.fromkeys(p["contender"] for p in points):
        own = sorted((p for p in points if p["contender"] == name), key=lambda p: p["ck"] or 0)
        speeds = [p["images_per_second"] for p in own]
        look = {"color": colors[name], "label": own[0]["title"]}
        if own[0]["ck"] is None:
            axes.axhline(speeds[0], linestyle="--", linewidth=1, **look)
        else:
            width = 2.4 if name.startswith("engine") else 1.2
            axes.plot([p["ck"] for p in own], speeds, marker="o", markersize=3, linewidth=width, **look)
    axes.set(xlabel="capacity ratio x k", ylabel="images / s", xscale="log")
    ticks = sorted({p["ck"] for p in points if p["ck"] is not None})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
