"""The command line of `vmoe-build`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vmoe_build.errors import UsageError

PROGRAM = "vmoe-build"

_USAGE = f"{PROGRAM} BUNDLE [options]"
_MOST_IMAGES = 65536
_MOST_MEBIBYTES = 1 << 20


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        profile: name of a profile; None for the first one that was exported for TensorRT.
        min_batch, opt_batch, max_batch: images per call; None for the default.
        workspace: most scratch memory of the engine, in MiB; None for all of the GPU's.
        plugin_inside: store the plugin library in the engine.
        force: build though there is an engine already.
        print_trtexec: print trtexec's command line and build nothing.
        json: write the report as JSON to standard output.
        verbose, quiet: more on stderr; nothing but errors.
    """

    bundle: Path
    profile: str | None
    min_batch: int | None
    opt_batch: int | None
    max_batch: int | None
    workspace: int | None
    plugin_inside: bool
    force: bool
    print_trtexec: bool
    json: bool
    verbose: bool
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    return Arguments(**vars(_parser().parse_args(argv)))


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, without the usage text before it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; the usage is {_USAGE}, and {PROGRAM} --help explains it")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        usage=_USAGE,
        description="Builds a TensorRT engine for one profile of a bundle that was exported with --tensorrt, for this "
        "machine's GPU, and checks it against the bundle's own graph on the CPU. The engine goes into the cache folder "
        "(VMOE_CACHE_DIR, else vmoe-export in XDG_CACHE_HOME or ~/.cache), where backend 'tensorrt' finds it.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    add("--profile", metavar="P", help="a profile that was exported for TensorRT (default: the first one)")
    images = _whole_number(_MOST_IMAGES)
    add("--max-batch", metavar="N", type=images, help="most images of a call (default: 32, or what fits the routing groups)")
    add("--min-batch", metavar="N", type=images, help="fewest images of a call (default: the fewest that fit)")
    add("--opt-batch", metavar="N", type=images, help="images that the engine is tuned for (default: the most)")
    text = "most scratch memory of the engine (default: all of the GPU's)"
    add("--workspace", metavar="MIB", type=_whole_number(_MOST_MEBIBYTES), help=text)
    text = "store the plugin library in the engine, which then loads without this package"
    add("--serialize-plugin", dest="plugin_inside", action="store_true", help=text)
    add("--force", action="store_true", help="build although there is an engine already")
    text = "print the command line with which trtexec builds the same engine, and build nothing; needs no GPU"
    add("--print-trtexec", action="store_true", help=text)
    add("--json", action="store_true", help="write what was built as JSON to standard output")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="say what TensorRT logs, and where errors come from")
    volume.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    return parser


def _whole_number(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() alone would take "1_6", " 16" and the digits of every script.
        if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not '{text}'")

    return parse
