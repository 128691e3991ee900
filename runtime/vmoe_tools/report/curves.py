"""The curves of a report: capacity ratios rising, at Batch Priority Routing, in vanilla order, and with a pool of places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import KIND_NAMES, RoutingRules, SoftRules, TopKRules
from vmoe_tools.bench.sweep import Axes, sweep_profiles
from vmoe_tools.command_line import UsageError

CurveKind = Literal["bpr", "vanilla", "pool"]

CURVE_KINDS: tuple[CurveKind, ...] = ("bpr", "vanilla", "pool")

_TITLES = {"bpr": "Batch Priority Routing", "vanilla": "vanilla order", "pool": "pool of places"}


@dataclass(frozen=True)
class Curve:
    """Settings that differ in the capacity ratio alone.

    Attributes:
        kind: "bpr", "vanilla" or "pool"; "choice" where experts choose their tokens.
        title: the same for people.
        profiles: the settings, capacity rising.
    """

    kind: str
    title: str
    profiles: tuple[Profile, ...]


def plan_curves(
    rules: RoutingRules | None, base: Profile | None, ratios: Sequence[float], kinds: Sequence[CurveKind]
) -> tuple[list[Curve], list[str]]:
    """The curves of a model, as far as it has them: graphs of older formats and ensembles have no pool.

    Args:
        rules: of the model; None for a dense ViT.
        base: the profile that says what no curve does, such as k.
        ratios: capacity ratios, rising.
        kinds: the curves that were asked for.

    Returns:
        The curves; and notes, a sentence each, about ratios that round to the same places as another one and are left out.

    Raises:
        UsageError: the model has no capacity, none of these curves, or can't be run with one of the settings.
    """
    if rules is None or base is None or isinstance(rules, SoftRules):
        kind = "a dense ViT" if rules is None else f"a {KIND_NAMES[rules.kind]}"
        raise UsageError(f"the report shows what a capacity does, and the bundle is {kind}, which has none")
    if not isinstance(rules, TopKRules):
        profiles, notes = sweep_profiles(rules, base, Axes(tuple(ratios)))
        return [Curve("choice", "experts choice", tuple(profiles))], notes
    curves, notes = [], []
    for kind in kinds:
        if kind == "pool" and not rules.has_policies:
            continue
        pools = (kind == "pool",) if rules.has_policies else ()
        axes = Axes(tuple(ratios), orders=("vanilla" if kind == "vanilla" else "bpr",), pools=pools)
        profiles, said = sweep_profiles(rules, base, axes)
        curves.append(Curve(kind, _TITLES[kind], tuple(profiles)))
        notes += said
    if not curves:
        raise UsageError("--curves asks for a pool alone, and the bundle's graph has none")
    return curves, notes
