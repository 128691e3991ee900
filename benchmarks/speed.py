"""How fast this engine is, beside a dense ViT and the same V-MoE in other hands, all timed in turns in one run.

    python benchmarks/speed.py [--model b16 s32] [--batch 1 8 32] [--threads 1 2] [--ck 0.1 0.3 0.5 1.05 2.1]
                               [--repeats 15] [--quick] [-o DIR]

writes speed.json, speed.md and speed.png. Models have random weights, N(0, 0.02), and are made once into the folder. A run
is void, with exit code 1, when a peer is more than 10 % slower than benchmarks/results/known_machines.json knows it on the
same kind of machine, or when other processes took a share of the CPUs; `--record-peers` adds this machine's figures to that
file. `--forms` times the ways to write the dense peer's graph instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cpu import known_machines, layers
from cpu.cells import CellResult, make_cell, run_cell
from cpu.contenders import CONTENDERS
from cpu.errors import BenchmarkError
from cpu.floors import Floors, best_of, build_floors, measure_floors
from cpu.forms import time_forms
from cpu.memory import measure_memory
from cpu.models import MODELS, Model, prepare, setting_for
from cpu.picture import draw
from cpu.points import fits_of, points_of, ratios_of
from cpu.report import JSON_NAME, PICTURE_NAME, TABLE_NAME, write_report

from vmoe_runtime.errors import VmoeError
from vmoe_runtime.op_library import find_library

_FOLDER = Path("build") / "speed"
_FULL = {
    "model": ["b16", "s32"],
    "batch": [1, 8, 32],
    "threads": [1, 2],
    "ck": [0.1, 0.3, 0.5, 1.05, 2.1],
    "repeats": 15,
}
_QUICK = {"model": ["tiny"], "batch": [1, 2], "threads": [1], "ck": [0.3, 1.05, 2.1], "repeats": 3}
_SHARE_CK = 0.3
_MAX_OTHERS_SHARE = 0.05


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is left out takes the full run's values, or the quick one's."""
    parser = argparse.ArgumentParser(description="Times this engine and its peers in turns.")
    parser.add_argument("--model", nargs="+", choices=MODELS)
    parser.add_argument("--batch", nargs="+", type=_count, metavar="N")
    parser.add_argument("--threads", nargs="+", type=_count, metavar="N")
    parser.add_argument("--ck", nargs="+", type=_ratio, metavar="C*K", help="capacity ratio x k")
    parser.add_argument("--repeats", type=_count, metavar="N", help="timed rounds (default: 15)")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a tiny model and three rounds, to see that it works")
    parser.add_argument("--forms", action="store_true", help="time the forms of the dense peer's graph instead")
    parser.add_argument("--record-peers", action="store_true", help="add this machine's peers to the known ones")
    parser.add_argument("-o", "--output", type=Path, default=_FOLDER, metavar="DIR", help=f"default: {_FOLDER}")
    given = parser.parse_args(arguments)
    for name, value in (_QUICK if given.quick else _FULL).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    given.ck = sorted(set(given.ck))
    return given


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measures everything; returns the report, which is also written after each cell."""
    work = given.output / "work"
    work.mkdir(parents=True, exist_ok=True)
    program = build_floors(work)
    models = {name: prepare(name, work) for name in given.model}
    floors = {threads: measure_floors(program, threads) for threads in given.threads}
    results: list[CellResult] = []
    extras: dict[str, list[dict[str, Any]]] = {"kernels": [], "routing": [], "memory": []}
    report: dict[str, Any] = {}
    for model in models.values():
        extras["memory"] += memory_of(model, max(given.threads))
        for threads in given.threads:
            for batch in given.batch:
                cell = make_cell(model, batch, threads, [setting_for(ck) for ck in given.ck], work)
                results.append(run_cell(cell, given.contenders, given.repeats, switches=batch == min(given.batch), say=_say))
                floors[threads] = best_of(floors[threads], measure_floors(program, threads))
                report = make_report(results, floors, extras)
                write_report(report, given.output)
            measure_layers(model, threads, program, floors[threads], given, work, extras)
    report = make_report(results, floors, extras)
    if given.record_peers and not report["void"]:
        known_machines.record_peers(report["machine"]["cpu"], known_machines.peers_of(report["points"]))
    write_report(report, given.output)
    draw(report["points"], given.output / PICTURE_NAME)
    return report


def memory_of(model: Model, threads: int) -> list[dict[str, Any]]:
    """Memory of the float32 and the bfloat16 bundle."""
    bundles = (model.sparse, model.sparse_bf16)
    return [{"bundle": bundle.stem, **measure_memory(bundle, threads)} for bundle in bundles]


def measure_layers(
    model: Model,
    threads: int,
    program: Path,
    floors: Floors,
    given: argparse.Namespace,
    work: Path,
    extras: Mapping[str, list[dict[str, Any]]],
) -> None:
    """The kernel and routing alone; nothing to measure without the op library."""
    library = find_library()
    if library is None:
        return
    for bf16 in (False, True):
        for batch in (1, None):
            # The read rate depends on what the neighbours of a shared machine do: both are measured at one time.
            peaks = measure_floors(program, threads)
            peaks = replace(peaks, fp32_flops=floors.fp32_flops, bf16_flops=floors.bf16_flops)
            kernel = layers.measure_kernel(model, bf16, peaks, threads, batch, given.repeats, work, library)
            extras["kernels"].append(asdict(kernel))
    for batch in given.batch:
        cost = layers.measure_routing(model, threads, batch, given.repeats, work, library)
        extras["routing"].append({**asdict(cost), "moe_layers": len(model.config.moe.layers) if model.config.moe else 0})


def make_report(
    results: Sequence[CellResult], floors: Mapping[int, Floors], extras: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Everything that was measured so far, ready for JSON."""
    cpu = known_machines.this_cpu()
    machine = known_machines.find_machine(known_machines.load_table(), cpu)
    points = [point for result in results for point in points_of(result, floors[result.cell.threads])]
    library = find_library()
    return {
        "machine": {"cpu": cpu, "known_as": machine["name"] if machine else None},
        "void": [*known_machines.slow_peers(machine, known_machines.peers_of(points)), *_busy(results)],
        "op_library": str(library) if library else None,
        "others_share": [
            {"model": r.cell.model.name, "batch": r.cell.batch, "threads": r.cell.threads, "share": r.others_share}
            for r in results
        ],
        "floors": {str(threads): asdict(peaks) for threads, peaks in floors.items()},
        "points": points,
        "ratios": ratios_of(points),
        "fits": [fit for result in results for fit in fits_of(result)],
        "switches": [
            {"model": r.cell.model.name, "batch": r.cell.batch, "threads": r.cell.threads, **asdict(switch)}
            for r in results
            for switch in r.switches
        ],
        "kernels": extras["kernels"],
        "routing": [{**cost, "share_of_model": _share(cost, points)} for cost in extras["routing"]],
        "memory": extras["memory"],
    }


