"""The results of `speed.py` as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

_COLORS = {"fp32": "C0", "bf16": "C1", "int8": "C2", "int4": "C3", "experts": "C4"}
_LINES = {"engine": "-", "dense-openvino": "--", "dense-ort": ":", "per-expert": "-.", "inlined": "--"}


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Images per second over capacity x k: a row for each model and number of threads, a column for each batch size."""
    rows = list(dict.fromkeys((p["model"], p["threads"]) for p in points))
    columns = list(dict.fromkeys(p["batch"] for p in points))
    size = 5.2 * len(columns), 4.2 * len(rows) + 1.2
    figure, fields = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")
    for (model, threads), row in zip(rows, fields, strict=True):
        for batch, axes in zip(columns, row, strict=True):
            cell = [p for p in points if (p["model"], p["threads"], p["batch"]) == (model, threads, batch)]
            for _, members in groupby(cell, key=lambda p: p["run"]):
                _draw_run(axes, list(members))
            axes.set(title=f"{model}, batch {batch}, {threads} threads", xlabel="capacity ratio x k", ylabel="images / s")
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.3)
    figure.legend(*fields.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_run(axes: Any, own: Sequence[Mapping[str, Any]]) -> None:
    name, speeds, settings = own[0]["run"], [p["images_per_second"] for p in own], [p["ck"] for p in own]
    color, style = _COLORS[name.rpartition("-")[2]], next(line for part, line in _LINES.items() if part in name)
    width = 2.4 if "engine-sparse" in name else 1.2
    look = {"color": color, "linestyle": style, "linewidth": width, "label": own[0]["title"]}
    if settings[0] is None:
        axes.axhline(speeds[0], **look)
        return
    axes.plot(settings, speeds, marker="o", markersize=3, **look)
