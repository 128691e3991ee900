"""The command line of `vmoe-run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_tools.command_line import Parser, arguments_of, whole_number

PROGRAM = "vmoe-run"

_MOST_CLASSES = 1 << 24


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        images: image files; never empty.
        profile: name of a profile; None for the first stored one.
        backend: name of a backend, or "auto".
        threads: threads per call; None for the runtime's own choice.
        top: classes per image.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        quiet: print nothing but errors, and the JSON.
    """

    bundle: Path
    images: tuple[Path, ...]
    profile: str | None
    backend: str
    threads: int | None
    top: int
    json: str | None
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help or the version was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    return arguments_of(Arguments, parsed, images=tuple(parsed.images))


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE IMAGE...",
        "Classifies image files: for each the likeliest classes and their probabilities (softmax over all classes). An "
        "image that can't be read is named, the others are answered, and the exit code is 1 then.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    add("images", metavar="IMAGE", type=Path, nargs="+", help="image files, such as PNG or JPEG")
    add("--profile", metavar="P", help="a stored profile or another, such as c0.3-k1 (default: the first stored one)")
    parser.add_backend()
    parser.add_threads()
    text = "classes per image (default: 5); all of them where the model has fewer"
    add("--top", metavar="N", type=whole_number(_MOST_CLASSES), default=5, help=text)
    parser.add_json("the answers", "the table goes")
    parser.add_volume("print nothing but errors, and the JSON")
    return parser
