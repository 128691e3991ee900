"""What is timed: this engine and its peers, in every precision, each loaded for one batch size and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import openvino

from cpu.int8_peers import missing_nncf, quantize_for_openvino, quantize_for_ort
from cpu.models import Kind, Model, Precision, Setting
from cpu.peer_graphs import Attention, Weights, write_graph
from cpu.timing import time_interleaved
from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]
Call = Callable[[Array, Setting | None], Array]

_FORM_ROUNDS = 3


@dataclass(frozen=True)
class Cell:
    """What is timed together: a model, batch size and number of threads, at settings with their places per expert."""

    model: Model
    batch: int
    threads: int
    profiles: Mapping[Setting, Profile]

    @property
    def key(self) -> dict[str, Any]:
        """The cell's name, batch size and number of threads, as they stand in JSON."""
        return {"model": self.model.name, "batch": self.batch, "threads": self.threads}

    def __str__(self) -> str:
        """Such as `b16, batch 8, 2 threads`."""
        return f"{self.model.name}, batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class LoadedRun:
    """A model in a runtime: `call` gives logits float32[N, classes] of images at a setting, None for a dense model.

    `placed`, where the runtime tells, gives the expert i32[G,S,K] of each MoE layer at a setting, -1 where dropped.
    """

    call: Call
    description: str
    placed: Callable[[Array, Setting], list[Array]] | None = None


@dataclass(frozen=True)
class Run:
    """A model in a runtime and a precision, before it is loaded.

    Attributes:
        name, title: such as "engine-sparse-fp32"; what stands in the table.
        kind: of the model; a sparse one is timed at every setting.
        numbers: what the products of linear layers, of attention and of experts are computed in; routers and head are fp32.
        load: from the cell that it will be timed in.
        missing: why it can't be loaded here, or None.
        by_default: whether it is timed unless others are asked for.
    """

    name: str
    title: str
    kind: Kind
    numbers: tuple[str, str, str]
    load: Callable[[Cell], LoadedRun]
    missing: Callable[[], str | None] = lambda: None
    by_default: bool = True


def load_engine(cell: Cell, kind: Kind, precision: Precision) -> LoadedRun:
    """This engine on a bundle, in ONNX Runtime with the op library."""
    engine = Engine.load(cell.model.bundle(kind, precision), backend="onnxruntime", threads=cell.threads, verify=False)

    def placed(images: Array, setting: Setting) -> list[Array]:
        return [np.where(r.kept, r.expert, -1) for r in engine.routing(images, setting.profile).values()]

    return LoadedRun(lambda images, s: engine(images, s.profile if s else None), engine.backend_description, placed)


def in_ort(graph: Path, threads: int) -> Callable[[Array], Array]:
    """A graph in ONNX Runtime with all of its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"image": images})[0]


def in_openvino(graph: Path, threads: int, precision: str, shape: list[int]) -> Any:
    """A request for a graph in OpenVINO, with static shapes."""
    core = openvino.Core()
    model = core.read_model(str(graph))
    model.reshape({"image": shape})
    settings = {"INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16", "INFERENCE_NUM_THREADS": threads}
    settings |= {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(model, "CPU", settings).create_infer_request()


def ask_openvino(request: Any, feeds: Mapping[str, Array]) -> Array:
    """Logits of one call."""
    request.infer(dict(feeds), share_inputs=True, share_outputs=True)
    return np.array(request.get_tensor("logits").data)


def dense_graph(cell: Cell, attention: Attention) -> Path:
    """Writes the dense peer's graph for a cell."""
    model, name = cell.model, cell.model.name
    path = model.folder / f"{name}-dense-batch{cell.batch}-{attention}.onnx"
    weights = Weights(model.folder / f"{name}-dense.weights", model.bundle("dense"))
    write_graph(path, model.dense_config, cell.batch, weights, attention)
    return path


def dense_in_ort(cell: Cell, precision: str) -> LoadedRun:
    """The dense ViT in ONNX Runtime, "fp32", or "int8" with dynamically quantized activations."""

    def load(graph: Path) -> Callable[[Array], Array]:
        return in_ort(quantize_for_ort(graph) if precision == "int8" else graph, cell.threads)

    return _fastest_form(cell, f"ONNX Runtime {onnxruntime.__version__}", ("separate", "contrib"), load)


def dense_in_openvino(cell: Cell, precision: str) -> LoadedRun:
    """The dense ViT in OpenVINO, "fp32", "bf16", or "int8" by NNCF with what is left in bfloat16."""
    shape = list(cell.model.images(cell.batch).shape)

    def load(graph: Path) -> Callable[[Array], Array]:
        request = in_openvino(quantize_for_openvino(graph) if precision == "int8" else graph, cell.threads, precision, shape)
        return lambda images: ask_openvino(request, {"image": images})

    return _fastest_form(cell, f"OpenVINO {openvino.__version__}", ("separate", "fused"), load)


def _fastest_form(
    cell: Cell, runtime: str, forms: Sequence[Attention], load: Callable[[Path], Callable[[Array], Array]]
) -> LoadedRun:
    """Which way to write attention is the fastest depends on the machine: the one that is so here is the peer."""
    images, loaded = cell.model.images(cell.batch), {form: load(dense_graph(cell, form)) for form in forms}
    times = time_interleaved({form: partial(call, images) for form, call in loaded.items()}, _FORM_ROUNDS)
    best = min(times, key=lambda form: times[form].best)
    chosen = loaded[best]  # the other form goes
    return LoadedRun(lambda images, _: chosen(images), f"{runtime}, {best} attention")


