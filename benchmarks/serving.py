"""Elastic capacity against fixed settings, under load: SLO attainment and mean served accuracy over arrival traces.

    python benchmarks/serving.py BUNDLE --images NPZ|DIR [--settings c0.1-k1 ... c1.05-k2] [--slo-ms MS] [--load 0.9]
                                 [--traces poisson bursts day] [--seconds 30] [--threads 2] [--max-batch 16] [-o DIR]

The load is a share of what the lowest setting can serve, measured first. Each trace is replayed for elastic capacity, for
the highest setting and for the lowest one, from one loaded engine; the generator is a thread of the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpu.report import table
from serving.picture import draw
from serving.replay import replay
from serving.traces import TRACES

from vmoe_bench.machine import cpu_model, usable_cores
from vmoe_runtime import Engine
from vmoe_runtime.elastic import Elastic, images_per_call
from vmoe_runtime.errors import VmoeError
from vmoe_runtime.image_source import open_images
from vmoe_serve.batching import Batcher
from vmoe_serve.levels import timed_levels

SETTINGS = ("c0.1-k1", "c0.2-k1-pool", "c0.3-k1-pool", "c0.5-k1-pool", "c1.05-k1", "c1.05-k2")
_MOST_WAITING = 1 << 16
_SEED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    given = _parser().parse_args(arguments)
    try:
        report = measure(given)
    except (VmoeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = markdown(report)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "serving.json").write_text(json.dumps(report, indent=1) + "\n")
        (given.out / "serving.md").write_text(text + "\n")
        draw(report, given.out / "serving.png")
    return 0


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything, ready for JSON."""
    with Engine.load(given.bundle, backend="onnxruntime", threads=given.threads) as engine:
        manifest = engine.manifest
        source = open_images(given.images, manifest.class_names, manifest.outputs)
        count = min(len(source), 2048)
        images = engine.batch(source.first_batch(count, manifest.input))
        labels = None if source.labels is None else source.labels[:count]
        profiles = [profile for name in given.settings if (profile := engine.setting(name)) is not None]
        levels, notes = timed_levels(engine, profiles, given.max_batch)
        plan = Elastic(tuple(levels), given.slo_ms / 1e3, given.max_batch)
        start = plan.start()
        capacity = {
            level.profile: (most := images_per_call(plan, start, place)) / (level.fixed + level.each * most)
            for place, level in enumerate(levels)
        }
        low, high = levels[0].profile, levels[-1].profile
        rate = given.load * capacity[low]
        order = tuple(level.profile for level in levels)
        rows = []
        for name in given.traces:
            arrivals = TRACES[name](rate, given.seconds, _SEED)
            for mode, setting in (("elastic", None), ("fixed high", high), ("fixed low", low)):
                batcher = Batcher(engine, plan, most_images=given.max_batch, most_waiting=_MOST_WAITING)
                served = replay(batcher, arrivals, images, labels, plan.target, order, setting)
                batcher.close()
                rows.append({"trace": name, "mode": mode, **asdict(served)})
                print(f"{name}, {mode}: {served.in_time:.1%} in time", file=sys.stderr)
    return {
        "machine": {"cpu": cpu_model(), "cores": usable_cores()},
        "bundle": given.bundle.name,
        "threads": given.threads,
        "slo_ms": given.slo_ms,
        "most_images": given.max_batch,
        "requests_per_second": rate,
        "load": given.load,
        "images_per_second": capacity,
        "notes": notes,
        "rows": rows,
    }


def markdown(report: dict[str, Any]) -> str:
    """The tables."""
    rates = report["images_per_second"]
    low, high = next(iter(rates)), list(rates)[-1]
    share = report["requests_per_second"] / rates[high]
    lines = [
        f"{report['bundle']}, {report['threads']} threads, target {report['slo_ms']:g} ms, calls of at most "
        f"{report['most_images']} images; {report['machine']['cpu']}, {report['machine']['cores']} cores.",
        f"{report['requests_per_second']:.0f} requests a second at the most: {report['load']:g} of what {low} can serve, "
        f"{share:.2f} of what {high} can.",
        "",
        *report["notes"],
        *([""] if report["notes"] else []),
        *table(["setting", "images/s"], [[name, f"{value:.0f}"] for name, value in rates.items()]),
        "",
        *table(
            ["trace", "served at", "in time", "accuracy", "p50 ms", "p99 ms", "images a call", "changes", "generator CPU s"],
            [_cells(row) for row in report["rows"]],
        ),
    ]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["trace"],
        row["mode"],
        f"{row['in_time']:.1%}",
        "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
        f"{row['p50_ms']:.1f}",
        f"{row['p99_ms']:.1f}",
        f"{row['images_per_call']:.1f}",
        str(row["changes"]),
        f"{row['generator_seconds']:.1f}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Replays arrival traces against elastic and fixed capacity.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, required=True, metavar="NPZ|DIR")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), metavar="P", help="the least accurate first")
    parser.add_argument("--slo-ms", type=float, default=50.0, metavar="MS")
    parser.add_argument("--load", type=float, default=0.9, help="share of what the lowest setting can serve")
    parser.add_argument("--traces", nargs="+", choices=list(TRACES), default=list(TRACES))
    parser.add_argument("--seconds", type=float, default=30.0, help="of each trace")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=16, metavar="N")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="write serving.json, .md and .png there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
