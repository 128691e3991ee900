"""What a report measures: the curves of each loaded bundle, the points that they are made of, and the size of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import click

from vmoe_runtime import Engine
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import TokenLayout
from vmoe_runtime.routing_kinds import KIND_NAMES, DenseRules, Rules, SoftRules, TopKRules
from vmoe_tools.bench.points import Point, named_profiles, plan_points
from vmoe_tools.bench.sweep import Axes, sweep_profiles
from vmoe_tools.engines import LoadedBundle
from vmoe_tools.report.contents import Curve

MOST_BYTES = 5_000_000
"""Of a page: it is to be mailed."""

# Bytes, each somewhat more than it takes.
_EMPTY_PAGE = 700_000  # with its charts
_POINT, _LAYER, _PICTURE, _ANSWER = 2_000, 60, 60_000, 60
_DEFAULT_RATIOS = (0.1, 0.153, 0.235, 0.361, 0.554, 0.85, 1.3, 2.0)
_KINDS = {(True, False): "bpr", (False, False): "vanilla", (True, True): "pool", (False, True): "vanilla-pool"}
_TITLES = {"bpr": "Batch Priority Routing", "vanilla": "vanilla order", "pool": "pool of slots"}


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        engines: of the bundles, in the order of the command line.
        points: all settings.
        curves: of all bundles, those of the first one first.
        ratios: capacity ratios of the first bundle's curves, rising.
        notes: about ratios that round to the same slots.
        samples: how many sample images the page has room for.
    """

    engines: list[LoadedBundle]
    points: list[Point]
    curves: list[Curve]
    ratios: list[float]
    notes: list[str]
    samples: int

    @property
    def own(self) -> list[int]:
        """Indices of the settings on the first bundle's curves."""
        return [index for curve in self.curves if curve.bundle == self.engines[0].name for index in curve.points]


def make_plan(engines: list[LoadedBundle], names: Sequence[str], axes: Axes, given: dict[str, Any]) -> Plan:
    """Plans the settings of loaded bundles.

    Args:
        engines: the bundles.
        names: of the profile that says what no axis does; none for the first stored one.
        axes: what is varied; what they leave open is `_DEFAULT_RATIOS`, and as in that profile.
        given: the values of the command's other options.

    Raises:
        click.UsageError: the bundles can't be run with one of the settings, or these are too many for a page.
    """
    curves: dict[int, dict[tuple[str, str], list[Profile]]] = {}
    notes: dict[str, None] = {}

    def profiles_of(loaded: LoadedBundle) -> Sequence[Profile | None]:
        engine, rules = loaded.engine, loaded.engine.manifest.rules
        if loaded.compared:
            return named_profiles(engine, ())[:1]
        curves[id(engine)], found = _curves_of(rules, named_profiles(engine, names)[0], axes)
        notes.update(dict.fromkeys(found))
        return [profile for curve in curves[id(engine)].values() for profile in curve]

    points = plan_points(engines, profiles_of, () if given["batch_size"] is None else (given["batch_size"],))
    placed = [
        Curve(loaded.name, kind, title, tuple(own))
        for loaded in engines
        for (kind, title), profiles in curves.get(id(loaded.engine), {}).items()
        if (own := [i for i, point in enumerate(points) if point.loaded is loaded and point.profile in profiles])
    ]
    own_points = [points[i].profile for curve in placed if curve.bundle == engines[0].name for i in curve.points]
    return Plan(
        engines,
        points,
        placed,
        sorted({profile.capacity_ratio for profile in own_points if profile and profile.capacity_ratio}),
        list(notes),
        _room_for_samples(engines[0].engine, len(points), own_points, given["samples"]),
    )


def patch_bytes(engine: Engine) -> int:
    """Bytes of a number that tells the experts from a dropped patch, and where tokens can be merged those of an image."""
    rules = engine.manifest.rules
    return 1 if max(rules.num_experts, rules.image_tokens or 0) < 255 else 2


def _curves_of(rules: Rules, base: Profile | None, axes: Axes) -> tuple[dict[tuple[str, str], list[Profile]], list[str]]:
    """The settings of each curve by its kind and title, and notes on ratios that are left out."""
    if base is None or isinstance(rules, SoftRules | DenseRules):
        kind = KIND_NAMES[rules.kind]
        raise click.UsageError(f"the report shows what a capacity does, and the bundle is a {kind}, which has none")
    ratios = axes.capacity_ratio or _DEFAULT_RATIOS
    curves: dict[tuple[str, str], list[Profile]] = {}
    notes: list[str] = []
    if len(axes.merge) > 1:
        for merge in axes.merge:
            own, found = _curves_of(rules, base, replace(axes, merge=(merge,)))
            curves |= {(f"{kind}-r{merge}", f"{title}, merge={merge}"): each for (kind, title), each in own.items()}
            notes += found
        return curves, notes
    if not isinstance(rules, TopKRules):
        profiles, notes = sweep_profiles(rules, base, replace(axes, capacity_ratio=ratios))
        return {("choice", "experts choice"): profiles}, notes
    orders, pools = axes.bpr or (bool(base.bpr),), axes.pool or (bool(base.pool),)
    for order, pool, k, limit in product(orders, pools, axes.k or (None,), axes.max_experts or (None,)):
        if not rules.has_policies and pool:
            continue
        kind = _KINDS[order, pool]
        title = _TITLES.get(kind, f"{_TITLES['vanilla']}, {_TITLES['pool']}")
        if len(axes.k) > 1:
            kind, title = f"{kind}-k{k}", f"{title}, k={k}"
        if len(axes.max_experts) > 1:
            kind, title = f"{kind}-m{limit}", f"{title}, at most {limit} experts"
        pools = (pool,) if rules.has_policies else ()
        one = Axes(() if k is None else (k,), (order,), pools, () if limit is None else (limit,), axes.merge, ratios)
        curves[kind, title], found = sweep_profiles(rules, base, one)
        notes += found
    if not curves:
        raise click.UsageError("the bundle's graph has no pool of slots, and no other curve is requested")
    return curves, notes


def _room_for_samples(engine: Engine, points: int, settings: Sequence[Profile | None], wanted: int) -> int:
    """How many samples fit on a page beside the numbers of its settings."""
    manifest, layout = engine.manifest, TokenLayout.of(engine.manifest)
    layers = len(manifest.moe_layers)
    left = MOST_BYTES - _EMPTY_PAGE - points * _POINT - len(settings) * layers * _LAYER
    if left < 0:
        raise click.UsageError(
            f"the page of {points:,} settings would be larger than {MOST_BYTES / 1e6:g} MB: fewer capacity ratios or curves "
            "make it smaller"
        )
    patches = 0 if layout is None else layout.rows * layout.columns
    numbers = sum(2 if profile and profile.merge else 1 for profile in settings)  # experts, and tokens
    sample = _PICTURE + len(settings) * _ANSWER + numbers * layers * patches * patch_bytes(engine) * 4 // 3
    return min(wanted, left // sample)
