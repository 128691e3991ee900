"""Gated MLPs, RMS norms, and norms inside of layers: on every implementation and CPU path, in every type of weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_paths import outputs_of, run_calls, supported_paths
from op_models import OP_LIBRARY, RUNNERS, USUAL, given_inputs, node_call, normal, run_exact, runner, typed_weights

from vmoe_export.ops.body_options import GATE_INPUTS, HIDDEN_NORM_INPUTS, MIXED_NORM_INPUTS
from vmoe_export.ops.table import ACTIVATIONS, OPS, ElementType

Inputs = dict[str, np.ndarray]

SILU = ACTIVATIONS.index("silu")
HEADS = 3
SIZES = {"N": 2, "D": 96, "F": 150}
MLP_SETS = [
    frozenset(itertools.chain(USUAL if has_bias else (), *inputs))
    for has_bias in (True, False)
    for inputs in ([], [GATE_INPUTS], [HIDDEN_NORM_INPUTS], [GATE_INPUTS, HIDDEN_NORM_INPUTS])
]
CALLS = [
    *(("VmoeDenseMlp", given, {"activation": SILU}) for given in MLP_SETS[:4]),
    *(("VmoeMlpBlock", given, {"activation": i % len(ACTIVATIONS)}) for i, given in enumerate(MLP_SETS)),
    *(
        (op, frozenset(given), {"num_heads": HEADS})
        for op in ("VmoeAttentionBlock", "VmoeClassAttentionBlock")
        for given in ((), MIXED_NORM_INPUTS, ("ln_bias", *MIXED_NORM_INPUTS))
    ),
]
IDS = ["-".join((op, *sorted(given))) for op, given, _ in CALLS]
EVERY_CALL = pytest.mark.parametrize(("op", "given", "attributes"), CALLS, ids=IDS)
EVERY_TYPE = pytest.mark.parametrize("weights", ["float", "bf16", "i8"])
NEAR = {"float": 2e-5, "bf16": 5e-2, "i8": 0.15}
"""By the type of weights, of values around 1: a value in the middle of two steps may go to either."""


def made(op: str, weights: ElementType, given: frozenset[str], tokens: int) -> Inputs:
    """Inputs of a node with these optional ones."""
    rng = np.random.default_rng(tokens)
    sizes, inputs = SIZES | {"T": tokens}, {}
    for value in given_inputs(OPS[op], "float", given):
        array = normal(rng, *(sizes[dim] for dim in value.dims))
        if value.type == "W":
            (array,), scales = typed_weights([array / np.float32(array.shape[0] ** 0.5)], weights)
            inputs |= {f"{value.name}_scale": scale for scale in scales}
        inputs[value.name] = 1 + array / 4 if value.name.endswith("ln_scale") else array
    return inputs


def exact(op: str, inputs: Inputs, attributes: dict[str, int]) -> np.ndarray:
    (expected,) = run_exact(OPS[op], *(inputs.get(value.name) for value in OPS[op].inputs), **attributes)
    return expected


@EVERY_TYPE
@EVERY_CALL
@pytest.mark.parametrize("name", RUNNERS)
def test_every_implementation_computes_it(
    name: str, op: str, given: frozenset[str], attributes: dict[str, int], weights: ElementType
) -> None:
    inputs = made(op, weights, given, 9)
    values = given_inputs(OPS[op], weights, given)
    (found,) = runner(name, op, weights, given=given, **attributes)(*(inputs[value.name] for value in values))
    np.testing.assert_allclose(found, exact(op, inputs, attributes), rtol=0, atol=NEAR[weights])


@pytest.mark.skipif(OP_LIBRARY not in RUNNERS, reason="the op library is not built")
@EVERY_TYPE
@pytest.mark.parametrize("path", supported_paths())
def test_every_path_computes_rows_without_regard_to_others(path: str, weights: ElementType) -> None:
    calls, wanted = [], []
    for op, given, attributes in CALLS:
        for tokens in (1, 37, 150):
            inputs = made(op, weights, given, tokens)
            names = tuple(value.name for value in OPS[op].inputs if value.type == "W" or value.scale_of)
            constants = [name for name in names if name in inputs]
            halves = [inputs | {"x": inputs["x"][image : image + 1]} for image in range(2)]
            calls += [node_call(op, each, attributes, constants=constants) for each in (inputs, *halves)]
            wanted.append(exact(op, inputs, attributes))
    found = [outputs[0] for outputs in outputs_of(run_calls(calls, path))]
    for number, expected in enumerate(wanted):
        together, *alone = found[3 * number : 3 * number + 3]
        np.testing.assert_allclose(together, expected, rtol=0, atol=NEAR[weights])
        np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.skipif(OP_LIBRARY not in RUNNERS, reason="the op library is not built")
@pytest.mark.parametrize("pair", [GATE_INPUTS, HIDDEN_NORM_INPUTS])
def test_one_of_two_inputs_that_belong_together_is_refused(pair: tuple[str, str]) -> None:
    inputs = made("VmoeDenseMlp", "float", frozenset(pair), 5)
    for name in pair:
        (refusal,) = run_calls([node_call("VmoeDenseMlp", inputs | {name: None})])
        assert f"{pair[0]} or {pair[1]} is given, but not both" in str(refusal)
