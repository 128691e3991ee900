"""The command line of `vmoe-bench`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vmoe_runtime.backends import BACKENDS, Parallelism
from vmoe_runtime.profiles import parse_profile_name
from vmoe_tools.bench.choice import Wish
from vmoe_tools.bench.sweep import Axes, Order, is_sweep_word, read_ratios
from vmoe_tools.command_line import MOST_THREADS, Parser, UsageError, arguments_of, is_whole_number, whole_number

PROGRAM = "vmoe-bench"

T = TypeVar("T")

_MOST_IMAGES = 65536
_MOST_CALLERS = 1024
_MOST_EXPERTS = 1 << 20
_ORDERS: tuple[Order, ...] = ("bpr", "vanilla")
_SWITCH = {"off": False, "on": True}
_PICTURES = (".pdf", ".png", ".svg")


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundles: the bundles' folders, at least one; exports of one model.
        compared: bundles of other models to measure beside them, such as a dense ViT.
        profiles: names of profiles; empty for all stored ones.
        sweep: what to vary; None for the profiles alone.
        cascade: measure two steps, too.
        backends: names of backends; never empty.
        batch_sizes: images per call; empty for the fewest that fit.
        concurrencies: calls at once; never empty.
        parallelism: threads per call, and streams.
        duration: seconds for all points together.
        images: npz file or folder; None for synthetic images.
        labels: CSV file with the labels of a folder's pictures; None for those of the npz file or the subfolders.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        csv: path of the CSV file; None for none.
        plot: path of the picture; None for none.
        wish: what a recommended setting must keep to; None for no recommendation.
        add_profile: write the recommended setting into the bundle.
        quiet: print nothing but errors, and the JSON.
    """

    bundles: tuple[Path, ...]
    compared: tuple[Path, ...]
    profiles: tuple[str, ...]
    sweep: Axes | None
    cascade: bool
    backends: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    concurrencies: tuple[int, ...]
    parallelism: Parallelism
    duration: float
    images: Path | None
    labels: Path | None
    json: str | None
    csv: Path | None
    plot: Path | None
    wish: Wish | None
    add_profile: bool
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    sweep = None
    if parsed.sweep:
        sweep = Axes(
            read_ratios(parsed.sweep),
            _each_once(parsed.k),
            _each_once(parsed.order),
            _each_once(_SWITCH[word] for word in parsed.pool),
            _each_once(parsed.max_experts),
        )
    _check(parsed)
    wish = Wish(parsed.max_drop_in_accuracy, parsed.target_latency)
    return arguments_of(
        Arguments,
        parsed,
        bundles=_each_once(parsed.bundle),
        compared=_each_once(parsed.compare),
        profiles=tuple(parsed.profile),
        sweep=sweep,
        backends=tuple(parsed.backend) or ("auto",),
        batch_sizes=tuple(parsed.batch_size),
        concurrencies=_each_once(parsed.concurrency) or (parsed.streams or 1,),
        parallelism=Parallelism(parsed.threads, parsed.streams),
        wish=None if wish == Wish() else wish,
    )


