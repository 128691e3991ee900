"""Kept bundles of version 2 as bundles of each routing kind: manifest, inputs, outputs and router, without nodes to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from bundle_changes import CANONICAL, INLINED, Change, both, graph, ports, says
from damaged_files import Edit, put
from onnx import TensorProto, helper

BLOCK = "encoderblock_1"
TOKENS, EXPERTS, SLOTS, HIDDEN = 10, 4, 2, 24  # of the kept bundles; two slots per expert for Soft MoE
KERNEL = f"Encoder/{BLOCK}/Moe/Router/dense/kernel"
MU, SCALE = f"Encoder/{BLOCK}/Moe/Router/mu", f"Encoder/{BLOCK}/Moe/Router/scale"

Tensor = tuple[int, list[int | str]]
"""Element type and shape of an input or output; a name stands where an extent varies."""

INPUTS: Mapping[str, Mapping[str, Tensor]] = {
    "top-k": {name: (TensorProto.INT64, [1]) for name in ("capacity", "k", "bpr", "pool", "max_experts")},
    "experts-choice": {"capacity": (TensorProto.INT64, [1])},
    "soft": {},
}
"""What the graphs of a kind take beside `image`; the kept bundles have one MoE layer."""

OUTPUTS: Mapping[str, Mapping[str, Tensor]] = {
    "top-k": {
        "expert": (TensorProto.INT32, ["G", TOKENS, "K"]),
        "kept": (TensorProto.BOOL, ["G", TOKENS, "K"]),
        "weight": (TensorProto.FLOAT, ["G", TOKENS, "K"]),
    },
    "experts-choice": {
        "kept": (TensorProto.BOOL, ["G", TOKENS, EXPERTS]),
        "weight": (TensorProto.FLOAT, ["G", TOKENS, EXPERTS]),
    },
    "soft": {
        "dispatch": (TensorProto.FLOAT, ["G", TOKENS, EXPERTS, SLOTS]),
        "combine": (TensorProto.FLOAT, ["G", TOKENS, EXPERTS, SLOTS]),
    },
}
"""What they give of the MoE layer."""

ROUTING: Mapping[str, Mapping[str, Any]] = {
    "top-k": {},
    "experts-choice": {},
    "soft": {"slots_per_expert": SLOTS, "rounding": None, "capacity_multiple_of": None},
}
"""What `routing` says beside the kind where it isn't what version 2 says."""


def profiles(kind: str) -> list[dict[str, Any]]:
    """The stored profiles of a bundle of that kind."""
    return {
        "top-k": [chosen(0.3, 1, places=1), chosen(0.3, 2, places=2)],
        "experts-choice": [
            {"name": "c1.0", "capacity_ratio": 1.0, "capacity": [3]},
            {"name": "c0.5", "capacity_ratio": 0.5, "capacity": [2]},
        ],
        "soft": [],
    }[kind]


def chosen(
    ratio: float,
    k: int,
    bpr: bool = True,
    pool: bool = False,
    max_experts: int = EXPERTS,
    *,
    places: int,
    name: str | None = None,
) -> dict[str, Any]:
    """A profile of top-k, with its systematic name if it is given no other."""
    systematic = f"c{ratio:g}-k{k}" + "-vanilla" * (not bpr) + "-pool" * pool
    if max_experts < EXPERTS:
        systematic += f"-m{max_experts}"
    return {
        "name": systematic if name is None else name,
        "capacity_ratio": ratio,
        "k": k,
        "bpr": bpr,
        "pool": pool,
        "max_experts": max_experts,
        "capacity": [places],
    }


def as_kind(kind: str, *edits: Edit) -> Change:
    """The bundle of version 2 as one of version 3 and that kind, and edits of its manifest."""
    manifest = [put("format_version", 3), put("routing/kind", kind), put("profiles", profiles(kind))]
    manifest += [put(f"routing/{name}", value) for name, value in ROUTING[kind].items()]
    return both(*(graph(ported(kind), name) for name in (CANONICAL, INLINED)), says(*manifest, *edits))


def ported(kind: str) -> Edit:
    """Inputs, outputs and router of that kind instead of those of version 2."""

    def edit(model: onnx.ModelProto) -> None:
        for name in ("capacity", "k", "bpr"):
            model.graph.input.remove(ports(model)[name])
        for name in (f"{BLOCK}/slot", f"{BLOCK}/weight"):
            model.graph.output.remove(ports(model)[name])
        model.graph.input.extend(helper.make_tensor_value_info(n, *tensor) for n, tensor in INPUTS[kind].items())
        model.graph.output.extend(
            helper.make_tensor_value_info(f"{BLOCK}/{n}", *tensor) for n, tensor in OUTPUTS[kind].items()
        )
        if kind == "soft":
            router = next(t for t in model.graph.initializer if t.name == KERNEL)
            router.name, router.dims[:] = MU, [HIDDEN, EXPERTS, SLOTS]
            model.graph.initializer.append(helper.make_tensor(SCALE, TensorProto.FLOAT, [], [1.0]))

    return edit
