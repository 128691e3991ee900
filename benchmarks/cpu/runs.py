"""What is timed: this engine and its peers, in every precision, each loaded for one batch size and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino

from cpu.int8_peers import quantize_for_openvino, quantize_for_ort
from cpu.models import Kind, Model, Precision
from cpu.peer_graphs import Attention, write_graph
from cpu.timing import time_interleaved
from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]
Loaded = tuple[Callable[[Array, float | None], Array], str]
"""Logits float32[N, classes] of images at a capacity ratio x k, None for a dense model; and what runs it, in words."""

_ORT, _OPENVINO = f"ONNX Runtime {onnxruntime.__version__}", f"OpenVINO {openvino.__version__}"
_FORM_ROUNDS = 3


@dataclass(frozen=True)
class Cell:
    """What is timed together: a model, batch size and number of threads, at settings by their capacity ratio x k."""

    model: Model
    batch: int
    threads: int
    profiles: Mapping[float, Profile]

    def __str__(self) -> str:
        """Such as `b16, batch 8, 2 threads`."""
        return f"{self.model.name}, batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Run:
    """A model in a runtime and a precision, before it is loaded.

    Attributes:
        title: what stands in the table.
        kind: of the model; a sparse one is timed at every setting.
        numbers: what the products of linear layers, of attention and of experts are computed in; routers and head are fp32.
        load: from the cell that it will be timed in.
    """

    title: str
    kind: Kind
    numbers: tuple[str, str, str]
    load: Callable[[Cell], Loaded]


def load_engine(cell: Cell, kind: Kind, precision: Precision) -> Loaded:
    """This engine on a bundle, in ONNX Runtime with the op library."""
    engine = Engine.load(cell.model.bundle(kind, precision), backend="onnxruntime", threads=cell.threads, verify=False)
    names = {None: None} | {ck: profile.name for ck, profile in cell.profiles.items()}
    return lambda images, ck: engine(images, names[ck]), engine.backend_description


def in_ort(graph: onnx.ModelProto, threads: int) -> Callable[[Array], Array]:
    """A graph in ONNX Runtime with all of its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"image": images})[0]


def in_openvino(model: Any, threads: int, precision: str) -> Callable[[Mapping[str, Array]], Array]:
    """A model with static shapes in OpenVINO."""
    settings = {"INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16", "INFERENCE_NUM_THREADS": threads}
    settings |= {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def call(feeds: Mapping[str, Array]) -> Array:
        request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return np.array(request.get_tensor("logits").data)

    return call


def dense_graph(cell: Cell, attention: Attention) -> onnx.ModelProto:
    """The dense peer's graph for a cell."""
    return write_graph(cell.model.bundle("dense"), cell.model.configs["dense"], cell.batch, attention)


def dense_in_ort(cell: Cell, precision: str) -> Loaded:
    """The dense ViT in ONNX Runtime, "fp32", or "int8" with dynamically quantized activations."""

    def load(graph: onnx.ModelProto) -> Callable[[Array], Array]:
        return in_ort(quantize_for_ort(graph) if precision == "int8" else graph, cell.threads)

    return _fastest_form(cell, _ORT, ("separate", "contrib"), load)


def dense_in_openvino(cell: Cell, precision: str) -> Loaded:
    """The dense ViT in OpenVINO, "fp32", "bf16", or "int8" by NNCF with what is left in bfloat16."""

    def load(graph: onnx.ModelProto) -> Callable[[Array], Array]:
        model = openvino.Core().read_model(graph.SerializeToString())
        call = in_openvino(quantize_for_openvino(model) if precision == "int8" else model, cell.threads, precision)
        return lambda images: call({"image": images})

    return _fastest_form(cell, _OPENVINO, ("separate", "fused"), load)


def _fastest_form(
    cell: Cell, runtime: str, forms: Sequence[Attention], load: Callable[[onnx.ModelProto], Callable[[Array], Array]]
) -> Loaded:
    """Which way to write attention is the fastest depends on the machine: the one that is so here is the peer."""
    images, loaded = cell.model.images(cell.batch), {form: load(dense_graph(cell, form)) for form in forms}
    times = time_interleaved({form: partial(call, images) for form, call in loaded.items()}, _FORM_ROUNDS)
    best = min(times, key=lambda form: times[form].min())
    chosen = loaded[best]  # the other form goes
    return lambda images, _: chosen(images), f"{runtime}, {best} attention"


def per_expert_in_ort(cell: Cell) -> Loaded:
    """The V-MoE as standard ops, one product per expert, a graph for each setting."""
    bundle, config = cell.model.bundle("sparse"), cell.model.configs["sparse"]
    calls = {
        ck: in_ort(write_graph(bundle, config, cell.batch, "separate", profile), cell.threads)
        for ck, profile in cell.profiles.items()
    }
    return lambda images, ck: calls[ck](images), _ORT


def inlined_in_openvino(cell: Cell, precision: str) -> Loaded:
    """The bundle's graph of standard ops in OpenVINO, "fp32" or "bf16"."""
    model = openvino.Core().read_model(str(cell.model.bundle("sparse") / "model.inlined.onnx"))
    model.reshape({"image": list(cell.model.images(cell.batch).shape)})
    call, feeds = in_openvino(model, cell.threads, precision), {ck: p.inputs() for ck, p in cell.profiles.items()}
    return lambda images, ck: call({"image": images, **feeds[ck]}), _OPENVINO


_NUMBERS: Mapping[Precision, tuple[str, str, str]] = {
    "fp32": ("fp32", "fp32", "fp32"),
    "bf16": ("bf16", "bf16", "bf16"),
    "int8": ("int8", "bf16", "int8"),
    "bf16-experts": ("fp32", "fp32", "bf16"),
}


def _all_runs() -> dict[str, Run]:
    runs = {}
    for kind, model in (("sparse", "V-MoE"), ("dense", "dense ViT")):
        for precision in list(_NUMBERS)[: 4 if kind == "sparse" else 3]:
            load = partial(load_engine, kind=kind, precision=precision)
            title = f"{model}, this engine, {precision.replace('-', ' ')}"
            runs[f"engine-{kind}-{precision}"] = Run(title, kind, _NUMBERS[precision], load)
    for precision in ("fp32", "bf16", "int8"):
        load, tool = partial(dense_in_openvino, precision=precision), " by NNCF" if precision == "int8" else ""
        title = f"dense ViT, OpenVINO, {precision}{tool}"
        runs[f"dense-openvino-{precision}"] = Run(title, "dense", _NUMBERS[precision], load)
    for precision in ("fp32", "int8"):
        load, title = partial(dense_in_ort, precision=precision), f"dense ViT, ONNX Runtime, {precision}"
        runs[f"dense-ort-{precision}"] = Run(title, "dense", (precision, "fp32", precision), load)
    title = "V-MoE as standard ops, a product per expert, ONNX Runtime, fp32"
    runs["per-expert-ort-fp32"] = Run(title, "sparse", _NUMBERS["fp32"], per_expert_in_ort)
    for precision in ("fp32", "bf16"):
        load, title = partial(inlined_in_openvino, precision=precision), "V-MoE as this exporter's standard ops, OpenVINO"
        runs[f"inlined-openvino-{precision}"] = Run(f"{title}, {precision}", "sparse", _NUMBERS[precision], load)
    return runs


RUNS: Mapping[str, Run] = _all_runs()
