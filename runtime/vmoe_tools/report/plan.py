"""The plan of a report.

It contains the curves of each bundle, the points on them, and the number of samples that fit on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any

import click

from vmoe_runtime import Engine, RoutingError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import TokenLayout
from vmoe_runtime.routing_kinds import KIND_NAMES
from vmoe_runtime.routing_rules import RoutingRules
from vmoe_runtime.settings import MERGE, ROWS, Setting, SettingValue
from vmoe_tools.bench.planned_points import Point, named_profiles, plan_points
from vmoe_tools.bench.sweep import Axes, sweep_profiles
from vmoe_tools.engines import LoadedBundle
from vmoe_tools.report.contents import Curve

MOST_BYTES = 5_000_000
"""Maximum size of a page, so that it can be mailed."""

# Estimated sizes in bytes. All estimates are somewhat too large.
_EMPTY_PAGE = 700_000  # including the charts
_POINT, _LAYER, _PICTURE, _ANSWER = 2_000, 60, 60_000, 60
_DEFAULT_RATIOS = (0.1, 0.153, 0.235, 0.361, 0.554, 0.85, 1.3, 2.0)


@dataclass(frozen=True)
class Plan:
    """The plan of a report.

    Attributes:
        engines: the loaded bundles, in the order of the command line.
        points: all settings to measure.
        curves: the curves of all bundles, beginning with those of the first bundle.
        ratios: capacity ratios of the first bundle's curves, ascending.
        notes: sentences about ratios that are left out because they round to the same slots as another ratio.
        samples: number of sample images to show.
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
    """Plan a report on loaded bundles.

    Args:
        engines: the loaded bundles.
        names: at most one name of a profile. All settings that no axis varies are those of this profile, or of the first
            stored profile if `names` is empty.
        axes: the values to vary. If they include no capacity ratios, `_DEFAULT_RATIOS` are used.
        given: the values of the command's other options.

    Raises:
        click.UsageError: a bundle can't be run with one of the settings, or there are too many settings for one page.
    """
    curves: list[dict[tuple[str, str], list[Profile]]] = []
    profiles: list[Sequence[Profile | None]] = []
    notes: dict[str, None] = {}
    for loaded in engines:
        engine = loaded.engine
        if loaded.compared:
            curves.append({})
            profiles.append(named_profiles(engine, ())[:1])
        else:
            own, found = _curves_of(engine.manifest.rules, named_profiles(engine, names)[0], axes)
            curves.append(own)
            profiles.append([profile for curve in own.values() for profile in curve])
            notes |= dict.fromkeys(found)
    points = plan_points(engines, profiles, () if given["batch_size"] is None else (given["batch_size"],))
    placed = [
        Curve(loaded.name, kind, title, tuple(at))
        for loaded, of_engine in zip(engines, curves, strict=True)
        for (kind, title), curve in of_engine.items()
        if (at := [i for i, point in enumerate(points) if point.loaded is loaded and point.profile in curve])
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
    """Return the number of bytes of each integer in `SettingContents.patches`.

    This size suffices for the index of every expert and, if tokens may be merged, of every token.
    """
    rules = engine.manifest.rules
    return 1 if max(rules.num_experts, rules.image_tokens or 0) < 255 else 2


def _curves_of(
    rules: RoutingRules, base: Profile | None, axes: Axes
) -> tuple[dict[tuple[str, str], list[Profile]], list[str]]:
    """Return the settings of each curve, and notes on the capacity ratios that are left out.

    The keys of the returned dictionary are the curves' kinds and titles.
    """
    if base is None or "capacity" not in rules.settings:
        kind = KIND_NAMES[rules.kind]
        raise click.UsageError(f"the report compares capacities, but the bundle is a {kind}, which has none")
    flags = {name: (base.values[name],) for name in rules.settings if ROWS[name].type == "flag"}
    slowest = {MERGE: axes[MERGE]} if MERGE in axes else {}
    varied = {**slowest, **flags, **{name: values for name, values in axes.items() if name not in ("capacity", MERGE)}}
    curves: dict[tuple[str, str], list[Profile]] = {}
    notes: list[str] = []
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values, strict=True))
        if rules.kind == "top-k":
            flags_alone = [name for name in chosen if name not in rules.settings and ROWS[name].type == "flag"]
            lacking = {name: chosen.pop(name) for name in flags_alone}
            if any(value != ROWS[name].default for name, value in lacking.items()):
                continue
        name = _curve_name(chosen, {name for name in varied if len(varied[name]) > 1})
        ratios = axes.get("capacity") or _default_ratios(rules, base, chosen)
        one = {**{key: (value,) for key, value in chosen.items()}, "capacity": ratios}
        curves[name], found = sweep_profiles(rules, base, one)
        notes += found
    if not curves:
        raise click.UsageError("the bundle can't be run with any of the requested curves: ensembles (E3) have no pool")
    return curves, notes


def _default_ratios(rules: RoutingRules, base: Profile, chosen: Mapping[str, SettingValue]) -> tuple[float, ...]:
    """Return the default ratios that the model accepts.

    If the model accepts none of them, return all of them. A later error then gives the reason.

    A model refuses ratios above its number of experts. If it has many experts and rounds slots with "round", it also refuses
    ratios that give 0 slots.
    """

    def runs(ratio: float) -> bool:
        try:
            rules.profile_of(Setting.of({**chosen, "capacity": ratio}), base)
        except RoutingError:
            return False
        return True

    return tuple(filter(runs, _DEFAULT_RATIOS)) or _DEFAULT_RATIOS


def _curve_name(chosen: Mapping[str, SettingValue], several: Set[str]) -> tuple[str, str]:
    """Return the kind and the title of a curve.

    Both mention the flags that differ from the defaults, and the values of the settings in `several`.
    """
    flags: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for name, value in sorted(chosen.items(), key=lambda item: ROWS[item[0]].place):
        row = ROWS[name]
        if row.type != "flag" and name in several:
            others.append((f"{row.suffix}{value}", row.text(value)))
        elif row.type == "flag" and value != row.default:
            title = row.title if value else row.off_title
            flags.append((row.suffix, title if not flags else title[:1].lower() + title[1:]))
    official = ("bpr", ROWS["bpr"].title) if "bpr" in chosen else ("choice", "Expert choice")
    kinds, titles = zip(*(flags or [official]), *others, strict=True)
    return "-".join(kinds), ", ".join(titles)


def _room_for_samples(engine: Engine, points: int, settings: Sequence[Profile | None], wanted: int) -> int:
    """Return the number of samples that fit on the page, at most `wanted`.

    Each sample needs space for its picture and, for each setting in `settings`, space for its result and its patches.
    The rest of the page also needs space, including the measurements of the report's `points` points.
    """
    manifest, layout = engine.manifest, TokenLayout.of(engine.manifest)
    layers = len(manifest.moe_layers)
    left = MOST_BYTES - _EMPTY_PAGE - points * _POINT - len(settings) * layers * _LAYER
    if left < 0:
        raise click.UsageError(
            f"a page of {points:,} settings would be larger than {MOST_BYTES / 1e6:g} MB: measure fewer capacity ratios or "
            "curves"
        )
    patches = 0 if layout is None else layout.rows * layout.columns
    numbers = sum(2 if profile and profile.merge else 1 for profile in settings)  # experts, and tokens
    sample = _PICTURE + len(settings) * _ANSWER + numbers * layers * patches * patch_bytes(engine) * 4 // 3
    return min(wanted, left // sample)
