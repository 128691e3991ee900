"""The README's speed table, from a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cpu.report import table
from cpu.runs import RUNS

Points = Sequence[Mapping[str, Any]]


def choose_points(points: Points, models: Sequence[str], threads: Sequence[int], batches: Sequence[int]) -> Points:
    """The points of some models, numbers of threads and batch sizes; an empty sequence stands for all."""
    wanted = (("model", models), ("threads", threads), ("batch", batches))
    return [p for p in points if all(not values or p[name] in values for name, values in wanted)]


def speed_tables(report: Mapping[str, Any], points: Points, ck: float) -> list[str]:
    """Markdown: ms per image of every run, what the peaks allow this engine, and ratios, for each model and thread count.

    Args:
        report: of `speed.py`.
        points: those of its points that are wanted.
        ck: capacity ratio x k of the sparse runs.
    """
    machine, lines = report["machine"], []
    for model, threads in dict.fromkeys((p["model"], p["threads"]) for p in points):
        chosen = [p for p in points if (p["model"], p["threads"]) == (model, threads) and p["ck"] in (None, ck)]
        batches = sorted({p["batch"] for p in chosen})
        lines += [f"{model}, C x K {ck:g}, {threads} threads, {machine['known_as'] or machine['cpu']['name']}; "]
        lines[-1] += f"this engine: {report['engine']}. Milliseconds per image, medians of calls taken in turns:"
        head = [f"batch {batch}" for batch in batches]
        lines += ["", *table(["", *head], _times(chosen, batches)), ""]
        ratios = [r for r in report["ratios"] if (r["model"], r["threads"]) == (model, threads) and r["ck"] in (None, ck)]
        lines += [*table(["images/s over another's", *head], _ratios(ratios, batches)), ""]
    return lines


def _times(points: Points, batches: Sequence[int]) -> list[list[str]]:
    found = {(p["run"], p["batch"]): p for p in points}
    rows = []
    for name, run in RUNS.items():
        own = [found.get((name, batch)) for batch in batches]
        if any(own):
            title = f"**{run.title}**" if name.startswith("engine-") else run.title
            rows.append([title, *(f"{p['ms'] / p['batch']:.1f}" if p else "-" for p in own)])
    for name, run in RUNS.items():
        own = [found.get((name, batch)) for batch in batches]
        if name.startswith("engine-") and any(own):
            title = f"{run.title}: the least that the machine's peaks allow"
            rows.append([title, *(f"{_floor_ms(p) / p['batch']:.1f}" if p else "-" for p in own)])
    return rows


def _floor_ms(point: Mapping[str, Any]) -> float:
    return float(max(point["flop_floor_ms"], point["memory_floor_ms"]))


def _ratios(ratios: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> list[list[str]]:
    found = {(r["run"], r["over"], r["batch"]): r["ratio"] for r in ratios}
    rows = []
    for run, over in dict.fromkeys((run, over) for run, over, _ in found):
        own = [found.get((run, over, batch)) for batch in batches]
        rows.append(
            [f"{RUNS[run].title} / {RUNS[over].title}", *("-" if value is None else f"{value:.2f}" for value in own)]
        )
    return rows
