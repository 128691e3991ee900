"""What a report measures: the loaded bundles, their curves, and the points that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from vmoe_runtime import Engine
from vmoe_runtime.backends import Parallelism
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing_kinds import SoftRules
from vmoe_tools.bench.loading import MeasuredEngine, load_engines
from vmoe_tools.bench.points import Point, named_profiles, plan_points
from vmoe_tools.report.arguments import Arguments
from vmoe_tools.report.contents import CurveContents
from vmoe_tools.report.curves import Curve, plan_curves


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        engines: of the bundles, in the order of the command line.
        points: all settings.
        curves: of all bundles, those of the first one first.
        ratios: capacity ratios of the first curve, rising.
        others: places of the points that are on no curve.
        notes: about ratios that round to the same places.
    """

    engines: tuple[MeasuredEngine, ...]
    points: tuple[Point, ...]
    curves: tuple[CurveContents, ...]
    ratios: tuple[float, ...]
    others: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def own(self) -> list[int]:
        """Places of the settings on the first bundle's curves."""
        return [place for curve in self.curves if curve.bundle == self.engines[0].bundle for place in curve.points]


def make_plan(arguments: Arguments, closing: ExitStack) -> Plan:
    """Loads the bundles and plans their settings.

    Args:
        arguments: what was asked for.
        closing: what closes the engines.

    Raises:
        UsageError: the bundles are not of one model, or can't be run with one of the settings.
        VmoeError: a bundle can't be loaded.
    """
    asked = () if arguments.profile is None else (arguments.profile,)
    parallelism = Parallelism(arguments.threads)
    engines = load_engines(arguments.bundles, arguments.compared, [arguments.backend], asked, parallelism, closing)
    curves: dict[int, list[Curve]] = {}
    notes: dict[str, None] = {}

    def profiles_of(engine: Engine) -> Sequence[Profile | None]:
        compared = any(loaded.engine is engine and loaded.compared for loaded in engines)
        base = named_profiles(engine, () if compared else asked)[0]
        rules = engine.manifest.rules
        if compared and (rules is None or isinstance(rules, SoftRules)):
            return [None]
        found, said = plan_curves(rules, base, arguments.ratios, arguments.curves)
        curves[id(engine)] = found
        notes.update(dict.fromkeys(said))
        return [profile for curve in found for profile in curve.profiles]

    sizes = () if arguments.batch_size is None else (arguments.batch_size,)
    points = plan_points(engines, profiles_of, sizes)
    places = [
        (loaded, curve, [place for place, point in enumerate(points) if _is_on(point, loaded, curve)])
        for loaded in engines
        for curve in curves.get(id(loaded.engine), ())
    ]
    first = next(own for _, _, own in places if own)
    ratios = tuple(ratio for place in first if (ratio := _ratio(points[place])) is not None)
    return Plan(
        tuple(engines),
        tuple(points),
        tuple(
            CurveContents(loaded.bundle, curve.kind, curve.title, tuple(own), tuple(_step(points[p], ratios) for p in own))
            for loaded, curve, own in places
            if own
        ),
        ratios,
        tuple(place for place, point in enumerate(points) if id(point.engine) not in curves),
        tuple(notes),
    )


def _is_on(point: Point, loaded: MeasuredEngine, curve: Curve) -> bool:
    return point.loaded is loaded and point.profile in curve.profiles


def _ratio(point: Point) -> float | None:
    return None if point.profile is None else point.profile.capacity_ratio


def _step(point: Point, ratios: Sequence[float]) -> int | None:
    ratio = _ratio(point)
    return ratios.index(ratio) if ratio in ratios else None
