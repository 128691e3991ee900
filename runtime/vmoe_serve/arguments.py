"""The command line of `vmoe-serve` up to the subcommand, which reads the rest itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vmoe_runtime.command_line import Parser

PROGRAM = "vmoe-serve"


class Subcommand(NamedTuple):
    """A subcommand: the module whose `run(argv)` it is, and what it does in a few words."""

    module: str
    does: str


SUBCOMMANDS = {
    "triton": Subcommand("vmoe_serve.triton.command", "writes a model repository for Triton"),
}


def parse_arguments(argv: Sequence[str]) -> tuple[Subcommand, Sequence[str]]:
    """The subcommand, and the words that are its own.

    Raises:
        UsageError: there is no such subcommand.
        SystemExit: help or the version was asked for, and was printed.
    """
    parser = Parser(PROGRAM, "SUBCOMMAND", "Puts a bundle behind a model server. SUBCOMMAND --help explains each.")
    text = "; ".join(f"{name}: {subcommand.does}" for name, subcommand in SUBCOMMANDS.items())
    parser.add_argument("subcommand", metavar="SUBCOMMAND", choices=SUBCOMMANDS, help=text)
    name = parser.read(argv[:1]).subcommand
    return SUBCOMMANDS[name], argv[1:]
