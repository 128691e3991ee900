"""The command `vmoe-serve`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from vmoe_runtime.command_line import run_command
from vmoe_serve.arguments import PROGRAM, parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    return run_command(PROGRAM, _run, sys.argv[1:] if argv is None else argv)


def _run(argv: Sequence[str]) -> int | None:
    subcommand, rest = parse_arguments(argv)
    code: int | None = import_module(subcommand.module).run(rest)
    return code
