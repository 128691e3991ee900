"""Replays a trace against a batcher, open loop: requests come when the trace says, whether or not others were answered."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from vmoe_serve.batching import Answer, Batcher, QueueFullError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Served:
    """What came of a trace.

    Attributes:
        requests: how many there were.
        in_time: share that was answered within the target, of all requests.
        refused: requests that found the queue full.
        accuracy: share of right answers among the answered ones; None where it isn't known what images show.
        p50_ms, p99_ms: milliseconds from arrival to answer, of the answered ones.
        settings: share of the answered requests by the setting that served them.
        changes: how often the setting of a call was another one than that of the call before.
        images_per_call: on average.
        late_ms: how late the generator sent requests, 99th percentile: what it adds to every answer's time.
        generator_seconds: of CPU time that the generator needed.
        timeline: for each tenth of the trace: requests a second, and the mean of the settings' places in the order in which
            they were given, from 0 to 1.
    """

    requests: int
    in_time: float
    refused: int
    accuracy: float | None
    p50_ms: float
    p99_ms: float
    settings: dict[str, float]
    changes: int
    images_per_call: float
    late_ms: float
    generator_seconds: float
    timeline: tuple[tuple[float, float], ...]


def replay(
    batcher: Batcher,
    arrivals: Array,
    images: Array,
    labels: Array | None,
    target: float,
    order: tuple[str, ...],
    setting: str | None = None,
) -> Served:
    """Sends one image for each arrival, in turn, and waits for all answers.

    Args:
        batcher: what answers.
        arrivals: f64[R], seconds, rising.
        images: dtype[N,H,W,C], as the engine takes them.
        labels: i64[N], or None.
        target: seconds from arrival to answer.
        order: names of the settings, for the timeline.
        setting: what every request asks for; None leaves it to the batcher.
    """
    parts = [images[index : index + 1] for index in range(len(images))]
    answered: list[float] = [np.nan] * len(arrivals)
    futures: list[Future[Answer] | None] = []
    late = np.zeros(len(arrivals))
    cpu = time.thread_time()
    start = time.monotonic() + 0.05
    for index, arrival in enumerate(arrivals):
        due = start + float(arrival)
        while (now := time.monotonic()) < due:
            time.sleep(due - now)
        late[index] = now - due
        try:
            future = batcher.submit(parts[index % len(parts)], setting)
        except QueueFullError:
            futures.append(None)
            continue
        future.add_done_callback(_noting(answered, index))
        futures.append(future)
    cpu = time.thread_time() - cpu
    answers = [None if future is None else future.result() for future in futures]
    return _summary(start + arrivals, np.array(answered), answers, labels, target, order, late, cpu)


def _noting(answered: list[float], index: int) -> Any:
    def note(_: Future[Answer]) -> None:
        answered[index] = time.monotonic()

    return note


def _summary(
    came: Array,
    answered: Array,
    answers: list[Answer | None],
    labels: Array | None,
    target: float,
    order: tuple[str, ...],
    late: Array,
    cpu: float,
) -> Served:
    there = [(index, answer) for index, answer in enumerate(answers) if answer is not None]
    # An answer counts from when its request was due, so that a generator that is late flatters nobody.
    seconds = np.array([answered[index] - came[index] for index, _ in there])
    names = [answer.setting or "" for _, answer in there]
    right = None
    if labels is not None:
        right = float(np.mean([answer.logits.argmax() == labels[index % len(labels)] for index, answer in there]))
    calls = {(answer.seconds, answer.setting): answer.together for _, answer in there}
    ordered = [setting for _, setting in calls]
    tenth = (came[-1] - came[0]) / 10
    places = np.array([order.index(name) / max(len(order) - 1, 1) if name in order else np.nan for name in names])
    when = np.minimum(((came - came[0]) / tenth).astype(int), 9)
    served_when = when[[index for index, _ in there]]
    timeline = tuple(
        (float(np.count_nonzero(when == part) / tenth), float(np.mean(places[served_when == part]))) for part in range(10)
    )
    return Served(
        requests=len(answers),
        in_time=float(np.count_nonzero(seconds <= target) / len(answers)),
        refused=len(answers) - len(there),
        accuracy=right,
        p50_ms=float(np.percentile(seconds, 50) * 1e3),
        p99_ms=float(np.percentile(seconds, 99) * 1e3),
        settings={name: count / len(there) for name, count in sorted(Counter(names).items())},
        changes=sum(before != after for before, after in pairwise(ordered)),
        images_per_call=float(np.mean(list(calls.values()))),
        late_ms=float(np.percentile(late, 99) * 1e3),
        generator_seconds=cpu,
        timeline=timeline,
    )
