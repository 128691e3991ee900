"""Replay of request arrival traces over HTTP, with elastic capacity and at fixed settings.

The service sustains a certain request rate at its lowest setting. The peak rate of a trace is `--load` times that rate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from command_line import cells, say, table

from serving.http_client import Array, Load, open_loop
from serving.service import Report, ServiceError, Subject

_PAUSE = 1.0  # seconds between two traces, so that the service becomes idle
_MEANINGFUL = 1.1
"""Smallest load, relative to the highest setting's capacity, at which elastic capacity has something to do."""
BURST, CALM = 2.0, 4.0  # length of a burst, and length of the calm between two bursts, in seconds
BURST_OVER_CALM = 4.0  # request rate during a burst, relative to the rate between bursts
NIGHT_OVER_NOON = 0.2  # lowest request rate of a day, relative to its highest

TRACES: dict[str, Callable[[Array, float], Array]] = {
    "poisson": lambda times, _: np.ones_like(times),
    "bursts": lambda times, _: np.where(times % (BURST + CALM) >= CALM, 1, 1 / BURST_OVER_CALM),
    "day": lambda times, seconds: (
        NIGHT_OVER_NOON + (1 - NIGHT_OVER_NOON) * (0.5 - 0.5 * np.cos(2 * np.pi * times / seconds))
    ),
}
"""Functions of times f64[N] and a trace's length, both in seconds, to request rates relative to the peak. A day starts at
midnight."""


def arrivals(trace: str, rate: float, seconds: float, seed: int) -> Array:
    """Return the random arrival times f64[N] of a trace whose peak rate is `rate` requests per second.

    The arrivals are a Poisson process whose rate follows the trace.

    Examples:
        >>> trace = arrivals("poisson", 100.0, 10.0, seed=1)
        >>> len(trace), bool((trace[1:] >= trace[:-1]).all()), float(trace[-1]) < 10
        (1001, True, True)
    """
    generator = np.random.default_rng(seed)
    times = np.sort(generator.uniform(0.0, seconds, generator.poisson(rate * seconds)))
    return times[generator.uniform(0.0, 1.0, len(times)) < TRACES[trace](times, seconds)]


def measure(subject: Subject) -> Report:
    """Measure the saturated service at each setting, and then replay each trace three times.

    The three replays use elastic capacity, the highest setting, and the lowest setting.

    Raises:
        ServiceError: the service answers no request, or a trace has no requests.
    """
    options = subject.options
    points = [subject.saturated(name, options.saturate_seconds) for name in options.profiles]
    low, high = points[0], points[-1]
    rate = options.load * low["images_per_second"] / options.images_per_request
    rows = []
    for name in options.traces or TRACES:
        due = arrivals(name, rate, options.seconds, 1)
        if not due.size:
            raise ServiceError(f"at {rate:.2g} requests a second, a trace of {options.seconds:g} seconds has none")
        for mode, setting in (("elastic", None), ("fixed high", high["setting"]), ("fixed low", low["setting"])):
            time.sleep(_PAUSE)
            load, row = subject.load(open_loop, setting, due)
            bursts = np.arange(CALM, options.seconds, BURST + CALM).tolist() if name == "bursts" and setting is None else []
            row |= outcome(load, options.slo_ms / 1e3, options.profiles, bursts)
            rows.append({"trace": name, "mode": mode, **row})
            say(f"{name}, {mode}: {row['in_time']:.1%} in time")
    over = options.load * low["images_per_second"] / high["images_per_second"]
    return {
        "images_per_request": options.images_per_request,
        "load": options.load,
        "requests_per_second": rate,
        "over_high": over,
        "points": points,
        "rows": rows,
    }


