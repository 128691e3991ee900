"""Check that the Python and the C++ reader get the same setting from each profile name, or both refuse it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from bundle_changes import MANIFEST, Case, nothing, says
from bundle_verdicts import cpp_answers, with_manifest
from damaged_files import put

from vmoe_runtime import RoutingError
from vmoe_runtime.bundle.manifest_reader import parse_manifest
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import SETTINGS

_LARGE = (put("routing/group", "batch"), lambda m: m.update(profiles=m["profiles"][:1]))

MODELS = {
    "top-k": ("v3-plain", nothing),
    "expert choice": ("v3-choice", nothing),
    "an ensemble": ("v3-ensemble", nothing),
    "top-k of groups of 131,072 tokens": (
        "v3-plain",
        says(*_LARGE, put("routing/group_tokens", 131_072), put("profiles/0/capacity", [9831])),
    ),
    "an ensemble of 2^31 - 2 tokens and 65,536 experts": (
        "v3-ensemble",
        says(
            *_LARGE,
            put("routing/group_tokens", 2**31 - 2),
            put("routing/num_experts", 65_536),
            put("profiles/0/capacity", [9831]),
        ),
    ),
}

NAMES = [
    "", "c", "c1", "c1.0", "c1.00", "c01", "c.5", "c1.", "c0.5", "c0", "c0.0", "c4", "c4.0", "c4.5", "c1e0",
    "c1e-5", "c1e-05", "c1e+0", "c1e5", "c1e999", "c1e-999", "c-1", "c1 ", " c1", "c1\n", "C1", "c\u0661", "cinf",
    "cnan", "c0x1", "c1_0", "large", "c0.3-k1", "c0.30-k1", "c0.3-k01", "c0.3-k0", "c0.3-k4", "c0.3-k5",
    "c0.3-k-1", "c0.3-k1000000", "c0.3-k999999", "c0.3-k", "c0.3-k1-vanilla", "c0.3-k1-pool", "c0.3-k1-m4",
    "c0.3-k1-m5", "c0.3-k1-m3", "c0.3-k1-m1", "c0.3-k1-m0", "c0.3-k1-m03", "c0.3-k1-m", "c0.3-k1-m-1",
    "c0.3-k1-m999999", "c0.3-k1-m1000000", "c0.3-k1-vanilla-pool", "c0.3-k1-pool-vanilla", "c0.3-k1-vanilla-m2",
    "c0.3-k1-m2-vanilla", "c0.3-k1-pool-m2", "c0.3-k1-m2-pool", "c0.3-k1-vanilla-pool-m2",
    "c0.3-k1-vanilla-vanilla", "c0.3-k1-pool-pool", "c0.3-k1-m2-m2", "c0.3-k1-m2 ", "c0.3-k1-pool ",
    "c0.3-k1-Pool", "c0.3-k1-M2", "c0.3-k1-bpr", "c0.3-k1-m\u0662", "c0.3-pool-k1", "c1.0-pool", "c1.0-m2",
    "c1.0-k2-vanilla-pool-m3", "c4-k1", "c4.0-k4", "c4.1-k1", "c0-k1-pool", "c1e-300-k1-m2", "c1e5-k1-m2",
]  # fmt: skip
PARTS = [
    "c", "0.3", "1", "1.0", "1e-3", "4", "-k", "-k1", "-k2", "-vanilla", "-pool", "-m", "-m2", "-m3", "2", "-", "0",
    ".", " ",
]  # fmt: skip


def random_names() -> list[str]:
    """Return names whose parts are valid and in about the right order, and names that only look valid."""
    chance = random.Random(13)
    names = []
    for _ in range(600):
        ratio = repr(chance.choice((chance.uniform(0, 5), round(chance.uniform(0, 5), 2), 10 ** chance.uniform(-9, 1))))
        name = f"c{ratio}-k{chance.randrange(7)}" + "-vanilla" * chance.randrange(2) + "-pool" * chance.randrange(2)
        names.append(name + f"-m{chance.randrange(7)}" * chance.randrange(2))
        names.append(f"c{ratio}")
        names.append(names[-2] + f"-r{chance.randrange(20)}")
        names.append(f"c{ratio}-r{chance.randrange(20)}")
        names.append(f"r{chance.randrange(20)}")
        names.append("c" + "".join(chance.choices(PARTS, k=chance.randrange(1, 6))))
    return names


def described(profile: Profile) -> str:
    """Return a profile in the format in which `sdk_readers` prints it. Missing values become 0."""
    values = (repr(value or 0.0) if name == "capacity" else int(value or 0) for name, value in setting_values(profile))
    return " ".join(map(str, (profile.name, repr(profile.effective_ratio or 0.0), *values, *profile.slots)))


def setting_values(profile: Profile) -> list[tuple[str, Any]]:
    return [(name, getattr(profile, name)) for name in SETTINGS]


def python_answer(rules: RoutingRules, name: str) -> tuple[str, str]:
    """Return how Python reads a profile name.

    The format is the one in which `sdk_readers` prints how C++ reads a profile name.
    """
    try:
        return "ok", described(rules.named(name))
    except RoutingError as error:
        return ("ok", "none") if str(error).startswith("there is no profile") else ("refused", str(error))


@pytest.mark.sample(1)
@pytest.mark.parametrize("model", MODELS)
def test_both_readers_take_a_name_alike(model: str, tmp_path: Path) -> None:
    base, change = MODELS[model]
    manifest = (Case(model, change, good=True, base=base).build(tmp_path) / MANIFEST).read_bytes()
    rules = parse_manifest(manifest).rules
    assert rules is not None
    names = [*NAMES, *random_names()]
    found = cpp_answers("name", [with_manifest(manifest, name.encode()) for name in names])
    expected = [python_answer(rules, name) for name in names]
    assert dict(zip(names, found, strict=True)) == dict(zip(names, expected, strict=True))
    words = [word if rest != "none" else rest for word, rest in expected]
    assert min(words.count(word) for word in ("ok", "refused", "none")) > 10
