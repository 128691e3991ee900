"""How fast this engine is on a CPU, beside a dense ViT and the same V-MoE in other hands, all timed in turns in one run.

    python benchmarks/speed.py [--models b16 s32] [--batch 1 8 32] [--threads 1 2] [--ck 0.1 0.3 0.5 1.05 2.1]
                               [--runs engine-sparse-bf16 dense-openvino-bf16 ...] [--parts cells layers loading]
                               [--rounds 15] [--quick] [--record] [-o DIR]

writes speed.json, speed.md and speed.png. `--runs` says who is timed: this engine on the V-MoE or the dense ViT in fp32,
bf16, int8 or with bf16 experts, and its peers; see `--help`. Models have random weights, N(0, 0.02), and are made once into
the folder. The peers in int8 need `pip install -r benchmarks/requirements.txt`.

A run is void, with exit code 1, when a peer is more than 10 % slower than benchmarks/results/known_machines.json knows it on
the same kind of machine, or when other processes took a share of the CPUs. `--record` keeps a run that isn't: its report in
benchmarks/results, where `speed_figures.py` finds it, and its peers' times among the known ones. `--forms` times the ways to
write the dense peer's graph instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cpu import known_machines
from cpu.cell import make_cell
from cpu.cells import CellResult, run_cell
from cpu.errors import BenchmarkError
from cpu.floors import Floors, best_of, build_floors, measure_floors, measure_read_rate
from cpu.flops import moe_layer_count
from cpu.forms import time_forms
from cpu.layers import ROUTING_CK, LayerBench
from cpu.loading import measure_loading
from cpu.models import MODELS, Model, prepare, setting_for
from cpu.picture import draw
from cpu.points import fits_of, points_of, ratios_of
from cpu.report import JSON_NAME, PICTURE_NAME, TABLE_NAME, file_stem, write_report
from cpu.runs import DEFAULT_RUNS, ENGINE_RUNS, RUNS

from vmoe_runtime.errors import VmoeError
from vmoe_runtime.op_library import find_library

PARTS = ("cells", "layers", "loading")

_FOLDER = Path("build") / "speed"
_RESULTS = Path(__file__).parent / "results"
_FULL = {
    "models": ["b16", "s32"],
    "batch": [1, 8, 32],
    "threads": [1, 2],
    "ck": [0.1, 0.3, 0.5, 1.05, 2.1],
    "rounds": 15,
    "loads": 3,
}
_QUICK = {"models": ["tiny"], "batch": [1, 2], "threads": [1], "ck": [0.3, 1.05, 2.1], "rounds": 3, "loads": 1}
_MAX_OTHERS_SHARE = 0.05


@dataclass
class Measured:
    """What was measured so far."""

    cells: list[CellResult] = field(default_factory=list)
    floors: dict[int, Floors] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    routing: list[dict[str, Any]] = field(default_factory=list)
    loading: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is left out takes the full run's values, or the quick one's."""
    runs = "".join(f"\n  {run.name:<28}{run.title}{'' if run.by_default else ' (only when named)'}" for run in RUNS.values())
    parser = argparse.ArgumentParser(
        description="Times this engine and its peers in turns.",
        epilog=f"runs:{runs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--batch", nargs="+", type=_count, metavar="N")
    parser.add_argument("--threads", nargs="+", type=_count, metavar="N")
    parser.add_argument("--ck", nargs="+", type=_ratio, metavar="C*K", help="capacity ratio x k")
    parser.add_argument("--rounds", type=_count, metavar="N", help="how often each call is timed (default: 15)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=DEFAULT_RUNS, metavar="RUN", help="who is timed")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and three rounds, to see that it works")
    parser.add_argument("--forms", action="store_true", help="time the forms of the dense peer's graph instead")
    parser.add_argument("--record", action="store_true", help="keep the report, and the peers' times among the known ones")
    parser.add_argument("-o", "--output", type=Path, default=_FOLDER, metavar="DIR", help=f"default: {_FOLDER}")
    given = parser.parse_args(arguments)
    given.loads = None
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
    models = [prepare(name, work) for name in given.models]
    missing = {name: reason for name in given.runs if (reason := RUNS[name].missing())}
    measured = Measured(missing=missing, floors={threads: measure_floors(program, threads) for threads in given.threads})
    for model in models:
        if "loading" in given.parts:
            measure_bundles(model, given, measured)
        for threads in given.threads:
            if "cells" in given.parts:
                time_cells(model, threads, program, given, measured)
            if "layers" in given.parts:
                measure_layers(model, threads, program, given, measured)
    report = make_report(measured)
    if given.record and not report["void"]:
        known_machines.record_peers(report["machine"]["cpu"], known_machines.peers_of(report["points"]))
        write_report(report, _RESULTS, file_stem(report["machine"]["cpu"]))
    write_report(report, given.output)
    draw(report["points"], given.output / PICTURE_NAME)
    return report


