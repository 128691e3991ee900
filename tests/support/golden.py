"""The official model's recorded outputs (tests/data/golden), and the graphs that are compared with them.

The graphs are exported from the official model's checkpoints.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from damaged_files import read_tensors
from plain_graph import plain_graph
from sdk_build import scratch_folder

from vmoe_export import export_bundle, open_checkpoint
from vmoe_export.bundle.weights_file import Span, write_weights
from vmoe_export.export import ExportResult
from vmoe_export.graphs.graph_files import write_graphs
from vmoe_export.model.exported_model import ExportedModel
from vmoe_export.model.grouping import Grouping, parse_group
from vmoe_export.model.parameters import stored_parameters
from vmoe_export.validation.reference_model import ReferenceModel, Stream
from vmoe_export.validation.reference_weights import stored_weights
from vmoe_runtime.backends.onnxruntime_cpu import OnnxRuntimeBackend
from vmoe_runtime.backends.openvino_cpu import OpenVinoBackend
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import TOKEN_OUTPUT, RoutingKind
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import SETTINGS
from vmoe_torch import Vmoe, load_model

FOLDER = Path(__file__).parents[1] / "data" / "golden"
RUNNERS = ("torch", "numpy", "onnxruntime-canonical", "onnxruntime-inlined", "openvino")

Outputs = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """A forward pass of the official model and its recorded outputs."""

    model: str
    raw: dict[str, Any]
    output: Output = "logits"

    def __str__(self) -> str:
        return f"{self.model}-{self.raw['id']}" + ("-members" if self.output == "members" else "")

    @property
    def members(self) -> int:
        return (settings(self.model)["model"]["encoder"].get("moe") or {}).get("ensemble_size", 1)

    @property
    def kind(self) -> RoutingKind | None:
        """The routing kind, or None if the model is a dense ViT."""
        return kind_of(self.model)

    @property
    def bfloat16(self) -> bool:
        return bool(self.raw.get("bfloat16", self.kind == "soft"))

    @property
    def group(self) -> str:
        moe = settings(self.model)["model"]["encoder"].get("moe")
        return f"tokens:{self.raw.get('group_size') or moe['group_size']}" if moe else "image"

    @property
    def images(self) -> np.ndarray:
        return arrays(self.model)["images"][: self.raw["batch"]]

    @property
    def logits(self) -> np.ndarray:
        """The official logits.

        If the output is "members", these are the logits of each member. For any other output of an ensemble, they are the
        logarithms of the predicted probabilities.
        """
        stored = arrays(self.model)
        if self.output == "members":
            rows = stored[self.raw["logits"]]
            return rows.reshape(-1, self.members, rows.shape[-1])
        return stored[self.raw["logits" if self.members == 1 else "ensemble_log_probs"]]

    def layers(self) -> list[tuple[np.ndarray | None, np.ndarray]]:
        """Return the gates and the kept pairs of each MoE layer.

        The gates are a float32 array [G,S,E], or None if they were not recorded. The kept pairs are a boolean array [G,S,E].
        """
        stored = arrays(self.model)
        return [(stored[v["gates"]] if "gates" in v else None, stored[v["kept"]]) for v in self.raw["layers"].values()]

    def shares(self) -> list[np.ndarray]:
        """Return the dispatch shares and the combine shares of each Soft MoE layer.

        Each layer has two float32 arrays [G,S,E,P].
        """
        stored = arrays(self.model)
        return [stored[layer[name]] for layer in self.raw["layers"].values() for name in ("dispatch", "combine")]

    @property
    def profile(self) -> Profile | None:
        if not self.raw["layers"] or self.kind == "soft":
            return None
        _, tokens, experts = next(iter(self.raw["layers"].values()))["shape_GSE"]
        layers, multiple = (experts,) * len(self.raw["layers"]), self.raw["capacity_multiple_of"] or 1
        if self.kind == "experts-choice":
            choosing = RoutingRules("experts-choice", layers, tokens, None, self.raw["capacity_ceil_or_round"], multiple)
            return choosing.profile(capacity=self.raw["capacity_factor"])
        rules = RoutingRules("top-k", layers, tokens, capacity_multiple_of=multiple, ensemble_size=self.members)
        return rules.profile(
            capacity=self.raw["capacity_factor"], k=self.raw["num_selected_experts"], bpr=self.raw["batch_priority"]
        )

    def run(self, runner: str) -> Outputs:
        """Run the case, and return the logits followed by the outputs of each MoE layer.

        A layer's outputs are in the order of `vmoe_runtime.routing_kinds.LAYER_OUTPUTS`.
        """
        feeds = {"image": self.images}
        if (profile := self.profile) is not None:
            feeds |= profile.inputs
        return _runner(self.model, self.group, self.bfloat16, runner, self.output)(feeds)


@functools.cache
def settings(model: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{model}.json").read_text())


@functools.cache
def arrays(model: str) -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / f"{model}.npz"))


def cases() -> list[Case]:
    return [Case(model, raw) for model in ("g1", "g2", "g3", "g4") for raw in settings(model)["cases"]]


def ensemble_cases() -> list[Case]:
    """Return each case for an ensemble (E3) twice.

    One of the two has the ensemble's prediction as output, the other one the logits of the ensemble's members.
    """
    models, outputs = ("g5", "g5b", "g5p"), ("logits", "members")
    return [Case(model, raw, output) for model in models for raw in settings(model)["cases"] for output in outputs]


def kind_cases() -> list[Case]:
    """Return the cases of expert choice and of Soft MoE."""
    return [Case(model, raw) for model in ("g6", "g6b", "g7") for raw in settings(model)["cases"]]


def kind_of(model: str) -> RoutingKind | None:
    moe = settings(model)["model"]["encoder"].get("moe")
    if not moe:
        return None
    name = ((moe.get("router") or {}).get("name") or "").rpartition(".")[2]
    kinds: dict[str, RoutingKind] = {"SoftRouter": "soft", "NoisyTopItemsPerExpertRouter": "experts-choice"}
    return kinds.get(name, "top-k")


def bundle(model: str, path: Path, checkpoint: Path | None = None, **options: Any) -> Path:
    """Export a golden model for images of the model's size, and return the path of the bundle.

    If `checkpoint` is given, it is exported with the model's config. By default, the export is not validated.
    """
    return export(model, path, checkpoint, **options).path


def export(model: str, path: Path, checkpoint: Path | None = None, **options: Any) -> ExportResult:
    stored = settings(model)
    size = {"image_size": tuple(stored["image_size"])} if "image_size" in stored else {}
    given = {"config": stored["model"], "validate": False, **size, **options}
    return export_bundle(checkpoint or FOLDER / model, path, **given)


def without_experts(model: str, path: Path) -> Path:
    """Write the model's checkpoint as a safetensors file, but with fewer experts in the last MoE layer.

    The layer has one expert fewer. If the model is an ensemble, the layer has one expert fewer for each member.
    """
    tensors = read_tensors(FOLDER / model)
    last = max(name for name in tensors if name.endswith("/Moe/Mlp/Dense_0/kernel"))
    moe, experts = last.removesuffix("Mlp/Dense_0/kernel"), len(tensors[last])
    members = settings(model)["model"]["encoder"]["moe"].get("ensemble_size") or 1
    kept = np.arange(experts).reshape(members, -1)[:, :-1].ravel()
    for name, tensor in tensors.items():
        if name.startswith(f"{moe}Mlp/"):
            tensors[name] = tensor[kept]
        elif name.startswith(f"{moe}Router/") and tensor.ndim:
            tensors[name] = tensor.reshape(len(tensor), experts, *tensor.shape[2:][: "mu" in name])[:, kept]
    safetensors.numpy.save_file(tensors, path)
    return path


def kept_pairs(expert: np.ndarray, kept: np.ndarray, num_experts: int) -> np.ndarray:
    """Return a boolean array [G,S,E] that is true for the (token, expert) pairs that got a slot.

    Args:
        expert: [G,S,K], the expert of each choice.
        kept: [G,S,K], whether each choice got a slot.
        num_experts: E.
    """
    pairs = np.zeros((*expert.shape[:2], num_experts), bool)
    group, token, choice = np.nonzero(kept)
    pairs[group, token, expert[group, token, choice]] = True
    return pairs


def kept_slots(slot: np.ndarray, capacity: int, num_experts: int) -> np.ndarray:
    """Return a boolean array [G,S,E] that is true for the (token, expert) pairs that got a slot.

    Args:
        slot: [G,S,K], the slot for each choice in official routing, or -1 if the choice got none.
        capacity: slots per expert and group.
        num_experts: E.
    """
    return kept_pairs(slot // (slot.shape[0] * capacity), slot >= 0, num_experts)


def check(case: Case, outputs: Outputs) -> None:
    """Assert that logits, kept pairs, weights and shares agree with the official ones.

    With a bfloat16 dispatcher, a difference of one float32 ulp can change how a value is rounded. Therefore, a larger
    maximum error is allowed for such a dispatcher, and the mean error has its own limit.
    """
    logits, *routes = outputs
    difference = np.abs(logits - case.logits)
    assert difference.max() <= (3e-3 if case.bfloat16 else 1e-5), case
    assert difference.mean() <= 1.5e-4, case
    if case.kind == "soft":
        for found, official in zip(routes, case.shares(), strict=True):
            np.testing.assert_allclose(found, official, rtol=0, atol=1e-4, err_msg=str(case))
        return
    layers, atol = case.layers(), 3e-3 if case.bfloat16 else 1e-5
    each = 2 if case.kind == "experts-choice" else 3
    assert len(routes) == each * len(layers)
    for layer, (gates, official) in enumerate(layers):
        *expert, kept, weight = routes[each * layer : each * (layer + 1)]
        pairs = kept_pairs(expert[0], kept, official.shape[-1]) if expert else kept
        np.testing.assert_array_equal(pairs, official, err_msg=str(case))
        if gates is not None:
            wanted = np.take_along_axis(gates, expert[0], 2) if expert else gates
            np.testing.assert_allclose(weight, wanted, rtol=0, atol=atol, err_msg=str(case))
            if expert:
                largest = -np.sort(-gates)[..., : weight.shape[-1]]
                np.testing.assert_allclose(weight, largest, rtol=0, atol=atol, err_msg=str(case))


@functools.cache
def parts(model: str, group: str, bfloat16: bool, output: Output = "logits") -> tuple[Path, Vmoe, Grouping, dict[str, Span]]:
    """Return everything that is needed to run a golden model's graphs.

    Returns:
        A folder with both graphs and the weights, the torch model, the routing groups, and the weights' locations.
    """
    folder = scratch_folder()
    network = torch_model(model, group, bfloat16, output)
    config = network.config
    with open_checkpoint(FOLDER / model) as checkpoint:
        spans = write_weights(folder / "weights.safetensors", checkpoint, config, stored_parameters(config))
    grouping = parse_group(group, config.num_tokens, None, config.ensemble_size)
    write_graphs(
        folder, replace(exported_model(network), grouping=grouping), spans, [network.profile] if network.profile else []
    )
    return folder, network, grouping, spans


def torch_model(model: str, group: str, bfloat16: bool, output: Output) -> Vmoe:
    stored = settings(model)
    size = tuple(stored["image_size"]) if "image_size" in stored else None
    moe = bool(stored["model"]["encoder"].get("moe"))
    choices: dict[str, Any] = {"group": group, "dispatch_bf16": bfloat16} if moe else {}
    return load_model(FOLDER / model, stored["model"], image_size=size, output=output, **choices)


def exported_model(network: Vmoe) -> ExportedModel:
    """Convert the torch model to the exporter's description of a model."""
    return ExportedModel(network.config, Grouping("", network.group_tokens, 1), network.output)


