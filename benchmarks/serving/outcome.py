"""What came of a trace: answers in time, right answers, and how the setting followed the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from serving.http_client import Array, Notes


def outcome(notes: Notes, target: float, order: Sequence[str], bursts: Sequence[float]) -> dict[str, Any]:
    """Sums up the notes of a trace; every time counts from when a request was due, so that a late generator flatters nobody.

    Args:
        notes: of `open_loop`.
        target: seconds from a request's due time to its answer.
        order: names of the settings, the least accurate first.
        bursts: seconds from the start at which bursts begin.

    Returns:
        `requests`; `in_time`, the share answered within the target, of all; `refused` and `lost`, those with another status
        and without an answer; `p50_ms` and `p99_ms` of the answered ones; `settings`, shares of the answered ones by what
        served them; `mean_level`, their mean place in the order, from 0 to 1; `changes` of the setting from answer to
        answer; `switch_ms`, for each burst that began above the lowest setting the time until an answer came from a lower
        one than before, None where none did until the next burst; `timeline`, for each tenth requests a second and the mean
        level, None without an answer; `late_ms`, how late requests were sent (99th percentile); `generator_seconds` of CPU
        time.
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
        "p50_ms": float(np.percentile(seconds, 50) * 1e3) if len(seconds) else None,
        "p99_ms": float(np.percentile(seconds, 99) * 1e3) if len(seconds) else None,
        "settings": {name: count / len(served) for name, count in sorted(Counter(served).items())},
        "mean_level": float(np.mean(places)) if len(places) else None,
        "changes": sum(before != after for before, after in pairwise(served)),
        "switch_ms": _switches(notes.done[by_time], places, [notes.start + burst for burst in bursts]),
        "timeline": [
            (float(np.count_nonzero(when == part) / tenth), float(np.mean(level)) if len(level) else None)
            for part, level in enumerate(parts)
        ],
        "late_ms": float(np.nanpercentile(notes.sent - notes.due, 99) * 1e3),
        "generator_seconds": notes.cpu,
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
