"""Arrival traces over HTTP, at elastic capacity and at fixed settings; the load is a share of what the lowest can serve."""

from __future__ import annotations

import sys
import time
from typing import Any

from cpu.report import table

from serving.http_client import open_loop
from serving.outcome import outcome
from serving.services import ServiceError
from serving.subject import Subject, images_per_call
from serving.tables import cells
from serving.traces import TRACES, burst_starts

_SEED = 1
_PAUSE = 1.0
"""Seconds between two traces, in which the service comes to rest."""
_MEANINGFUL = 1.1
"""Times the highest setting's capacity that a load must be at least, for elastic capacity to have something to do."""


def measure(subject: Subject) -> dict[str, Any]:
    """Saturates each setting, then replays each trace in each mode.

    Raises:
        ServiceError: the service answers nothing, or the load is nothing.
    """
    given, service = subject.given, subject.service
    points = [subject.saturated(name, given.saturate_seconds) for name in given.settings]
    low, high = points[0], points[-1]
    rate = given.load * low["images_per_second"] / given.images_per_request
    rows = []
    for name in given.traces:
        arrivals = TRACES[name](rate, given.seconds, _SEED)
        if not arrivals.size:
            raise ServiceError(f"at {rate:.2g} requests a second none come in {given.seconds:g} seconds")
        for mode, setting in (("elastic", None), ("fixed high", high["setting"]), ("fixed low", low["setting"])):
            time.sleep(_PAUSE)
            before, cpu = subject.calls(), service.used()[0]
            requests = subject.requests(setting)
            notes = subject.generator.submit(open_loop, service.port, requests, given.images_per_request, arrivals).result()
            bursts = burst_starts(given.seconds) if name == "bursts" and setting is None else []
            used, resident = service.used()
            row = {"trace": name, "mode": mode, **outcome(notes, given.slo_ms / 1e3, given.settings, bursts)}
            row |= {"accuracy": subject.right(notes), "images_per_call": images_per_call(before, subject.calls())}
            rows.append(row | {"service_seconds": used - cpu, "service_bytes": resident})
            print(f"{name}, {mode}: {row['in_time']:.1%} in time", file=sys.stderr)
    over = given.load * low["images_per_second"] / high["images_per_second"]
    load = {"load": given.load, "requests_per_second": rate, "over_high": over}
    return subject.described() | load | {"points": points, "rows": rows}


def markdown(report: dict[str, Any]) -> str:
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
    fields = (
        "setting images_per_second:.0f accuracy:.2% images_per_call:.1f service_cpu:.2f generator_cpu:.2f generator_ms:.3f"
    )
    lines += [*table(head, [cells(point, fields) for point in report["points"]]), ""]
    head = ["trace", "served at", "in time", "accuracy", "p50 ms", "p99 ms", "refused", "lost", "images a call", "changes"]
    head += ["switched in ms", "late ms", "generator CPU s", "service CPU s"]
    fields = "trace mode in_time:.1% accuracy:.2% p50_ms:.1f p99_ms:.1f refused lost images_per_call:.1f changes"
    fields += " switches late_ms:.1f generator_seconds:.1f service_seconds:.1f"
    rows = [row | {"switches": _times(row["switch_ms"])} for row in report["rows"]]
    lines += [*table(head, [cells(row, fields) for row in rows]), ""]
    shares = [
        [row["trace"], ", ".join(f"{name} {share:.1%}" for name, share in row["settings"].items())]
        for row in rows
        if row["mode"] == "elastic"
    ]
    return "\n".join([*lines, *table(["trace", "elastic answers by setting"], shares)])


def _times(switches: list[float | None]) -> str:
    return " ".join("never" if switch is None else f"{switch:.0f}" for switch in switches) or "-"
