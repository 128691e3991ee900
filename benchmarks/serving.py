"""Measure HTTP serving of a bundle on this machine.

    python benchmarks/serving.py traces BUNDLE --images NPZ|DIR       compares elastic capacity with fixed settings
    python benchmarks/serving.py saturation BUNDLE --images NPZ|DIR   compares the service with the bare engine

The service and the load generator run in separate processes. The value of --service is either `ray`, for `vmoe serve ray`,
or the path of another program. That program must have the options and the HTTP protocol of `vmoe serve ray`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from command_line import count, positive
from serving import saturation, traces
from serving.service import add_options, measure
from serving.traces import TRACES, draw

_COMMANDS = {"traces": traces, "saturation": saturation}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 if something can't be measured."""
    parser = argparse.ArgumentParser(description="Measure how a bundle is served over HTTP on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    arrivals = commands.add_parser("traces", help="elastic capacity against fixed settings, under load")
    add_options(arrivals)
    arrivals.add_argument("--load", type=positive, default=0.9, help="load as a share of the lowest setting's capacity")
    arrivals.add_argument("--trace", action="append", dest="traces", choices=list(TRACES), help="repeats; default: all")
    arrivals.add_argument("--seconds", type=positive, default=30.0, help="length of each trace")
    arrivals.add_argument(
        "--saturate-seconds", type=positive, default=5.0, metavar="S", help="time to measure each setting's capacity"
    )
    cost = commands.add_parser("saturation", help="the cost of HTTP, against the bare engine")
    add_options(cost)
    cost.add_argument("--seconds", type=positive, default=3.0, help="length of each measurement")
    cost.add_argument("--rounds", type=count, default=5, metavar="N")
    given = parser.parse_args(arguments)
    command = _COMMANDS[given.command]
    report = measure(given, given.command, command.measure, command.markdown)
    if report is not None and given.out is not None and given.command == "traces":
        draw(report, given.out / "traces.png", given.slo_ms)
    return 0 if report is not None else 1


if __name__ == "__main__":
    sys.exit(main())
