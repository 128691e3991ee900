"""The command `vmoe-report`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

from vmoe_tools.command_line import (
    check_output_file,
    load_extra,
    people_stream,
    printable,
    run_command,
    write_file,
    write_json,
)
from vmoe_tools.report.arguments import PROGRAM, parse_arguments
from vmoe_tools.report.size import check_size

_MISSING = "the report needs a package that can't be loaded ({}): pip install 'vmoe-export[bench,images]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong. Unless it is 0 no
        page was written, and one that was there before is unchanged.
    """
    return run_command(PROGRAM, _report, argv, no_memory="there is not enough memory; try a smaller --batch-size")


def _report(argv: Sequence[str]) -> None:
    arguments = parse_arguments(argv)
    # All before the measurement: nobody should wait for numbers that then can't be shown.
    display, collecting, page, pictures = (
        load_extra(name, _MISSING)
        for name in (
            "vmoe_tools.bench.display",
            "vmoe_tools.report.collect",
            "vmoe_tools.report.page",
            "vmoe_tools.report.pictures",
        )
    )
    words = import_module("vmoe_tools.report.words")
    used = [*arguments.bundles, *arguments.compared, arguments.images, arguments.labels]
    for target in (arguments.json, arguments.out, *arguments.pictures.values()):
        check_output_file(None if target is None else str(target), used)
    command = printable(shlex.join([PROGRAM, *argv]))
    report = collecting.collect(arguments, command, display.Progress(sys.stderr, quiet=arguments.quiet))
    html = page.render_page(report)
    check_size(html)
    written = pictures.draw_pictures(report, arguments.pictures)
    write_file(arguments.out, lambda file: file.write(html))
    write_json(arguments.json, report.to_json())
    if not arguments.quiet:
        said = [*words.lead(report), words.headline(report), words.recommendation(report), words.luck(report), *report.notes]
        _say([sentence for sentence in said if sentence], [*written, arguments.out], people_stream(arguments.json))


def _say(sentences: Sequence[str], written: Sequence[Path], stream: TextIO) -> None:
    """The beginning of the page, and where it is."""
    text = " ".join(sentences).replace("\u00a0", " ")
    print(printable(text), file=stream)
    files = ", ".join(f"{printable(str(path))} ({path.stat().st_size / 1000:,.0f} kB)" for path in reversed(written))
    print(f"Wrote {files}", file=stream)
