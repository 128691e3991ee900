"""The picture of arrival traces: answers in time against right ones, and how the setting follows the load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

_LOOKS = {"elastic": ("#0b5fa5", "*"), "fixed high": ("#b3261e", "s"), "fixed low": ("#6b7280", "o")}


def draw(report: dict[str, Any], file: Path, slo_ms: float) -> None:
    """Draws one row for each trace of a report: on the left the modes, on the right load and level over time."""
    traces = list(dict.fromkeys(row["trace"] for row in report["rows"]))
    figure, grid = plt.subplots(len(traces), 2, figsize=(10, 3 * len(traces)), squeeze=False, layout="constrained")
    for (left, right), trace in zip(grid, traces, strict=True):
        rows = [row for row in report["rows"] if row["trace"] == trace]
        known = any(row["accuracy"] is not None for row in rows)
        for row in rows:
            color, marker = _LOOKS[row["mode"]]
            place = row["accuracy"] and row["accuracy"] * 100 if known else row["mean_level"]
            left.scatter(
                np.nan if place is None else place, row["in_time"] * 100, s=90, color=color, marker=marker, label=row["mode"]
            )
        level = "mean level, 0 lowest, 1 highest"
        left.set(title=trace, xlabel="mean served accuracy, %" if known else level, ylim=(-5, 105))
        left.set_ylabel(f"answered within {slo_ms:g} ms, %")
        left.legend(loc="lower left")
        left.grid(alpha=0.3)
        rates, levels = zip(*next(row for row in rows if row["mode"] == "elastic")["timeline"], strict=True)
        middle = np.arange(len(rates)) + 0.5
        right.bar(middle, rates, width=0.9, color="#d1d5db")
        right.set(title=f"{trace}: elastic", xlabel="tenths of the trace", ylabel="requests a second")
        over = right.twinx()
        over.plot(middle, [np.nan if mean is None else mean for mean in levels], marker="o", color=_LOOKS["elastic"][0])
        over.set(ylim=(-0.05, 1.05), ylabel=level)
    figure.savefig(file, dpi=110)
    plt.close(figure)
