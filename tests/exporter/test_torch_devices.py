"""Check the torch model on a device.

Nothing may wait for the device or stay on the CPU, and results must equal those on the CPU. No GPU is needed, because
`foreign_device` is a fake device.
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
from on_gpu.gate_kinds import make_gates
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vmoe_torch import Vmoe, routing

# values of capacity, k, bpr, pool and max_experts
ROUTING_SETTINGS = list(itertools.product((1, 3, 40), (1, 2, 4), (True, False), (False,), (None, 2)))


def check_same(found: list[Tensor], expected: list[Tensor], atol: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-5, atol=atol, equal_nan=True)
        else:
            assert torch.equal(one, other)


@pytest.mark.sample(4)
@pytest.mark.parametrize("kind", range(8))
def test_hard_gates_are_routed_on_a_device_as_in_numpy(kind: int) -> None:
    gates = torch.from_numpy(make_gates(np.random.default_rng(kind), kind, (3, 20, 4)))
    for setting in ROUTING_SETTINGS:
        with ForeignDevice() as device:
            found = routing.route(to_device(gates), *setting)
            chosen = routing.choose_tokens(to_device(gates), setting[0])
        assert device.faults == [], setting
        capacity, k, bpr, pool, limit = setting
        check_same(from_device(list(found)), _of_numpy(op_reference.route(gates.numpy(), capacity, k, bpr, pool, limit)))
        check_same(from_device(list(chosen)), _of_numpy(op_reference.choose_tokens(gates.numpy(), capacity)))


def _of_numpy(arrays: tuple[np.ndarray, ...]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_only_a_pool_waits_for_the_device_and_once() -> None:
    gates = torch.from_numpy(make_gates(np.random.default_rng(5), 0, (3, 20, 4)))
    with ForeignDevice() as device:
        found = routing.route(to_device(gates), 3, 2, True, True, 2)
    assert device.faults == ["aten._local_scalar_dense.default waits for the device"]
    check_same(from_device(list(found)), list(routing.route(gates, 3, 2, True, True, 2)))


def model_cases() -> Iterator[golden.Case]:
    """Yield one case for each golden model and each of its outputs.

    If the model also has a case in bfloat16, yield that too.
    """
    seen = set()
    for case in [*golden.cases(), *golden.ensemble_cases(), *golden.kind_cases()]:
        if (key := (case.model, case.bfloat16, case.output)) not in seen:
            seen.add(key)
            yield case


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", list(model_cases()), ids=str)
def test_a_whole_model_leaves_a_device_alone(case: golden.Case) -> None:
    network = golden.torch_model(case.model, case.group, case.bfloat16, case.output)
    images = torch.from_numpy(case.images)
    with torch.inference_mode():
        expected, routes = network.logits_and_routing(images, case.profile)
    moved = Vmoe(network.config, network.group_tokens, output=network.output)
    with torch.no_grad(), ForeignDevice() as device:
        for name, buffer in moved.named_buffers():
            parent, _, leaf = name.rpartition(".")
            setattr(moved.get_submodule(parent), leaf, to_device(buffer))
        weights = {name: to_device(tensor.detach()) for name, tensor in network.state_dict().items()}
        moved.load_state_dict(weights, assign=True)
        found, found_routes = moved.requires_grad_(False).logits_and_routing(to_device(images), case.profile)
    assert device.faults == []
    # If numbers are added in another order, a sum may round to another bfloat16 value.
    atol = 3e-3 if case.bfloat16 else 1e-5
    check_same(tree_leaves(from_device([found, found_routes])), tree_leaves([expected, routes]), atol)
