"""Check that capacity ratios give the official code's numbers of slots, and that settings become profiles."""

from __future__ import annotations

import json
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmoe_runtime.capacity import compute_slots
from vmoe_runtime.errors import RoutingError
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import (
    ROWS,
    SETTINGS,
    ChoiceFields,
    Choices,
    Setting,
    SettingFields,
    parse_profile_name,
    profile_name,
)

pytestmark = pytest.mark.fast

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden" / "capacity.json").read_text())["rows"]
RULES = RoutingRules("top-k", experts=(8, 8, 8), group_tokens=50)


@pytest.mark.sample(60)
@pytest.mark.parametrize("row", GOLDEN, ids=str)
def test_every_golden_row_gives_the_official_integer(row: list[Any]) -> None:
    num_pairs, num_experts, ratio, rounding, multiple_of, official = row
    # In the official code, `multiple_of` is None if the capacity is not rounded up to a multiple.
    arguments = (num_pairs, num_experts, ratio, rounding, multiple_of or 1)
    if official is None:
        with pytest.raises(RoutingError, match="leaves no slot per expert"):
            compute_slots(*arguments)
    else:
        assert compute_slots(*arguments) == official


@given(st.integers(1, 10**5), st.integers(1, 64), st.floats(1e-3, 64), st.integers(1, 16))
def test_places_are_at_least_what_the_ratio_asks_for_and_no_whole_step_more(
    num_pairs: int, num_experts: int, ratio: float, multiple_of: int
) -> None:
    places = compute_slots(num_pairs, num_experts, ratio, multiple_of=multiple_of)
    asked = Fraction(ratio) * num_pairs / num_experts
    assert places >= 1
    assert places % multiple_of == 0
    slack = asked * Fraction(1, 2**50)
    assert asked - slack <= places < asked + slack + multiple_of


def test_a_profile_has_the_places_of_every_layer() -> None:
    profile = RULES.profile(capacity=0.3, k=1)
    assert (profile.name, profile.slots, profile.k, profile.bpr) == ("c0.3-k1", (2, 2, 2), 1, True)
    assert (profile.capacity_ratio, profile.effective_ratio) == (0.3, pytest.approx(0.32))


def test_a_ratio_above_the_number_of_experts_is_refused_with_the_one_that_drops_nothing() -> None:
    with pytest.raises(RoutingError, match="from 4 on no token is dropped"):
        RULES.profile(capacity=8.5, k=2)
    assert RULES.profile(capacity=8.0, k=2).slots[0] >= 50


def test_slots_may_be_rounded_up_beyond_the_pairs_as_in_the_official_code() -> None:
    rules = RoutingRules("top-k", (8,), 197, capacity_multiple_of=4)
    assert rules.profile(capacity=8, k=1).slots == (200,)
    with pytest.raises(RoutingError, match="multiple of 395 gives 395 slots per expert, where a group has 197"):
        RoutingRules("top-k", (8,), 197, capacity_multiple_of=395).profile(capacity=8, k=1)


def test_numpy_numbers_make_the_same_profile() -> None:
    assert RULES.profile(capacity=np.float64(0.3), k=np.int64(1), bpr=np.bool_(True)) == RULES.profile(capacity=0.3, k=1)


@given(st.floats(1e-7, 1000), st.integers(1, 999_999), st.booleans(), st.booleans(), st.none() | st.integers(1, 65_535))
def test_a_systematic_name_is_read_back(ratio: float, k: int, bpr: bool, pool: bool, limit: int | None) -> None:
    setting = Setting(capacity=ratio, k=k, bpr=None if bpr else False, pool=pool or None, max_experts=limit)
    assert parse_profile_name(profile_name(setting)) == setting


@given(st.floats(1e-7, 1000))
def test_a_name_of_experts_choice_is_read_back(ratio: float) -> None:
    setting = Setting(capacity=ratio)
    assert parse_profile_name(profile_name(setting)) == setting


def test_every_setting_is_declared_once_and_typed() -> None:
    assert [row.place for row in ROWS.values()] == [*range(len(ROWS))]
    assert {"profile", *SETTINGS} == SettingFields.__annotations__.keys() == {field.name for field in fields(Setting)}
    assert ChoiceFields.__annotations__.keys() == {field.name for field in fields(Choices)}
