"""The README's speed tables and picture, from what `speed.py --record` kept.

    python benchmarks/speed_figures.py benchmarks/results/speed_CPU.json [--models b16] [--threads 2] [--batch 1 8 32]
                                       [--ck 0.3] [--picture docs/speed.png] [--picture-batch 1 8]

prints the tables and draws the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu.figures import choose_points, speed_tables
from cpu.picture import draw


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where there is nothing to show."""
    parser = argparse.ArgumentParser(description="Makes the README's speed tables and picture.")
    parser.add_argument("report", type=Path, help="a JSON file of speed.py")
    parser.add_argument("--models", nargs="+", default=(), metavar="NAME", help="default: all that were timed")
    parser.add_argument("--threads", nargs="+", type=int, default=(), metavar="N", help="default: all")
    parser.add_argument("--batch", nargs="+", type=int, default=(), metavar="N", help="default: all")
    parser.add_argument("--ck", type=float, default=0.3, metavar="C*K", help="of the tables (default: 0.3)")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="where to draw the picture")
    parser.add_argument("--picture-batch", nargs="+", type=int, default=(), metavar="N", help="in the picture; default: all")
    given = parser.parse_args(arguments)
    try:
        report: dict[str, Any] = json.loads(given.report.read_text())
    except (OSError, json.JSONDecodeError) as error:
        print(f"error: {given.report} can't be read: {error}", file=sys.stderr)
        return 1
    points = choose_points(report["points"], given.models, given.threads, given.batch)
    if not points:
        print(f"error: {given.report} has no such points", file=sys.stderr)
        return 1
    print("\n".join(speed_tables(report, points, given.ck)))
    if given.picture:
        draw(choose_points(points, (), (), given.picture_batch), given.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
