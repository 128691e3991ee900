"""The command line of `vmoe-bench`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.command_line import MOST_THREADS, Parser, is_whole_number, whole_number
from vmoe_runtime.profiles import parse_profile_name

PROGRAM = "vmoe-bench"

_MOST_IMAGES = 65536


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        profiles: names of profiles; empty for all stored ones.
        backends: names of backends; never empty.
        batch_sizes: images per call; empty for the fewest that fit.
        threads: threads per call; None for the runtime's own choice.
        duration: seconds for all points together.
        images: npz file or folder; None for synthetic images.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        quiet: print nothing but errors, and the JSON.
    """

    bundle: Path
    profiles: tuple[str, ...]
    backends: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    threads: int | None
    duration: float
    images: Path | None
    json: str | None
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    return Arguments(
        bundle=parsed.bundle,
        profiles=tuple(parsed.profile),
        backends=tuple(parsed.backend) or ("auto",),
        batch_sizes=tuple(parsed.batch_size),
        threads=parsed.threads,
        duration=parsed.duration,
        images=parsed.images,
        json=parsed.json,
        quiet=parsed.quiet,
    )


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE",
        "Measures a bundle: images per second (batch size over the median time of a call), milliseconds per call (p50 and "
        "p99), the share of (token, choice) pairs that the routing keeps, and top-1 where the images carry labels. All "
        "combinations of profile, backend and batch size take turns, so that they can be compared.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    text = "stored profiles or others, such as c0.3-k1; several may follow (default: all stored ones)"
    parser.add_several("--profile", lambda word: parse_profile_name(word) is not None, metavar="P", help=text)
    text = f"auto, {', '.join(BACKENDS)}; several may follow (default: auto, the fastest that is installed)"
    names = ["auto", *BACKENDS]
    parser.add_several("--backend", names.__contains__, metavar="B", choices=names, help=text)
    text = "images per call; several may follow (default: the fewest that the bundle takes)"
    parser.add_several("--batch-size", is_whole_number, metavar="N", type=whole_number(_MOST_IMAGES), help=text)
    text = "threads per call (default: the runtime's own choice)"
    add("--threads", metavar="N", type=whole_number(MOST_THREADS), help=text)
    text = "seconds for all combinations together (default: 10); each gets at least 3 calls"
    add("--duration", metavar="S", type=_seconds, default=10.0, help=text)
    text = (
        "npz file with 'images' and perhaps 'labels', or folder of pictures, with a subfolder per class "
        "for top-1 (default: random images, always the same)"
    )
    add("--images", metavar="NPZ|DIR", type=Path, help=text)
    text = "write the numbers as JSON as well; - for standard output, and the table goes to standard error then"
    add("--json", metavar="FILE", help=text)
    parser.add_volume("print nothing but errors, and the JSON")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if 0 < seconds < math.inf:
        return seconds
    raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not '{text}'")
