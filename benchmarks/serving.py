"""How a bundle is served over HTTP on this machine, by a service and a load generator in processes of their own.

    python benchmarks/serving.py traces BUNDLE --images NPZ|DIR       elastic capacity against fixed settings, under load
    python benchmarks/serving.py saturation BUNDLE --images NPZ|DIR   what HTTP costs, against the bare engine

--service is `ray`, for `vmoe serve ray`, or the path of a program that takes the same options and speaks the same HTTP.
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
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    parser = argparse.ArgumentParser(description="Measures how a bundle is served over HTTP on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    arrivals = commands.add_parser("traces", help="elastic capacity against fixed settings, under load")
    add_options(arrivals)
    arrivals.add_argument("--load", type=positive, default=0.9, help="share of what the lowest setting can serve")
    arrivals.add_argument("--trace", action="append", dest="traces", choices=list(TRACES), help="repeats; default: all")
    arrivals.add_argument("--seconds", type=positive, default=30.0, help="of each trace")
    arrivals.add_argument("--saturate-seconds", type=positive, default=5.0, metavar="S", help="for each setting's capacity")
    cost = commands.add_parser("saturation", help="what HTTP costs, against the bare engine")
    add_options(cost)
    cost.add_argument("--seconds", type=positive, default=3.0, help="of each measurement of a round")
    cost.add_argument("--rounds", type=count, default=5, metavar="N")
    given = parser.parse_args(arguments)
    command = _COMMANDS[given.command]
    report = measure(given, given.command, command.measure, command.markdown)
    if report is not None and given.out is not None and given.command == "traces":
        draw(report, given.out / "traces.png", given.slo_ms)
    return 0 if report is not None else 1


if __name__ == "__main__":
    sys.exit(main())
