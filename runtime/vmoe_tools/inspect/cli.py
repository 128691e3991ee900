"""The command `vmoe-inspect`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_tools.command_line import check_output_file, load_extra, people_stream, run_command, write_json
from vmoe_tools.inspect.arguments import PROGRAM, Arguments, parse_arguments
from vmoe_tools.inspect.card import Card, make_card

_NEEDS_RICH = (
    "the card needs rich, which can't be loaded ({}): pip install 'vmoe-export[bench]'; -q --json FILE does without"
)
_NEEDS_MATPLOTLIB = "--out needs matplotlib, which can't be loaded ({}): pip install 'vmoe-export[bench]'"


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
    used = [arguments.bundle, *arguments.others, arguments.images, arguments.labels]
    check_output_file(arguments.json, used)
    if arguments.images is not None:
        _run_images(arguments, used)
        return
    display = None if arguments.quiet else load_extra("vmoe_tools.inspect.display", _NEEDS_RICH)
    card = while_unchanged(lambda: _card(arguments))
    if display is not None:
        display.print_card(card, people_stream(arguments.json), list_tensors=arguments.list_tensors)
    write_json(arguments.json, card.to_json())


def _run_images(arguments: Arguments, used: Sequence[Path | None]) -> None:
    # All before the run: nobody should wait for what then can't be shown.
    command = import_module("vmoe_tools.inspect.image_command")
    display = None if arguments.quiet else load_extra("vmoe_tools.inspect.image_display", _NEEDS_RICH)
    drawing = None if arguments.out is None else load_extra("vmoe_tools.inspect.drawing", _NEEDS_MATPLOTLIB)
    command.check_folder(arguments.out, used)
    progress = command.NoProgress() if display is None else display.open_progress(sys.stderr)
    found = command.inspect_images(arguments, progress)
    card = None if arguments.json is None else while_unchanged(lambda: _card(arguments))
    pictures = [] if drawing is None else drawing.draw(found.report, found.samples, arguments.out)
    if display is not None:
        display.print_images(found.report, people_stream(arguments.json), [str(picture) for picture in pictures])
    if card is not None:
        write_json(arguments.json, {**card.to_json(), "on_images": found.report.to_json()})


def _card(arguments: Arguments) -> Card:
    with Bundle.open(arguments.bundle, verify=arguments.verify) as bundle:
        if arguments.verify:
            bundle.verify_weights()
        return make_card(bundle, verified=arguments.verify)
