"""The torch model where its tensors are on a device: nothing waits for it, nothing is left on the CPU, the same results.

No GPU is needed: `foreign_device` is a fake of one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import golden
import numpy as np
import op_reference
import pytest
import torch
from foreign_device import ForeignDevice, from_device, to_device
from routing_cases import make_gates
from torch import Tensor

from vmoe_export.model.torch_model import Vmoe
from vmoe_export.ops import torch_ops, torch_routing
from vmoe_runtime.errors import RoutingError

# capacity, k, bpr, pool and max_experts
ROUTING_SETTINGS = list(itertools.product((1, 3, 40), (1, 2, 4), (True, False), (False,), (None, 2)))


def check_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)
        else:
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", range(8))
def test_hard_gates_are_routed_on_a_device_as_in_numpy(kind: int) -> None:
    gates = torch.from_numpy(make_gates(np.random.default_rng(kind), kind, (3, 20, 4)))
    for setting in ROUTING_SETTINGS:
        with ForeignDevice() as device:
            found = torch_routing.route(to_device(gates), *setting)
            chosen = torch_routing.choose_tokens(to_device(gates), setting[0])
        assert device.faults == [], setting
        capacity, k, bpr, pool, limit = setting
        check_same(from_device(list(found)), _of_numpy(op_reference.route(gates.numpy(), capacity, k, bpr, pool, limit)))
        check_same(from_device(list(chosen)), _of_numpy(op_reference.choose_tokens(gates.numpy(), capacity)))


def _of_numpy(arrays: tuple[np.ndarray, ...]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_only_a_pool_waits_for_the_device_and_once() -> None:
    gates = torch.from_numpy(make_gates(np.random.default_rng(5), 0, (3, 20, 4)))
    with ForeignDevice() as device:
        found = torch_routing.route(to_device(gates), 3, 2, True, True, 2)
    assert device.faults == ["aten._local_scalar_dense.default waits for the device"]
    check_same(from_device(list(found)), list(torch_routing.route(gates, 3, 2, True, True, 2)))


@pytest.mark.parametrize("name", ["capacity", "k", "bpr", "pool", "max_experts"])
def test_a_setting_on_a_device_is_refused(name: str) -> None:
    settings = {"capacity": 3, "k": 2, "bpr": 1, "pool": 0, "max_experts": 4}
    tensors = {key: torch.tensor([number]) for key, number in settings.items()}
    tensors[name] = tensors[name].to("meta")
    with pytest.raises(RoutingError, match=rf"^{name} must be in the CPU's memory, .*, not on meta$"):
        torch_ops.route(torch.rand(2, 5, 4), **tensors)


def model_cases() -> Iterator[golden.Case]:
    """Each golden model once, with both answers of the ensembles, and in bfloat16 where there is that."""
    seen = set()
    for case in [*golden.cases(), *golden.ensemble_cases(), *golden.kind_cases()]:
        if (key := (case.model, case.bfloat16, case.output)) not in seen:
            seen.add(key)
            yield case


@pytest.mark.parametrize("case", list(model_cases()), ids=str)
def test_a_whole_model_leaves_a_device_alone(case: golden.Case) -> None:
    _, network = golden.exported(case.model, case.group, case.bfloat16, case.output)
    settings = [torch.from_numpy(value) for value in case.profile.inputs.values()] if case.profile else []
    images = torch.from_numpy(case.images)
    with torch.inference_mode():
        expected = network(images, *settings)
    moved = Vmoe(network.config, network.group_tokens, output=network.output)
    with torch.no_grad(), ForeignDevice() as device:
        weights = {name: to_device(tensor.detach()) for name, tensor in network.state_dict().items()}
        moved.load_state_dict(weights, assign=True)
        found = moved.requires_grad_(False)(to_device(images), *settings)
    assert device.faults == []
    check_same(from_device(list(found)), list(expected))
