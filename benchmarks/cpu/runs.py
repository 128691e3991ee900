"""What is timed: this engine and its peers, in every precision, each loaded for one batch size and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np

from cpu import peer_runs
from cpu.cell import Array, Cell, LoadedRun
from cpu.flops import Numbers
from cpu.models import Kind, Precision, Setting
from cpu.peer_int8 import missing_nncf
from vmoe_runtime import Engine


@dataclass(frozen=True)
class Run:
    """A model in a runtime and a precision, before it is loaded.

    Attributes:
        name: such as "engine-sparse-fp32".
        title: what stands in the table.
        kind: of the model; a sparse one is timed at every setting.
        numbers: what its products are computed in.
        load: from the cell that it will be timed in.
        peer: True where nothing of it is ours: its times tell whether the machine is what it should be.
        missing: why it can't be loaded here, or None.
        by_default: whether it is timed unless others are asked for.
    """

    name: str
    title: str
    kind: Kind
    numbers: Numbers
    load: Callable[[Cell], LoadedRun]
    peer: bool = False
    missing: Callable[[], str | None] = lambda: None
    by_default: bool = True

    @property
    def exact(self) -> bool:
        """Whether all of it is float32, so that its logits are the reference's."""
        return self.numbers == Numbers()


ENGINE_NUMBERS: Mapping[Precision, Numbers] = {
    "fp32": Numbers(),
    "bf16": Numbers("bf16", "bf16", "bf16"),
    "int8": Numbers("int8", "bf16", "int8"),
    "bf16-experts": Numbers("fp32", "fp32", "bf16"),
}


def load_engine(cell: Cell, kind: Kind, precision: Precision) -> LoadedRun:
    """This engine on a bundle, in ONNX Runtime with the op library."""
    bundle = cell.model.bundle(kind, precision)
    engine = Engine.load(bundle, backend="onnxruntime", threads=cell.threads, verify=False)

    def call(images: Array, setting: Setting | None) -> Array:
        return engine(images, setting.profile if setting else None)

    def placed(images: Array, setting: Setting) -> list[Array]:
        routes = engine.routing(images, setting.profile).values()
        return [np.where(route.kept, route.expert, -1) for route in routes]

    return LoadedRun(call, placed, engine.backend_description)


def _engine_run(kind: Kind, precision: Precision) -> Run:
    model, words = "V-MoE" if kind == "sparse" else "dense ViT", precision.replace("-", " ")
    title = f"{model}, this engine, {words}"
    load = partial(load_engine, kind=kind, precision=precision)
    return Run(engine_run_name(kind, precision), title, kind, ENGINE_NUMBERS[precision], load)


def engine_run_name(kind: Kind, precision: Precision) -> str:
    """Such as `engine-sparse-int8`."""
    return f"engine-{kind}-{precision}"


ENGINE_RUNS: Mapping[str, tuple[Kind, Precision]] = {
    engine_run_name(kind, precision): (kind, precision)
    for kind in get_args(Kind)
    for precision in get_args(Precision)
    if (kind, precision) != ("dense", "bf16-experts")
}
"""The bundle that each of this engine's runs is on."""

RUNS: Mapping[str, Run] = {
    run.name: run
    for run in (
        *(_engine_run(kind, precision) for kind, precision in ENGINE_RUNS.values()),
        Run(
            "dense-openvino-fp32",
            "dense ViT, OpenVINO, fp32",
            "dense",
            Numbers(),
            partial(peer_runs.dense_in_openvino, precision="fp32"),
            peer=True,
        ),
        Run(
            "dense-openvino-bf16",
            "dense ViT, OpenVINO, bf16",
            "dense",
            Numbers("bf16", "bf16"),
            partial(peer_runs.dense_in_openvino, precision="bf16"),
            peer=True,
        ),
        Run(
            "dense-openvino-int8",
            "dense ViT, OpenVINO, int8 by NNCF",
            "dense",
            Numbers("int8", "bf16"),
            partial(peer_runs.dense_in_openvino, precision="int8"),
            peer=True,
            missing=missing_nncf,
        ),
        Run(
            "dense-ort-fp32",
            "dense ViT, ONNX Runtime, fp32",
            "dense",
            Numbers(),
            partial(peer_runs.dense_in_ort, precision="fp32"),
            peer=True,
        ),
        Run(
            "dense-ort-int8",
            "dense ViT, ONNX Runtime, int8",
            "dense",
            Numbers("int8", "fp32"),
            partial(peer_runs.dense_in_ort, precision="int8"),
            peer=True,
        ),
        Run(
            "per-expert-ort-fp32",
            "V-MoE as standard ops, a product per expert, ONNX Runtime, fp32",
            "sparse",
            Numbers(),
            peer_runs.per_expert_in_ort,
            peer=True,
        ),
        Run(
            "inlined-openvino-fp32",
            "V-MoE as this exporter's standard ops, OpenVINO, fp32",
            "sparse",
            Numbers(),
            partial(peer_runs.inlined_in_openvino, precision="fp32"),
        ),
        Run(
            "inlined-openvino-bf16",
            "V-MoE as this exporter's standard ops, OpenVINO, bf16",
            "sparse",
            Numbers("bf16", "bf16", "bf16"),
            partial(peer_runs.inlined_in_openvino, precision="bf16"),
        ),
        Run(
            "dense-torch-fp32",
            "dense ViT, torch eager, fp32",
            "dense",
            Numbers(),
            partial(peer_runs.in_torch, kind="dense"),
            peer=True,
            by_default=False,
        ),
        Run(
            "sparse-torch-fp32",
            "V-MoE, torch eager, fp32",
            "sparse",
            Numbers(),
            partial(peer_runs.in_torch, kind="sparse"),
            peer=True,
            by_default=False,
        ),
    )
}

DEFAULT_RUNS = tuple(run.name for run in RUNS.values() if run.by_default)
