"""Tests of the settings for each routing kind: names, profiles, and the messages for invalid settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from damaged_files import refusal

from vmoe_runtime import RoutingError, Setting
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_rules import MAX_MASS_TOKENS, RoutingRules

pytestmark = pytest.mark.fast

TOP_K = RoutingRules("top-k", (8, 8), 50)
ENSEMBLE = RoutingRules("top-k", (8, 8), 100, ensemble_size=2)
CHOICE = RoutingRules("experts-choice", (8, 8), 50)
DENSE = RoutingRules("dense", image_tokens=50)
SOFT = RoutingRules("soft", (8, 8), 50, slots_per_expert=4)


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (TOP_K, ("capacity", "k", "bpr", "pool", "max_experts")),
        (ENSEMBLE, ("capacity", "k", "bpr")),
        (CHOICE, ("capacity",)),
        (SOFT, ()),
    ],
)
def test_the_inputs_of_a_graph_are_the_settings_of_its_kind(rules: RoutingRules, names: tuple[str, ...]) -> None:
    assert rules.settings == names
    if names:
        assert tuple(rules.named("c1.0" if names == ("capacity",) else "c1-k1").inputs) == names


@pytest.mark.parametrize(
    ("rules", "asked", "name"),
    [
        (TOP_K, "c0.3-k1", "c0.3-k1"),
        (TOP_K, "c0.20-k1-pool-m4", "c0.2-k1-pool-m4"),
        (TOP_K, "c1.0-k2-vanilla-pool", "c1-k2-vanilla-pool"),
        (TOP_K, "c0.3-k1-m8", "c0.3-k1"),  # all experts: no limit
        (TOP_K, "c0.3-k1-m900000", "c0.3-k1"),
        (TOP_K, "c0.3-k2-vanilla-m1", "c0.3-k2-vanilla-m1"),
        (ENSEMBLE, "c1.5-k1", "c1.5-k1"),
        (CHOICE, "c1", "c1.0"),
        (CHOICE, "c1.0", "c1.0"),
        (CHOICE, "c0.50", "c0.5"),
    ],
)
def test_a_name_stands_for_one_profile(rules: RoutingRules, asked: str, name: str) -> None:
    profile = rules.named(asked)
    assert profile.name == name
    assert rules.named(name) == profile


def test_a_profile_says_what_its_graph_takes() -> None:
    inputs = {
        name: value.tolist() for name, value in TOP_K.profile(capacity=0.2, k=1, pool=True, max_experts=4).inputs.items()
    }
    assert inputs == {"capacity": [2, 2], "k": [1], "bpr": [1], "pool": [1], "max_experts": [4]}
    inputs = {name: value.tolist() for name, value in TOP_K.profile(capacity=0.2, k=1, bpr=False).inputs.items()}
    assert inputs == {"capacity": [2, 2], "k": [1], "bpr": [0], "pool": [0], "max_experts": [8]}


def test_experts_choice_counts_tokens_and_not_choices() -> None:
    assert CHOICE.profile(capacity=1.0) == Profile(
        "c1.0", capacity=1.0, slots=(7, 7), effective_ratio=pytest.approx(56 / 50)
    )
    assert RoutingRules("experts-choice", (8,), 50, rounding="round").profile(capacity=1.0).slots == (6,)


def test_slots_are_those_of_each_layers_own_experts() -> None:
    rules = RoutingRules("top-k", (8, 5), 50)
    assert rules.profile(capacity=0.3, k=1).slots == (2, 3)  # 8 experts: 50 * 0.3 / 8 = 1.9; 5: 50 * 0.3 / 5 = 3; rounded up
    assert rules.profile(capacity=0.3, k=1).effective_ratio == (2 * 8 + 3 * 5) / (2 * 50)
    assert rules.profile(capacity=6, k=2).slots == (
        75,
        100,
    )  # at ratio 5, each of the 5 experts already has a slot for every pair
    assert rules.profile(capacity=0.3, k=1, max_experts=7).name == "c0.3-k1-m7"
    assert rules.profile(capacity=0.3, k=1, max_experts=8).name == "c0.3-k1"
    with pytest.raises(RoutingError, match="k must be between 1 and the number of experts, 5, not 6"):
        rules.profile(capacity=0.3, k=6)
    with pytest.raises(RoutingError, match=r"8\.5 is larger than the number of experts, 8"):
        rules.profile(capacity=8.5, k=1)
    assert RoutingRules("top-k", (8, 4), 100, ensemble_size=2).profile(capacity=1, k=2).slots == (25, 50)
    assert RoutingRules("experts-choice", (8, 5), 50).profile(capacity=1.0).slots == (7, 10)


def test_fields_replace_those_of_a_profile() -> None:
    base = TOP_K.named("c0.3-k1-vanilla-pool-m4")
    assert TOP_K.profile(base, k=2).name == "c0.3-k2-vanilla-pool-m4"
    assert TOP_K.profile(base, pool=False, max_experts=8).name == "c0.3-k1-vanilla"
    assert CHOICE.profile(CHOICE.named("c1"), capacity=2).name == "c2.0"


@pytest.mark.parametrize(
    ("rules", "name", "words"),
    [
        (CHOICE, "c1-k1", ["c1-k1", "c1.0"]),
        (CHOICE, "c1.0-pool", ["c1.0-pool", "c1.0 works"]),
        (CHOICE, "c9.0", ["9", "number of experts, 8"]),
        (CHOICE, "c0.0", ["positive number"]),
        (TOP_K, "c1.0", ["c1.0", "c0.3-k1-pool-m4"]),
        (TOP_K, "c0.3-k1-pool-m0", ["max_experts", "at least 1", "0"]),
        (TOP_K, "c0.3-k9-pool", ["k must be between 1 and the number of experts, 8"]),
        (SOFT, "c1.0", ["c1.0", "has nothing to set"]),
        (SOFT, "c1-k1", ["c1-k1", "has nothing to set"]),
        (SOFT, "large", ["large", "has nothing to set"]),
        (DENSE, "c0.3-k1", ["c0.3-k1", "any name like r8 works, which merges 8 tokens of an image in each block"]),
        (ENSEMBLE, "c1-k1-pool", ["ensembles (E3)", "pool"]),
        (ENSEMBLE, "c1-k1-m2", ["ensembles (E3)", "max_experts"]),
        (ENSEMBLE, "c1-k5", ["number of experts of a member, 4"]),
    ],
)
def test_a_name_that_the_kind_does_not_have_is_refused(rules: RoutingRules, name: str, words: list[str]) -> None:
    with refusal(RoutingError, *words):
        rules.named(name)


BASES = {TOP_K: "c0.3-k1", ENSEMBLE: "c1-k1", CHOICE: "c1.0"}


@pytest.mark.parametrize(
    ("rules", "fields", "words"),
    [
        (TOP_K, {"max_experts": 0}, ["max_experts must be at least 1, not 0"]),
        (TOP_K, {"max_experts": -3}, ["max_experts must be at least 1, not -3"]),
        (TOP_K, {"max_experts": True}, ["max_experts", "True"]),
        (TOP_K, {"max_experts": 2.5}, ["max_experts must be a whole number, not 2.5"]),
        (TOP_K, {"max_experts": "4"}, ["max_experts must be a whole number"]),
        (TOP_K, {"max_experts": [4]}, ["max_experts must be a whole number"]),
        (TOP_K, {"pool": 2}, ["pool must be True or False, not 2"]),
        (TOP_K, {"pool": "yes"}, ["pool must be True or False"]),
        (TOP_K, {"pool": [True, False]}, ["pool must be True or False"]),
        (CHOICE, {"k": 1}, ["expert choice", "takes no k"]),
        (CHOICE, {"bpr": True}, ["expert choice", "takes no bpr"]),
        (CHOICE, {"pool": True}, ["expert choice", "takes no pool"]),
        (CHOICE, {"k": 2, "max_experts": 4}, ["expert choice", "takes no k or max_experts"]),
        (CHOICE, {"capacity": "much"}, ["capacity must be a number, not 'much'"]),
        (CHOICE, {"capacity": 8.5}, ["8.5", "number of experts, 8"]),
        (CHOICE, {"capacity": -1}, ["positive number"]),
        (CHOICE, {"capacity": float("nan")}, ["positive number"]),
        (ENSEMBLE, {"pool": False}, ["ensembles (E3) are routed officially: they take no pool"]),
        (ENSEMBLE, {"max_experts": 8}, ["ensembles (E3) are routed officially: they take no max_experts"]),
    ],
)
def test_a_setting_that_can_not_be_is_refused(rules: RoutingRules, fields: dict[str, Any], words: list[str]) -> None:
    with refusal(RoutingError, *words):
        rules.profile(rules.named(BASES[rules]), **fields)


@pytest.mark.parametrize("name", ["capacity", "k", "bpr", "pool", "max_experts"])
def test_soft_moe_has_nothing_to_set(name: str) -> None:
    with pytest.raises(RoutingError, match=f"Soft MoE has nothing to set: it takes no {name}"):
        SOFT.profile_of(Setting.of({name: 1}))


def test_masses_of_groups_that_could_overflow_an_int32_are_refused() -> None:
    large = RoutingRules("top-k", (8,), MAX_MASS_TOKENS + 1)
    assert large.profile(capacity=0.1, k=1, pool=True).max_experts == 8
    assert RoutingRules("top-k", (8,), MAX_MASS_TOKENS).profile(capacity=0.1, k=1, pool=True, max_experts=7).max_experts == 7
    with pytest.raises(RoutingError, match=r"at most 131,071 tokens, and these have 131,072"):
        large.profile(capacity=0.1, k=1, pool=True, max_experts=7)


@pytest.mark.parametrize(
    ("field", "words"),
    [("capcity", "did you mean 'capacity'?"), ("slots", "it has profile, capacity, k, bpr, pool, max_experts")],
)
def test_a_field_that_no_setting_has_is_a_type_error_that_names_the_nearest(field: str, words: str) -> None:
    for use in (Setting, partial(replace, Setting())):
        with refusal(TypeError, f"a setting has no '{field}'", words):
            use(**{field: 0.5})
