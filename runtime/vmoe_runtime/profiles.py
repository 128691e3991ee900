"""Routing settings: what a call asks for (`Setting`), and what a model runs with (`Profile`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from vmoe_runtime.errors import shown

if TYPE_CHECKING:
    from typing import TypedDict

    class SettingFields(TypedDict, total=False):
        """The fields of a setting as keyword arguments."""

        profile: str | None
        capacity: float | None
        k: int | None
        bpr: bool | None
        pool: bool | None
        max_experts: int | None
        merge: int | None

    SettingLike: TypeAlias = "Profile | Setting | str | None"


OFFICIAL_SETTINGS = ("capacity", "k", "bpr")
POLICIES = ("pool", "max_experts")
"""Left out, routing is the official one."""
MERGE = "merge"
"""Tokens that each encoder block merges, which no routing kind is needed for; 0 where it is left out."""
SETTINGS = (*OFFICIAL_SETTINGS, *POLICIES, MERGE)
"""What a call of top-K routing sets, in the order of the graph's inputs."""

_RATIO = r"c(?P<ratio>[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"
_K = r"-k(?P<k>[0-9]{1,6})(?P<vanilla>-vanilla)?(?P<pool>-pool)?(?:-m(?P<most>[0-9]{1,6}))?"
_MERGED = r"r(?P<merge>[0-9]{1,6})"
_PROFILE_PATTERN = re.compile(f"{_RATIO}(?:{_K})?(?:-{_MERGED})?|{_MERGED.replace('merge', 'alone')}")


@dataclass(frozen=True)
class Setting:
    """A routing setting of one call, as `vmoe::Setting` is in C++. What is None is that of the profile.

    Attributes:
        profile: name of a stored profile, or any systematic name such as `c0.3-k1`; None for the engine's.
        capacity: capacity ratio, more than 0 and at most the number of experts.
        k: experts per token, 1 to the number of experts, of the layer with the fewest.
        bpr: True for Batch Priority Routing, False for vanilla order.
        pool: True makes the slots of a group one pool: they go to the first pairs, whichever expert these are for.
        max_experts: experts that a group may use, those with the largest gates of its tokens' first choices; E is no limit.
        merge: tokens of an image that each encoder block merges with those whose keys are likest (ToMe); 0 is none.

    Examples:
        >>> Setting("c0.3-k1", pool=True) == Setting(profile="c0.3-k1", pool=True)
        True
    """

    profile: str | None = None
    capacity: float | None = None
    k: int | None = None
    bpr: bool | None = None
    pool: bool | None = None
    max_experts: int | None = None
    merge: int | None = None

    def __new__(cls, *_values: object, **fields: object) -> Self:
        """Raises TypeError for a field that there is not, naming the nearest one."""
        known = cls.__dataclass_fields__
        if unknown := next((name for name in fields if name not in known), None):
            near = get_close_matches(unknown, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"a setting has no {shown(unknown)}; {meant}")
        return super().__new__(cls)


@dataclass(frozen=True)
class Profile:
    """A routing setting of one model, checked and with its slots. What a routing kind doesn't have is None.

    Attributes:
        name: such as `c0.3-k1` (Batch Priority Routing), `c0.3-k1-vanilla`, `c0.2-k1-pool-m4-r8`, `c1.0` (experts choice),
            or `r8` of a model that merges and has no capacity.
        capacity_ratio: C as it was requested.
        k: experts per token.
        bpr: True for Batch Priority Routing, False for vanilla order.
        slots: of an expert in a group, one integer per MoE layer.
        effective_ratio: C after rounding to whole slots: c * E / (S * K), the mean over the MoE layers.
        pool: True where the slots of a group are one pool for all of its experts.
        max_experts: experts that a group may use; E is no limit.
        merge: tokens that each encoder block merges; 0 is none.
        rules: of the model that it was made for.
    """

    name: str
    capacity_ratio: float | None
    k: int | None
    bpr: bool | None
    slots: tuple[int, ...]
    effective_ratio: float | None
    pool: bool | None = None
    max_experts: int | None = None
    merge: int | None = None
    rules: object = field(default=None, compare=False, repr=False)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """The graph inputs that select this setting: `capacity` i64[MoE layers] where there is one, and i64[1] each of `k`,
        `bpr`, `pool`, `max_experts` and `merge` that are not None.
        """
        # Most calls have the profile of the call before, and making these takes 2 % of a small model's call.
        values = {name: getattr(self, name) for name in SETTINGS[1:]}
        inputs = {"capacity": np.array(self.slots, np.int64)} if self.slots else {}
        return inputs | {name: np.array([value], np.int64) for name, value in values.items() if value is not None}

    def entry(self) -> dict[str, Any]:
        """The fields by their names in a manifest, where the slots are called `capacity`, as the graph input is."""
        names = ("name", "capacity_ratio", "k", "bpr", "slots", "effective_ratio", "pool", "max_experts", "merge")
        fields = {"capacity" if name == "slots" else name: getattr(self, name) for name in names}
        return fields | {"capacity": self.slots or None}


