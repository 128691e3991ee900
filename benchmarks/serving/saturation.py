"""What HTTP costs: the service at saturation beside the bare engine, and one request alone beside one call."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
from command_line import cells, table

from serving.subject import Subject


def measure(subject: Subject) -> dict[str, Any]:
    """Rounds of service and engine for each setting: while one is measured, the other idles."""
    given, each, rows = subject.given, subject.given.images_per_request, []
    for setting in given.settings:
        # The engine's batches are as large as the service's own calls.
        size = round(subject.saturated(setting, given.seconds)["images_per_call"] or given.max_batch)
        rounds = []
        for _ in range(given.rounds):
            part = subject.saturated(setting, given.seconds)
            part["engine_images_per_second"] = size / np.mean(_calls(subject, size, setting))
            part["ratio"] = part["images_per_second"] / part["engine_images_per_second"]
            part["alone_ms"] = subject.saturated(setting, given.seconds, connections=1)["p50_ms"]
            part["call_ms"] = float(np.median(_calls(subject, each, setting))) * 1e3
            part["overhead_ms"] = part["alone_ms"] - part["call_ms"]
            rounds.append(part)
        numbers = [name for name, value in rounds[0].items() if isinstance(value, float)]
        medians = {name: float(np.median([part[name] for part in rounds])) for name in numbers}
        ratios = sorted(part["ratio"] for part in rounds)
        rows.append(medians | {"setting": setting, "batch": size, "least": ratios[0], "most": ratios[-1], "rounds": rounds})
    service = {"service_bytes": sum(subject.service.memory().values()), "start_seconds": subject.service.start_seconds}
    return subject.described() | {"rows": rows} | service


def markdown(report: dict[str, Any]) -> str:
    """The table: medians over the rounds."""
    head = ["setting", "images a call", "service images/s", "engine images/s", "ratio", "lowest", "highest", "service cores"]
    head += ["generator cores", "generator ms a request", "one request alone ms", "one call ms", "difference ms"]
    fields = "setting batch images_per_second:.0f engine_images_per_second:.0f ratio:.3f least:.3f most:.3f service_cpu:.2f"
    fields += " generator_cpu:.2f generator_ms:.3f alone_ms:.3f call_ms:.3f overhead_ms:.3f"
    service = f"The service answered {report['start_seconds']:.1f} s after its start; its memory was "
    service += f"{report['service_bytes'] / 1e6:,.0f} MB at the end."
    return "\n".join([*table(head, [cells(row, fields) for row in report["rows"]]), "", service])


def _calls(subject: Subject, size: int, setting: str) -> list[float]:
    """Seconds of each call of the bare engine, as many as there is time for."""
    images, taken = subject.images, list[float]()
    batches = [images[np.arange(first, first + size) % len(images)] for first in range(0, len(images), size)]
    end = time.perf_counter() + subject.given.seconds
    for batch in itertools.cycle(batches):
        start = time.perf_counter()
        if start >= end and taken:
            break
        subject.engine(batch, setting)
        taken.append(time.perf_counter() - start)
    return taken
