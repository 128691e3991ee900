"""The command line of `vmoe-inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.command_line import Parser

PROGRAM = "vmoe-inspect"


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        verify: compare the SHA-256 of every file.
        list_tensors: print a line for each tensor.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        quiet: print nothing but errors, and the JSON.
    """

    bundle: Path
    verify: bool
    list_tensors: bool
    json: str | None
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help or the version was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    return Arguments(
        bundle=parsed.bundle,
        verify=parsed.verify,
        list_tensors=parsed.list_tensors,
        json=parsed.json,
        quiet=parsed.quiet,
    )


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE",
        "Shows what a bundle is: the model and its parameters, MoE layers, profiles and what they cost, what validation "
        "found, source and files, and which backends run it on this machine. Nothing is loaded for that.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    add("--verify", action="store_true", help="compare the SHA-256 of every file with the manifest's")
    add("--list-tensors", action="store_true", help="print name, type, shape and bytes of every tensor, too")
    text = "write all of it as JSON as well; - for standard output, and the text goes to standard error then"
    add("--json", metavar="FILE", help=text)
    parser.add_volume("print nothing but errors, and the JSON")
    return parser
