"""Measurement of the cost of HTTP, in two comparisons.

The first comparison is between the rate of the saturated service and the rate of the bare engine. The second is between the
time of a request and the time of an engine call. For the second comparison, only one request or call runs at a time.
"""

from __future__ import annotations

import time

import numpy as np
from command_line import cells, table

from serving.service import Report, Subject


def measure(subject: Subject) -> Report:
    """Measure the service and the engine alternately, in several rounds for each setting.

    While one of the two is measured, the other is idle.
    """
    options, rows = subject.options, []
    for setting in options.profiles:
        # The batch size for the bare engine is the mean number of images in the service's calls.
        size = round(subject.saturated(setting, options.seconds)["images_per_call"] or options.batch_size)
        rounds = []
        for _ in range(options.rounds):
            part = subject.saturated(setting, options.seconds)
            engine, alone = size / np.mean(_calls(subject, size, setting)), subject.saturated(setting, options.seconds, 1)
            call = float(np.median(_calls(subject, options.images_per_request, setting))) * 1e3
            part |= {"engine_images_per_second": engine, "ratio": part["images_per_second"] / engine}
            part |= {"alone_ms": alone["p50_ms"], "call_ms": call, "overhead_ms": alone["p50_ms"] - call}
            rounds.append(part)
        numbers = [name for name, value in rounds[0].items() if isinstance(value, float)]
        medians = {name: float(np.median([part[name] for part in rounds])) for name in numbers}
        ratios = [part["ratio"] for part in rounds]
        row = {"setting": setting, "batch": size, "least": min(ratios), "most": max(ratios), "rounds": rounds}
        rows.append(medians | row)
    memory = sum(subject.service.memory().values())
    return {"rows": rows, "service_bytes": memory, "start_seconds": subject.service.start_seconds}


def markdown(report: Report) -> str:
    """Format the table, which shows medians over the rounds."""
    head = ["setting", "images a call", "service images/s", "engine images/s", "ratio", "lowest", "highest", "service cores"]
    head += ["generator cores", "generator ms a request", "one request alone ms", "one call ms", "difference ms"]
    fields = "setting batch images_per_second:.0f engine_images_per_second:.0f ratio:.3f least:.3f most:.3f service_cpu:.2f"
    fields += " generator_cpu:.2f generator_ms:.3f alone_ms:.3f call_ms:.3f overhead_ms:.3f"
    service = f"The service answered {report['start_seconds']:.1f} s after its start; its memory was "
    service += f"{report['service_bytes'] / 1e6:,.0f} MB at the end."
    return "\n".join([*table(head, [cells(row, fields) for row in report["rows"]]), "", service])


def _calls(subject: Subject, size: int, setting: str) -> list[float]:
    """Call the bare engine on `size` images for the configured time, and return the seconds that each call took."""
    profile = subject.engine.setting(setting)
    taken, end = list[float](), time.perf_counter() + subject.options.seconds
    while not taken or time.perf_counter() < end:
        first = len(taken) * size
        batch = subject.images[np.arange(first, first + size) % len(subject.images)]
        start = time.perf_counter()
        subject.engine(batch, profile)
        taken.append(time.perf_counter() - start)
    return taken
