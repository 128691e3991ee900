"""The calls that a model's MoE layers make, recorded while the model runs on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from moe_calls import MoeCall

from vmoe_export.ops.table import ElementType
from vmoe_torch import Vmoe, routing
from vmoe_torch import ops as torch_ops

TYPES: dict[ElementType, Any] = {"float": np.float32, "fp16": np.float16}


def layer_calls(model: Vmoe, images: torch.Tensor, **setting: Any) -> Iterator[MoeCall]:
    """Yield each layer's calls of VmoeRoute, VmoeDispatch, VmoeRouteDispatch and VmoeCombine, with each type of tokens."""
    recorded: dict[str, list[Any]] = {"gates": [], "x": [], "out": [], "numbers": []}
    route, dispatch, combine = routing.route, torch_ops.dispatch, torch_ops.combine

    def recorded_route(gates: torch.Tensor, capacity: int, **arguments: Any) -> Any:
        recorded["gates"].append(gates.numpy())
        numbers = {"capacity": capacity, "k": arguments["k"], "bpr": int(arguments["bpr"])}
        recorded["numbers"].append(numbers)
        return route(gates, capacity, **arguments)

    def recorded_dispatch(x: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
        recorded["x"].append(x.numpy())
        return dispatch(x, src)

    def recorded_combine(out: torch.Tensor, slot: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        recorded["out"].append(out.numpy())
        return combine(out, slot, weight)

    with (
        torch.no_grad(),
        mock.patch.object(routing, "route", recorded_route),
        mock.patch.object(torch_ops, "dispatch", recorded_dispatch),
        mock.patch.object(torch_ops, "combine", recorded_combine),
    ):
        model(images, **setting)
    for gates, x, out, numbers in zip(*recorded.values(), strict=True):
        slot, weight, src, _ = (output.numpy() for output in route(torch.from_numpy(gates), **numbers))
        yield MoeCall("VmoeRoute", "float", {"gates": gates}, numbers)
        for type, dtype in TYPES.items():
            tokens, rows = x.astype(dtype), out.astype(dtype)
            yield MoeCall("VmoeDispatch", type, {"x": tokens, "src": src}, {})
            yield MoeCall("VmoeRouteDispatch", type, {"gates": gates, "x": tokens}, numbers)
            yield MoeCall("VmoeCombine", type, {"out": rows, "slot": slot, "weight": weight}, {})
