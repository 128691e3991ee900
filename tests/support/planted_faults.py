"""Plants faults in exported files. Validation must find each fault.

Run `python tests/support/planted_faults.py`. Each case combines four things: a fault, the kind of tensor or the graph that
gets the fault, a model and a precision. All possible combinations are covered. Run this program after changing validation's
comparisons or their limits.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from hostile_runs import Report, run_program
from safetensors.numpy import save_file
from variants import Variant

from vmoe_export import export_bundle
from vmoe_export.bundle.weights_file import Span
from vmoe_export.errors import ExportError
from vmoe_export.export import ExportResult
from vmoe_export.validation import proof
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, INLINED_GRAPH, WEIGHTS_NAME

WIDE = Variant(
    "wide", "token", "learned", (4, 4), (16, 16), hidden=192, heads=3, layers=4, moe=(1, 3), settings=((1.05, 2, True),)
)
DENSE = replace(WIDE, name="dense", moe=())
MANY = replace(WIDE, name="many", moe=(3,), experts=16)  # so many experts that class tokens go to only a few of them
Change = Callable[[np.ndarray, int, np.random.Generator], None]


def another_value(tensor: np.ndarray, places: int, random: np.random.Generator) -> None:
    """Choose a random value of the tensor, and change the lowest bit of the value's first byte.

    The tensor has `places` values.
    """
    tensor.reshape(places, -1)[random.integers(places), 0] ^= 1


def exchanged_experts(tensor: np.ndarray, places: int, random: np.random.Generator) -> None:
    one, other = random.choice(len(tensor), 2, replace=False)
    tensor[[one, other]] = tensor[[other, one]]


def zeros(tensor: np.ndarray, places: int, random: np.random.Generator) -> None:
    tensor[:] = 0


STORED: tuple[tuple[str, Change, str], ...] = (
    ("a weight", another_value, "kernel"),
    ("a scale", another_value, "kernel_scale"),
    ("two experts", exchanged_experts, "Moe/Mlp/Dense_0/kernel"),
    ("a bias", zeros, "bias"),
)
"""Faults in the weights file, and how the names of the tensors end that may have them; a random one of these has it."""
KERNELS = ("query/kernel", "key/kernel", "value/kernel", "out/kernel", "Dense_0/kernel", "Dense_1/kernel")
IN_GRAPHS: Mapping[str, tuple[str, ...]] = {
    "another weight": KERNELS,
    "another scale": ("out/kernel_scale", "Dense_0/kernel_scale"),
    "no bias": ("value/bias", "out/bias", "Dense_0/bias", "Dense_1/bias"),
}
"""Faults in a graph, which uses the tensor of another layer or zeros; and how the names of the replaced tensors end."""
MODELS: tuple[tuple[Variant, float, str], ...] = (
    (WIDE, 1.0, "fp32"),
    (WIDE, 1.0, "bf16"),
    (WIDE, 1.0, "int8"),
    (WIDE, 1.0, "int4"),
    (DENSE, 1.0, "int8"),
    (MANY, 1.0, "fp32"),
    (WIDE, 1e-3, "bf16"),
    (DENSE, 1e-5, "fp32"),
    (DENSE, 1e-5, "int8"),
    (DENSE, 1e-6, "bf16"),
)
"""Models, the layer scale that was folded into their weights, and precisions."""


@dataclass(frozen=True)
class Case:
    """A model, and a fault that is planted in its export."""

    variant: Variant
    layer_scale: float
    precision: str
    fault: str
    ending: str
    graph: str = ""

    def __str__(self) -> str:
        model = f"{self.variant}, layer scale {self.layer_scale:g}, {self.precision}"
        return f"{model}: {self.fault} of {self.ending} in {self.graph or WEIGHTS_NAME}"


def cases() -> Iterator[Case]:
    for model in MODELS:
        variant, _, precision = model
        quantized = precision.startswith("int")
        for fault, _, ending in STORED:
            if ("scale" not in fault or quantized) and ("Moe" not in ending or variant.moe):
                yield Case(*model, fault, ending)
        for fault, endings in IN_GRAPHS.items():
            for ending in endings if quantized or "scale" not in fault else ():
                yield from (Case(*model, fault, ending, graph) for graph in (CANONICAL_GRAPH, INLINED_GRAPH))


def saved(variant: Variant, folder: Path, seed: int = 0, layer_scale: float = 1.0) -> Path:
    """Save a checkpoint with random weights, and return its path.

    The weights are drawn from N(0, 0.02), and layer norm scales are near 1. `layer_scale` multiplies the output layers of
    attention and MLPs.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, array in variant.parameters().items():
        noise = rng.standard_normal(array.shape, np.float32) * np.float32(0.02)
        tensors[name] = noise + np.float32("LayerNorm" in name and name.endswith("scale"))
        if name.startswith("Encoder") and {"out", "Dense_1"} & {*name.split("/")}:
            tensors[name] *= np.float32(layer_scale)
    path = folder / "model.safetensors"
    save_file(tensors, path)
    return path


def exported(variant: Variant, folder: Path, seed: int = 0, layer_scale: float = 1.0, **options: Any) -> ExportResult:
    path = saved(variant, folder, seed, layer_scale)
    return export_bundle(path, folder / "x.vmoe", config=variant.config, force=True, **options)


def refusal(case: Case, folder: Path) -> str:
    """Export the case. If the export refuses it, return the error message.

    If it writes a bundle, return an empty string.
    """

    def prove(plan: Any, written: Path, spans: Mapping[str, Span], *arguments: Any) -> Any:
        _plant(case, written, spans, np.random.default_rng(len(case.variant.name)))
        return original(plan, written, spans, *arguments)

    original = proof.prove
    with mock.patch.object(proof, "prove", prove):
        try:
            exported(case.variant, folder, layer_scale=case.layer_scale, precision=case.precision)
        except ExportError as error:
            return str(error)
    return ""


def _plant(case: Case, folder: Path, spans: Mapping[str, Span], random: np.random.Generator) -> None:
    """Plant the case's fault in the data of a random tensor.

    Some faults change the tensor in the weights file. The others change a graph, so that the graph uses wrong data in place
    of the tensor.
    """
    names = sorted(name for name in spans if name.startswith("Encoder/encoderblock") and name.endswith(case.ending))
    name = str(random.choice(names))
    span = spans[name]
    for fault, change, _ in STORED:
        if fault == case.fault:
            shape = (span.shape[0], span.nbytes // span.shape[0])
            tensor = np.memmap(folder / WEIGHTS_NAME, np.uint8, "r+", span.offset, shape)
            change(tensor, math.prod(span.shape), random)
            tensor.flush()
            return
    other = next(spans[other] for other in names if other != name and spans[other].shape == span.shape)
    model = onnx.load(folder / case.graph, load_external_data=False)
    damaged = [each for each in model.graph.initializer if each.name == name or each.name.startswith(f"{name}/")]
    assert damaged, f"{case.graph} has no {name}"
    for tensor in damaged:
        if case.fault == "no bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
        else:
            (offset,) = (entry for entry in tensor.external_data if entry.key == "offset")
            offset.value = str(int(offset.value) + other.offset - span.offset)
    onnx.save(model, folder / case.graph)


def run(each: int) -> Report:
    """Export every `each`-th case."""
    report = Report()
    for case in list(cases())[::each]:
        with tempfile.TemporaryDirectory() as folder:
            found = "no bundle was written" in refusal(case, Path(folder))
        report.endings["found" if found else "missed"] += 1
        if not found:
            report.failures.append(f"not found: {case}")
    return report


if __name__ == "__main__":
    run_program(run, each=1)