def unmerged_outputs(model: ExportedModel) -> list[str]:
    """Return the names of a MoE layer's outputs, except the output of token merging.

    The official code doesn't have that output.
    """
    return [name for name in model.layer_outputs if name != TOKEN_OUTPUT]


def run_numpy(reference: ReferenceModel, feeds: dict[str, np.ndarray]) -> Outputs:
    """Run the numpy reference that validation uses, from images to outputs.

    The outputs are in the order of a graph's outputs.
    """
    stream, routes, profile = Stream(feeds["image"]), list[np.ndarray](), _profile(feeds)
    names = unmerged_outputs(reference.model)
    for part in reference.model.parts:
        whole, layer = reference.run(part, stream, [profile])
        stream = reference.merge(whole, profile)
        routes += [value for outputs in layer for value in outputs[: len(names)]]
    return [stream.x, *routes]


def run_torch(network: Vmoe, feeds: dict[str, np.ndarray]) -> Outputs:
    """Run the torch model, and return its results in the order of a graph's outputs."""
    with torch.inference_mode():
        output, layers = network.logits_and_routing(torch.from_numpy(feeds["image"]), _profile(feeds))
    names = unmerged_outputs(exported_model(network))
    return [output.numpy(), *(routes[name].numpy() for routes in layers.values() for name in names)]


