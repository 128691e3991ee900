"""What a measurement shows: progress while it runs, and a table. The only module that needs rich."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import progress
from rich.console import Console
from rich.table import Table

from vmoe_tools.bench.loading import MeasuredEngine
from vmoe_tools.bench.report import PointReport
from vmoe_tools.command_line import printable

_WIDTH_OF_A_PIPE = 120
_STAR = {True: " *", False: "  ", None: ""}


class Progress:
    """Bars for the steps of a measurement, where the stream is a terminal; nothing elsewhere."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._console = Console(file=stream, markup=False, emoji=False)
        self._off = quiet or not stream.isatty()

    @contextmanager
    def step(self, text: str, total: float) -> Iterator[Callable[[float, int], None]]:
        """Shows a bar with images per second and the time left, until the block ends.

        Args:
            text: what is done.
            total: of what it takes, in any unit.

        Yields:
            advance(amount, images): what was done since the last call, in that unit and in images.
        """
        columns = (
            progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
            progress.TextColumn("{task.fields[rate]}", markup=False), progress.TimeRemainingColumn(),
        )  # fmt: skip
        with progress.Progress(*columns, console=self._console, transient=True, disable=self._off) as bar:
            task = bar.add_task(text, total=total, rate="")
            start, seen = time.monotonic(), 0

            def advance(amount: float, images: int) -> None:
                nonlocal seen
                seen += images
                rate = seen / max(time.monotonic() - start, 1e-9)
                bar.update(task, advance=amount, rate=f"{rate:,.1f} images/s")

            yield advance


def print_table(points: Sequence[PointReport], engines: Sequence[MeasuredEngine], stream: TextIO) -> None:
    """Prints what was loaded, and one line per point; those of the Pareto front have a star.

    Args:
        points: what was measured.
        engines: what it was measured with.
        stream: where to.
    """
    # A pipe has no width of its own, and rich would squeeze the table into 80 columns.
    console = Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_PIPE, markup=False, emoji=False)
    for loaded in engines:
        memory = "" if loaded.resident_bytes is None else f", {loaded.resident_bytes / 1e6:,.0f} MB more in memory"
        loading = f"loaded in {loaded.load_seconds:.2f} s{memory}"
        console.print(f"{loaded.bundle}: {loaded.engine.backend_description}, {loading}", soft_wrap=True)
    table = Table()
    several = {
        "bundle": len({point.bundle for point in points}) > 1,
        "backend": len({point.backend for point in points}) > 1,
        "batch": len({point.batch_size for point in points}) > 1,
        "at once": len({point.concurrency for point in points}) > 1,
        "sent on": any(point.then for point in points),
    }
    columns: dict[str, Callable[[PointReport], str]] = {
        "bundle": lambda point: point.bundle,
        "profile": lambda point: (point.profile or "-") + (f", then {point.then}" if point.then else ""),
        "backend": lambda point: point.backend,
        "batch": lambda point: str(point.batch_size),
        "at once": lambda point: str(point.concurrency),
        "top-1": lambda point: shown_share(point.top1) + _STAR[point.pareto],
        "images/s": lambda point: shown_number(point.images_per_second, ".1f"),
        "p50 ms": lambda point: shown_number(point.p50_ms, ".2f"),
        "p90 ms": lambda point: shown_number(point.p90_ms, ".2f"),
        "p99 ms": lambda point: shown_number(point.p99_ms, ".2f"),
        "MFLOP": lambda point: shown_number(point.flops_per_image, ",.1f", 1e-6),
        "kept pairs": lambda point: shown_share(point.kept_pairs),
        "sent on": lambda point: shown_share(point.escalated),
        "expert MB": lambda point: shown_number(point.expert_bytes_per_call, ",.2f", 1e-6),
    }
    shown = [name for name in columns if several.get(name, True)]
    for name in shown:
        text = name in {"bundle", "profile", "backend"}
        table.add_column(
            name, justify="left" if text else "right", overflow="fold" if text else "ellipsis", no_wrap=not text
        )
    for point in points:
        table.add_row(*(columns[name](point) for name in shown))
    console.print(table)
    console.print(_footnote(points, several), soft_wrap=True)


def _footnote(points: Sequence[PointReport], several: Mapping[str, bool]) -> str:
    """What is the same for all points, and what the star means; `several` says which columns are shown."""
    images = sorted({point.images for point in points})
    counts = " or ".join(f"{count:,}" for count in images)
    alone = [
        f"{name} {value}"
        for name, value in (("backend", points[0].backend), ("batch", points[0].batch_size))
        if not several[name]
    ]
    if not several["at once"] and points[0].concurrency > 1:
        alone.append(f"{points[0].concurrency} calls at once")
    if points[0].streams is not None:
        alone.append(f"{points[0].streams} streams")
    star = " * no other point is as fast and as accurate." if any(point.pareto for point in points) else ""
    everywhere = f"All points: {', '.join(alone)}. " if alone else ""
    return f"{everywhere}Accuracy and routing over {counts} images.{star}"


def print_recommendation(point: PointReport, stream: TextIO) -> None:
    """Prints the setting to take, in a sentence."""
    print(
        f"Recommended: {printable(point.profile or point.bundle)}, top-1 {shown_share(point.top1)}, "
        f"{shown_number(point.images_per_second, '.1f')} images/s, {shown_number(point.p50_ms, '.2f')} ms a call",
        file=stream,
    )


def shown_share(share: float | None) -> str:
    """A share as text; a dash where it is not known, or no number."""
    return shown_number(share, ".2%")


def shown_number(value: float | None, layout: str, unit: float = 1.0) -> str:
    """A number in units as text, by a layout such as ".1f"; a dash where it is not known, or no number."""
    return "-" if value is None or math.isnan(value) else format(value * unit, layout)
