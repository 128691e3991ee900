"""The table of results that `vmoe bench` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from vmoe_runtime.bundle.manifest import WEIGHTS_NAME
from vmoe_tools.bench.point_result import PointResult, comparison, near_chance, ratio_text, why
from vmoe_tools.engines import LoadedBundle
from vmoe_tools.program import printable
from vmoe_tools.terminal import number_text, print_section, share_text, table_of

_SPARE = ("p90 ms", "expert\nMB", "p99 ms", "95 % interval\nof p50", "kept\npairs", "backend", "images/s", "FLOPs\nratio")
_STAR = {True: " *", False: "  ", None: ""}


def interval_text(point: PointResult) -> str:
    """Format the confidence interval of the median call time, in milliseconds."""
    ends = point.p50_low_ms, point.p50_high_ms
    return "-" if None in ends else " - ".join(number_text(ms, ".3f") for ms in ends)


NUMBERS: Mapping[str, Callable[[PointResult], str]] = {
    "top-1": lambda point: share_text(point.top1) + _STAR[point.pareto],
    "images/s": lambda point: number_text(point.images_per_second, ".1f"),
    "p50 ms": lambda point: number_text(point.p50_ms, ".2f"),
    "95 % interval\nof p50": interval_text,
    "p90 ms": lambda point: number_text(point.p90_ms, ".2f"),
    "p99 ms": lambda point: number_text(point.p99_ms, ".2f"),
    "MFLOP": lambda point: number_text(point.flops_per_image, ",.1f", 1e-6),
    "kept\npairs": lambda point: share_text(point.kept_pairs),
    "expert\nMB": lambda point: number_text(point.expert_bytes_per_call, ",.2f", 1e-6),
}
"""The columns of numbers: by heading, a function that returns a point's cell. A star marks the Pareto front."""
_CLOSENESS: Mapping[str, Callable[[PointResult], str]] = {
    "same\nclass": lambda point: share_text(point.agreement),
    "cosine\nmean": lambda point: number_text(point.cosine_mean, ".5f"),
    "cosine\n5 %": lambda point: number_text(point.cosine_p5, ".5f"),
    "cosine\nleast": lambda point: number_text(point.cosine_least, ".5f"),
    "same\nneighbour": lambda point: share_text(point.same_neighbour),
}
_RATIOS: Mapping[str, Callable[[PointResult], str]] = {
    "speed\nratio": lambda point: ratio_text(point.speed_ratio),
    "FLOPs\nratio": lambda point: ratio_text(point.flops_ratio),
}


def numbers_of(points: Sequence[PointResult]) -> Mapping[str, Callable[[PointResult], str]]:
    """Return the columns of numbers: those in `NUMBERS`, and ratios and closeness if any point has them."""
    ratios = _RATIOS if any(point.compared for point in points) else {}
    return {**NUMBERS, **ratios, **(_CLOSENESS if any(point.cosine_mean for point in points) else {})}


def ratios_to(points: Sequence[PointResult]) -> str | None:
    """Return a sentence that specifies the model that the ratios refer to. Return None if no model is compared."""
    other = next((point for point in points if point.compared), None)
    return None if other is None else f"Ratios are relative to the speed and the FLOPs of {other.name}."


def print_results(points: Sequence[PointResult], engines: Sequence[LoadedBundle], stream: TextIO) -> None:
    """Print the loaded bundles, and a table with one line per point. Stars mark the points on the Pareto front."""
    columns: dict[str, Callable[[PointResult], str]] = {
        "bundle": lambda point: point.bundle,
        "profile": lambda point: (point.profile or "-") + (f", then {point.then}" if point.then else ""),
        "backend": lambda point: point.backend,
        "batch": lambda point: str(point.batch_size),
        "concurrent": lambda point: str(point.concurrency),
        **numbers_of(points),
        "escalated": lambda point: share_text(point.escalated),
    }
    for name in ("bundle", "backend", "batch", "concurrent", "escalated"):
        if len({columns[name](point) for point in points}) == 1:
            del columns[name]
    loaded = []
    for one in engines:
        size = one.engine.manifest.files[WEIGHTS_NAME].size
        memory = f", weights of {size / 1e6:,.1f} MB"
        memory += "" if one.resident_bytes is None else f", {one.resident_bytes / 1e6:,.0f} MB more in memory"
        loaded.append((one.name, f"{one.engine.backend_description}, loaded in {one.load_seconds:.2f} s{memory}"))
    images = " or ".join(f"{count:,}" for count in sorted({point.images for point in points}))
    first, notes = points[0], f"{images} image{'' if images == '1' else 's'}"
    if "batch" not in columns:
        notes += f", {first.batch_size} per call"
    if "concurrent" not in columns and first.concurrency > 1:
        notes += f", {first.concurrency} concurrent calls"
    if any(point.pareto for point in points):
        notes += ". * no other setting is as fast and as accurate"
    print_section(stream, "Loaded", loaded)
    table = table_of(points, columns, ("bundle", "profile", "backend"))
    told = filter(None, (notes, ratios_to(points), near_chance(points)))
    print_section(stream, "Measured", table, *told, spare=_SPARE)


def print_recommendation(points: Sequence[PointResult], equal: Sequence[int], stream: TextIO) -> None:
    """Print the recommended setting, which is the first of the equally fast settings."""
    point = points[equal[0]]
    print(
        f"Recommended: {printable(point.profile or point.bundle)}, top-1 {share_text(point.top1)}, "
        f"{number_text(point.images_per_second, '.1f')} images/s, {number_text(point.p50_ms, '.2f')} ms a call "
        f"({interval_text(point)})\n{why(points, equal)}",
        *filter(None, [printable(comparison(point, points, share_text))]),
        sep="\n",
        file=stream,
    )
