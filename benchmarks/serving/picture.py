"""The picture of a serving benchmark: answers in time against right ones, and how the setting follows the load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = {"elastic": "#0b5fa5", "fixed high": "#b3261e", "fixed low": "#6b7280"}
_MARKS = {"elastic": "*", "fixed high": "s", "fixed low": "o"}


def draw(report: dict[str, Any], file: Path) -> None:
    """Draws one row for each trace: on the left the modes, on the right load and level over time.

    Args:
        report: of `serving.measure`.
        file: a .png, .svg or .pdf file.
    """
    traces = list(dict.fromkeys(row["trace"] for row in report["rows"]))
    figure, grid = plt.subplots(len(traces), 2, figsize=(10, 3 * len(traces)), squeeze=False, layout="constrained")
    for (left, right), trace in zip(grid, traces, strict=True):
        rows = [row for row in report["rows"] if row["trace"] == trace]
        known = any(row["accuracy"] is not None for row in rows)
        for row in rows:
            place = row["accuracy"] if known else row["mean_level"]
            left.scatter(
                np.nan if place is None else place * (100 if known else 1),
                row["in_time"] * 100,
                s=160 if row["mode"] == "elastic" else 70,
                marker=_MARKS[row["mode"]],
                color=_COLOURS[row["mode"]],
                label=row["mode"],
            )
        x_label = "mean served accuracy, %" if known else "mean level, 0 lowest, 1 highest"
        left.set(title=trace, xlabel=x_label, ylabel=f"answered within {report['slo_ms']:g} ms, %")
        left.set_ylim(-5, 105)
        left.legend(loc="lower left")
        left.grid(alpha=0.3)
        elastic = next(row for row in rows if row["mode"] == "elastic")
        rates, levels = zip(*elastic["timeline"], strict=True)
        middle = [part + 0.5 for part in range(len(rates))]
        right.bar(middle, rates, width=0.9, color="#d1d5db")
        right.set(title=f"{trace}: elastic", xlabel="tenths of the trace", ylabel="requests a second")
        level = right.twinx()
        level.plot(middle, [np.nan if mean is None else mean for mean in levels], marker="o", color=_COLOURS["elastic"])
        level.set_ylim(-0.05, 1.05)
        level.set_ylabel("mean level, 0 lowest, 1 highest", color=_COLOURS["elastic"])
    figure.savefig(file, dpi=110)
    plt.close(figure)