def measure_bundles(model: Model, given: argparse.Namespace, measured: Measured) -> None:
    """Load time and memory of every bundle whose engine is among the runs."""
    for kind, precision in (bundle for name, bundle in ENGINE_RUNS.items() if name in given.runs):
        _say(f"{model.name}: loading the {kind} {precision} bundle")
        bundle = model.bundle(kind, precision)
        measured.loading.append({"bundle": bundle.stem, **measure_loading(bundle, max(given.threads), given.loads)})


def time_cells(model: Model, threads: int, program: Path, given: argparse.Namespace, measured: Measured) -> None:
    """All runs at every batch size, on so many threads."""
    names = [name for name in given.runs if name not in measured.missing]
    for batch in given.batch:
        cell = make_cell(model, batch, threads, [setting_for(ck) for ck in given.ck], given.output / "work")
        measured.cells.append(run_cell(cell, names, given.rounds, switches=batch == min(given.batch), say=_say))
        measured.floors[threads] = best_of(measured.floors[threads], measure_floors(program, threads))
        write_report(make_report(measured), given.output)


def measure_layers(model: Model, threads: int, program: Path, given: argparse.Namespace, measured: Measured) -> None:
    """Single layers; nothing to measure without the op library."""
    library = find_library()
    if library is None:
        return
    work = given.output / "work"
    for batch in given.batch:
        _say(f"{model.name}, batch {batch}, {threads} threads: single layers")
        # The read rate depends on what the neighbours of a shared machine do: both are measured at one time.
        floors = replace(measured.floors[threads], read_bytes=measure_read_rate(program, threads))
        bench = LayerBench(threads, floors, given.rounds, work, library)
        measured.layers += [asdict(speed) for speed in bench.layers(model, batch)]
        measured.routing.append({**asdict(bench.routing(model, batch)), "moe_layers": moe_layer_count(model.config)})
        if batch == given.batch[-1]:
            measured.layers += [asdict(speed) for speed in bench.full_experts(model)]


def make_report(measured: Measured) -> dict[str, Any]:
    """Everything that was measured so far, ready for JSON."""
    cpu = known_machines.this_cpu()
    machine = known_machines.find_machine(known_machines.load_table(), cpu)
    results = measured.cells
    points = [point for result in results for point in points_of(result, measured.floors[result.cell.threads])]
    library = find_library()
    return {
        "machine": {"cpu": cpu, "known_as": machine["name"] if machine else None},
        "engine": next((p["description"] for p in points if p["run"] in ENGINE_RUNS), None),
        "void": [*known_machines.slow_peers(machine, known_machines.peers_of(points)), *_busy(results)],
        "missing": measured.missing,
        "op_library": library.name if library else None,
        "others_share": [{**result.cell.key, "share": result.others_share} for result in results],
        "floors": {str(threads): asdict(floors) for threads, floors in measured.floors.items()},
        "points": points,
        "ratios": ratios_of(points),
        "fits": [fit for result in results for fit in fits_of(result)],
        "switches": [{**result.cell.key, **asdict(switch)} for result in results for switch in result.switches],
        "layers": measured.layers,
        "routing": [{**cost, "shares": _shares(cost, points)} for cost in measured.routing],
        "loading": measured.loading,
    }


def _busy(results: Sequence[CellResult]) -> list[str]:
    """A sentence for each cell during which other processes took more of the machine than a figure can bear."""
    return [
        f"other processes took {r.others_share:.0%} of the machine while {r.cell.model.name}, batch {r.cell.batch}, "
        f"{r.cell.threads} threads was timed"
        for r in results
        if r.others_share is not None and r.others_share > _MAX_OTHERS_SHARE
    ]


def _shares(cost: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What routing takes of this engine's time in all MoE layers, by run, where that was timed at the same setting."""
    cell = cost["model"], cost["batch"], cost["threads"], ROUTING_CK
    return {
        p["run"]: {what: cost["moe_layers"] * cost[f"{what}_ms"] / p["ms"] for what in ("bare", "separate", "fused")}
        for p in points
        if p["run"] in ENGINE_RUNS and (p["model"], p["batch"], p["threads"], p["ck"]) == cell
    }


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
    for name, reason in report["missing"].items():
        _say(f"{name} is left out: {reason}")
    if report["machine"]["known_as"] is None:
        _say(f"{report['machine']['cpu']['name']} is an unknown machine: its peers' times were checked against nothing")
    for sentence in report["void"]:
        _say(f"void: {sentence}")
    _say(f"{given.output / JSON_NAME}, {TABLE_NAME} and {PICTURE_NAME} are written")
    return 1 if report["void"] else 0


if __name__ == "__main__":
    sys.exit(main())