def _busy(results: Sequence[CellResult]) -> list[str]:
    """A sentence for each cell during which other processes took more of the machine than a figure can bear."""
    return [
        f"other processes took {r.others_share:.0%} of the machine while {r.cell.model.name}, batch {r.cell.batch}, "
        f"{r.cell.threads} threads was timed"
        for r in results
        if r.others_share is not None and r.others_share > _MAX_OTHERS_SHARE
    ]


def _share(cost: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> float | None:
    """What routing takes of this engine's time at the setting that it was measured at; None where that wasn't timed."""
    cell = cost["model"], cost["batch"], cost["threads"], _SHARE_CK, "engine-fp32"
    for p in points:
        if (p["model"], p["batch"], p["threads"], p["ck"], p["contender"]) == cell:
            return float(cost["moe_layers"] * cost["routing_ms"] / p["ms"])
    return None


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1024")
    return number


def _ratio(text: str) -> float:
    number = float(text)
    if not 0 < number <= 8:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 8")
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured or the run is void."""
    given = parse_arguments(arguments)
    try:
        if given.forms:
            print(time_forms(given, _say))
            return 0
        report = run(given)
    except (BenchmarkError, VmoeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((given.output / TABLE_NAME).read_text())
    if report["machine"]["known_as"] is None:
        _say(f"{report['machine']['cpu']['name']} is an unknown machine: its peers' times were checked against nothing")
    for sentence in report["void"]:
        _say(f"void: {sentence}")
    _say(f"{given.output / JSON_NAME}, {TABLE_NAME} and {PICTURE_NAME} are written")
    return 1 if report["void"] else 0


if __name__ == "__main__":
    sys.exit(main())
