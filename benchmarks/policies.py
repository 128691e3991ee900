"""What limiting experts and pooling places cost and save, in time and in bytes of weights.

    python benchmarks/policies.py [--model b16] [--precision bf16 int8] [--threads 2] [--rounds 31]

The calls of every setting of one bundle are interleaved, in one process. Bytes are those of the experts that a kept pair
goes to, counted from the routing of the same images: weights, biases and scales as the bundle stores them.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from command_line import count, say, table
from cpu.models import MODELS, Model, Precision, prepare
from cpu.timing import OthersWatch, time_interleaved
from safetensors import safe_open

from vmoe_bench.machine import cpu_model
from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError

_CAPACITY = 0.3
_LIMITS = (8, 6, 4, 3, 2, 1)
_BATCHES = (1, 8)
_FOLDER = Path(__file__).parents[1] / "build" / "speed" / "work"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 1 where something can't be measured."""
    parser = argparse.ArgumentParser(description="Times settings with a pool and with fewer experts, interleaved.")
    parser.add_argument("--model", choices=MODELS, default="b16")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "int8"), default=["bf16", "int8"])
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--rounds", type=count, default=31, metavar="N")
    given = parser.parse_args(arguments)
    try:
        model = prepare(given.model, _FOLDER)
        with OthersWatch() as others:
            for precision in given.precision:
                measure(model, precision, given.threads, given.rounds)
    except (VmoeError, OSError) as error:
        say(f"error: {error}")
        return 1
    print(f"\n{cpu_model()}; other processes took {others.share or 0:.0%} of the machine")
    return 0


def measure(model: Model, precision: Precision, threads: int, rounds: int) -> None:
    """Prints limits against none, and a pool against none at the same kept pairs, at each batch size."""
    bundle = model.bundle("sparse", precision)
    size = expert_bytes(bundle)
    tables: dict[str, list[list[str]]] = {"fewer experts, with a pool": [], "a pool at equal kept pairs": []}
    with Engine.load(bundle, backend="onnxruntime", threads=threads) as engine:
        for batch in _BATCHES:
            images = model.images(batch)
            limits = [engine.setting(capacity=_CAPACITY, k=1, pool=True, max_experts=limit).name for limit in _LIMITS]
            pair = [without_pool(engine, images, limits[0]), limits[0]]
            times = time_interleaved({name: partial(engine, images, name) for name in {*limits, *pair}}, rounds)
            for names, rows in zip((limits, pair), tables.values(), strict=True):
                for name in names:
                    (kept, experts), ms = kept_pairs(engine, images, name), times[name].median
                    ratio = f"{ms / times[names[0]].median:.3f}"
                    rows.append(
                        [str(batch), name, f"{ms:.2f}", ratio, str(kept), str(experts), f"{experts * size / 1e6:.1f}"]
                    )
    for title, rows in tables.items():
        print(f"\n{model.name}, {precision}, {title}")
        print(*table(["batch", "profile", "ms", "ratio", "kept pairs", "experts read", "MB read"], rows), sep="\n")


def without_pool(engine: Engine, images: np.ndarray, pooled: str) -> str:
    """The setting without a pool that keeps the most similar number of pairs."""
    wanted, _ = kept_pairs(engine, images, pooled)
    kept = {}
    # As many places have a pool, and no pool needs more of them.
    for share in np.arange(1, 2.01, 0.125):
        name = engine.setting(capacity=round(_CAPACITY * share, 3), k=1).name
        kept[name], _ = kept_pairs(engine, images, name)
        if kept[name] >= wanted:
            break
    return min(kept, key=lambda name: abs(kept[name] - wanted))


def kept_pairs(engine: Engine, images: np.ndarray, profile: str) -> tuple[int, int]:
    """Kept pairs, and experts with a kept pair, over all MoE layers."""
    routes = engine.routing(images, profile).values()
    return sum(int(r.kept.sum()) for r in routes), sum(len(np.unique(r.expert[r.kept])) for r in routes)


def expert_bytes(bundle: Path) -> int:
    """Bytes of one expert of one layer, as stored."""
    with safe_open(bundle / "weights.safetensors", framework="np") as file:
        names = list(file.keys())
        layer = next(name for name in names if "/Moe/Mlp/" in name).partition("/Mlp/")[0]
        parts = [file.get_slice(name) for name in names if name.startswith(f"{layer}/Mlp/")]
        return sum(math.prod(p.get_shape()[1:]) * {"F32": 4, "BF16": 2, "I8": 1}[p.get_dtype()] for p in parts)


if __name__ == "__main__":
    sys.exit(main())
