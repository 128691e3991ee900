"""How a bundle is served over HTTP on this machine, by a service and a load generator in processes of their own.

    python benchmarks/serving.py traces BUNDLE --images NPZ|DIR       elastic capacity against fixed settings, under load
    python benchmarks/serving.py saturation BUNDLE --images NPZ|DIR   what HTTP costs, against the bare engine
    python benchmarks/serving.py soak BUNDLE --images NPZ|DIR         good, bad and absent clients, for long

--service is `ray`, for `vmoe-serve ray`, or the path of a program that takes the same options and speaks the same HTTP.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from http.client import HTTPException
from pathlib import Path

from command_line import count, positive, say
from cpu.timing import OthersWatch
from serving import saturation, soak, traces
from serving.arrivals import TRACES
from serving.picture import draw
from serving.subject import subject

from vmoe_bench.machine import cpu_model, usable_cores
from vmoe_runtime.errors import VmoeError

SETTINGS = ("c0.1-k1", "c0.2-k1-pool", "c0.3-k1-pool", "c0.5-k1-pool", "c1.05-k1", "c1.05-k2")
_COMMANDS = {"traces": traces, "saturation": saturation, "soak": soak}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured, or where a soak finds a fault."""
    given = _parser().parse_args(arguments)
    command = _COMMANDS[given.command]
    try:
        with subject(given) as measured:
            children = [*measured.service.memory(), measured.generator.submit(os.getpid).result()]
            with OthersWatch(children) as others:
                report = command.measure(measured)
    except (VmoeError, OSError, HTTPException, BrokenProcessPool) as error:
        say(f"error: {error or type(error).__name__}")
        return 1
    print(
        f"{report['bundle']} on {report['service']}, {report['backend']}, {report['threads']} threads, calls of at most "
        f"{report['max_batch']} images, target {report['slo_ms']:g} ms; {cpu_model()}, {usable_cores()} cores, of which "
        f"other processes took {others.share:.0%}.\n\n{command.markdown(report)}"
    )
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{given.command}.json").write_text(json.dumps(report, indent=1) + "\n")
        if given.command == "traces":
            draw(report, given.out / "traces.png")
    return 1 if report.get("failed") else 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("bundle", type=Path)
    add("--service", default="ray", metavar="ray|PATH")
    add("--service-options", default="", metavar="TEXT", help="more options for it, such as '--connections 512'")
    add("--images", type=Path, required=True, metavar="NPZ|DIR")
    add("--settings", nargs="+", default=list(SETTINGS), metavar="P", help="the least accurate first")
    add("--slo-ms", type=positive, default=50.0, metavar="MS")
    add("--images-per-request", type=count, default=1, metavar="N", help="for models so small that HTTP is most of it")
    add("--threads", type=count, default=2)
    add("--max-batch", type=count, default=16, metavar="N")
    add("--max-waiting", type=count, default=256, metavar="N")
    add("--max-body", type=count, default=16, metavar="MB")
    add("-o", "--out", type=Path, metavar="DIR", help="write the figures there, and the picture of traces")
    parser = argparse.ArgumentParser(description="Measures how a bundle is served over HTTP on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    arrivals = commands.add_parser("traces", parents=[common], help="elastic capacity against fixed settings, under load")
    arrivals.add_argument("--load", type=positive, default=0.9, help="share of what the lowest setting can serve")
    arrivals.add_argument("--traces", nargs="+", choices=list(TRACES), default=list(TRACES))
    arrivals.add_argument("--seconds", type=positive, default=30.0, help="of each trace")
    arrivals.add_argument("--saturate-seconds", type=positive, default=5.0, metavar="S", help="for each setting's capacity")
    cost = commands.add_parser("saturation", parents=[common], help="what HTTP costs, against the bare engine")
    cost.add_argument("--seconds", type=positive, default=3.0, help="of each measurement of a round")
    cost.add_argument("--rounds", type=count, default=5, metavar="N")
    long = commands.add_parser("soak", parents=[common], help="good, bad and absent clients; exit code 1 if one is wronged")
    long.add_argument("--requests", type=count, default=100_000, metavar="N", help="after which it ends")
    long.add_argument("--seconds", type=positive, default=3600.0, help="after which it ends, too")
    long.add_argument("--clients", type=count, default=16, metavar="N", help="at once")
    return parser


if __name__ == "__main__":
    sys.exit(main())
