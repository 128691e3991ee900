"""Single layers on the op library: how near the products of each kind are to the machine's peaks, and what routing costs.

Each layer is a small ONNX model of one op with random weights. Times are those of ONNX Runtime's profiler for each node,
so they hold no call overhead. The cache is emptied before every run, as the other layers of a model do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpu.errors import BenchmarkError
from cpu.floors import Floors
from cpu.flops import WEIGHT_BYTES, Arithmetic, attention_flops, mlp_flops, pair_flops, projection_flops
from cpu.layer_graph import WEIGHT_TYPES, Array, LayerGraph
from cpu.models import Model
from cpu.node_times import node_times
from vmoe_export.model.model_config import ModelConfig
from vmoe_export.precision import hidden_chunk

ROUTING_CK = 0.3
_SEED = 0
_MANY_IMAGES = 32
_SWITCHES = {"k": [1], "bpr": [1]}
_BARE = ("VmoeRoute", "VmoeDispatch", "VmoeCombine")
_SEPARATE = ("router", "gates", *_BARE)
_FUSED = ("VmoeRouterBlock", "VmoeDispatch", "VmoeCombine")

Counts = Sequence[tuple[int, Arithmetic]]


@dataclass(frozen=True)
class LayerSpeed:
    """One op on one layer's weights.

    Attributes:
        op: such as "VmoeMlpBlock"; `rows` of it were computed: tokens, or kept pairs.
        arithmetic: of its large products.
        ck: capacity ratio x k of a layer of experts, else None.
        ms: best time of the node, as the peaks are the best of many tries, too; `ms_median` beside it.
        flops: operations of its products, and `peak_share` the time that they take at the measured peaks over `ms`.
        weight_bytes: of its weights, and `read_share` the time that they take at the measured read rate over `ms`.
    """

    model: str
    op: str
    arithmetic: Arithmetic
    threads: int
    batch: int
    ck: float | None
    rows: int
    ms: float
    ms_median: float
    flops: int
    peak_share: float
    weight_bytes: int
    read_share: float


@dataclass(frozen=True)
class RoutingCost:
    """Everything of one MoE layer but its experts, in milliseconds (medians).

    Attributes:
        op_ms: of each op alone: the router's product and softmax in standard ops, routing, dispatch and combine, and the
            block that normalizes and routes in one.
        bare_ms: routing, dispatch and combine.
        separate_ms: these with router and softmax as ops of their own. Models that this exporter writes have them fused,
            and dispatch and combine within the experts' block, which costs less: an upper bound.
        fused_ms: the routing block, LayerNormalization included, with dispatch and combine; an upper bound, too.
    """

    model: str
    threads: int
    batch: int
    ck: float
    op_ms: Mapping[str, float]
    bare_ms: float
    separate_ms: float
    fused_ms: float


@dataclass(frozen=True)
class _Layer:
    """A graph, its inputs, the node that is timed, and what that node computes: FLOPs, rows and parameters."""

    graph: LayerGraph
    feeds: Mapping[str, Array]
    op: str
    counts: Counts
    rows: int
    parameters: int
    ck: float | None = None


@dataclass(frozen=True)
class LayerBench:
    """Where and how layers are timed.

    Attributes:
        floors: peaks on `threads` threads.
        rounds: timed runs of each.
        folder: where graphs are written.
        library: the op library.
    """

    threads: int
    floors: Floors
    rounds: int
    folder: Path
    library: Path

    def layers(self, model: Model, batch: int) -> Iterator[LayerSpeed]:
        """Times every kind of layer in every arithmetic that the library has, at capacity ratio 0.3, k 1."""
        for arithmetic in WEIGHT_BYTES:
            for layer in _layers(model.config, batch, arithmetic):
                yield from self._time(model, batch, arithmetic, layer)

    def full_experts(self, model: Model) -> Iterator[LayerSpeed]:
        """Times the experts on many images at capacity ratio 1, where computing bounds them and not memory."""
        for arithmetic in WEIGHT_BYTES:
            yield from self._time(model, _MANY_IMAGES, arithmetic, _expert_mlp(model.config, _MANY_IMAGES, arithmetic, 1.0))

    def routing(self, model: Model, batch: int) -> RoutingCost:
        """Times router, routing, dispatch and combine at capacity ratio 0.3, k 1."""
        graph, feeds = _routing(model.config, batch)
        times = node_times(graph.write(self.folder), feeds, self.threads, self.rounds, self.library)
        op_ms = {name: float(np.median(taken)) for name, taken in times.items()}
        bare, separate, fused = (sum(op_ms[name] for name in names) for names in (_BARE, _SEPARATE, _FUSED))
        return RoutingCost(model.name, self.threads, batch, ROUTING_CK, op_ms, bare, separate, fused)

    def _time(self, model: Model, batch: int, arithmetic: Arithmetic, layer: _Layer) -> Iterator[LayerSpeed]:
        """Nothing where the library has no such op, or not for these weights."""
        try:
            times = node_times(layer.graph.write(self.folder), layer.feeds, self.threads, self.rounds, self.library)
        except BenchmarkError:
            return
        taken = times[layer.op]
        seconds = min(taken) / 1e3
        weight_bytes = layer.parameters * WEIGHT_BYTES[arithmetic]
        yield LayerSpeed(
            model.name,
            layer.op,
            arithmetic,
            self.threads,
            batch,
            layer.ck,
            layer.rows,
            min(taken),
            float(np.median(taken)),
            sum(count for count, _ in layer.counts),
            sum(count / self.floors.flops(kind) for count, kind in layer.counts) / seconds,
            weight_bytes,
            weight_bytes / self.floors.read_bytes / seconds,
        )


def _layers(config: ModelConfig, batch: int, arithmetic: Arithmetic) -> list[_Layer]:
    return [
        *_dense_layers(config, batch, arithmetic),
        _expert_mlp(config, batch, arithmetic, ROUTING_CK),
        *_moe_blocks(config, batch, arithmetic),
    ]


def _dense_layers(config: ModelConfig, batch: int, arithmetic: Arithmetic) -> list[_Layer]:
    tokens, width, hidden, heads = config.num_tokens, config.hidden_size, config.mlp_dim, config.num_heads
    rows = batch * tokens
    half: Arithmetic = "fp32" if arithmetic == "fp32" else "bf16"
    sizes = {"N": batch, "T": tokens, "Q": tokens, "D": width, "F": hidden, "P": width}
    x = _tokens(batch, tokens, width)
    chunk = {"hidden_chunk": hidden_chunk(hidden, WEIGHT_TYPES[arithmetic])}
    mixing: Counts = [(batch * attention_flops(config), half)]
    projections: Counts = [(batch * projection_flops(config), arithmetic)]
    mlp: Counts = [(rows * mlp_flops(width, hidden), arithmetic)]

    def layer(op: str, counts: Counts, parameters: int, inputs: Sequence[str], **attributes: int) -> _Layer:
        graph = LayerGraph(op, sizes, arithmetic)
        graph.add(op, {name: name for name in inputs}, ["y"], **attributes)
        return _Layer(graph, dict.fromkeys(inputs, x), op, counts, rows, parameters)

    return [
        layer("VmoeLinear", [(rows * 2 * width * width, arithmetic)], width**2, ["x"]),
        layer("VmoeAttention", mixing, 0, ["q", "k", "v"], num_heads=heads, bf16=int(half == "bf16")),
        layer("VmoeDenseMlp", mlp, 2 * width * hidden, ["x"], **chunk),
        layer("VmoeAttentionBlock", [*projections, *mixing], 4 * width**2, ["x"], num_heads=heads),
        layer("VmoeMlpBlock", mlp, 2 * width * hidden, ["x"], **chunk),
    ]


def _expert_mlp(config: ModelConfig, batch: int, arithmetic: Arithmetic, ck: float) -> _Layer:
    """The experts alone, with every place taken."""
    assert config.moe is not None
    experts, width, hidden = config.moe.num_experts, config.hidden_size, config.moe.mlp_dim
    places = batch * _places(config, ck)
    graph = LayerGraph("VmoeExpertMlp", {"E": experts, "M": places, "D": width, "F": hidden}, arithmetic)
    chunk = hidden_chunk(hidden, WEIGHT_TYPES[arithmetic])
    graph.add("VmoeExpertMlp", {"buf": "buf"}, ["out"], hidden_chunk=chunk)
    rows = experts * places
    counts: Counts = [(rows * pair_flops(config), arithmetic)]
    feeds = {"buf": _tokens(experts, places, width)}
    return _Layer(graph, feeds, "VmoeExpertMlp", counts, rows, experts * 2 * width * hidden, ck)


def _moe_blocks(config: ModelConfig, batch: int, arithmetic: Arithmetic) -> list[_Layer]:
    """A whole MoE layer: the block that routes, which is float32 always, and that of the experts."""
    assert config.moe is not None
    tokens, width, experts, hidden = config.num_tokens, config.hidden_size, config.moe.num_experts, config.moe.mlp_dim
    places = _places(config, ROUTING_CK)
    sizes = {"G": batch, "S": tokens, "D": width, "E": experts, "F": hidden, "M": batch * places, "K": 1}
    graph = LayerGraph("VmoeExpertBlock", sizes, arithmetic)
    settings = {"capacity": [places], **_SWITCHES}
    routes = ["slot", "weight", "src"]
    graph.add("VmoeRouterBlock", {name: name for name in ("x", *settings)}, routes)
    chunk = hidden_chunk(hidden, WEIGHT_TYPES[arithmetic])
    graph.add("VmoeExpertBlock", {name: name for name in ("x", *routes)}, ["y"], hidden_chunk=chunk)
    feeds = {"x": _tokens(batch, tokens, width), **_integers(settings)}
    rows = batch * tokens
    # Routers are random, so nearly all places are taken.
    kept = min(rows, experts * batch * places)
    expert_counts: Counts = [(kept * pair_flops(config), arithmetic)]
    router_counts: Counts = [(rows * 2 * width * experts, "fp32")]
    layers = [_Layer(graph, feeds, "VmoeExpertBlock", expert_counts, kept, experts * 2 * width * hidden, ROUTING_CK)]
    if arithmetic == "fp32":
        layers.append(_Layer(graph, feeds, "VmoeRouterBlock", router_counts, rows, width * experts, ROUTING_CK))
    return layers


def _routing(config: ModelConfig, batch: int) -> tuple[LayerGraph, dict[str, Array]]:
    """Everything of a MoE layer but the experts, in separate ops and fused: what was dispatched is combined as it is."""
    assert config.moe is not None
    tokens, width, experts = config.num_tokens, config.hidden_size, config.moe.num_experts
    places = _places(config, ROUTING_CK)
    sizes = {"G": batch, "S": tokens, "D": width, "E": experts, "M": batch * places, "K": 1}
    settings = {"capacity": [places], **_SWITCHES}
    graph = LayerGraph("routing", sizes, "fp32")
    graph.add_gates("x", "gates")
    graph.add("VmoeRoute", {name: name for name in ("gates", *settings)}, ["slot", "weight", "src"])
    graph.add("VmoeDispatch", {"x": "x", "src": "src"}, ["buf"])
    graph.add("VmoeCombine", {"out": "buf", "slot": "slot", "weight": "weight"}, ["y"])
    graph.add("VmoeRouterBlock", {name: name for name in ("x", *settings)}, ["block_slot", "block_weight", "block_src"])
    return graph, {"x": _tokens(batch, tokens, width), **_integers(settings)}


def _places(config: ModelConfig, ck: float) -> int:
    """Places per expert and image."""
    assert config.moe is not None
    return max(1, math.ceil(ck * config.num_tokens / config.moe.num_experts))


def _tokens(*shape: int) -> Array:
    return np.random.default_rng(_SEED).standard_normal(shape, np.float32)


def _integers(values: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    return {name: np.array(value, np.int64) for name, value in values.items()}
