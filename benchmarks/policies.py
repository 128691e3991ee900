"""What limiting experts and pooling places cost and save, in time and in bytes of weights.

    python benchmarks/policies.py [--model b16] [--precision bf16 int8] [--threads 2] [--rounds 31] [--json FILE]

Every setting of one bundle is called in turns, in one process. Bytes are those of the experts that a kept pair goes to,
counted from the routing of the same images: weights, biases and scales as the bundle stores them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cpu.busy import OthersWatch
from cpu.known_machines import this_cpu
from cpu.models import MODELS, Model, Precision, prepare
from cpu.report import table
from cpu.timing import Times, time_in_turns
from safetensors import safe_open

from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError

_BASE = {"capacity": 0.3, "k": 1}
_LIMITS = (8, 6, 4, 3, 2, 1)
_BATCHES = (1, 8)
_FOLDER = Path(__file__).parents[1] / "build" / "speed"


@dataclass(frozen=True)
class Point:
    """One setting at one batch size.

    Attributes:
        batch: images per call.
        profile: the setting.
        times: of a call, in milliseconds.
        ratio: median of a call over that of the setting it is compared with.
        kept: pairs that got a place, in all MoE layers.
        experts: experts that a kept pair goes to, in all MoE layers.
        bytes: of these experts' weights.
    """

    batch: int
    profile: str
    times: Times
    ratio: float
    kept: int
    experts: int
    bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    parser = argparse.ArgumentParser(description="Times settings with a pool and with fewer experts in turns.")
    parser.add_argument("--model", choices=MODELS, default="b16")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "int8"), default=["bf16", "int8"])
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--rounds", type=int, default=31, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {"cpu": this_cpu(), "threads": given.threads, "points": {}}
    try:
        model = prepare(given.model, _FOLDER)
        with OthersWatch() as others:
            for precision in given.precision:
                points = measure(model, precision, given.threads, given.rounds)
                report["points"][precision] = {name: [asdict(p) for p in rows] for name, rows in points.items()}
                for name, rows in points.items():
                    print(f"\n{given.model}, {precision}, {name}")
                    print(
                        *table(["batch", "profile", "ms", "ratio", "kept pairs", "experts read", "MB read"], _cells(rows)),
                        sep="\n",
                    )
    except (VmoeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report["others_share"] = others.share
    print(f"\n{report['cpu'].get('name')}; other processes took {others.share or 0:.0%} of the machine")
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(model: Model, precision: Precision, threads: int, rounds: int) -> Mapping[str, list[Point]]:
    """Limits against none, and a pool against none at the same kept pairs, at each batch size."""
    bundle = model.bundle("sparse", precision)
    size = expert_bytes(bundle)
    points: dict[str, list[Point]] = {"fewer experts, with a pool": [], "a pool at equal kept pairs": []}
    with Engine.load(bundle, backend="onnxruntime", threads=threads) as engine:
        for batch in _BATCHES:
            images = model.images(batch)
            limits = [engine.setting(**_BASE, pool=True, max_experts=limit).name for limit in _LIMITS]
            pair = [without_pool(engine, images, limits[0]), limits[0]]
            times = time_in_turns({name: partial(engine, images, name) for name in dict.fromkeys([*limits, *pair])}, rounds)
            for names, rows in zip((limits, pair), points.values(), strict=True):
                for name in names:
                    kept, experts = count(engine, images, name)
                    ratio = times[name].median / times[names[0]].median
                    rows.append(Point(batch, name, times[name], ratio, kept, experts, experts * size))
    return points


def without_pool(engine: Engine, images: np.ndarray, pooled: str) -> str:
    """The setting without a pool that keeps the most similar number of pairs."""
    wanted, _ = count(engine, images, pooled)
    kept = {}
    # As many places have a pool, and no pool needs more of them.
    for share in np.arange(1, 2.01, 0.125):
        name = engine.setting(**(_BASE | {"capacity": round(_BASE["capacity"] * share, 3)})).name
        kept[name], _ = count(engine, images, name)
        if kept[name] >= wanted:
            break
    return min(kept, key=lambda name: abs(kept[name] - wanted))


def count(engine: Engine, images: np.ndarray, profile: str) -> tuple[int, int]:
    """Kept pairs, and experts with a kept pair, over all MoE layers."""
    routes = engine.routing(images, profile).values()
    return sum(int(r.kept.sum()) for r in routes), sum(len(np.unique(r.expert[r.kept])) for r in routes)


def expert_bytes(bundle: Path) -> int:
    """Bytes of one expert of one layer, as stored."""
    total = 0
    with safe_open(bundle / "weights.safetensors", framework="np") as file:
        layer = next(name for name in file.keys() if "/Moe/Mlp/" in name).partition("/Mlp/")[0]  # noqa: SIM118
        for name in file.keys():  # noqa: SIM118
            if name.startswith(f"{layer}/Mlp/"):
                part = file.get_slice(name)
                shape = part.get_shape()
                total += int(np.prod(shape[1:])) * {"F32": 4, "BF16": 2, "I8": 1}[part.get_dtype()]
    return total


def _cells(rows: Sequence[Point]) -> list[list[str]]:
    return [
        [
            str(p.batch), p.profile, f"{p.times.median:.2f}", f"{p.ratio:.3f}", str(p.kept), str(p.experts),
            f"{p.bytes / 1e6:.1f}",
        ]
        for p in rows
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
