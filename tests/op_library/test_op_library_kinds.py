"""Tests for expert choice and Soft MoE in the op library, on every CPU path.

They check slots and sums, and that groups don't affect each other.
"""

from __future__ import annotations

import numpy as np
import pytest
from cpu_paths import need_op_library, outputs_of, run_calls, supported_paths
from op_models import node_call, normal, run_exact, run_reference
from routing_cases import choices, same_bits

from vmoe_export.ops.table import OPS

need_op_library()

EVERY_PATH = pytest.mark.parametrize("path", supported_paths())
SOFT_OPS = ("VmoeSoftRouter", "VmoeSoftDispatch", "VmoeSoftCombine")
SHAPES = [(1, 1, 1, 1, 1), (1, 4, 7, 3, 1), (2, 16, 33, 4, 3), (3, 50, 48, 5, 2), (2, 21, 65, 1, 17), (1, 140, 130, 16, 8)]
"""G, S, D, E and P."""

Inputs = dict[str, np.ndarray]


@pytest.mark.sample(3)
@EVERY_PATH
def test_experts_choose_the_tokens_of_the_reference_bit_for_bit(path: str) -> None:
    made = list(choices(31, 600))
    calls = [node_call("VmoeChooseTokens", inputs) for inputs in made]
    for found, inputs in zip(outputs_of(run_calls(calls, path)), made, strict=True):
        expected = run_reference(OPS["VmoeChooseTokens"], *inputs.values())
        assert same_bits(found, expected), f"{inputs['gates'].shape} capacity {inputs['capacity']}"


@EVERY_PATH
@pytest.mark.parametrize("op_name", SOFT_OPS)
def test_the_ops_of_soft_moe_are_the_reference(op_name: str, path: str) -> None:
    rng = np.random.default_rng(33)
    attributes = [{"dispatch_bf16": n} for n in (0, 1)] if OPS[op_name].attributes else [{}]
    made = [(_soft_inputs(rng, op_name, *shape), given) for shape in SHAPES for given in attributes]
    calls = [node_call(op_name, inputs, given) for inputs, given in made]
    calls += [node_call(op_name, inputs, given, constants=("mu",)) for inputs, given in made if "mu" in inputs]
    for found, (inputs, given) in zip(outputs_of(run_calls(calls, path)), made * (len(calls) // len(made)), strict=True):
        expected = run_exact(OPS[op_name], *inputs.values(), **given)
        for output, exact in zip(found, expected, strict=True):
            np.testing.assert_allclose(output, exact, rtol=0, atol=1e-5)


@EVERY_PATH
def test_a_group_has_the_same_bits_among_any_others_and_on_any_threads(path: str) -> None:
    rng = np.random.default_rng(34)
    groups, tokens, width, experts, slots = 7, 50, 70, 5, 3
    for op_name in SOFT_OPS:
        inputs = _soft_inputs(rng, op_name, groups, tokens, width, experts, slots)
        picks = [list(range(groups)), *([group] for group in range(groups)), [6, 2, 2, 5], [0, 1, 2]]
        calls = [node_call(op_name, {name: _of_groups(inputs, name, pick, slots) for name in inputs}) for pick in picks]
        for threads in (1, 2, 4):
            together, *parts = outputs_of(run_calls(calls, path, threads=threads))
            if threads == 1:
                alone = together
            assert same_bits(together, alone), f"{op_name} on {threads} threads"
            for found, pick in zip(parts, picks[1:], strict=True):
                named = {value.name: array for value, array in zip(OPS[op_name].outputs, together, strict=True)}
                expected = [_of_groups(named, name, pick, slots) for name in named]
                assert same_bits(found, expected), f"{op_name} of the groups {pick}"


@EVERY_PATH
def test_what_is_not_a_number_stays_in_its_group(path: str) -> None:
    rng = np.random.default_rng(35)
    for op_name in SOFT_OPS:
        clean = _soft_inputs(rng, op_name, 3, 20, 19, 4, 2)
        spoilt = {name: array.copy() for name, array in clean.items()}
        first = next(iter(spoilt))
        place = (0, 3, 1) if first == "out" else (1, 3, 5)
        spoilt[first][place] = np.nan  # in group 1; in `out`, slot 3 is one of that group's slots
        calls = [node_call(op_name, inputs) for inputs in (clean, spoilt)]
        before, after = outputs_of(run_calls(calls, path))
        for value, old, new in zip(OPS[op_name].outputs, before, after, strict=True):
            assert np.isnan(new).any()
            for group in (0, 2):
                parts = [_of_groups({value.name: array}, value.name, [group], 2) for array in (old, new)]
                np.testing.assert_array_equal(*parts)


def _soft_inputs(
    rng: np.random.Generator, op_name: str, groups: int, tokens: int, width: int, experts: int, slots: int
) -> Inputs:
    shares = rng.random((groups, tokens, experts, slots), np.float32) / (tokens + experts * slots)
    return {
        "VmoeSoftRouter": {
            "x": normal(rng, groups, tokens, width),
            "mu": normal(rng, width, experts, slots),
            "scale": np.array(5, np.float32),
        },
        "VmoeSoftDispatch": {"x": normal(rng, groups, tokens, width), "dispatch": shares},
        "VmoeSoftCombine": {"out": normal(rng, experts, groups * slots, width), "combine": shares},
    }[op_name]


def _of_groups(values: Inputs, name: str, groups: list[int], slots: int) -> np.ndarray:
    """Return the part of the value `name` that belongs to the given groups.

    In `out` and `buf`, a group is a range of slots in the second dimension. `mu` and `scale` have no groups. In any other
    value, the groups are the first dimension.
    """
    array = values[name]
    if name in ("mu", "scale"):
        return array
    if name in ("out", "buf"):
        return array[:, [group * slots + slot for group in groups for slot in range(slots)]]
    return array[groups]
