"""How fast this engine is on a CPU, beside a dense ViT and the same V-MoE in other runtimes, interleaved in one run.

    python benchmarks/speed.py [--models b16 s32] [--batch 1 8 32] [--threads 1 2] [--ck 0.1 0.3 0.5 1.05 2.1]
                               [--runs engine-sparse-bf16 dense-openvino-bf16 ...] [--rounds 15] [--quick] [-o DIR]

writes speed.json, speed.md and speed.png. `--runs` says who is timed: this engine on the V-MoE or the dense ViT in fp32,
bf16, int8 or with bf16 experts, and its peers; see `--help`. Models have random weights, N(0, 0.02), and are made once into
the folder. The peers in int8 need `pip install -r benchmarks/requirements.txt`.

A run is void, with exit code 1, when other processes took over 5 % of the CPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from command_line import BenchmarkError, count, positive, say
from cpu.cells import CellResult, make_cell, points_of, ratios_of, run_cell
from cpu.floors import Floors, build_floors, measure_floors
from cpu.models import MODELS, prepare, setting_for
from cpu.report import draw, markdown
from cpu.runs import DEFAULT_RUNS, RUNS

from vmoe_bench.machine import cpu_model
from vmoe_runtime.errors import VmoeError

_FOLDER = Path("build") / "speed"
_FULL = {"models": ["b16", "s32"], "batch": [1, 8, 32], "threads": [1, 2], "ck": [0.1, 0.3, 0.5, 1.05, 2.1], "rounds": 15}
_QUICK = {"models": ["tiny"], "batch": [1, 2], "threads": [1], "ck": [0.3, 1.05, 2.1], "rounds": 3}
_MAX_OTHERS_SHARE = 0.05
_MAX_CK = 8.0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is left out takes the full run's values, or the quick one's."""
    runs = "".join(f"\n  {run.name:<28}{run.title}{'' if run.by_default else ' (only when named)'}" for run in RUNS.values())
    parser = argparse.ArgumentParser(
        description="Times this engine and its peers, interleaved.",
        epilog=f"runs:{runs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--batch", nargs="+", type=count, metavar="N")
    parser.add_argument("--threads", nargs="+", type=count, metavar="N")
    parser.add_argument("--ck", nargs="+", type=positive, metavar="C*K", help="capacity ratio x k")
    parser.add_argument("--rounds", type=count, metavar="N", help="how often each call is timed (default: 15)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=DEFAULT_RUNS, metavar="RUN", help="who is timed")
    parser.add_argument("--quick", action="store_true", help="a tiny model and three rounds, to see that it works")
    parser.add_argument("-o", "--output", type=Path, default=_FOLDER, metavar="DIR", help=f"default: {_FOLDER}")
    given = parser.parse_args(arguments)
    for name, value in (_QUICK if given.quick else _FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    given.ck = sorted(set(given.ck))
    if given.ck[-1] > _MAX_CK:
        parser.error(f"argument --ck: {given.ck[-1]:g} is above {_MAX_CK:g}")
    return given


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measures everything; returns the report, which is also written after each cell."""
    work = given.output / "work"
    work.mkdir(parents=True, exist_ok=True)
    program = build_floors(work)
    missing = {name: reason for name in given.runs if (reason := RUNS[name].missing())}
    names, results = [name for name in given.runs if name not in missing], list[CellResult]()
    floors = {threads: measure_floors(program, threads) for threads in given.threads}
    for model in [prepare(name, work) for name in given.models]:
        for threads in given.threads:
            for batch in given.batch:
                cell = make_cell(model, batch, threads, [setting_for(ck) for ck in given.ck])
                results.append(run_cell(cell, names, given.rounds))
                floors[threads] = floors[threads].best_of(measure_floors(program, threads))
                report = make_report(results, floors, missing)
                (given.output / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
                (given.output / "speed.md").write_text(markdown(report) + "\n")
    draw(report["points"], given.output / "speed.png")
    return report


def make_report(results: Sequence[CellResult], floors: Mapping[int, Floors], missing: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was measured so far, ready for JSON."""
    points = [point for result in results for point in points_of(result, floors[result.cell.threads])]
    void = [
        f"other processes took {r.others_share:.0%} of the machine while {r.cell} was timed"
        for r in results
        if r.others_share is not None and r.others_share > _MAX_OTHERS_SHARE
    ]
    return {
        "cpu": cpu_model(),
        "engine": next((p["description"] for p in points if p["run"].startswith("engine-")), None),
        "void": void,
        "missing": dict(missing),
        "others_shares": [r.others_share or 0 for r in results],
        "floors": {str(threads): asdict(found) for threads, found in floors.items()},
        "points": points,
        "ratios": ratios_of(points),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured or the run is void."""
    given = parse_arguments(arguments)
    try:
        report = run(given)
    except (BenchmarkError, VmoeError) as error:
        say(f"error: {error}")
        return 1
    print(markdown(report))
    for sentence in report["void"]:
        say(f"void: {sentence}")
    say(f"speed.json, speed.md and speed.png are written into {given.output}")
    return 1 if report["void"] else 0


if __name__ == "__main__":
    sys.exit(main())
