"""What a measurement shows: progress while it runs, and a table. The only module that needs rich."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich import progress
from rich.console import Console
from rich.table import Table

from vmoe_bench.report import PointReport

_WIDTH_OF_A_PIPE = 120


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


def print_table(points: Sequence[PointReport], title: str, stream: TextIO) -> None:
    """Prints one line per point.

    Args:
        points: what was measured.
        title: what stands above the table.
        stream: where to.
    """
    table = Table(title=title, title_justify="left")
    for name in ("profile", "backend"):
        table.add_column(name, overflow="fold")
    for name in ("batch", "images/s", "p50 ms", "p99 ms", "kept pairs", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        table.add_row(
            point.profile or "-",
            point.backend,
            str(point.batch_size),
            f"{point.images_per_second:.1f}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            _percent(point.kept_pairs),
            _percent(point.top1),
        )
    # A pipe has no width of its own, and rich would squeeze the table into 80 columns.
    console = Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_PIPE, markup=False, emoji=False)
    console.print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
