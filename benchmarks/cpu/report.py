"""The results of `speed.py` as Markdown tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from command_line import cells, table

mpl.use("Agg")

import matplotlib.pyplot as plt

_PEAKS = ("fp32", "bf16_vectors", "bf16_tiles", "int8_vectors", "int8_tiles")
_COLORS = {"fp32": "C0", "bf16": "C1", "int8": "C2", "experts": "C4"}
_LINES = {"engine": "-", "dense-openvino": "--", "dense-ort": ":", "per-expert": "-.", "inlined": "--", "torch": "-."}


def markdown(report: Mapping[str, Any]) -> str:
    """All tables."""
    lines = [f"**VOID:** {sentence}." for sentence in report["void"]]
    lines += [f"Left out: {name}, as {reason}." for name, reason in report["missing"].items()]
    lines += [
        f"{report['cpu']}; other processes took up to {max(report['others_shares'], default=0):.0%}. This engine: "
        f"{report['engine'] or 'not timed'}. Medians of interleaved calls. Floors: the FLOPs of kept pairs and the dense "
        "part at the measured peaks, and the weights' bytes at the measured read rate. Logits are compared with those of "
        "this engine in float32.",
    ]
    lines += _section("Peaks, on random data", _peaks(report["floors"]))
    ratios = [r | {"name": f"{_where(r)}: {r['run']} over {r['over']}"} for r in report["ratios"]]
    rows = [cells(r, "name ratio:.2f flops_ratio:.2f") for r in ratios]
    lines += _section("Images/s over another's", table(["", "ratio", "of FLOPs"], rows))
    for _, points in groupby(report["points"], key=lambda p: (p["model"], p["batch"], p["threads"])):
        found = list(points)
        lines += _section(_where(found[0] | {"ck": None}), _points(found))
    return "\n\n".join(lines)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(lines)] if lines else []


def _where(item: Mapping[str, Any]) -> str:
    setting = "" if item["ck"] is None else f", C x K {item['ck']:g}"
    return f"{item['model']}, batch {item['batch']}, {item['threads']} threads{setting}"


def _peaks(floors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = [name for name in _PEAKS if any(name in found["peaks"] for found in floors.values())]
    rows = [
        [threads, *(f"{found['peaks'][name] / 1e9:,.0f}" for name in names), f"{found['read_bytes'] / 1e9:.1f}"]
        for threads, found in floors.items()
    ]
    return table(["threads", *(f"{name.replace('_', ', ')} Gop/s" for name in names), "read GB/s"], rows)


def _points(points: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["", "C x K", "kept pairs", "ms/image", "quartiles", "images/s", "FLOP floor", "memory floor"]
    head += ["logits differ by", "relative"]
    fields = "title ck:g kept_pairs:, per_image:.2f quartiles images_per_second:.1f flop_floor:.2f memory_floor:.2f"
    fields += " logits_difference:.1e relative_difference:.1e"
    rows = []
    for p in points:
        low, high = (ms / p["batch"] for ms in p["ms_quartiles"])
        floors = {f"{name}_floor": p[f"{name}_floor_ms"] / p["batch"] for name in ("flop", "memory")}
        row = {**p, "per_image": p["ms"] / p["batch"], "quartiles": f"{low:.1f}-{high:.1f}", **floors}
        rows.append(cells(row, fields))
    return table(head, rows)


def draw(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Images per second over capacity x k: a row for each model and number of threads, a column for each batch size.

    Thin pale lines are what the measured peaks of the machine allow this engine at best.
    """
    rows = list(dict.fromkeys((p["model"], p["threads"]) for p in points))
    columns = list(dict.fromkeys(p["batch"] for p in points))
    size = 5.2 * len(columns), 4.2 * len(rows) + 1.2
    figure, fields = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")
    for (model, threads), row in zip(rows, fields, strict=True):
        for batch, axes in zip(columns, row, strict=True):
            cell = [p for p in points if (p["model"], p["threads"], p["batch"]) == (model, threads, batch)]
            for title, members in groupby(sorted(cell, key=lambda p: p["title"]), key=lambda p: p["title"]):
                _draw_run(axes, title, sorted(members, key=lambda p: p["ck"] or 0))
            axes.set(title=f"{model}, batch {batch}, {threads} threads", xlabel="capacity ratio x k", ylabel="images / s")
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.3)
    figure.legend(*fields.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_run(axes: Any, title: str, own: Sequence[Mapping[str, Any]]) -> None:
    name, speeds, settings = own[0]["run"], [p["images_per_second"] for p in own], [p["ck"] for p in own]
    style = next(line for part, line in _LINES.items() if part in name)
    look = {
        "color": _COLORS[name.rpartition("-")[2]],
        "linestyle": style,
        "linewidth": 2.4 if "engine-sparse" in name else 1.2,
    }
    if settings[0] is None:
        axes.axhline(speeds[0], label=title, **look)
        return
    axes.plot(settings, speeds, label=title, marker="o", markersize=3, **look)
    if "engine" in name:
        best = [p["batch"] * 1e3 / max(p["flop_floor_ms"], p["memory_floor_ms"]) for p in own]
        axes.plot(settings, best, color=look["color"], alpha=0.4, linewidth=0.8)