def _profile(feeds: dict[str, np.ndarray]) -> Profile:
    """Return the profile whose values equal the given graph inputs."""
    numbers: dict[str, Any] = {name: int(feeds[name][0]) for name in SETTINGS if name != "capacity" and name in feeds}
    return Profile(**numbers, slots=tuple(int(slots) for slots in feeds.get("capacity", ())))


@functools.cache
def _runner(
    model: str, group: str, bfloat16: bool, runner: str, output: Output
) -> Callable[[dict[str, np.ndarray]], Outputs]:
    folder, network, _, spans = parts(model, group, bfloat16, output)
    if runner == "numpy":
        weights = stored_weights(folder / "weights.safetensors", spans)
        return functools.partial(run_numpy, ReferenceModel(exported_model(network), weights))
    if runner == "torch":
        return functools.partial(run_torch, network)
    moe = network.config.moe
    names = [
        f"encoderblock_{i}/{what}" for i in (moe.layers if moe else ()) for what in unmerged_outputs(exported_model(network))
    ]
    backend: Any
    if runner == "openvino":
        backend = OpenVinoBackend(plain_graph(folder / "model.inlined.onnx"), threads=1)
    else:
        graph = "model.onnx" if runner == "onnxruntime-canonical" else "model.inlined.onnx"
        backend = OnnxRuntimeBackend(plain_graph(folder / graph), threads=1)
    return lambda feeds: backend.run(feeds, [output, *names])
