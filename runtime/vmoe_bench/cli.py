"""The command `vmoe-bench`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

from vmoe_bench.errors import BenchError, UsageError
from vmoe_bench.image_source import ImageSource, open_images, synthetic_images
from vmoe_bench.machine import describe_machine
from vmoe_bench.measurement import summarize, time_interleaved
from vmoe_bench.points import Point, plan_points
from vmoe_bench.quality import assess
from vmoe_bench.report import PointReport, check_target, report_point, to_json, write_report
from vmoe_runtime import Engine, VmoeError
from vmoe_runtime.backends import BACKENDS

_PROGRAM = "vmoe-bench"
_MOST_THREADS = 1024
_MOST_IMAGES = 65536


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for everything else that goes wrong.
    """
    try:
        _bench(_parser().parse_args(argv))
        # Here, and not at exit, where a reader that has gone would cost a traceback.
        sys.stdout.flush()
    except UsageError as error:
        return _complain(str(error), 2)
    except (BenchError, VmoeError) as error:
        return _complain(str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _complain("whoever read the output has closed it", 1)
    except OSError as error:
        return _complain(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except MemoryError:
        return _complain("there is not enough memory; try a smaller --batch-size", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one sentence, without the usage text before it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {_PROGRAM} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} BUNDLE [options]",
        description="Measures a bundle: images per second, milliseconds per call (p50 and p99), the share of "
        "(token, choice) pairs that the routing keeps, and top-1 where the images carry labels, for every "
        "combination of profile, backend and batch size, all of them side by side.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder; comes first")
    several = {"nargs": "+", "action": "extend", "default": []}
    several_options: tuple[tuple[str, str, str, dict[str, object]], ...] = (
        ("--profile", "P", "profiles: stored ones, or any such as c0.3-k1 (default: all stored ones)", {}),
        ("--backend", "B", "auto (default), " + ", ".join(BACKENDS), {"choices": ["auto", *BACKENDS]}),
        (
            "--batch-size",
            "N",
            "images per call (default: the fewest that fit)",
            {"type": _whole(_MOST_IMAGES)},
        ),
    )
    for name, metavar, text, more in several_options:
        parser.add_argument(name, metavar=metavar, help=text, **several, **more)  # type: ignore[arg-type]
    parser.add_argument(
        "--threads",
        metavar="N",
        type=_whole(_MOST_THREADS),
        help="threads per call (default: the runtime's choice)",
    )
    parser.add_argument(
        "--duration",
        metavar="S",
        type=_seconds,
        default=10.0,
        help="seconds for all points together (default: 10); every point gets 3 calls in any case",
    )
    parser.add_argument(
        "--images",
        metavar="NPZ|DIR",
        type=Path,
        help="npz with 'images' and 'labels', or a folder of pictures, in a subfolder per class for top-1 "
        "(default: random images)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the numbers as JSON, too; - for standard output"
    )
    return parser


def _bench(arguments: argparse.Namespace) -> None:
    try:
        from vmoe_bench.table import print_table
    except ImportError as error:
        raise BenchError(
            f"the table needs rich, which can't be loaded ({error}): pip install 'vmoe-export[bench]'"
        ) from None
    if arguments.json not in (None, "-"):
        check_target(Path(arguments.json))
    with ExitStack() as open_engines:
        engines = _load_engines(
            arguments.bundle, arguments.backend or ["auto"], arguments.threads, open_engines
        )
        points = plan_points(engines, arguments.profile, arguments.batch_size)
        source = _images(arguments.images, points)
        reports = _measure(points, source, arguments.duration, arguments.threads)
        text = to_json(describe_machine(engines), reports)
    # Standard output belongs to the JSON where it was asked for.
    print_table(reports, arguments.bundle.name, sys.stderr if arguments.json == "-" else sys.stdout)
    if arguments.json == "-":
        sys.stdout.write(text)
    elif arguments.json is not None:
        write_report(Path(arguments.json), text)


def _load_engines(
    bundle: Path, backends: Sequence[str], threads: int | None, open_engines: ExitStack
) -> list[Engine]:
    """One engine per backend; "auto" and the name it stands for are one."""
    engines: dict[str, Engine] = {}
    for name in backends:
        if name not in engines:
            engine = open_engines.enter_context(Engine.load(bundle, backend=name, threads=threads))
            engines.setdefault(engine.backend, engine)
    return list(engines.values())


def _images(path: Path | None, points: Sequence[Point]) -> ImageSource:
    manifest = points[0].engine.manifest
    if path is None:
        return synthetic_images(max(point.batch_size for point in points), manifest.input)
    source = open_images(path, manifest)
    if source.note is not None:
        print(f"{_PROGRAM}: {source.note}", file=sys.stderr)
    return source


def _measure(
    points: Sequence[Point], source: ImageSource, duration: float, threads: int | None
) -> list[PointReport]:
    batches = {
        size: source.first_batch(size, points[0].engine.manifest.input) for size in _batch_sizes(points)
    }
    qualities = [assess(point, source) for point in points]
    calls = [partial(point.logits, batches[point.batch_size]) for point in points]
    times = time_interleaved(calls, duration)
    return [
        report_point(point, threads, summarize(seconds, point.batch_size), quality)
        for point, seconds, quality in zip(points, times, qualities, strict=True)
    ]


def _batch_sizes(points: Sequence[Point]) -> set[int]:
    return {point.batch_size for point in points}


def _whole(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # isdecimal alone takes the digits of every script.
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


def _complain(sentence: str, code: int) -> int:
    print(f"{_PROGRAM}: {sentence}", file=sys.stderr)
    return code
