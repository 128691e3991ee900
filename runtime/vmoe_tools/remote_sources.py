"""Command arguments that may be URLs.

A command reads a local copy of the file, but its output shows the URL instead of the copy's path.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar, cast

import click

from vmoe_remote.remote_files import RemoteFiles
from vmoe_runtime.addresses import is_address, public_address
from vmoe_tools.output import LINE_SECONDS
from vmoe_tools.program import ADDRESSES, printable

F = TypeVar("F", bound=Callable[..., Any])


class Address(str):
    """A URL that the user typed instead of a path."""


class ReadPath(click.Path):
    """A parameter type for a path or a URL to read from."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse one word."""
        return Address(value) if is_address(value) else super().convert(value, param, ctx)


def copied_first(command: F) -> F:
    """Decorate a command so that its arguments may be URLs.

    The decorator copies the files at the URLs, passes the paths of the copies to the command, and deletes the copies when
    the command ends. It handles all arguments of the command, so decorating the command a second time changes nothing.
    """
    if hasattr(command, "copies"):
        return command

    @wraps(command)
    def with_copies(**given: Any) -> Any:
        with ExitStack() as closing:

            def local(value: Any) -> Any:
                if not isinstance(value, Address):
                    return tuple(map(local, value)) if isinstance(value, tuple) else value
                bar = transfer_bar(value, quiet=given.get("quiet", False))
                files = closing.enter_context(RemoteFiles(value, bar))
                ADDRESSES[str(files.path)] = files.address
                files.copy_all()
                return files.path

            return command(**{name: local(value) for name, value in given.items()})

    cast(Any, with_copies).copies = True
    return cast(F, with_copies)


def transfer_bar(address: str, *, quiet: bool) -> Callable[[int, int], None]:
    """Show the progress of a transfer.

    It is shown as a bar if standard error is a terminal, else as a line every minute.

    Returns:
        A function tell(done, total) that updates the progress. Both numbers are in bytes.
    """
    name, told, bar = printable(public_address(address)), time.monotonic(), None

    def tell(done: int, total: int) -> None:
        nonlocal told, bar
        if not quiet and sys.stderr.isatty():
            bar = bar or click.progressbar(length=total, label=name, file=sys.stderr)
            bar.length = total
            bar.update(done - bar.pos)
            if done == total:
                bar.render_finish()
                bar = None
        elif not quiet and time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            click.echo(f"{name}: copied {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", err=True)

    return tell
