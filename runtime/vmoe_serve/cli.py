"""The command `vmoe-serve`: each of its subcommands is a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vmoe_runtime import __version__
from vmoe_tools.command_line import CommandError, UsageError, run_command

PROGRAM = "vmoe-serve"


@dataclass(frozen=True)
class Subcommand:
    """One of the command's words.

    Attributes:
        arguments: the module whose function `parse_arguments` reads what stands behind the word. It imports little, so that
            help and mistakes need neither Ray nor its seconds.
        command: the module whose function `run` does what was asked for.
        summary: what it does, in a few words.
    """

    arguments: str
    command: str
    summary: str


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "ray": Subcommand(
        "vmoe_serve.ray_arguments", "vmoe_serve.ray_command", "serve a bundle over HTTP, as an application of Ray Serve"
    ),
    "batch": Subcommand(
        "vmoe_serve.batch.arguments",
        "vmoe_serve.batch.command",
        "classify a folder or Parquet files of pictures, through Ray Data",
    ),
    "triton": Subcommand(
        "vmoe_serve.triton.arguments",
        "vmoe_serve.triton.command",
        "write a model repository for the Triton Inference Server",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    return run_command(PROGRAM, _serve, argv)


def _serve(argv: Sequence[str]) -> int | None:
    word = argv[0] if argv else ""
    if word in ("-h", "--help"):
        print(_help())
        return 0
    if word == "--version":
        print(f"{PROGRAM}, version {__version__}")
        return 0
    if word not in SUBCOMMANDS:
        what = f"'{word:.40}' is none of its subcommands" if word else "a subcommand is missing"
        raise UsageError(f"{what}: {', '.join(SUBCOMMANDS)}; {PROGRAM} --help explains them")
    arguments = import_module(SUBCOMMANDS[word].arguments).parse_arguments(argv[1:])
    try:
        run: Callable[[Any], int | None] = import_module(SUBCOMMANDS[word].command).run
    except ImportError as error:
        needed = f"{PROGRAM} {word} needs a package that can't be loaded ({error})"
        raise CommandError(f"{needed}: pip install 'vmoe-export[serve]'") from None
    return run(arguments)


def _help() -> str:
    lines = [f"usage: {PROGRAM} SUBCOMMAND ... [options]", "", "Serves bundles.", ""]
    width = max(map(len, SUBCOMMANDS))
    lines += [f"  {word:{width}}  {subcommand.summary}" for word, subcommand in SUBCOMMANDS.items()]
    return "\n".join([*lines, "", f"{PROGRAM} SUBCOMMAND --help explains one."])
