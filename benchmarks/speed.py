"""Compare this engine's CPU speed with the speed of other runtimes. All calls are interleaved.

    python benchmarks/speed.py [--models b16 s32] [--experts 8] [--batch 1 8 32] [--threads 1 2]
                               [--settings c0.3-k1 c0.3-k1-pool-r8 r8 ...]
                               [--runs engine-sparse-bf16 dense-openvino-bf16 ...] [--rounds 15] [--quick] [--table]
                               [-o DIR]

The other runtimes, called peers, run a dense ViT or the same V-MoE as this engine. As soon as a model has been measured at a
batch size and number of threads, the program prints a table. `--runs` chooses the runs to time, both this engine's and the
peers'. This engine runs the V-MoE in all precisions, and the dense ViT in fp32, bf16 and int8. `--help` lists all runs. With
`--table`, the program prints only this machine's part of docs/speed.md, as Markdown and as a line of JSON. The models have
random weights, N(0, 0.02), and are created once, in the output folder. The int8 peers need `pip install -r
benchmarks/requirements.txt`.

If other processes used over 5 % of the CPUs, the run is void, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import count, missing, say
from cpu.cells import Point, measure, tables
from cpu.int8_peers import NNCF_PACKAGES
from cpu.machine_table import ROWS, described, machine_table
from cpu.models import MODELS, prepare
from cpu.runs import RUNS, Cell
from cpu.timing import MAX_OTHERS_SHARE

from vmoe_runtime import RoutingError
from vmoe_runtime.processors import usable_processors
from vmoe_tools.machine import cpu_model

_FOLDER = Path("build") / "speed"
_CAPACITIES = ["c0.1-k1", "c0.3-k1", "c0.5-k1", "c1.05-k1", "c1.05-k2"]
_FULL = {"models": ["b16", "s32"], "batch": [1, 8, 32], "threads": [1, 2], "settings": _CAPACITIES, "rounds": 15}
_TINY = ["c0.3-k1", "c1.05-k2", "c0.3-k1-pool-r1", "r1"]
_TABLE: dict[str, Any] = {
    "models": ["b16"],
    "batch": [1, 8],
    "threads": [usable_processors()],
    "settings": [setting for _, _, setting in ROWS if setting],
    "rounds": 11,
    "runs": [run for run in RUNS if any(run.startswith(f"{name}-") for _, name, _ in ROWS) and "experts" not in run],
}
_QUICK: dict[str, Any] = {"models": ["tiny"], "batch": [1, 2], "threads": [1], "settings": _TINY, "rounds": 3}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line. The defaults of some options depend on whether `--quick` or `--table` is given."""
    runs = "".join(f"\n  {name:<28}{run.title}" for name, run in RUNS.items())
    parser = argparse.ArgumentParser(
        description="Time this engine and its peers, interleaved.",
        epilog=f"runs:{runs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument(
        "--experts", nargs="+", type=count, default=[8], metavar="N", help="experts per MoE layer (default: 8)"
    )
    parser.add_argument("--batch", nargs="+", type=count, metavar="N")
    parser.add_argument("--threads", nargs="+", type=count, metavar="N")
    parser.add_argument(
        "--settings", nargs="+", metavar="SETTING", help="such as c0.3-k1-pool-r8; for the dense ViT, such as r8"
    )
    parser.add_argument("--rounds", type=count, metavar="N", help="timed calls per run (default: 15)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help="what is timed")
    parser.add_argument(
        "--quick", action="store_true", help="use a tiny model and three rounds, to check that everything works"
    )
    parser.add_argument("--table", action="store_true", help="print this machine's table of docs/speed.md, using all CPUs")
    parser.add_argument("-o", "--output", type=Path, default=_FOLDER, metavar="DIR", help=f"default: {_FOLDER}")
    given = parser.parse_args(arguments)
    parser.set_defaults(**(_QUICK if given.quick else _TABLE if given.table else _FULL))
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> tuple[list[Point], bool]:
    """Measure and print everything. Return the points, and whether the run is void."""
    names, points, others = list(given.runs), list[Point](), 0.0
    if "dense-openvino-int8" in names and (reason := missing(*NNCF_PACKAGES)):
        names.remove("dense-openvino-int8")
        print(f"Skipped: dense-openvino-int8, because {reason}.\n")
    print(f"{cpu_model()}. Medians of interleaved calls. Logits are compared with those of this engine in float32.")
    for size, experts, threads, batch in itertools.product(given.models, given.experts, given.threads, given.batch):
        model = prepare(size, given.output / "work", experts)
        cell = Cell(model, batch, threads, model.profiles(given.settings))
        measured, share = measure(cell, names, given.rounds)
        if not given.table:
            print(f"\n## {cell}\n\n{tables(measured)}\n\nOther processes took {share:.0%} of the machine.", flush=True)
        points += measured
        others = max(others, share)
    if given.table:
        print(f"\n{machine_table(points, described(given.threads[0], others))}")
    return points, others > MAX_OTHERS_SHARE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0 on success, 1 if the run is void, or 2 if the model can't run a setting."""
    given = parse_arguments(arguments)
    try:
        return int(run(given)[1])
    except RoutingError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