def per_expert_in_ort(cell: Cell) -> LoadedRun:
    """The V-MoE as standard ops, one product per expert, a graph for each setting."""
    model, calls = cell.model, {}
    weights = Weights(model.folder / f"{model.name}-per-expert.weights", model.bundle("sparse"))
    for setting, profile in cell.profiles.items():
        path = model.folder / f"{model.name}-per-expert-batch{cell.batch}-{setting.profile}.onnx"
        write_graph(path, model.config, cell.batch, weights, "separate", profile.capacity[0], profile.k)
        calls[setting] = in_ort(path, cell.threads)
    return LoadedRun(lambda images, setting: calls[setting](images), f"ONNX Runtime {onnxruntime.__version__}")  # type: ignore[index]


def inlined_in_openvino(cell: Cell, precision: str) -> LoadedRun:
    """The bundle's graph of standard ops in OpenVINO, "fp32" or "bf16"."""
    graph, shape = cell.model.bundle("sparse") / "model.inlined.onnx", list(cell.model.images(cell.batch).shape)
    request = in_openvino(graph, cell.threads, precision, shape)
    feeds = {setting: profile.inputs() for setting, profile in cell.profiles.items()}

    def call(images: Array, setting: Setting | None) -> Array:
        return ask_openvino(request, {"image": images, **(feeds[setting] if setting else {})})

    def placed(images: Array, setting: Setting) -> list[Array]:
        call(images, setting)
        experts, kept = (
            [request.get_tensor(port).data for port in request.model_outputs if any(n.endswith(end) for n in port.names)]
            for end in ("/expert", "/kept")
        )
        return [np.where(k, e, -1) for e, k in zip(experts, kept, strict=True)]

    return LoadedRun(call, f"OpenVINO {openvino.__version__}", placed)


def load_torch(cell: Cell, kind: Kind) -> LoadedRun:
    """The exporter's model in eager torch, float32."""
    import torch

    from vmoe_export.model.torch_model import Vmoe

    config = cell.model.config_of(kind)
    if config.moe:
        config = replace(config, moe=replace(config.moe, dispatch_bf16=False))  # as the engine computes in float32
    network = Vmoe(config, config.num_tokens).load_weights(cell.model.bundle(kind) / "weights.safetensors")

    def call(images: Array, setting: Setting | None) -> Array:
        torch.set_num_threads(cell.threads)  # it is the process's, and other runs may have set another
        inputs = cell.profiles[setting].inputs().values() if setting else ()
        with torch.inference_mode():
            return network(torch.from_numpy(images), *map(torch.from_numpy, inputs))[0].numpy()

    return LoadedRun(call, f"torch {torch.__version__}")


_ENGINE_NUMBERS: Mapping[Precision, tuple[str, str, str]] = {
    "fp32": ("fp32", "fp32", "fp32"),
    "bf16": ("bf16", "bf16", "bf16"),
    "int8": ("int8", "bf16", "int8"),
    "bf16-experts": ("fp32", "fp32", "bf16"),
}


def _all_runs() -> list[Run]:
    words: Mapping[Kind, str] = {"sparse": "V-MoE", "dense": "dense ViT"}
    runs = []
    for kind in get_args(Kind):
        for precision, numbers in _ENGINE_NUMBERS.items():
            if (kind, precision) != ("dense", "bf16-experts"):
                load = partial(load_engine, kind=kind, precision=precision)
                title = f"{words[kind]}, this engine, {precision.replace('-', ' ')}"
                runs.append(Run(f"engine-{kind}-{precision}", title, kind, numbers, load))
    for precision in ("fp32", "bf16", "int8"):
        load, missing = (
            partial(dense_in_openvino, precision=precision),
            missing_nncf if precision == "int8" else lambda: None,
        )
        title = f"dense ViT, OpenVINO, {precision}{' by NNCF' if precision == 'int8' else ''}"
        runs.append(Run(f"dense-openvino-{precision}", title, "dense", _ENGINE_NUMBERS[precision], load, missing))
    for precision, attention in (("fp32", "fp32"), ("int8", "fp32")):
        load, numbers = partial(dense_in_ort, precision=precision), (precision, attention, precision)
        runs.append(Run(f"dense-ort-{precision}", f"dense ViT, ONNX Runtime, {precision}", "dense", numbers, load))
    title = "V-MoE as standard ops, a product per expert, ONNX Runtime, fp32"
    runs.append(Run("per-expert-ort-fp32", title, "sparse", _ENGINE_NUMBERS["fp32"], per_expert_in_ort))
    for precision in ("fp32", "bf16"):
        load, title = partial(inlined_in_openvino, precision=precision), "V-MoE as this exporter's standard ops, OpenVINO"
        runs.append(
            Run(f"inlined-openvino-{precision}", f"{title}, {precision}", "sparse", _ENGINE_NUMBERS[precision], load)
        )
    for kind in ("dense", "sparse"):
        load, title = partial(load_torch, kind=kind), f"{words[kind]}, torch eager, fp32"
        runs.append(Run(f"{kind}-torch-fp32", title, kind, _ENGINE_NUMBERS["fp32"], load, by_default=False))
    return runs


RUNS: Mapping[str, Run] = {run.name: run for run in _all_runs()}
DEFAULT_RUNS = tuple(run.name for run in RUNS.values() if run.by_default)
