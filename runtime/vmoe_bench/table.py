"""The report as a table for the terminal. The only module that needs rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table

from vmoe_bench.report import PointReport

_WIDTH_OF_A_PIPE = 120


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
            point.profile or "dense",
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
