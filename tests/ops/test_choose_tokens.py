"""Compare VmoeChooseTokens in every runtime with the official router (golden cases) and the numpy reference."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
from op_models import RUNNERS, run_reference, runner
from routing_cases import GOLDEN, Outputs, choices, golden_cases, same_bits

from vmoe_export.ops.table import OPS

CHOOSE = OPS["VmoeChooseTokens"]


@pytest.mark.parametrize("name", ["reference", *RUNNERS])
def test_the_chosen_tokens_are_the_official_ones(name: str) -> None:
    run = functools.partial(run_reference, CHOOSE) if name == "reference" else runner(name, CHOOSE.name)
    raw = json.loads((GOLDEN / "routing.json").read_text())["cases"]
    with np.load(GOLDEN / "routing.npz") as stored:
        for number, (case, official) in enumerate(zip(golden_cases(), raw, strict=True)):
            slot, _ = run(case.gates, np.array([official["experts_choice_capacity"]], np.int64))
            np.testing.assert_array_equal(slot[0] >= 0, stored[f"ec{number}"])


@pytest.mark.parametrize("name", RUNNERS)
def test_random_choices_equal_the_reference_exactly(name: str) -> None:
    run = runner(name, CHOOSE.name)
    wrong = [
        f"{number}: gates{list(inputs['gates'].shape)} capacity {inputs['capacity']}"
        for number, (inputs, expected) in enumerate(random_choices())
        if not same_bits(run(*inputs.values()), expected)
    ]
    assert not wrong, f"{len(wrong)} cases differ, such as {wrong[:5]}"


@functools.cache
def random_choices() -> list[tuple[dict[str, np.ndarray], Outputs]]:
    """Return the inputs of random calls, and the reference's outputs for them."""
    made = list(choices(2202, 1000))
    for inputs in made:  # avoid denormal numbers, which OpenVINO treats as zeros
        inputs["gates"][np.abs(inputs["gates"]) < np.finfo(np.float32).tiny] *= 0
    return [(inputs, run_reference(CHOOSE, *inputs.values())) for inputs in made]
