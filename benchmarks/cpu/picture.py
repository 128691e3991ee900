"""The picture: images per second over capacity x k, a line for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

_COLORS = {"fp32": "C0", "bf16": "C1", "int8": "C2", "bf16-experts": "C4"}
_LOOKS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("engine-sparse", {"linestyle": "-", "linewidth": 2.4, "marker": "o", "markersize": 4}),
    ("engine-dense", {"linestyle": "-", "linewidth": 1.2}),
    ("dense-openvino", {"linestyle": "--", "linewidth": 1.2}),
    ("dense-ort", {"linestyle": ":", "linewidth": 1.6}),
    ("per-expert-ort", {"linestyle": ":", "linewidth": 1.2, "marker": "s", "markersize": 3}),
    ("inlined-openvino", {"linestyle": "--", "linewidth": 1.0, "marker": "s", "markersize": 3}),
    ("dense-torch", {"linestyle": "-.", "linewidth": 1.0}),
    ("sparse-torch", {"linestyle": "-.", "linewidth": 1.0, "marker": "s", "markersize": 3}),
)
"""How the lines of a model and runtime are drawn; their color is that of the precision."""


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws one field per cell: a row for each model and number of threads, a column for each batch size.

    Thin pale lines are what the measured peaks of the machine allow this engine at best.
    """
    rows = list(dict.fromkeys((p["model"], p["threads"]) for p in points))
    columns = list(dict.fromkeys(p["batch"] for p in points))
    if not rows:
        return
    figure, fields = plt.subplots(
        len(rows), len(columns), figsize=(5.2 * len(columns), 4.2 * len(rows) + 1.2), squeeze=False, layout="constrained"
    )
    for (model, threads), row in zip(rows, fields, strict=True):
        for batch, axes in zip(columns, row, strict=True):
            cell = [p for p in points if (p["model"], p["threads"], p["batch"]) == (model, threads, batch)]
            _draw_cell(axes, cell)
            axes.set_title(f"{model}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}", fontsize=10)
    handles = {
        label: handle for field in fields.flat for handle, label in zip(*field.get_legend_handles_labels(), strict=True)
    }
    handles = dict(sorted(handles.items(), key=lambda item: item[0].endswith("peaks")))  # last
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(columns) + 1), fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_cell(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    for name in dict.fromkeys(p["run"] for p in points):
        own = sorted((p for p in points if p["run"] == name), key=lambda p: p["ck"] or 0)
        prefix, look = next(item for item in _LOOKS if name.startswith(item[0]))
        color = _COLORS[name.removeprefix(f"{prefix}-")]
        speeds = [p["images_per_second"] for p in own]
        if own[0]["ck"] is None:
            axes.axhline(speeds[0], color=color, label=own[0]["title"], **look)
            continue
        settings = [p["ck"] for p in own]
        axes.plot(settings, speeds, color=color, label=own[0]["title"], **look)
        if prefix == "engine-sparse":
            best = [p["batch"] * 1e3 / max(p["flop_floor_ms"], p["memory_floor_ms"]) for p in own]
            axes.plot(
                settings, best, color=color, alpha=0.4, linewidth=0.8, label=f"{own[0]['title']}: at the machine's peaks"
            )
    axes.set(xlabel="capacity ratio x k", ylabel="images / s", xscale="log", yscale="log")
    ticks = sorted({p["ck"] for p in points if p["ck"] is not None})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.grid(alpha=0.15, which="minor", axis="y")
