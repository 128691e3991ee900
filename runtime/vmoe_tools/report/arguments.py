"""The command line of `vmoe-report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_tools.bench.arguments import seconds, share_below_one
from vmoe_tools.bench.sweep import is_sweep_word, read_ratios
from vmoe_tools.command_line import Parser, UsageError, arguments_of, whole_number
from vmoe_tools.report.curves import CURVE_KINDS, CurveKind

PROGRAM = "vmoe-report"

_DEFAULT_SWEEP = "0.1:2.0"
_MOST_IMAGES = 65536
_MOST_SAMPLES = 24
_PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundles: the bundles' folders, at least one; exports of one model, the first of which is shown in detail.
        compared: bundles of other models to put on the curves, such as a dense ViT.
        images: npz file or folder.
        labels: CSV file with the labels of a folder's pictures; None for those of the npz file or the subfolders.
        out: path of the page; pictures stand beside it.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        profile: name of the profile that says what is not varied; None for the first stored one.
        ratios: capacity ratios, rising.
        curves: which curves to draw, as far as the model has them.
        backend: name of the backend.
        batch_size: images per call; None for the fewest that fit.
        threads: threads per call; None for the runtime's own choice.
        duration: seconds for timing all settings together.
        samples: images to show.
        max_drop: how much accuracy the recommended setting may lose against the most accurate one, 0 to below 1.
        quiet: print nothing but errors, and the JSON.
    """

    bundles: tuple[Path, ...]
    compared: tuple[Path, ...]
    images: Path
    labels: Path | None
    out: Path
    json: str | None
    profile: str | None
    ratios: tuple[float, ...]
    curves: tuple[CurveKind, ...]
    backend: str
    batch_size: int | None
    threads: int | None
    duration: float
    samples: int
    max_drop: float
    quiet: bool

    @property
    def pictures(self) -> dict[str, Path]:
        """Paths of the PNG files beside the page, by what they show."""
        return {what: self.out.with_name(f"{self.out.stem}-{what}.png") for what in ("accuracy", "patches", "experts")}


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help or the version was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    if parsed.json is not None and parsed.json != "-" and Path(parsed.json) == parsed.out:
        raise UsageError(f"--out and --json are both {parsed.out}")
    return arguments_of(
        Arguments,
        parsed,
        bundles=tuple(dict.fromkeys(parsed.bundle)),
        compared=tuple(dict.fromkeys(parsed.compare)),
        ratios=read_ratios(parsed.sweep or [_DEFAULT_SWEEP]),
        curves=tuple(dict.fromkeys(parsed.curves)) or CURVE_KINDS,
        max_drop=parsed.max_drop_in_accuracy,
    )


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE... --images NPZ|DIR -o PAGE.html",
        "Makes a page of what a capacity costs and gives on your own images: accuracy, speed, FLOPs and kept pairs "
        "over the capacity ratio, which patches of sample images are processed and by which expert, what each expert is "
        "given, and a recommended setting. The page is one file that loads nothing else; PNG pictures stand beside it.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, nargs="+", help="NAME.vmoe folders: one, or several precisions of one model")
    text = "npz file with 'images' and perhaps 'labels', or folder of pictures, with a subfolder per class for accuracy"
    add("--images", metavar="NPZ|DIR", type=Path, required=True, help=text)
    add("-o", "--out", metavar="PAGE", type=_page, required=True, help="the page to write, a .html file")
    text = "CSV file of the labels of --images DIR: on each line a picture's path in it, and the name or index of its class"
    add("--labels", metavar="CSV", type=Path, help=text)
    text = "a bundle of another model, such as a dense ViT, to put on the curves; repeats"
    add("--compare", metavar="BUNDLE", type=Path, action="append", default=[], help=text)
    text = (
        "capacity ratios: LOW:HIGH for 8 spaced by equal factors, LOW:HIGH:N for N, or single ratios; several may follow "
        f"(default: {_DEFAULT_SWEEP})"
    )
    parser.add_several("--sweep", is_sweep_word, metavar="C", help=text)
    text = "Batch Priority Routing (bpr), vanilla order, places of a group as one pool; several may follow (default: all)"
    parser.add_several("--curves", CURVE_KINDS.__contains__, choices=CURVE_KINDS, help=text)
    text = "the profile that says what is not varied, such as k (default: the first stored one)"
    add("--profile", metavar="P", help=text)
    parser.add_backend()
    text = "images per call (default: the fewest that the bundles take)"
    add("--batch-size", metavar="N", type=whole_number(_MOST_IMAGES), help=text)
    parser.add_threads()
    text = "seconds for timing all settings together (default: 10); each gets at least 3 calls"
    add("--duration", metavar="S", type=seconds, default=10.0, help=text)
    text = f"images to show with their patches, up to {_MOST_SAMPLES} (default: 12)"
    add("--samples", metavar="N", type=whole_number(_MOST_SAMPLES), default=12, help=text)
    text = "how much accuracy the recommended setting may lose against the most accurate one (default: 0.01, one point)"
    add("--max-drop-in-accuracy", metavar="X", type=share_below_one, default=0.01, help=text)
    text = "write the numbers as JSON as well; - for standard output"
    add("--json", metavar="FILE", help=text)
    parser.add_volume("print nothing but errors, and the JSON")
    return parser


def _page(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() in _PAGE_SUFFIXES:
        return path
    raise argparse.ArgumentTypeError(f"must end in .html, not '{text}'")