def _each_once(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _check(parsed: argparse.Namespace) -> None:
    """Refuses options that make no sense together."""
    axes = [name for name in ("k", "order", "pool", "max_experts") if getattr(parsed, name)]
    if axes and not parsed.sweep:
        raise UsageError(f"--{axes[0].replace('_', '-')} is an axis of --sweep, which is missing")
    if parsed.sweep and len(parsed.profile) > 1:
        raise UsageError("--sweep starts from one profile, which says what no axis does; --profile names several")
    wishes = parsed.max_drop_in_accuracy is not None or parsed.target_latency is not None
    if parsed.add_profile and not wishes:
        raise UsageError(
            "--add-profile writes a recommended setting: ask for one by --max-drop-in-accuracy or --target-latency"
        )
    if parsed.add_profile and len(parsed.bundle) > 1:
        raise UsageError("--add-profile writes into one bundle, and there are several")
    if wishes and parsed.images is None:
        raise UsageError("a recommendation needs images with labels: --images NPZ|DIR")
    if parsed.cascade and parsed.images is None:
        raise UsageError("--cascade finds out on images how sure an answer must be: --images NPZ|DIR")
    if parsed.labels is not None and parsed.images is None:
        raise UsageError("--labels says what the pictures of --images DIR show, and there is no --images")


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE...",
        "Measures bundles: images per second (batch size over the median time of a call), milliseconds per call (p50, p90 "
        "and p99), the share of (token, choice) pairs that the routing keeps, FLOPs, and top-1 where the images carry "
        "labels. All combinations of bundle, profile, backend and batch size take turns, so that they can be compared; "
        "--sweep makes the profiles. Ctrl-C ends the measurement and shows what there is.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, nargs="+", help="NAME.vmoe folders: one, or several precisions of one model")
    text = "a bundle of another model, such as a dense ViT, to measure beside them; repeats"
    add("--compare", metavar="BUNDLE", type=Path, action="append", default=[], help=text)
    text = "stored profiles or others, such as c0.3-k1; several may follow (default: all stored ones)"
    parser.add_several("--profile", lambda word: parse_profile_name(word) is not None, metavar="P", help=text)
    _add_axes(parser)
    text = (
        "also measure two steps: the most accurate setting after cheaper ones, for the images that these are not sure of; "
        "how sure they must be is found on one half of the images and tried on the other"
    )
    add("--cascade", action="store_true", help=text)
    text = f"auto, {', '.join(BACKENDS)}; several may follow (default: auto, the fastest that is installed)"
    names = ["auto", *BACKENDS]
    parser.add_several("--backend", names.__contains__, metavar="B", choices=names, help=text)
    text = "images per call; several may follow (default: the fewest that the bundle takes)"
    parser.add_several("--batch-size", is_whole_number, metavar="N", type=whole_number(_MOST_IMAGES), help=text)
    text = (
        "calls at once, each from a thread of its own, on one loaded engine; several may follow (default: --streams, or 1)"
    )
    parser.add_several("--concurrency", is_whole_number, metavar="N", type=whole_number(_MOST_CALLERS), help=text)
    parser.add_threads()
    text = "calls that the backend runs at once, each on threads of its own; openvino has streams (default: its own choice)"
    add("--streams", metavar="N", type=whole_number(MOST_THREADS), help=text)
    text = "seconds for all combinations together (default: 10); each gets at least 3 calls"
    add("--duration", metavar="S", type=seconds, default=10.0, help=text)
    text = (
        "npz file with 'images' and perhaps 'labels', or folder of pictures, with a subfolder per class "
        "for top-1 (default: random images, always the same)"
    )
    add("--images", metavar="NPZ|DIR", type=Path, help=text)
    text = "CSV file of the labels of --images DIR: on each line a picture's path in it, and the name or index of its class"
    add("--labels", metavar="CSV", type=Path, help=text)
    text = "recommend the fastest setting that loses no more accuracy against the most accurate one; 0.01 is one point"
    add("--max-drop-in-accuracy", metavar="X", type=share_below_one, help=text)
    text = "recommend the most accurate setting whose calls take no longer (median); with the former, both hold"
    add("--target-latency", metavar="MS", type=_positive, help=text)
    text = "write the recommended setting into the bundle as a profile"
    add("--add-profile", action="store_true", help=text)
    add("--csv", metavar="FILE", type=Path, help="write the numbers as CSV as well")
    text = "draw accuracy over capacity and over time as well; a .png, .svg or .pdf file"
    add("--plot", metavar="FILE", type=_picture, help=text)
    parser.add_json("the numbers", "the table goes")
    parser.add_volume("print nothing but errors, and the JSON")
    return parser


def _add_axes(parser: Parser) -> None:
    """Adds the options of a sweep."""
    text = (
        "measure at these capacity ratios: LOW:HIGH for 8 spaced by equal factors, LOW:HIGH:N for N, or single ratios; "
        "several may follow. What no axis says is as in --profile (default: the first stored one)"
    )
    parser.add_several("--sweep", is_sweep_word, metavar="C", help=text)
    text = "axis of the sweep: experts per token; several may follow"
    parser.add_several("--k", is_whole_number, metavar="K", type=whole_number(_MOST_EXPERTS), help=text)
    text = "axis of the sweep: Batch Priority Routing (bpr), or first come, first served (vanilla), or both"
    parser.add_several("--order", _ORDERS.__contains__, choices=_ORDERS, help=text)
    text = "axis of the sweep: whether the places of a group are one pool (on, off or both)"
    parser.add_several("--pool", _SWITCH.__contains__, choices=list(_SWITCH), help=text)
    text = "axis of the sweep: experts that a group may use; several may follow"
    parser.add_several("--max-experts", is_whole_number, metavar="M", type=whole_number(_MOST_EXPERTS), help=text)


def _positive(text: str) -> float:
    """A number above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < math.inf:
        return number
    raise argparse.ArgumentTypeError(f"must be a positive number, not '{text}'")


def seconds(text: str) -> float:
    """A number of seconds above 0, for argparse."""
    try:
        return _positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, not '{text}'") from None


def share_below_one(text: str) -> float:
    """A share from 0 to below 1, for argparse."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if 0 <= share < 1:
        return share
    raise argparse.ArgumentTypeError(f"must be a share from 0 to below 1, not '{text}'; 0.01 is one point")


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() in _PICTURES:
        return path
    raise argparse.ArgumentTypeError(f"must end in {', '.join(_PICTURES[:-1])} or {_PICTURES[-1]}, not '{text}'")
