"""Who is timed: this engine and its peers, each loaded for one batch size and number of threads.

A contender answers `contender(images, setting)` with logits; the setting is None for a dense model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpu.models import Model, Setting, Tensors
from cpu.peer_graphs import Form, write_dense, write_sparse
from cpu.peer_weights import PeerWeights
from cpu.runtimes import OpenVinoModel, ort_description, ort_session
from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile

Array = np.ndarray[Any, np.dtype[Any]]
Slots = list[Array]

_DENSE_FORM_ORT = Form("separate", "standard")
_DENSE_FORM_OPENVINO = Form("fused", "standard")
_CAREFUL_FORM = Form("separate", "standard")
"""The fastest of several forms of the same layers; `speed.py --forms` times them all."""

_INLINED_GRAPH = "model.inlined.onnx"


@dataclass(frozen=True)
class Answers:
    """A loaded contender.

    Attributes:
        call: logits float32[N, classes] of images float32[N,H,W,C] at a setting, None for a dense model.
        slots: the slot i32[G,S,K] of each MoE layer at a setting; None where the contender doesn't tell.
        description: runtime, version and what it uses.
    """

    call: Callable[[Array, Setting | None], Array]
    slots: Callable[[Array, Setting], Slots] | None
    description: str


@dataclass(frozen=True)
class Contender:
    """A model in a runtime, before it is loaded.

    Attributes:
        name: such as "engine-fp32".
        title: what stands in the table.
        sparse: whether it takes settings.
        expert_bf16, shared_bf16: whether the experts, and everything else, are computed in bfloat16.
        peer: True where nothing of it is ours: its times tell whether the machine is what it should be.
        load: from the cell that it will be timed in.
    """

    name: str
    title: str
    sparse: bool
    expert_bf16: bool
    shared_bf16: bool
    peer: bool
    load: Callable[[Cell], Answers]


@dataclass(frozen=True)
class Cell:
    """What is timed together: one model, batch size and number of threads, at all settings.

    Attributes:
        profiles: the places per expert of each setting.
        folder: where graphs are written.
    """

    model: Model
    batch: int
    threads: int
    profiles: Mapping[Setting, Profile]
    folder: Path


def _engine(cell: Cell, bundle: Path) -> Answers:
    engine = Engine.load(bundle, backend="onnxruntime", threads=cell.threads, verify=False)

    def slots(images: Array, setting: Setting) -> Slots:
        return [route.slot for route in engine.routing(images, setting.profile).values()]

    return Answers(
        lambda images, setting: engine(images, setting.profile if setting else None), slots, engine.backend_description
    )


def _dense_in_ort(cell: Cell) -> Answers:
    session = ort_session(dense_graph(cell, _DENSE_FORM_ORT), cell.threads)
    return Answers(lambda images, _: session.run(["logits"], {"image": images})[0], None, ort_description())


def _dense_in_openvino(cell: Cell, precision: str) -> Answers:
    compiled = OpenVinoModel(dense_graph(cell, _DENSE_FORM_OPENVINO), cell.threads, precision)
    return Answers(lambda images, _: compiled({"image": images}), None, compiled.description)


def _careful(cell: Cell) -> Answers:
    sessions = {setting: ort_session(careful_graph(cell, setting, _CAREFUL_FORM), cell.threads) for setting in cell.profiles}

    def call(images: Array, setting: Setting | None) -> Array:
        assert setting is not None
        logits: Array = sessions[setting].run(["logits"], {"image": images})[0]
        return logits

    return Answers(call, None, ort_description())


def _inlined_in_openvino(cell: Cell, precision: str) -> Answers:
    height, width = cell.model.config.image_size
    shape = [cell.batch, height, width, cell.model.config.channels]
    compiled = OpenVinoModel(cell.model.sparse / _INLINED_GRAPH, cell.threads, precision, {"image": shape})
    feeds = {setting: profile.inputs() for setting, profile in cell.profiles.items()}

    def call(images: Array, setting: Setting | None) -> Array:
        assert setting is not None
        return compiled({"image": images, **feeds[setting]})

    def slots(images: Array, setting: Setting) -> Slots:
        call(images, setting)
        return compiled.outputs("/slot")

    return Answers(call, slots, compiled.description)


def _torch_eager(cell: Cell, sparse: bool) -> Answers:
    import torch  # seconds, which runs without it needn't wait for

    from cpu.peer_torch import TorchVit

    model = cell.model
    network = TorchVit(model.config, Tensors(model.sparse)) if sparse else TorchVit(model.dense_config, Tensors(model.dense))

    def call(images: Array, setting: Setting | None) -> Array:
        # The number of threads is the process's, and other contenders may have set another.
        torch.set_num_threads(cell.threads)
        profile = cell.profiles[setting] if setting else None
        return network(images, profile.capacity[0], profile.k) if profile else network(images)

    return Answers(call, None, f"torch {torch.__version__} eager, f32")


CONTENDERS: Mapping[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender(
            "engine-fp32", "this engine, fp32", True, False, False, False, lambda cell: _engine(cell, cell.model.sparse)
        ),
        Contender(
            "engine-bf16",
            "this engine, bf16 experts",
            True,
            True,
            False,
            False,
            lambda cell: _engine(cell, cell.model.sparse_bf16),
        ),
        Contender("careful-ort", "careful user's export, ORT fp32", True, False, False, True, _careful),
        Contender(
            "inlined-openvino-fp32",
            "inlined graph, OpenVINO fp32",
            True,
            False,
            False,
            False,
            lambda cell: _inlined_in_openvino(cell, "f32"),
        ),
        Contender(
            "inlined-openvino-bf16",
            "inlined graph, OpenVINO bf16",
            True,
            True,
            True,
            False,
            lambda cell: _inlined_in_openvino(cell, "bf16"),
        ),
        Contender(
            "sparse-torch", "V-MoE, torch eager fp32", True, False, False, True, lambda cell: _torch_eager(cell, sparse=True)
        ),
        Contender("dense-ort", "dense ViT, ORT fp32", False, False, False, True, _dense_in_ort),
        Contender(
            "dense-openvino-fp32",
            "dense ViT, OpenVINO fp32",
            False,
            False,
            False,
            True,
            lambda cell: _dense_in_openvino(cell, "f32"),
        ),
        Contender(
            "dense-openvino-bf16",
            "dense ViT, OpenVINO bf16",
            False,
            False,
            True,
            True,
            lambda cell: _dense_in_openvino(cell, "bf16"),
        ),
        Contender(
            "dense-torch",
            "dense ViT, torch eager fp32",
            False,
            False,
            False,
            True,
            lambda cell: _torch_eager(cell, sparse=False),
        ),
    )
}


def dense_graph(cell: Cell, form: Form) -> Path:
    """Writes the dense peer's graph for a cell."""
    name = cell.model.name
    path = cell.folder / f"{name}-dense-batch{cell.batch}-{form.name}.onnx"
    weights = PeerWeights(cell.folder / f"{name}-dense.weights")
    write_dense(cell.model.dense_config, cell.batch, form, Tensors(cell.model.dense), weights, path)
    return path


def careful_graph(cell: Cell, setting: Setting, form: Form) -> Path:
    """Writes the careful user's graph for a cell and the one setting that it is good for."""
    name = cell.model.name
    path = cell.folder / f"{name}-careful-batch{cell.batch}-{setting.profile}-{form.name}.onnx"
    weights = PeerWeights(cell.folder / f"{name}-careful.weights")
    profile = cell.profiles[setting]
    tensors = Tensors(cell.model.sparse)
    write_sparse(cell.model.config, cell.batch, form, profile.capacity[0], profile.k, tensors, weights, path)
    return path
