"""The command `vmoe-inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from vmoe_inspect.arguments import PROGRAM, Arguments, parse_arguments
from vmoe_inspect.card import Card, make_card
from vmoe_runtime.bundle import Bundle, while_unchanged
from vmoe_runtime.command_line import CommandError, run_command
from vmoe_runtime.json_report import check_target, people_stream, write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong, a file that is
        not what the manifest says among it.
    """
    return run_command(PROGRAM, _run, argv)


def _run(argv: Sequence[str]) -> None:
    arguments = parse_arguments(argv)
    display = None if arguments.quiet else _display()
    check_target(arguments.json, [arguments.bundle])
    card = while_unchanged(lambda: _card(arguments))
    if display is not None:
        display.print_card(card, people_stream(arguments.json), list_tensors=arguments.list_tensors)
    write_json(arguments.json, card.to_json())


def _card(arguments: Arguments) -> Card:
    with Bundle.open(arguments.bundle, verify=arguments.verify) as bundle:
        if arguments.verify:
            bundle.verify_weights()
        return make_card(bundle, verified=arguments.verify)


def _display() -> ModuleType:
    try:
        return import_module("vmoe_inspect.display")
    except ImportError as error:
        raise CommandError(
            f"the card needs rich, which can't be loaded ({error}): pip install 'vmoe-export[bench]'; -q --json FILE does "
            "without"
        ) from None
