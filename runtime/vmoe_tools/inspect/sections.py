"""How what `vmoe-inspect` prints is laid out: sections of rows and tables. This module and those that print need rich."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vmoe_tools.command_line import printable

WIDTH_OF_A_PIPE = 80

_LONGEST_TEXT = 200  # characters of a text that the reader doesn't limit

Row = tuple[str, str]
"""A name, and what stands beside it."""


def open_console(stream: TextIO, width_of_a_pipe: int = WIDTH_OF_A_PIPE) -> Console:
    """A console that prints texts as they are, in a number of columns where the stream is no terminal."""
    width = None if stream.isatty() else width_of_a_pipe
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def print_section(console: Console, title: str, *parts: Iterable[Row] | Table | Text) -> None:
    """Prints a title, and below it, indented, rows, tables and sentences."""
    with console.capture() as captured:
        console.print(Text(title, style="bold", overflow="fold"))
        for part in parts:
            content = part if isinstance(part, Table | Text) else _rows(part)
            console.print(Padding(content, (0, 0, 0, 2), expand=False))
    # Tables fill their last column with blanks.
    lines = [line.rstrip() for line in captured.get().splitlines()]
    console.file.write("\n".join([*lines, "", ""]))


def plain_table() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")


def one_line(text: str | None) -> str:
    """A text of the user or of a bundle, on one line and not endless; a dash for None."""
    if text is None:
        return "-"
    return printable(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}...")


def _rows(rows: Iterable[Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    return table
