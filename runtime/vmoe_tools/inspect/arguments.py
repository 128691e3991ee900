"""The command line of `vmoe-inspect`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.backends import BACKENDS
from vmoe_tools.command_line import Parser, UsageError, arguments_of, whole_number

PROGRAM = "vmoe-inspect"

_MOST_SETS = 1_000_000
_OF_IMAGES = ("labels", "profile", "with", "interference", "out", "backend", "threads")


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        verify: compare the SHA-256 of every file.
        list_tensors: print a line for each tensor.
        images: npz file or folder of the images that the routers are watched on; None for the card alone. Without it nothing
            of what follows is set.
        labels: CSV file with the labels of a folder's pictures; None for those of the npz file or the subfolders.
        profile: name of the setting; None for the bundle's first profile.
        others: bundles of the same model, such as other precisions.
        sets: sets of neighbours to ask images among; None for none.
        out: folder for pictures; None for none.
        backend: name of the backend.
        threads: threads per call; None for the runtime's own choice.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        quiet: print nothing but errors, and the JSON.
    """

    bundle: Path
    verify: bool
    list_tensors: bool
    images: Path | None
    labels: Path | None
    profile: str | None
    others: tuple[Path, ...]
    sets: int | None
    out: Path | None
    backend: str
    threads: int | None
    json: str | None
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help or the version was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    _check(parsed)
    return arguments_of(
        Arguments,
        parsed,
        others=tuple(dict.fromkeys(getattr(parsed, "with"))),
        sets=parsed.interference,
        backend=parsed.backend or "auto",
    )


def _check(parsed: argparse.Namespace) -> None:
    """Refuses options that make no sense together."""
    given = [name for name in _OF_IMAGES if getattr(parsed, name) not in (None, [])]
    if given and parsed.images is None:
        raise UsageError(f"--{given[0]} is about images that the bundle is run on, and there is no --images NPZ|DIR")
    if parsed.list_tensors and parsed.images is not None:
        raise UsageError("--list-tensors belongs to the card, which --images NPZ|DIR replaces")


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE",
        "Shows what a bundle is: the model and its parameters, MoE layers, profiles and what they cost, what validation "
        "found, source and files, and which backends run it on this machine. Nothing is loaded for that. With --images it "
        "shows what the routers do instead: the load of experts, what is dropped, gates, and which classes go where.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    add("--verify", action="store_true", help="compare the SHA-256 of every file with the manifest's")
    add("--list-tensors", action="store_true", help="print name, type, shape and bytes of every tensor, too")
    _add_images(parser)
    parser.add_json("all of it", "the text goes")
    parser.add_volume("print nothing but errors, and the JSON")
    return parser


def _add_images(parser: Parser) -> None:
    """The options of a run on images."""
    add = parser.add_argument
    text = (
        "run the bundle on these and show what its routers do: npz file with 'images' and perhaps 'labels', or folder of "
        "pictures, with a subfolder per class for labels"
    )
    add("--images", metavar="NPZ|DIR", type=Path, help=text)
    text = "CSV file of the labels of --images DIR: on each line a picture's path in it, and the name or index of its class"
    add("--labels", metavar="CSV", type=Path, help=text)
    text = "the setting: a stored profile or another one, such as c0.3-k1 (default: the first stored one)"
    add("--profile", metavar="P", help=text)
    text = (
        "another bundle of the same model, such as another precision or other groups: how far it agrees; with "
        "--interference it stands beside the bundle there, too; repeats"
    )
    add("--with", metavar="BUNDLE", type=Path, action="append", default=[], help=text)
    text = "how far answers move with the other images of their batch, over N sets of such neighbours"
    add("--interference", metavar="N", type=whole_number(_MOST_SETS), help=text)
    text = "draw pictures into this folder: patches, experts, gates, loads, and the experts of each class"
    add("--out", metavar="DIR", type=Path, help=text)
    names = ["auto", *BACKENDS]
    text = f"auto, {', '.join(BACKENDS)} (default: auto, the fastest that is installed)"
    add("--backend", metavar="B", choices=names, help=text)
    parser.add_threads()
