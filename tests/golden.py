"""The official model's outputs (tests/data/golden), and graphs of its checkpoints to compare with them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vmoe_export import open_checkpoint
from vmoe_export.graph_files import write_graphs
from vmoe_export.grouping import parse_group
from vmoe_export.model import Vmoe
from vmoe_export.model_config import describe_model
from vmoe_export.parameters import stored_parameters
from vmoe_export.weights_file import write_weights
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.openvino_cpu import OpenVinoBackend
from vmoe_runtime.profiles import Profile, RoutingRules

FOLDER = Path(__file__).parent / "data" / "golden"
RUNNERS = ("torch", "onnxruntime-canonical", "onnxruntime-inlined", "openvino")

_scratch = tempfile.TemporaryDirectory(prefix="vmoe-golden-")

Outputs = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """One forward pass of the official model and what it gave."""

    model: str
    raw: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.model}-{self.raw['id']}"

    @property
    def bfloat16(self) -> bool:
        return bool(self.raw.get("bfloat16"))

    @property
    def group(self) -> str:
        moe = settings(self.model)["model"]["encoder"].get("moe")
        return f"tokens:{self.raw.get('group_size') or moe['group_size']}" if moe else "image"

    @property
    def images(self) -> np.ndarray:
        return arrays(self.model)["images"][: self.raw["batch"]]

    @property
    def logits(self) -> np.ndarray:
        return arrays(self.model)[self.raw["logits"]]

    def layers(self) -> list[tuple[np.ndarray | None, np.ndarray]]:
        """(gates f32[G,S,E] or None where not recorded, kept bool[G,S,E]) of each MoE layer."""
        stored = arrays(self.model)
        return [(stored[v["gates"]] if "gates" in v else None, stored[v["kept"]]) for v in self.raw["layers"].values()]

    @property
    def profile(self) -> Profile | None:
        if not self.raw["layers"]:
            return None
        _, tokens, experts = next(iter(self.raw["layers"].values()))["shape_GSE"]
        rules = RoutingRules(
            experts,
            tokens,
            len(self.raw["layers"]),
            capacity_multiple_of=self.raw["capacity_multiple_of"] or 1,
        )
        return rules.profile(self.raw["capacity_factor"], self.raw["num_selected_experts"], self.raw["batch_priority"])

    def run(self, runner: str) -> Outputs:
        """Logits, then slot and weight of each MoE layer."""
        feeds = {"image": self.images}
        if (profile := self.profile) is not None:
            feeds |= profile.inputs()
        return _runner(self.model, self.group, self.bfloat16, runner)(feeds)


@functools.cache
def settings(model: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{model}.json").read_text())


@functools.cache
def arrays(model: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{model}.npz") as data:
        return {name: data[name] for name in data.files}


def cases() -> list[Case]:
    return [Case(model, raw) for model in ("g1", "g2", "g3", "g4") for raw in settings(model)["cases"]]


def kept_pairs(slot: np.ndarray, capacity: int, num_experts: int) -> np.ndarray:
    """bool[G,S,E]: which (token, expert) pairs got a place."""
    kept = np.zeros((*slot.shape[:2], num_experts), bool)
    group, token, choice = np.nonzero(slot >= 0)
    kept[group, token, slot[group, token, choice] // (slot.shape[0] * capacity)] = True
    return kept


@functools.cache
def exported(model: str, group: str, bfloat16: bool) -> tuple[Path, Vmoe]:
    """Folder with the two graphs and the weights, and the torch model they were traced from."""
    folder = Path(_scratch.name) / f"{model}-{group.replace(':', '')}-{bfloat16}"
    folder.mkdir()
    with open_checkpoint(FOLDER / model) as checkpoint:
        shapes = {name: info.shape for name, info in checkpoint.info.items()}
        config = describe_model(shapes, settings(model)["model"], dispatch_bf16=bfloat16)
        spans = write_weights(folder / "weights.safetensors", checkpoint, config, stored_parameters(config))
    grouping = parse_group(group, config.num_tokens, None)
    network = Vmoe(config, grouping.tokens).load_weights(folder / "weights.safetensors")
    default = None
    if config.moe:
        rules = RoutingRules(config.moe.num_experts, grouping.tokens, len(config.moe.layers))
        default = rules.profile(1.05, 1, True)
    write_graphs(folder, network, grouping, spans, default)
    return folder, network


@functools.cache
def _runner(model: str, group: str, bfloat16: bool, runner: str) -> Callable[[dict[str, np.ndarray]], Outputs]:
    folder, network = exported(model, group, bfloat16)
    if runner == "torch":

        def run(feeds: dict[str, np.ndarray]) -> Outputs:
            with torch.inference_mode():
                return [output.numpy() for output in network(*map(torch.from_numpy, feeds.values()))]

        return run
    moe = network.config.moe
    names = [f"encoderblock_{i}/{what}" for i in (moe.layers if moe else ()) for what in ("slot", "weight")]
    backend: Any
    if runner == "openvino":
        backend = OpenVinoBackend(folder / "model.inlined.onnx", threads=1)
    elif runner == "onnxruntime-canonical":
        backend = OnnxRuntimeBackend(folder / "model.onnx", threads=1)
    else:
        backend = OnnxRuntimeBackend(folder / "model.inlined.onnx", threads=1)
    return lambda feeds: backend.run(feeds, ["logits", *names])
