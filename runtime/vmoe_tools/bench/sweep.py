"""The settings of a sweep: every combination of capacity ratios and other axes, as profiles of one model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from vmoe_runtime.errors import RoutingError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import RoutingRules
from vmoe_tools.command_line import UsageError

Order = Literal["bpr", "vanilla"]

_STEPS = 8
_MOST_STEPS = 1000
_RATIO = r"([0-9]{1,9}(?:\.[0-9]{0,17})?(?:e-?[0-9]{1,3})?)"
_RANGE = re.compile(rf"{_RATIO}:{_RATIO}(?::([0-9]{{1,4}}))?")


@dataclass(frozen=True)
class Axes:
    """What a sweep varies. An axis without values stays as it is in the profile that the sweep starts from.

    Attributes:
        ratios: capacity ratios.
        ks: experts per token.
        orders: Batch Priority Routing, vanilla, or both.
        pools: whether the places of a group are one pool.
        max_experts: experts that a group may use.
    """

    ratios: tuple[float, ...]
    ks: tuple[int, ...] = ()
    orders: tuple[Order, ...] = ()
    pools: tuple[bool, ...] = ()
    max_experts: tuple[int, ...] = ()


def is_sweep_word(word: str) -> bool:
    """Whether a word is a capacity ratio or a range of them."""
    return bool(_RANGE.fullmatch(word) or re.fullmatch(_RATIO, word))


def read_ratios(words: Sequence[str], option: str = "--sweep") -> tuple[float, ...]:
    """The capacity ratios that an option asks for, each once and in rising order.

    Args:
        words: each one ratio, or a range `LOW:HIGH` of 8 ratios spaced by equal factors, or `LOW:HIGH:N` of N; those of
            ranges are rounded to three digits.
        option: that asks for them, for sentences.

    Raises:
        UsageError: a word is neither, or a ratio is 0.

    Example:
        >>> read_ratios(["0.1:2.0", "1.05"])
        (0.1, 0.153, 0.235, 0.361, 0.554, 0.85, 1.05, 1.3, 2.0)
    """
    ratios: set[float] = set()
    for word in words:
        match = _RANGE.fullmatch(word)
        if not is_sweep_word(word):
            raise UsageError(f"{option} takes capacity ratios and ranges such as 0.1:2.0 or 0.1:2.0:12, not '{word:.40}'")
        low, high = (float(match[1]), float(match[2])) if match else (float(word), float(word))
        steps = (int(match[3]) if match[3] else _STEPS) if match else 1
        if not (0 < low <= high < math.inf):
            raise UsageError(f"{option} {word:.40}: capacity ratios are above 0, and the first is the smaller one")
        if not 1 <= steps <= _MOST_STEPS or (steps == 1 and low != high):
            raise UsageError(f"{option} {word:.40}: a range has 2 to {_MOST_STEPS} ratios")
        if match is None:
            ratios.add(low)
        else:
            ratios |= {float(f"{low * (high / low) ** (i / max(steps - 1, 1)):.3g}") for i in range(steps)}
    return tuple(sorted(ratios))


def sweep_profiles(
    rules: RoutingRules | None, base: Profile | None, axes: Axes, option: str = "--sweep"
) -> tuple[list[Profile], list[str]]:
    """The profiles of a sweep.

    Args:
        rules: of the model; None for a dense ViT.
        base: the profile that says what no axis does; None for a model that has none.
        axes: what to vary.
        option: that asks for it, for sentences.

    Returns:
        The profiles, capacity rising fastest; and notes, a sentence for each that others would route every token like, which
        are left out. It says the capacity ratio that its whole places come to, as that may be far from the name.

    Raises:
        UsageError: the model has no capacity, or can't be run with one of the settings.
    """
    if rules is None or base is None:
        kind = "a dense ViT" if rules is None else "a Soft MoE"
        raise UsageError(f"{option}: the bundle is {kind}, which has no capacity to choose")
    given = {"k": axes.ks, "bpr": [order == "bpr" for order in axes.orders], "pool": axes.pools}
    varied = {name: values for name, values in {**given, "max_experts": axes.max_experts}.items() if values}
    profiles: dict[Profile, Profile] = {}
    left_out: dict[Profile, list[str]] = {}
    for *others, ratio in product(*varied.values(), axes.ratios):
        try:
            profile = rules.changed(base, {**dict(zip(varied, others, strict=True)), "capacity": ratio})
        except RoutingError as error:
            raise UsageError(f"{option} at {ratio:g}: {error}") from None
        # What is asked for may differ where whole places don't.
        same = profiles.setdefault(replace(profile, name="", capacity_ratio=0), profile)
        if same != profile:
            left_out.setdefault(same, []).append(profile.name)
    return list(profiles.values()), [_note(same, names) for same, names in left_out.items()]


def _note(kept: Profile, names: Sequence[str]) -> str:
    *rest, last = names
    who, have, are = (f"{', '.join(rest)} and {last}", "have", "are") if rest else (last, "has", "is")
    return f"{who} {have} the places of {kept.name}, which come to {kept.effective_ratio:.3g}, and {are} left out"
