"""One MoE layer alone, with the op library: how near the expert kernel is to the peaks, and what routing costs.

Times are those of ONNX Runtime's profiler for each node, so they hold no call overhead. The cache is emptied before
every run, as the other layers of a model do.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from cpu.floors import Floors
from cpu.flops import expert_parameters, pair_flops
from cpu.models import Model
from cpu.runtimes import ort_session

Array = np.ndarray[Any, np.dtype[Any]]

_DOMAIN = "vmoe"
_CACHE_BYTES = 128 << 20
_WARM_UP_RUNS = 2
_SEED = 0
_MANY_IMAGES = 32
_ROUTING = ("router", "gates", "VmoeRoute", "VmoeDispatch", "VmoeCombine")


@dataclass(frozen=True)
class KernelSpeed:
    """VmoeExpertMlp alone, which computes all its places.

    Attributes:
        ms: best time of the node, as the peaks are the best of many tries, too.
        places: rows that were computed, of all experts.
        flops: operations per second, and `flops_share` of the measured peak.
        read_bytes: expert weight bytes per second, and `read_share` of the measured read rate.
    """

    model: str
    precision: str
    threads: int
    batch: int
    ck: float
    ms: float
    places: int
    flops: float
    flops_share: float
    read_bytes: float
    read_share: float


@dataclass(frozen=True)
class RoutingCost:
    """The separate ops of one MoE layer, in milliseconds (medians); `routing_ms` is all but the experts.

    Separate ops cost more than VmoeSparseMlp, whose kernel dispatches and combines on the way: `routing_ms` is an upper
    bound.
    """

    model: str
    threads: int
    batch: int
    ck: float
    op_ms: dict[str, float]
    routing_ms: float


def measure_kernel(
    model: Model, bf16: bool, floors: Floors, threads: int, batch: int | None, runs: int, folder: Path, library: Path
) -> KernelSpeed:
    """Times VmoeExpertMlp at the first MoE layer.

    Args:
        model, bf16: whose layer, with float32 or bfloat16 experts.
        floors: peaks on `threads` threads.
        batch: images at capacity ratio 0.3, k 1; None for many images at ratio 1, which is bound by computing.
        runs: timed runs.
        folder: where the layer's graph is written.
        library: the op library.
    """
    config = model.config
    assert config.moe is not None
    images = batch or _MANY_IMAGES
    tokens = config.num_tokens
    experts = config.moe.num_experts
    capacity = max(1, int(np.ceil((0.3 if batch else 1.0) * tokens / experts)))
    graph = _write_layer(model.sparse_bf16 if bf16 else model.sparse, folder)
    times = _node_times(graph, _feeds(images, tokens, config.hidden_size, capacity), threads, runs, folder, library)
    best = min(times["VmoeExpertMlp"])
    places = experts * images * capacity
    flops = places * pair_flops(config) / best * 1e3
    rate = experts * expert_parameters(config) * (2 if bf16 else 4) / best * 1e3
    return KernelSpeed(
        model.name,
        "bf16" if bf16 else "fp32",
        threads,
        images,
        round(capacity * experts / tokens, 3),
        best,
        places,
        flops,
        flops / floors.flops(bf16),
        rate,
        rate / floors.read_bytes,
    )


def measure_routing(model: Model, threads: int, batch: int, runs: int, folder: Path, library: Path) -> RoutingCost:
    """Times the separate ops of the first MoE layer at capacity ratio 0.3, k 1."""
    config = model.config
    assert config.moe is not None
    places = max(1, int(np.ceil(0.3 * config.num_tokens / config.moe.num_experts)))
    graph = _write_layer(model.sparse, folder)
    feeds = _feeds(batch, config.num_tokens, config.hidden_size, places)
    all_times = _node_times(graph, feeds, threads, runs, folder, library)
    times = {name: float(np.median(taken)) for name, taken in all_times.items()}
    return RoutingCost(model.name, threads, batch, 0.3, times, sum(times[name] for name in _ROUTING))


def _feeds(images: int, tokens: int, width: int, places: int) -> dict[str, Array]:
    x = np.random.default_rng(_SEED).standard_normal((images, tokens, width), np.float32)
    settings = {"capacity": [places], "k": [1], "bpr": [1]}
    return {"x": x, **{name: np.array(value, np.int64) for name, value in settings.items()}}


def _write_layer(bundle: Path, folder: Path) -> Path:
    """The first MoE layer of a bundle's model as a graph of its own, in separate ops."""
    whole = onnx.load(str(bundle / "model.onnx"), load_external_data=False)
    node = next(node for node in whole.graph.node if node.op_type == "VmoeSparseMlp")
    weights = node.input[1:6]
    initializers = [tensor for tensor in whole.graph.initializer if tensor.name in weights]
    # ONNX Runtime reads external data from beside the graph only, and a bundle must stay as it is.
    link = folder / f"{bundle.name}.weights"
    if not link.exists():
        os.link(bundle / "weights.safetensors", link)
    for tensor in initializers:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = link.name
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["G", "S", _width_of(initializers, weights[0])])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("capacity", "k", "bpr")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["G", "S", "D"])]
    outputs += [helper.make_tensor_value_info("slot", TensorProto.INT32, ["G", "S", "K"])]
    model = helper.make_model(
        helper.make_graph(_separate_nodes(node), "layer", inputs, outputs, initializers),
        opset_imports=whole.opset_import,
        functions=whole.functions,
        ir_version=whole.ir_version,
    )
    path = folder / f"{bundle.stem}-layer.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _width_of(initializers: Sequence[onnx.TensorProto], router: str) -> int:
    """D, from the router's kernel [D,E]."""
    return next(int(tensor.dims[0]) for tensor in initializers if tensor.name == router)


def _separate_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    router, *experts = node.input[1:6]
    plugin = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name.startswith("plugin_")}
    rounding = {a.name: a.i for a in node.attribute if a.name == "dispatch_bf16"}

    def op(name: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(name, inputs, outputs, name, domain=_DOMAIN, **plugin, **attributes)

    return [
        helper.make_node("MatMul", ["x", router], ["logits"], "router"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "gates", axis=-1),
        op("VmoeRoute", ["probabilities", "capacity", "k", "bpr"], ["slot", "weight", "src"]),
        op("VmoeDispatch", ["x", "src"], ["buf"]),
        op("VmoeExpertMlp", ["buf", *experts], ["out"], **rounding),
        op("VmoeCombine", ["out", "slot", "weight"], ["y"]),
    ]


def _node_times(
    graph: Path, feeds: dict[str, Array], threads: int, runs: int, folder: Path, library: Path
) -> dict[str, list[float]]:
    """Milliseconds of each node by its name, run by run."""
    session = ort_session(graph, threads, library, folder / "layer-profile")
    names = [output.name for output in session.get_outputs()]
    cache = np.ones(_CACHE_BYTES // 4, np.float32)
    for _ in range(_WARM_UP_RUNS + runs):
        cache.sum()
        session.run(names, feeds)
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text())
    profile.unlink()
    taken: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    return {name: times[_WARM_UP_RUNS:] for name, times in taken.items()}
