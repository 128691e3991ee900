"""The command line of `vmoe-bench`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vmoe_bench.errors import UsageError
from vmoe_runtime.backends import BACKENDS

PROGRAM = "vmoe-bench"
STANDARD_OUTPUT = "-"

_USAGE = f"{PROGRAM} BUNDLE [options]"
_MOST_THREADS = 1024
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
        json: path of the JSON file or STANDARD_OUTPUT; None for no JSON.
    """

    bundle: Path
    profiles: tuple[str, ...]
    backends: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    threads: int | None
    duration: float
    images: Path | None
    json: str | None


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    parsed = _parser().parse_args(argv)
    return Arguments(
        bundle=parsed.bundle,
        profiles=tuple(parsed.profile),
        backends=tuple(parsed.backend) or ("auto",),
        batch_sizes=tuple(parsed.batch_size),
        threads=parsed.threads,
        duration=parsed.duration,
        images=parsed.images,
        json=parsed.json,
    )


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, without the usage text before it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; the usage is {_USAGE}, and {PROGRAM} --help explains it")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        usage=_USAGE,
        description="Measures a bundle: images per second, milliseconds per call (p50 and p99), the share of "
        "(token, choice) pairs that the routing keeps, and top-1 where the images carry labels. All "
        "combinations of profile, backend and batch size take turns, so that they can be compared.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder; write it before the options")
    text = "stored profiles or others, such as c0.3-k1 (default: all stored ones)"
    add("--profile", metavar="P", nargs="+", action="extend", default=[], help=text)
    text = f"auto, {', '.join(BACKENDS)} (default: auto, the fastest that is installed)"
    names = ["auto", *BACKENDS]
    add("--backend", metavar="B", nargs="+", action="extend", default=[], choices=names, help=text)
    text = "images per call (default: the fewest that the bundle takes)"
    size = _whole_number(_MOST_IMAGES)
    add("--batch-size", metavar="N", nargs="+", action="extend", default=[], type=size, help=text)
    text = "threads per call (default: the runtime's own choice)"
    add("--threads", metavar="N", type=_whole_number(_MOST_THREADS), help=text)
    text = "seconds for all combinations together (default: 10); each gets at least 3 calls"
    add("--duration", metavar="S", type=_seconds, default=10.0, help=text)
    text = (
        "npz file with 'images' and perhaps 'labels', or folder of pictures, with a subfolder per class "
        "for top-1 (default: random images, always the same)"
    )
    add("--images", metavar="NPZ|DIR", type=Path, help=text)
    add("--json", metavar="FILE", help="write the numbers as JSON as well; - for standard output")
    return parser


def _whole_number(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() alone would take "1_6", " 16" and the digits of every script.
        if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not '{text}'")

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if 0 < seconds < math.inf:
        return seconds
    raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not '{text}'")
