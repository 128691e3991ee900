"""The command `vmoe serve`.

Each subcommand has its own module, which is imported only when the subcommand is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from vmoe_serve import endpoints
from vmoe_tools.options import CONTEXT, count_option
from vmoe_tools.program import Entry, LazyCommands

Command = TypeVar("Command", bound=Callable[..., Any])
_SUBCOMMANDS = {
    "ray": Entry("vmoe_serve.ray_command", "Serve a bundle over HTTP, as an application of Ray Serve."),
    "batch": Entry("vmoe_serve.batch.command", "Classify a folder or Parquet files of pictures with Ray Data."),
    "triton": Entry("vmoe_serve.triton.command", "Write a model repository for the Triton Inference Server."),
}


def service_options(command: Command) -> Command:
    """Add the options that both HTTP services share."""
    for option in reversed(endpoints.OPTIONS):
        words = f"--{option.name.replace('_', '-')}"
        command = count_option(words, most=option.maximum, default=option.default, help=option.help)(command)
    return command


def _checked_name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(endpoints.NAME_PATTERN, value):
        raise click.BadParameter(
            f"use 1 to {endpoints.MAX_NAME} of A-Z a-z 0-9 _ . - and no . or - at the start, not '{value}'"
        )
    return value


name_option = click.option(
    "--name", metavar="NAME", callback=_checked_name, help="Name of the model. Default: the folder's."
)


class _Subcommands(LazyCommands):
    """A command group that imports a subcommand only when it is called.

    So help texts and error messages about the command line don't wait for the import of Ray.
    """

    entries = _SUBCOMMANDS

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ImportError as error:
            raise click.ClickException(f"vmoe serve can't be run ({error}): pip install 'vmoe-export[serve]'") from None


@click.command(cls=_Subcommands, context_settings=CONTEXT)
def serve() -> None:
    """Serve bundles: over HTTP, in batch jobs, or with Triton."""