def outcome(load: Load, target: float, order: Sequence[str], bursts: Sequence[float]) -> dict[str, Any]:
    """Summarize the replay of a trace.

    A response time starts when the request was due, not when it was sent, so a slow generator does not improve it.

    Args:
        load: the result of `open_loop`.
        target: largest number of seconds from a request's due time to its answer.
        order: names of the settings, the least accurate first.
        bursts: start of each burst, in seconds from the start of the load.

    Returns:
        A mapping with these entries, among others:

        - `in_time`: share of all requests that were answered within the target.
        - `settings`: share of the answers that each setting served.
        - `mean_level`: mean position in `order` of the settings that served the answers, scaled to the range 0 to 1.
        - `switch_ms`: an entry for each burst, unless the last answer before the burst was already at the lowest setting.
          The entry is the time from the start of the burst until the first answer at a lower setting than before, in
          milliseconds. It is None if no such answer arrived before the next burst.
        - `timeline`: for each tenth of the trace, the requests per second and the mean level. The level is None if there
          were no answers.
    """
    answered = np.flatnonzero(load.status == 200)
    seconds = (load.done - load.due)[answered]
    by_time = answered[np.argsort(load.done[answered], kind="stable")]
    served = [load.setting[index] for index in by_time]
    places = np.array([order.index(name) / max(len(order) - 1, 1) if name in order else np.nan for name in served])
    tenth = (load.due[-1] - load.due[0]) / 10 or 1.0  # 1 second if all requests are due at once
    when = np.minimum(((load.due - load.due[0]) / tenth).astype(int), 9)
    parts = [places[when[by_time] == part] for part in range(10)]
    return {
        "requests": len(load.due),
        "in_time": float(np.count_nonzero(seconds <= target) / len(load.due)),
        "refused": int(np.count_nonzero((load.status != 200) & (load.status != 0))),
        "lost": int(np.count_nonzero(load.status == 0)),
        **{f"p{p}_ms": float(np.percentile(seconds, p) * 1e3) if len(seconds) else None for p in (50, 99)},
        "settings": {name: times / len(served) for name, times in sorted(Counter(served).items())},
        "mean_level": float(np.mean(places)) if len(places) else None,
        "switch_ms": _switches(load.done[by_time], places, [load.start + burst for burst in bursts]),
        "timeline": [
            (float(np.count_nonzero(when == part) / tenth), float(np.mean(level)) if len(level) else None)
            for part, level in enumerate(parts)
        ],
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
    """Format the tables."""
    low, high = report["points"][0]["setting"], report["points"][-1]["setting"]
    lines = [
        f"At most {report['requests_per_second']:.0f} requests a second of {report['images_per_request']} images: "
        f"{report['load']:g} of the capacity of {low}, {report['over_high']:.2f} of the capacity of {high}.",
        "",
    ]
    if report["over_high"] < _MEANINGFUL:
        lines += [f"**The comparison means little: the load is below {_MEANINGFUL} times the capacity of {high}.**", ""]
    head = ["setting", "images/s", "accuracy", "images a call", "service cores", "generator cores", "generator ms a request"]
    fields = "setting images_per_second:.0f accuracy:.2% images_per_call:.1f service_cpu:.2f generator_cpu:.2f"
    lines += [*table(head, [cells(point, fields + " generator_ms:.3f") for point in report["points"]]), ""]
    head = [
        "trace",
        "served at",
        "in time",
        "accuracy",
        "p50 ms",
        "p99 ms",
        "refused",
        "lost",
        "images a call",
        "switched in ms",
    ]
    fields = "trace mode in_time:.1% accuracy:.2% p50_ms:.1f p99_ms:.1f refused lost images_per_call:.1f switches shares"
    rows = []
    for row in report["rows"]:
        switches = " ".join("never" if switch is None else f"{switch:.0f}" for switch in row["switch_ms"])
        shares = ", ".join(f"{name} {share:.1%}" for name, share in row["settings"].items())
        rows.append(cells(row | {"switches": switches or "-", "shares": shares}, fields))
    return "\n".join([*lines, *table([*head, "answers by profile"], rows)])


_LOOKS = {"elastic": ("#0b5fa5", "*"), "fixed high": ("#b3261e", "s"), "fixed low": ("#6b7280", "o")}


def draw(report: dict[str, Any], file: Path, slo_ms: float) -> None:
    """Draw a row of panels for each trace.

    The panels compare elastic capacity with the two fixed settings. They show the load and the mean level over time. The
    level is 0 for the lowest setting and 1 for the highest.
    """
    from matplotlib.figure import Figure

    traces = list(dict.fromkeys(row["trace"] for row in report["rows"]))
    figure = Figure((10, 3 * len(traces)), layout="constrained")
    grid = figure.subplots(len(traces), 2, squeeze=False)
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
