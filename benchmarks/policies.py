"""What limiting experts and pooling places cost and save, in time and in bytes of weights.

    python benchmarks/policies.py [--model b16] [--precision bf16 int8] [--threads 2] [--rounds 31]

The calls of every setting of one bundle are interleaved, in one process. Bytes are those of the experts that a kept pair
goes to, counted from the routing of the same images: weights, biases and scales as the bundle stores them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from command_line import count, table
from cpu.models import MODELS, Model, Precision, prepare
from cpu.timing import OthersWatch, time_interleaved

from vmoe_export.model.model_config import ModelConfig
from vmoe_export.model.parameters import parameter_shapes, stored_tensors
from vmoe_runtime import Engine
from vmoe_tools.bench.quality import expert_rows, experts_used
from vmoe_tools.command_line import run_command
from vmoe_tools.machine import cpu_model

_CAPACITY = 0.3
_LIMITS = (8, 6, 4, 3, 2, 1)
_BATCHES = (1, 8)
_FOLDER = Path(__file__).parents[1] / "build" / "speed" / "work"


def measure(model: Model, precision: Precision, batch: int, threads: int, rounds: int) -> None:
    """Prints limits against none, and a pool against none at the same kept pairs; ratios are to the first setting."""
    bundle, images = model.bundle("sparse", precision), model.images(batch)
    size = expert_bytes(model.configs["sparse"], precision)
    with Engine.load(bundle, backend="onnxruntime", threads=threads) as engine:
        names = [engine.setting(capacity=_CAPACITY, k=1, pool=True, max_experts=limit).name for limit in _LIMITS]
        names.append(without_pool(engine, images, names[0]))
        times = time_interleaved({name: partial(engine, images, name) for name in names}, rounds)
        medians = {name: float(np.median(ms)) for name, ms in times.items()}
        rows = []
        for name, ms in medians.items():
            kept, experts = kept_pairs(engine, images, name)
            ratio, megabytes = f"{ms / medians[names[0]]:.3f}", f"{experts * size / 1e6:.1f}"
            rows.append([name, f"{ms:.2f}", ratio, str(kept), str(experts), megabytes])
    print(f"\n{model.name}, {precision}, batch {batch}: fewer experts with a pool, and no pool at equal kept pairs")
    print(*table(["profile", "ms", "ratio", "kept pairs", "experts read", "MB read"], rows), sep="\n")


def without_pool(engine: Engine, images: np.ndarray, pooled: str) -> str:
    """The setting without a pool that keeps the most similar number of pairs."""
    wanted, _ = kept_pairs(engine, images, pooled)
    # As many places have a pool, and no pool needs more of them.
    names = [engine.setting(capacity=round(_CAPACITY * share, 3), k=1).name for share in np.arange(1, 2.01, 0.125)]
    return min(names, key=lambda name: abs(kept_pairs(engine, images, name)[0] - wanted))


def kept_pairs(engine: Engine, images: np.ndarray, profile: str) -> tuple[int, int]:
    """Kept pairs, and experts with a kept pair, over all MoE layers."""
    routing = engine.routing(images, profile)
    return sum(expert_rows(routing)), experts_used(routing)


def expert_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of one expert of one layer, as stored: weights, biases and scales."""
    stored, moe = stored_tensors(parameter_shapes(config), precision), config.moe
    assert moe is not None
    layer = f"Encoder/encoderblock_{moe.layers[0]}/Moe/Mlp/"
    return sum(tensor.nbytes for name, tensor in stored.items() if name.startswith(layer)) // moe.num_experts


def run(arguments: Sequence[str]) -> None:
    """Reads the command line, measures and prints."""
    parser = argparse.ArgumentParser(description="Times settings with a pool and with fewer experts, interleaved.")
    parser.add_argument("--model", choices=MODELS, default="b16")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "int8"), default=["bf16", "int8"])
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--rounds", type=count, default=31, metavar="N")
    given = parser.parse_args(arguments)
    model = prepare(given.model, _FOLDER)
    with OthersWatch() as others:
        for precision, batch in itertools.product(given.precision, _BATCHES):
            measure(model, precision, batch, given.threads, given.rounds)
    print(f"\n{cpu_model()}; other processes took {others.share:.0%} of the machine")


if __name__ == "__main__":
    sys.exit(run_command("policies.py", run, None))
