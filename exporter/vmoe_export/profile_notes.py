"""What a user might not expect of the profiles that were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vmoe_export.export_plan import ExportPlan
from vmoe_runtime.profiles import Profile

_MUCH = 0.1  # of the ratio that was asked for


def profile_notes(plan: ExportPlan) -> tuple[str, ...]:
    """One sentence for each thing: profiles that are the same, far from what was asked for, or dearer than a dense ViT."""
    return (*_same(plan.profiles), *_far(plan.profiles), *_dear(plan))


def _same(profiles: Sequence[Profile]) -> Iterator[str]:
    by_setting: dict[object, list[Profile]] = {}
    for profile in profiles:
        by_setting.setdefault((profile.slots, profile.k, profile.bpr, profile.pool, profile.max_experts), []).append(profile)
    for alike in by_setting.values():
        if len(alike) > 1:
            yield f"{_names(alike)} are the same: each gives an expert {_places(alike[0])} per group"


def _far(profiles: Sequence[Profile]) -> Iterator[str]:
    far = [p for p in profiles if abs(p.effective_ratio - p.capacity_ratio) > _MUCH * p.capacity_ratio]
    if far:
        told = ", ".join(f"{p.name} is {p.effective_ratio:.3g} with {_places(p)}" for p in far)
        yield f"places are whole, so an effective ratio is more than {_MUCH:.0%} off: {told}"


def _dear(plan: ExportPlan) -> Iterator[str]:
    dear = [profile for profile in plan.profiles if plan.flops(profile) > plan.dense_flops]
    if dear:
        verb = "costs" if len(dear) == 1 else "cost"
        yield f"{_names(dear)} {verb} more than the dense ViT of the same size"


def _names(profiles: Sequence[Profile]) -> str:
    *first, last = [profile.name for profile in profiles]
    return f"{', '.join(first)} and {last}" if first else last


def _places(profile: Profile) -> str:
    places = profile.slots[0]
    return f"{places} place{'s' if places > 1 else ''}"
