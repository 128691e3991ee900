"""Text for a terminal: progress, sections, tables and numbers.

This is the only module of the package that needs rich.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO, TypeVar

import click
from rich import progress
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vmoe_tools.output import regular_lines
from vmoe_tools.program import printable

T = TypeVar("T")
Row = tuple[str, str]
"""A name and its text."""
TableWithout = Callable[[Collection[str]], Table]
"""Makes a table without the columns that have these headings."""
Advance = Callable[..., None]
"""Reports the work since the last call: an amount of the step's total, and a number of images, by default 0."""

_WIDTH_OF_A_PIPE = 120
_LONGEST_TEXT = 200  # characters; the bundle reader accepts longer strings
_PACE_SECONDS = 600  # the time left is estimated from the pace in the last 600 seconds


class Progress:
    """The progress of a command's steps. It is a bar if the stream is a terminal; otherwise it is a line every minute."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        """Show progress from this call until the command ends."""
        self._console = Console(file=stream, markup=False, emoji=False)
        self._off = quiet or not stream.isatty()
        self._line = "loading"
        lines = regular_lines(lambda: self._line, stream, quiet=quiet or not self._off)
        click.get_current_context().with_resource(lines)

    @contextmanager
    def step(self, text: str, total: float) -> Iterator[Advance]:
        """Show the share of work done, the images per second and the time left, until the `with` block ends.

        Args:
            text: name of the step.
            total: amount of work, in any unit.

        Yields:
            A function advance(amount, images). Each call reports the work since the previous call: its amount, in the unit
            of `total`, and its number of images.
        """
        columns = (
            progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
            progress.TextColumn("{task.fields[rate]}", markup=False), progress.TimeRemainingColumn(),
        )  # fmt: skip
        bar = progress.Progress(
            *columns, console=self._console, transient=True, disable=self._off, speed_estimate_period=_PACE_SECONDS
        )
        with bar:
            task = bar.add_task(text, total=total, rate="")
            start, seen, done = time.monotonic(), 0, 0.0

            def advance(amount: float, images: int = 0) -> None:
                nonlocal seen, done
                seen, done, now = seen + images, done + amount, time.monotonic()
                rate = f"{seen / max(now - start, 1e-9):,.1f} images/s" if seen else ""
                bar.update(task, advance=amount, rate=rate)
                left = bar.tasks[task].time_remaining
                parts = [f"{text}: {done / total:.0%}", rate, f"{timedelta(seconds=left)} left" if left else ""]
                self._line = ", ".join(filter(None, parts))

            self._line = f"{text}: 0%"
            yield advance
            self._line = f"{text}: 100%, preparing the results"


def print_section(
    stream: TextIO,
    title: str,
    *parts: Iterable[Row] | TableWithout | str,
    width: int = _WIDTH_OF_A_PIPE,
    spare: Iterable[str] = (),
) -> None:
    """Print a title and, indented below it, rows, tables and texts.

    Args:
        stream: the stream to print to.
        title: title of the section.
        parts: rows, tables and texts of the section.
        width: width in characters if the stream is not a terminal (rich's own default is 80). A table may be up to a third
            wider than this.
        spare: headings of columns that may be left out. If a table is too wide, its columns are left out in this order until
            it fits.
    """
    console = Console(file=stream, width=None if stream.isatty() else width, markup=False, emoji=False, highlight=False)
    most = console.width if stream.isatty() else width * 4 // 3
    unlimited = console.options.update(width=10 * most)
    contents: list[Table | Text] = []
    for part in parts:
        if not callable(part):
            contents.append(Text(printable(part)) if isinstance(part, str) else _rows(part))
            continue
        table, left_out = part(()), list[str]()
        headings = iter([heading for heading in spare if heading in {column.header for column in table.columns}])
        while (needed := console.measure(table, options=unlimited).maximum + 2) > most and (heading := next(headings, "")):
            left_out.append(heading)
            table = part(left_out)
        console.width = max(console.width, min(needed, most))
        contents.append(table)
        if left_out:
            names = ", ".join(" ".join(heading.split()) for heading in left_out)
            contents.append(Text(f"There is no room for {names}; --json has all columns."))
    with console.capture() as captured:
        console.print(Text(printable(title), style="bold", overflow="fold"))
        for content in contents:
            console.print(Padding(content, (0, 0, 0, 2), expand=False))
    # rich appends blanks to a table's last column. Remove them.
    lines = [line.rstrip() for line in captured.get().splitlines()]
    stream.write("\n".join([*lines, "", ""]))


def table_of(items: Iterable[T], columns: Mapping[str, Callable[[T], str]], text: Collection[str] = ()) -> TableWithout:
    """Return a function that makes a table with one row per item.

    The function receives the headings of columns to leave out.

    Args:
        items: the items, one per row.
        columns: for each heading, a function that returns an item's cell.
        text: headings of the columns that contain text. Their cells may be wrapped to several lines. All other columns
            contain numbers.
    """
    rows = list(items)

    def table_without(left_out: Collection[str]) -> Table:
        shown = {name: cell for name, cell in columns.items() if name not in left_out}
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for name in shown:
            if name in text:
                table.add_column(name, overflow="fold", min_width=8)
            else:
                table.add_column(name, justify="right", no_wrap=True)
        for item in rows:
            table.add_row(*(one_line(cell(item)) for cell in shown.values()))
        return table

    return table_without


def one_line(text: object) -> str:
    """Put text from a user or a bundle on one line, and cut it if it is too long. If it is None, return a dash."""
    words = "-" if text is None else str(text)
    return printable(words if len(words) <= _LONGEST_TEXT else f"{words[:_LONGEST_TEXT]}...")


def share_text(share: float | None) -> str:
    """Format a share in percent. None and NaN become a dash."""
    return number_text(share, ".2%")


def number_text(value: float | None, layout: str, unit: float = 1.0) -> str:
    """Format `value` times `unit` in a format such as ".1f". Return a dash if `value` is None or NaN."""
    return "-" if value is None or math.isnan(value) else format(value * unit, layout)


def _rows(rows: Iterable[Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    return table
