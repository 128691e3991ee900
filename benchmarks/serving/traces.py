"""Arrival traces over HTTP, at elastic capacity and at fixed settings; the load is a share of what the lowest can serve."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from command_line import cells, say, table

from serving.arrivals import arrivals, burst_starts
from serving.http_client import Array, Notes, open_loop
from serving.service import ServiceError
from serving.subject import Report, Subject

_PAUSE = 1.0  # seconds between two traces, in which the service comes to rest
_MEANINGFUL = 1.1
"""Times the highest setting's capacity that a load must be at least, for elastic capacity to have something to do."""


def measure(subject: Subject) -> Report:
    """Saturates each setting, then replays each trace in each mode.

    Raises:
        ServiceError: the service answers nothing, or the load is nothing.
    """
    given = subject.given
    points = [subject.saturated(name, given.saturate_seconds) for name in given.settings]
    low, high = points[0], points[-1]
    rate = given.load * low["images_per_second"] / given.images_per_request
    rows = []
    for name in given.traces:
        due = arrivals(name, rate, given.seconds, 1)
        if not due.size:
            raise ServiceError(f"at {rate:.2g} requests a second none come in {given.seconds:g} seconds")
        for mode, setting in (("elastic", None), ("fixed high", high["setting"]), ("fixed low", low["setting"])):
            time.sleep(_PAUSE)
            notes, found = subject.load(open_loop, setting, due)
            bursts = burst_starts(given.seconds) if name == "bursts" and setting is None else []
            found |= outcome(notes, given.slo_ms / 1e3, given.settings, bursts)
            rows.append({"trace": name, "mode": mode, **found})
            say(f"{name}, {mode}: {found['in_time']:.1%} in time")
    over = given.load * low["images_per_second"] / high["images_per_second"]
    load = {"images_per_request": given.images_per_request, "load": given.load, "requests_per_second": rate}
    return load | {"over_high": over, "points": points, "rows": rows}


def outcome(notes: Notes, target: float, order: Sequence[str], bursts: Sequence[float]) -> dict[str, Any]:
    """Sums up the notes of a trace; every time counts from when a request was due, so that a late generator flatters nobody.

    Args:
        notes: of `open_loop`.
        target: seconds from a request's due time to its answer.
        order: names of the settings, the least accurate first.
        bursts: seconds from the start at which bursts begin.

    Returns:
        Among others `in_time`, the share answered within the target, of all; `settings`, shares of the answered ones by what
        served them; `mean_level`, their mean place in the order, from 0 to 1; `switch_ms`, for each burst that began above
        the lowest setting the time until an answer came from a lower one than before, None where none did until the next
        burst; `timeline`, for each tenth requests a second and the mean level, None without an answer; `late_ms`, how late
        requests were sent (99th percentile).
    """
    answered = np.flatnonzero(notes.status == 200)
    seconds = (notes.done - notes.due)[answered]
    by_time = answered[np.argsort(notes.done[answered], kind="stable")]
    served = [notes.setting[index] for index in by_time]
    places = np.array([order.index(name) / max(len(order) - 1, 1) if name in order else np.nan for name in served])
    tenth = (notes.due[-1] - notes.due[0]) / 10 or 1.0  # of a lone arrival
    when = np.minimum(((notes.due - notes.due[0]) / tenth).astype(int), 9)
    parts = [places[when[by_time] == part] for part in range(10)]
    return {
        "requests": len(notes.due),
        "in_time": float(np.count_nonzero(seconds <= target) / len(notes.due)),
        "refused": int(np.count_nonzero((notes.status != 200) & (notes.status != 0))),
        "lost": int(np.count_nonzero(notes.status == 0)),
        **{f"p{p}_ms": float(np.percentile(seconds, p) * 1e3) if len(seconds) else None for p in (50, 99)},
        "settings": {name: times / len(served) for name, times in sorted(Counter(served).items())},
        "mean_level": float(np.mean(places)) if len(places) else None,
        "changes": sum(before != after for before, after in pairwise(served)),
        "switch_ms": _switches(notes.done[by_time], places, [notes.start + burst for burst in bursts]),
        "timeline": [
            (float(np.count_nonzero(when == part) / tenth), float(np.mean(level)) if len(level) else None)
            for part, level in enumerate(parts)
        ],
        "late_ms": float(np.nanpercentile(notes.sent - notes.due, 99) * 1e3),
    }


def _switches(done: Array, places: Array, starts: Sequence[float]) -> list[float | None]:
    found: list[float | None] = []
    for start, end in pairwise([*starts, np.inf]):
        first = int(np.searchsorted(done, start))
        before = places[first - 1] if first else 0.0
        if before > 0:
            lower = (done >= start) & (done < end) & (places < before)
            found.append(float(done[lower][0] - start) * 1e3 if lower.any() else None)
    return found


def markdown(report: Report) -> str:
    """The tables."""
    low, high = report["points"][0]["setting"], report["points"][-1]["setting"]
    lines = [
        f"At the most {report['requests_per_second']:.0f} requests a second of {report['images_per_request']} images: "
        f"{report['load']:g} of what {low} can serve, {report['over_high']:.2f} of what {high} can.",
        "",
    ]
    if report["over_high"] < _MEANINGFUL:
        lines += [f"**The comparison means little: the load is less than {_MEANINGFUL} times what {high} can serve.**", ""]
    head = ["setting", "images/s", "accuracy", "images a call", "service cores", "generator cores", "generator ms a request"]
    fields = "setting images_per_second:.0f accuracy:.2% images_per_call:.1f service_cpu:.2f generator_cpu:.2f"
    lines += [*table(head, [cells(point, fields + " generator_ms:.3f") for point in report["points"]]), ""]
    head = ["trace", "served at", "in time", "accuracy", "p50 ms", "p99 ms", "refused", "lost", "images a call", "changes"]
    head += ["switched in ms", "late ms", "generator CPU s", "service CPU s"]
    fields = "trace mode in_time:.1% accuracy:.2% p50_ms:.1f p99_ms:.1f refused lost images_per_call:.1f changes"
    fields += " switches late_ms:.1f generator_seconds:.1f service_seconds:.1f"
    rows = []
    for row in report["rows"]:
        switches = ["never" if switch is None else f"{switch:.0f}" for switch in row["switch_ms"]]
        rows.append(cells(row | {"switches": " ".join(switches) or "-"}, fields))
    shares = [
        [row["trace"], ", ".join(f"{name} {share:.1%}" for name, share in row["settings"].items())]
        for row in report["rows"]
        if row["mode"] == "elastic"
    ]
    return "\n".join([*lines, *table(head, rows), "", *table(["trace", "elastic answers by setting"], shares)])
