"""Names the nodes of a graph, and the values between them, after the block and layer of the model that they belong to.

A viewer, a profiler or TensorRT's log shows a node by its name, where a reader wants to know which layer of the official
tree that is.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Iterable

import onnx

_FUSED = {
    "VmoeAttentionBlock": "SelfAttention",
    "VmoeMlpBlock": "Mlp",
    "VmoeRouterBlock": "Moe/Router",
    "VmoeExpertBlock": "Moe",
}
"""Ops that are a whole part of an encoder block, by its name there."""


def name_nodes(graph: onnx.GraphProto, unnamed: Collection[str] = ()) -> None:
    """Gives every node a name of its own, such as `encoderblock_1/Moe` or `encoderblock_0/SelfAttention/query/MatMul`.

    A node belongs to the layer whose weights it takes; without weights, to the layer of what it takes, or else of what takes
    its output.

    Args:
        graph: its weights are external data, under their official names.
        unnamed: values that get the name of the node that puts them out; all others keep theirs.
    """
    places = _places(graph)
    taken: Counter[str] = Counter()
    for node, place in zip(graph.node, places, strict=True):
        name = place if node.op_type in _FUSED else f"{place}/{node.op_type}"
        node.name = f"{name}_{taken[name]}" if taken[name] else name
        taken[name] += 1
    renamed = {
        name: f"{node.name}/{index}" if index else node.name
        for node in graph.node
        for index, name in enumerate(node.output)
        if name in unnamed
    }
    for node in graph.node:
        for ports in (node.input, node.output):
            ports[:] = [renamed.get(port, port) for port in ports]


def _places(graph: onnx.GraphProto) -> list[str]:
    """For each node the layer that it belongs to."""
    weights = {tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}
    places = [_own_place(node, weights) for node in graph.node]
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output}
    for index, node in enumerate(graph.node):
        if places[index] is None:
            makers = sorted(made_by[name] for name in node.input if name in made_by)
            places[index] = next((places[maker] for maker in reversed(makers) if places[maker]), None)
    # What comes before all weights, such as the patches of the image, or has settings alone.
    takers: dict[str, str] = {}
    for index in reversed(range(len(places))):
        node = graph.node[index]
        place = places[index] or next((takers[name] for name in node.output if name in takers), "model")
        places[index] = place
        takers.update(dict.fromkeys(node.input, place))
    return [place or "model" for place in places]


def _own_place(node: onnx.NodeProto, weights: Iterable[str]) -> str | None:
    own = [_layer(name) for name in node.input if name in weights]
    if not own:
        return None
    common = posixpath.commonpath(own) or own[0]
    return f"{common}/{_FUSED[node.op_type]}" if node.op_type in _FUSED and "/" not in common else common


def _layer(weight: str) -> str:
    """`encoderblock_1/Moe/Mlp/Dense_0` of `Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel`, or of one expert's part of it."""
    parts = weight.removeprefix("Encoder/").split("/")
    while parts[-1].isdecimal():
        parts.pop()
    return "/".join(parts[:-1] or parts)
