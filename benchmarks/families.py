"""Compare this engine with other CPU runtimes on ViTs from transformers and timm. All calls are interleaved.

    python benchmarks/families.py [--models vit-b16 dinov2-b14 clip-l14] [--batch 1 8] [--threads 2]
                                  [--runs engine-bf16 openvino-int8 ...] [--merge 8 13] [--rounds 11] [-o DIR]

As soon as a model has been measured at a batch size, the program prints a table. The models have random weights. This engine
gets each model through `vmoe export`, which reads the files saved by transformers or timm. OpenVINO, ONNX Runtime and
torch.compile get the torch module itself. With `--merge`, each run of this engine is also timed with that many tokens merged
per block. The program then compares the speed-up with the reduction in FLOPs. The peer runtimes need `pip install -r
benchmarks/requirements.txt`.

If other processes used over 5 % of the CPUs, the run is void, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import BenchmarkError, cells, count, missing, say, table
from cpu.cells import distance
from cpu.int8_peers import NNCF_PACKAGES, quantize_for_openvino, quantize_for_ort
from cpu.models import noise
from cpu.runs import Array, in_openvino, in_ort
from cpu.timing import MAX_OTHERS_SHARE, time_per_image
from cpu.torch_peers import Network, export_network, to_onnx, to_openvino

from vmoe_measure.flops import ModelShape, dense_flops, sparse_flops
from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError
from vmoe_tools.machine import cpu_model

_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
_DINOV3 = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_register_tokens": 4}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit-b16": ("ViTForImageClassification", {"num_labels": 1000}, "logits"),
    "dinov2-b14": ("Dinov2Model", {"patch_size": 14, "image_size": 224}, "pooler_output"),
    "clip-l14": ("CLIPVisionModelWithProjection", _LARGE | {"patch_size": 14, "projection_dim": 768}, "image_embeds"),
    "dinov3-b16": ("DINOv3ViTModel", _DINOV3, "pooler_output"),
    "siglip2-b16": ("SiglipVisionModel", {}, "pooler_output"),
    "siglip2-so400m14": ("SiglipVisionModel", _SO400M | {"patch_size": 14}, "pooler_output"),
    "eva02-b14": ("eva02_base_patch14_224", {}, ""),
    "tiny": ("ViTForImageClassification", _TINY | {"patch_size": 8}, "logits"),
}
"""By name: the transformers class, its config, and the computed output; or an architecture of timm, its options, and ""."""

_MAX_DISTANCE = 0.35  # largest allowed difference: far above int8's error, far below the difference between two models


@dataclass(frozen=True)
class Cell:
    """The inputs of one comparison: a model, images float32[N,H,W,C] in [-1, 1], and a number of threads."""

    network: Network
    folder: Path
    images: Array
    threads: int


Call = Callable[[Array], Array]


def make_network(name: str) -> Network:
    """Create a model by name, with random weights."""
    import timm
    import transformers

    class_name, config, output = MODELS[name]
    torch.manual_seed(0)
    if not output:
        model = timm.create_model(class_name, **config)
        return Network(model, output, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    model_class = getattr(transformers, class_name)
    return Network(model_class(model_class.config_class(**config)), output)


def load_engine(cell: Cell, precision: str, merge: int = 0) -> Engine:
    """Export a bundle and load it in this engine. If `merge` is not 0, the engine merges that many tokens per block."""
    bundle = export_network(cell.network, cell.folder, cell.images.shape[1:3], precision)
    return Engine.load(bundle, f"r{merge}" if merge else None, "onnxruntime", cell.threads, verify=False)


def load_openvino(cell: Cell, precision: str, **nncf: Any) -> Call:
    """Load the torch module in OpenVINO. `nncf` contains options of `quantize_for_openvino`.

    For int8, NNCF quantizes the model, and the ops that are not quantized run in bfloat16.
    """
    model = to_openvino(cell.network, cell.images)
    call = in_openvino(quantize_for_openvino(model, **nncf) if precision == "int8" else model, cell.threads, precision)
    return lambda images: call({"image": images})


def load_ort(cell: Cell, precision: str) -> Call:
    """Export the model with torch.onnx, and load the graph in ONNX Runtime.

    For int8, `quantize_dynamic` quantizes the graph first. The patch embedding stays in float32, because an int8 convolution
    would take 10 ms longer.
    """
    graph = to_onnx(cell.network, cell.images)
    return in_ort(quantize_for_ort(graph, ("Attention", "Conv")) if precision == "int8" else graph, cell.threads)


def load_compiled(cell: Cell, precision: str, backend: str = "inductor") -> Call:
    """Compile the module with torch.compile, in float32 or bfloat16.

    With the backend "inductor", which is torch's own, the weights are compiled as constants.
    """
    network, options = cell.network, {"freezing": True}
    if precision == "bf16":
        network = copy.deepcopy(network).to(torch.bfloat16)
    if backend != "inductor":
        importlib.import_module(backend)
        options = {}
    compiled = torch.compile(network, backend=backend, options=options)

    def call(images: Array) -> Array:
        with torch.no_grad():
            return np.asarray(compiled(torch.from_numpy(images)).float())

    return call


RUNS: dict[str, tuple[str, Callable[[Cell], Call], Sequence[str]]] = {
    "engine-bf16": ("this engine, bf16", partial(load_engine, precision="bf16"), ()),
    "engine-int8": ("this engine, int8", partial(load_engine, precision="int8"), ()),
    "openvino-fp32": ("OpenVINO, fp32", partial(load_openvino, precision="fp32"), ()),
    "openvino-bf16": ("OpenVINO, bf16", partial(load_openvino, precision="bf16"), ()),
    "openvino-int8": ("OpenVINO, int8 by NNCF", partial(load_openvino, precision="int8"), NNCF_PACKAGES),
    "ort-fp32": ("ONNX Runtime, fp32", partial(load_ort, precision="fp32"), ("onnxscript",)),
    "ort-int8": ("ONNX Runtime, int8 by quantize_dynamic", partial(load_ort, precision="int8"), ("onnxscript",)),
    "compile-fp32": ("torch.compile, fp32", partial(load_compiled, precision="fp32"), ()),
    "compile-bf16": ("torch.compile, bf16", partial(load_compiled, precision="bf16"), ()),
    "zentorch-bf16": ("zentorch, bf16", partial(load_compiled, precision="bf16", backend="zentorch"), ("zentorch",)),
}
"""By name: the title, the function that loads it, and the packages it needs in addition to transformers."""
_USUAL_RUNS = [name for name in RUNS if not name.startswith("zentorch")]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Time ViTs of transformers and timm in this engine and others, interleaved."
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[name for name in MODELS if name != "tiny"])
    parser.add_argument("--batch", nargs="+", type=count, default=[1, 8], metavar="N")
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=_USUAL_RUNS, metavar="RUN", help=", ".join(RUNS))
    parser.add_argument(
        "--merge", nargs="+", type=count, default=[], metavar="R", help="also time merging R tokens per block"
    )
    parser.add_argument("--rounds", type=count, default=11, metavar="N", help="timed calls per run (default: 11)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build", "families"), metavar="DIR")
    return parser.parse_args(arguments)


def present(names: Sequence[str]) -> list[str]:
    """Return the names of the runs whose packages are installed. Print one line for each run that is skipped.

    Raises:
        BenchmarkError: transformers isn't installed.
    """
    if reason := missing("transformers"):
        raise BenchmarkError(reason)
    left_out = {name: reason for name in names if (reason := missing(*RUNS[name][2]))}
    for name, reason in left_out.items():
        print(f"Skipped: {name}, because {reason}.")
    return [name for name in names if name not in left_out]


def measure(
    cell: Cell, names: Sequence[str], merges: Sequence[int], rounds: int
) -> tuple[list[list[str]], list[str], float]:
    """Time all runs of a cell.

    Returns:
        A table row for each run, with the median time per image and its quartiles.
        A line for each run with merging, with its speed-up.
        The share of the CPUs that other processes used, from 0 to 1.

    Raises:
        BenchmarkError: the outputs of a run are so far from torch's that the run must compute another model.
    """
    torch.set_num_threads(cell.threads)
    torch.compiler.reset()  # otherwise torch would stop recompiling a function after eight compilations
    wanted = cell.network.outputs(cell.images)
    calls = {name: partial(RUNS[name][1](cell), cell.images) for name in names}
    distances = {name: distance(call(), wanted)[1] for name, call in calls.items()}
    for name, found in distances.items():
        if not found <= _MAX_DISTANCE:
            raise BenchmarkError(f"{name} is not the same model: its outputs are {found:.2g} from those of torch")
    of_merging = [(name, merge) for name in names if name.startswith("engine") for merge in merges]
    engines = {(name, merge): load_engine(cell, name.partition("-")[2], merge) for name, merge in of_merging}
    merging = {f"{name}-r{merge}": partial(engine, cell.images) for (name, merge), engine in engines.items()}
    every, others = time_per_image(calls | merging, rounds, len(cell.images))
    times = {name: found for name, found in every.items() if name in calls}
    fastest = min(found["ms"] for found in times.values())
    gains = [
        f"{RUNS[name][0]}, {merge} tokens merged in a block: "
        f"{gained(engines[name, merge], every[name]['ms'] / every[f'{name}-r{merge}']['ms'], merge)}"
        for name, merge in of_merging
    ]
    fields = "title ms:.1f quartiles ratio:.2f distance:.1e"
    rows = []
    for name, found in times.items():
        about = {"title": RUNS[name][0], "ratio": found["ms"] / fastest, "distance": distances[name]}
        rows.append(cells(found | about | {"quartiles": f"{found['lower']:.1f}-{found['upper']:.1f}"}, fields))
    return rows, gains, others


def gained(engine: Engine, speed_up: float, merge: int) -> str:
    """Format the speed-up from merging, and compare it with the share of the FLOPs that remain after merging."""
    shape = ModelShape.of(engine.manifest.model)
    share = sparse_flops(shape, [], merge) / dense_flops(shape)
    return f"{speed_up:.2f} x as fast, with {share:.2f} of the FLOPs; {speed_up * share:.2f} of their ratio"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 if the run is void."""
    given, void = parse_arguments(arguments), False
    warnings.simplefilter("ignore")  # tracing warns a lot
    names = present(given.runs)
    print(f"{cpu_model()}, {given.threads} threads. Medians of {given.rounds} interleaved calls.")
    for name, batch in itertools.product(given.models, given.batch):
        network = make_network(name)
        size = network.model.config.image_size if network.output else network.model.pretrained_cfg["input_size"][-1]
        cell = Cell(network, given.output / name, noise(batch, size, size, 3), given.threads)
        say(f"{name}, batch {batch}: loading {len(names)} runs, then {given.rounds} rounds")
        try:
            rows, gains, share = measure(cell, names, given.merge, given.rounds)
        except VmoeError as error:
            raise BenchmarkError(f"{name}: {error}") from error
        head = ["", "ms/image", "quartiles", "over the fastest", "relative difference"]
        print(f"\n## {name}, batch {batch}\n", *table(head, rows), *(f"\n{gain}" for gain in gains), sep="\n")
        print(f"\nOther processes took {share:.0%} of the machine.", flush=True)
        void |= share > MAX_OTHERS_SHARE
    return int(void)


if __name__ == "__main__":
    sys.exit(main())
