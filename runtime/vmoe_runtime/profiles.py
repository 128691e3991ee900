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

    SettingLike: TypeAlias = "Profile | Setting | str | None"


OFFICIAL_SETTINGS = ("capacity", "k", "bpr")
POLICIES = ("pool", "max_experts")
"""Left out, routing is the official one."""
SETTINGS = (*OFFICIAL_SETTINGS, *POLICIES)
"""What a call of top-K routing sets, in the order of the graph's inputs."""

_RATIO = r"c(?P<ratio>[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)"
_TOP_K = re.compile(_RATIO + r"-k(?P<k>[0-9]{1,6})(?P<vanilla>-vanilla)?(?P<pool>-pool)?(?:-m(?P<most>[0-9]{1,6}))?")
_EXPERTS_CHOICE = re.compile(_RATIO)


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
        name: such as `c0.3-k1` (Batch Priority Routing), `c0.3-k1-vanilla`, `c0.2-k1-pool-m4`, or `c1.0` (experts choice).
        capacity_ratio: C as it was requested.
        k: experts per token.
        bpr: True for Batch Priority Routing, False for vanilla order.
        slots: of an expert in a group, one integer per MoE layer.
        effective_ratio: C after rounding to whole slots: c * E / (S * K), the mean over the MoE layers.
        pool: True where the slots of a group are one pool for all of its experts.
        max_experts: experts that a group may use; E is no limit.
        rules: of the model that it was made for.
    """

    name: str
    capacity_ratio: float
    k: int | None
    bpr: bool | None
    slots: tuple[int, ...]
    effective_ratio: float
    pool: bool | None = None
    max_experts: int | None = None
    rules: object = field(default=None, compare=False, repr=False)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
        """The graph inputs that select this setting: `capacity` i64[MoE layers], and i64[1] each of `k`, `bpr`, `pool` and
        `max_experts` that are not None.
        """
        # Most calls have the profile of the call before, and making these takes 2 % of a small model's call.
        values = {name: getattr(self, name) for name in SETTINGS[1:]}
        inputs = {"capacity": np.array(self.slots, np.int64)}
        return inputs | {name: np.array([value], np.int64) for name, value in values.items() if value is not None}

    def entry(self) -> dict[str, Any]:
        """The fields by their names in a manifest, where the slots are called `capacity`, as the graph input is."""
        names = ("name", "capacity_ratio", "k", "bpr", "slots", "effective_ratio", "pool", "max_experts")
        return {"capacity" if name == "slots" else name: getattr(self, name) for name in names}


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
    capacity_ratio: float,
    k: int | None = None,
    bpr: bool | None = True,
    pool: bool | None = False,
    max_experts: int | None = None,
) -> str:
    """The systematic name of a setting: of top-K routing, or without k of experts choice; `max_experts` None for no limit.

    Examples:
        >>> profile_name(0.3, 1, True), profile_name(1.05, 2, False), profile_name(0.2, 1, True, True, 4)
        ('c0.3-k1', 'c1.05-k2-vanilla', 'c0.2-k1-pool-m4')
        >>> profile_name(1.0)
        'c1.0'
    """
    ratio = f"c{capacity_ratio!r}"
    if k is None:
        return ratio
    order = "" if bpr else "-vanilla"
    limit = "" if max_experts is None else f"-m{max_experts}"
    return f"{ratio}-k{k}".replace(".0-", "-") + order + ("-pool" if pool else "") + limit


def parse_profile_name(name: str) -> dict[str, Any] | None:
    """The arguments of the rules' `profile` that a systematic name stands for, or None if it is no such name.

    Examples:
        >>> parse_profile_name("c0.2-k1-pool-m4")
        {'capacity_ratio': 0.2, 'k': 1, 'bpr': True, 'pool': True, 'max_experts': 4}
        >>> parse_profile_name("c1.0")
        {'capacity_ratio': 1.0}
    """
    if match := _TOP_K.fullmatch(name):
        fields = {"capacity_ratio": float(match["ratio"]), "k": int(match["k"]), "bpr": match["vanilla"] is None}
        if match["pool"]:
            fields["pool"] = True
        if match["most"]:
            fields["max_experts"] = int(match["most"])
        return fields
    match = _EXPERTS_CHOICE.fullmatch(name)
    return {"capacity_ratio": float(match["ratio"])} if match else None
