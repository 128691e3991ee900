"""Run nodes of the TensorRT plugin on the GPU emulator.

The outputs must have the bits of the ops.
"""

from __future__ import annotations

import numpy as np
import pytest
from moe_calls import MOE_OPS, MoeCall, moe_calls, reference, same_values, token_types
from on_gpu.emulator import DIALECTS, Emulator
from tensorrt_nodes import Node, build_plugin, needed_outputs

CALLS_PER_TYPE = 30


@pytest.fixture(scope="module")
def plugin() -> Emulator:
    return build_plugin()


@pytest.mark.parametrize("op", MOE_OPS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_nodes_have_the_outputs_of_the_op(dialect: int, op: str, plugin: Emulator) -> None:
    plugin.configure(dialect, order=2, seed=dialect)
    calls = [call for call in moe_calls(12, CALLS_PER_TYPE) if call.op == op]
    assert len(calls) == CALLS_PER_TYPE * len(token_types(op))
    for call in calls:
        node = Node(plugin, call)
        node.enqueue()
        assert same_values(node.results(), reference(call)[: len(needed_outputs(op))]), call


def test_gates_have_the_bits_of_the_cpu(plugin: Emulator) -> None:
    rng = np.random.default_rng(14)
    for tokens, hidden, experts in ((7, 24, 8), (33, 96, 100), (5, 13, 7)):
        x, router = rng.standard_normal((1, tokens, hidden), np.float32), rng.random((hidden, experts), np.float32)
        node = Node(plugin, MoeCall("VmoeGates", "float", {"x": x, "router": router}, {}))
        node.enqueue()
        wanted = np.empty((1, tokens, experts), np.float32)
        sizes = tokens, hidden, experts
        plugin.library.call("gates_on_host", x.ctypes.data, router.ctypes.data, *sizes, wanted.ctypes.data)
        assert same_values(node.results(), [wanted])


@pytest.mark.parametrize("op", MOE_OPS)
def test_a_captured_node_makes_launches_on_its_stream_and_nothing_else(op: str, plugin: Emulator) -> None:
    for call in moe_calls(13, 3):
        if call.op == op:
            assert Node(plugin, call).capture() in (1, 2)
