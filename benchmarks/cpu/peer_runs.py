"""The peers: a dense ViT, and the same V-MoE, in the runtimes that people would take otherwise, each in its best form.

Which way to write a graph is the fastest depends on runtime, precision, batch and machine. So a dense peer is loaded in
every form that may be, and the one that is the fastest here is the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cpu.cell import Array, Cell, LoadedRun
from cpu.models import Setting, Tensors
from cpu.peer_graphs import Form, write_dense, write_sparse
from cpu.peer_int8 import quantize_for_openvino, quantize_for_ort
from cpu.peer_weights import PeerWeights
from cpu.runtimes import OpenVinoModel, OpenVinoPrecision, OrtModel
from cpu.timing import time_in_turns

_ORT_FORMS = (Form("separate", "standard"), Form("contrib", "standard"), Form("contrib", "contrib"))
_OPENVINO_FORMS = (Form("separate", "standard"), Form("fused", "standard"))
"""Those of all forms (`speed.py --forms`) that were the fastest on some machine."""
_PER_EXPERT_FORM = Form("separate", "standard")

_FORM_ROUNDS = 3
_INLINED_GRAPH = "model.inlined.onnx"

Feeds = Mapping[str, Array]


def dense_in_ort(cell: Cell, precision: str) -> LoadedRun:
    """The dense ViT in ONNX Runtime, "fp32" or "int8" with dynamically quantized activations."""

    def load(form: Form) -> OrtModel:
        graph = dense_graph(cell, form)
        return OrtModel(quantize_for_ort(graph) if precision == "int8" else graph, cell.threads, precision)

    return _dense(cell, _ORT_FORMS, load)


def dense_in_openvino(cell: Cell, precision: str) -> LoadedRun:
    """The dense ViT in OpenVINO, "fp32", "bf16", or "int8" by NNCF with what is left in bfloat16."""

    def load(form: Form) -> OpenVinoModel:
        graph = dense_graph(cell, form)
        if precision == "int8":
            return OpenVinoModel(quantize_for_openvino(graph), cell.threads, "bf16", weights="int8 by NNCF")
        return OpenVinoModel(graph, cell.threads, openvino_precision(precision))

    return _dense(cell, _OPENVINO_FORMS, load)


def _dense(cell: Cell, forms: Sequence[Form], load: Callable[[Form], OrtModel | OpenVinoModel]) -> LoadedRun:
    feeds = {"image": cell.model.images(cell.batch)}
    loaded = {form: load(form) for form in forms}
    times = time_in_turns({form: partial(model, feeds) for form, model in loaded.items()}, _FORM_ROUNDS)
    form = min(times, key=lambda form: times[form].best)
    model = loaded[form]
    return LoadedRun(lambda images, _: model({"image": images}), None, f"{model.description}, {form.name}")


def per_expert_in_ort(cell: Cell) -> LoadedRun:
    """The V-MoE as a careful user exports it: standard ops, one product per expert, a graph for each setting."""
    models = {s: OrtModel(per_expert_graph(cell, s, _PER_EXPERT_FORM), cell.threads, "fp32") for s in cell.profiles}

    def call(images: Array, setting: Setting | None) -> Array:
        assert setting is not None
        return models[setting]({"image": images})

    return LoadedRun(call, None, next(iter(models.values())).description)


def inlined_in_openvino(cell: Cell, precision: str) -> LoadedRun:
    """The bundle's graph of standard ops in OpenVINO, "fp32" or "bf16"."""
    height, width = cell.model.config.image_size
    shape = [cell.batch, height, width, cell.model.config.channels]
    graph = cell.model.sparse / _INLINED_GRAPH
    compiled = OpenVinoModel(graph, cell.threads, openvino_precision(precision), shapes={"image": shape})
    feeds = {setting: profile.inputs() for setting, profile in cell.profiles.items()}

    def call(images: Array, setting: Setting | None) -> Array:
        assert setting is not None
        return compiled({"image": images, **feeds[setting]})

    def placed(images: Array, setting: Setting) -> list[Array]:
        call(images, setting)
        layers = zip(compiled.outputs("/expert"), compiled.outputs("/kept"), strict=True)
        return [np.where(kept, expert, -1) for expert, kept in layers]

    return LoadedRun(call, placed, compiled.description)


def in_torch(cell: Cell, kind: str) -> LoadedRun:
    """The "sparse" or "dense" model in eager torch, float32."""
    import torch  # seconds, which runs without it needn't wait for

    from cpu.peer_torch import TorchVit

    model, sparse = cell.model, kind == "sparse"
    network = TorchVit(model.config, Tensors(model.sparse)) if sparse else TorchVit(model.dense_config, Tensors(model.dense))

    def call(images: Array, setting: Setting | None) -> Array:
        # The number of threads is the process's, and other runs may have set another.
        torch.set_num_threads(cell.threads)
        profile = cell.profiles[setting] if setting else None
        return network(images, profile.capacity[0], profile.k) if profile else network(images)

    return LoadedRun(call, None, f"torch {torch.__version__} eager, fp32")


def dense_graph(cell: Cell, form: Form) -> Path:
    """Writes the dense peer's graph for a cell."""
    name = cell.model.name
    path = cell.folder / f"{name}-dense-batch{cell.batch}-{form.name}.onnx"
    weights = PeerWeights(cell.folder / f"{name}-dense.weights")
    write_dense(cell.model.dense_config, cell.batch, form, Tensors(cell.model.dense), weights, path)
    return path


def per_expert_graph(cell: Cell, setting: Setting, form: Form) -> Path:
    """Writes the careful user's graph for a cell and the one setting that it is good for."""
    name = cell.model.name
    path = cell.folder / f"{name}-per-expert-batch{cell.batch}-{setting.profile}-{form.name}.onnx"
    weights = PeerWeights(cell.folder / f"{name}-per-expert.weights")
    profile = cell.profiles[setting]
    tensors = Tensors(cell.model.sparse)
    write_sparse(cell.model.config, cell.batch, form, profile.capacity[0], profile.k, tensors, weights, path)
    return path


def openvino_precision(precision: str) -> OpenVinoPrecision:
    """OpenVINO's word for a precision."""
    return "f32" if precision == "fp32" else "bf16"
