"""Tests for MLPs and attention blocks with each set of optional inputs.

They run on every implementation and CPU path, in every weight type. The cases are plain and gated MLPs, layer and RMS norms,
norms inside layers, rotated queries and keys, and merged tokens.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_paths import outputs_of, run_calls, supported_paths
from op_models import OP_LIBRARY, RUNNERS, USUAL, given_inputs, node_call, normal, run_exact, runner, typed_weights

from vmoe_export.ops.body_options import (
    GATE_INPUTS,
    HIDDEN_NORM_INPUTS,
    MERGING_INPUTS,
    MIXED_NORM_INPUTS,
    ROTATION_INPUTS,
)
from vmoe_export.ops.table import ACTIVATIONS, OPS, ElementType

Inputs = dict[str, np.ndarray]

SILU = ACTIVATIONS.index("silu")
HEADS = 3
MERGED = 4
SIZES = {"N": 2, "D": 96, "F": 150, "O": 21, "C": 2, "A": 96 // HEADS // 2, "1": 1}
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
        for given in (
            *((), USUAL, MIXED_NORM_INPUTS, (*USUAL, *MIXED_NORM_INPUTS)),
            *((*USUAL, *ROTATION_INPUTS), (*USUAL, *ROTATION_INPUTS, *MERGING_INPUTS)),
        )
    ),
]
IDS = ["-".join((op, *sorted(given))) for op, given, _ in CALLS]
EVERY_CALL = pytest.mark.parametrize(("op", "given", "attributes"), CALLS, ids=IDS)
EVERY_TYPE = pytest.mark.parametrize("weights", ["float", "bf16", "i8"])
NEAR = {"float": 2e-5, "bf16": 5e-2, "i8": 0.15}
"""Tolerances by the type of weights, for values around 1: a value halfway between two steps may round to either."""


def made(op: str, weights: ElementType, given: frozenset[str], tokens: int) -> Inputs:
    """Return inputs for a node that runs an op on `tokens` tokens.

    `given` contains the names of the optional inputs to include.
    """
    rng = np.random.default_rng(tokens)
    sizes, inputs = SIZES | {"T": tokens}, {}
    for value in given_inputs(OPS[op], "float", given):
        array = normal(rng, *(sizes[dim] for dim in value.dims))
        if value.type == "W":
            (array,), scales = typed_weights([array / np.float32(array.shape[0] ** 0.5)], weights)
            inputs |= {f"{value.name}_scale": scale for scale in scales}
        inputs[value.name] = 1 + array / 4 if value.name.endswith("ln_scale") else array
    whole = {
        "sizes": rng.integers(1, 4, (SIZES["N"], tokens)).astype(np.float32),
        "token": np.tile(np.arange(SIZES["O"], dtype=np.int32) % tokens, (SIZES["N"], 1)),
        "merge": np.array([MERGED], np.int64),
    }
    return inputs | {name: array for name, array in whole.items() if name in inputs}


def exact(op: str, inputs: Inputs, attributes: dict[str, int]) -> list[np.ndarray]:
    return run_exact(OPS[op], *(inputs.get(value.name) for value in OPS[op].inputs), **attributes)


@pytest.mark.sample(50)
@EVERY_TYPE
@EVERY_CALL
@pytest.mark.parametrize("name", RUNNERS)
def test_every_implementation_computes_it(
    name: str, op: str, given: frozenset[str], attributes: dict[str, int], weights: ElementType
) -> None:
    inputs = made(op, weights, given, 21)
    values = given_inputs(OPS[op], weights, given)
    outputs = runner(name, op, weights, given=given, **attributes)(*(inputs[value.name] for value in values))
    for found, expected in zip(outputs, exact(op, inputs, attributes), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=NEAR[weights])


@pytest.mark.sample(3)
@pytest.mark.skipif(OP_LIBRARY not in RUNNERS, reason="the op library is not built")
@EVERY_TYPE
@pytest.mark.parametrize("path", supported_paths())
def test_every_path_computes_rows_without_regard_to_others(path: str, weights: ElementType) -> None:
    calls, wanted = [], []
    for op, given, attributes in CALLS:
        if "merge" in given:
            continue  # with merging, the result depends on which of two nearly equal values is larger
        for tokens in (1, 37, 150):
            inputs = made(op, weights, given, tokens)
            names = tuple(value.name for value in OPS[op].inputs if value.type == "W" or value.scale_of)
            constants = [name for name in names if name in inputs]
            of_image = [value.name for value in OPS[op].inputs if value.dims[0] == "N" and value.name in inputs]
            halves = [inputs | {name: inputs[name][image : image + 1] for name in of_image} for image in range(2)]
            calls += [node_call(op, each, attributes, constants=constants) for each in (inputs, *halves)]
            wanted += exact(op, inputs, attributes)
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
