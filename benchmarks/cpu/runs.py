"""The timed runs: this engine and its peers in every precision.

Each run is loaded for one batch size and one number of threads.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import openvino

from cpu.int8_peers import quantize_for_openvino, quantize_for_ort
from cpu.models import Array, Kind, Model, Precision
from cpu.peer_graphs import Attention, write_graph
from cpu.timing import time_interleaved
from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile

Loaded = tuple[Callable[[Array, str | None], Array], str]
"""A function from images and a setting (None: none) to logits float32[N, classes], and a description of the runtime."""

_ORT, _OPENVINO = f"ONNX Runtime {onnxruntime.__version__}", f"OpenVINO {openvino.__version__}"
_FORM_ROUNDS = 3


@dataclass(frozen=True)
class Cell:
    """The inputs of one comparison.

    They are a model, a batch size, a number of threads, and the profiles of each kind of model by name.
    """

    model: Model
    batch: int
    threads: int
    profiles: Mapping[Kind, Mapping[str | None, Profile | None]]

    def __str__(self) -> str:
        """Return text such as `b16, batch 8, 2 threads`."""
        return f"{self.model.name}, batch {self.batch}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Run:
    """A model in a runtime and a precision, before it is loaded.

    Attributes:
        title: title in the table.
        kind: kind of the model, "sparse" or "dense". The run is timed at every setting of its kind.
        precision: precision of the model's large matrix products.
        load: function that loads the run for a cell. It returns the call to time, and a description of the runtime.
    """

    title: str
    kind: Kind
    precision: Precision
    load: Callable[[Cell], Loaded]


def load_engine(cell: Cell, kind: Kind, precision: Precision) -> Loaded:
    """Load a bundle in this engine, which runs it on ONNX Runtime with the op library."""
    engine = Engine.load(cell.model.bundle(kind, precision), backend="onnxruntime", threads=cell.threads, verify=False)
    return engine, engine.backend_description


@contextlib.contextmanager
def stored(graph: onnx.ModelProto) -> Iterator[str]:
    """Write a graph to a temporary folder, with the weights in a separate file, and yield the path of the graph's file.

    A graph over 2 GB can't be passed to a runtime as bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "peer.onnx"))
        onnx.save_model(graph, path, save_as_external_data=True, location="weights")
        yield path


def in_ort(graph: onnx.ModelProto, threads: int) -> Callable[[Array], Array]:
    """Load a graph in ONNX Runtime with all optimizations. Return a function that computes logits from images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # threads must not spin during the next run
    with stored(graph) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"image": images})[0]


def in_openvino(model: Any, threads: int, precision: str) -> Callable[[Mapping[str, Array]], Array]:
    """Load a model in OpenVINO. Return a function that computes logits from a mapping of input names to arrays.

    All shapes of the model must be static.
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16", "INFERENCE_NUM_THREADS": threads}
    settings |= {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def call(feeds: Mapping[str, Array]) -> Array:
        request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return np.array(request.get_tensor("logits").data)

    return call


def load_dense(cell: Cell, runtime: str, precision: str) -> Loaded:
    """Load the dense ViT in ONNX Runtime or OpenVINO, with the form of attention that is fastest on this machine.

    For int8 in ONNX Runtime, `quantize_for_ort` quantizes the graph. For int8 in OpenVINO, NNCF quantizes the model, and the
    ops that NNCF does not quantize run in bfloat16.
    """

    def load(form: Attention) -> Callable[[Array], Array]:
        graph = write_graph(cell.model.bundle("dense"), cell.model.configs["dense"], cell.batch, form)
        if runtime == _ORT:
            return in_ort(quantize_for_ort(graph) if precision == "int8" else graph, cell.threads)
        with stored(graph) as path:
            model = openvino.Core().read_model(path)
            call = in_openvino(quantize_for_openvino(model) if precision == "int8" else model, cell.threads, precision)
        return lambda images: call({"image": images})

    forms: tuple[Attention, ...] = ("separate", "contrib" if runtime == _ORT else "fused")
    images, loaded = cell.model.images(cell.batch), {form: load(form) for form in forms}
    times = time_interleaved({form: partial(call, images) for form, call in loaded.items()}, _FORM_ROUNDS)
    best = min(times, key=lambda form: times[form].min())
    chosen = loaded[best]  # keep only the fastest form of attention, so that the other form is freed
    return lambda images, _: chosen(images), f"{runtime}, {best} attention"


def load_inlined(cell: Cell, precision: str) -> Loaded:
    """Load model.inlined.onnx, the bundle's graph of standard ops, in OpenVINO. `precision` is "fp32" or "bf16"."""
    model = openvino.Core().read_model(str(cell.model.bundle("sparse") / "model.inlined.onnx"))
    model.reshape({"image": list(cell.model.images(cell.batch).shape)})
    call, names = in_openvino(model, cell.threads, precision), {port.get_any_name() for port in model.inputs}
    settings = {setting: profile.inputs.items() for setting, profile in cell.profiles["sparse"].items() if profile}
    feeds = {setting: {name: array for name, array in given if name in names} for setting, given in settings.items()}
    return lambda images, setting: call({"image": images, **feeds[setting]}), _OPENVINO


_ALL: tuple[tuple[str, str, Kind, Callable[..., Loaded], Sequence[Precision]], ...] = (
    ("engine-sparse", "V-MoE, this engine", "sparse", partial(load_engine, kind="sparse"), get_args(Precision)),
    ("engine-dense", "dense ViT, this engine", "dense", partial(load_engine, kind="dense"), ("fp32", "bf16", "int8")),
    ("dense-openvino", "dense ViT, OpenVINO", "dense", partial(load_dense, runtime=_OPENVINO), ("fp32", "bf16", "int8")),
    ("dense-ort", "dense ViT, ONNX Runtime", "dense", partial(load_dense, runtime=_ORT), ("fp32", "int8")),
    ("inlined-openvino", "V-MoE as this exporter's standard ops, OpenVINO", "sparse", load_inlined, ("fp32", "bf16")),
)
RUNS = {
    f"{name}-{precision}": Run(
        f"{title}, {precision.replace('-', ' ')}", kind, precision, partial(load, precision=precision)
    )
    for name, title, kind, load, precisions in _ALL
    for precision in precisions
}