def by_layer(experts: Sequence[int]) -> str:
    """E of the MoE layers for people, of each in their order where they differ.

    Examples:
        >>> by_layer((8, 8)), by_layer((8, 5, 8))
        ('8', '8/5/8')
    """
    return "/".join(map(str, experts if len(set(experts)) > 1 else experts[:1]))


def slots_range(slots: Sequence[int]) -> str:
    """The slots of the MoE layers for people, from the fewest to the most.

    Examples:
        >>> slots_range((7, 7)), slots_range((7, 11, 9))
        ('7', '7-11')
    """
    return "-".join(map(str, sorted({min(slots), max(slots)})))


def profile_name(
    capacity_ratio: float | None,
    k: int | None = None,
    bpr: bool | None = True,
    pool: bool | None = False,
    max_experts: int | None = None,
    merge: int | None = None,
) -> str:
    """The systematic name of a setting: of top-K routing, without k of experts choice, without a ratio of other models.

    `max_experts` None is for no limit. A model that has nothing else to set says `merge` even where it is 0.

    Examples:
        >>> profile_name(0.3, 1, True), profile_name(1.05, 2, False), profile_name(0.2, 1, True, True, 4)
        ('c0.3-k1', 'c1.05-k2-vanilla', 'c0.2-k1-pool-m4')
        >>> profile_name(1.0), profile_name(0.3, 1, True, merge=8), profile_name(None, merge=0)
        ('c1.0', 'c0.3-k1-r8', 'r0')
    """
    if capacity_ratio is None:
        return f"r{merge}"
    merged = f"-r{merge}" if merge else ""
    ratio = f"c{capacity_ratio!r}"
    if k is None:
        return ratio + merged
    order = "" if bpr else "-vanilla"
    limit = "" if max_experts is None else f"-m{max_experts}"
    return f"{ratio}-k{k}".replace(".0-", "-") + order + ("-pool" if pool else "") + limit + merged


def parse_profile_name(name: str) -> dict[str, Any] | None:
    """The arguments of the rules' `profile` that a systematic name stands for, or None if it is no such name.

    Examples:
        >>> parse_profile_name("c0.2-k1-pool-m4-r8")
        {'capacity_ratio': 0.2, 'k': 1, 'bpr': True, 'pool': True, 'max_experts': 4, 'merge': 8}
        >>> parse_profile_name("c1.0"), parse_profile_name("r8")
        ({'capacity_ratio': 1.0}, {'merge': 8})
    """
    match = _PROFILE_PATTERN.fullmatch(name)
    if match is None:
        return None
    if match["alone"]:
        return {"merge": int(match["alone"])}
    fields: dict[str, Any] = {"capacity_ratio": float(match["ratio"])}
    if match["k"]:
        fields |= {"k": int(match["k"]), "bpr": match["vanilla"] is None}
    if match["pool"]:
        fields["pool"] = True
    return fields | {key: int(match[group]) for key, group in (("max_experts", "most"), ("merge", "merge")) if match[group]}
