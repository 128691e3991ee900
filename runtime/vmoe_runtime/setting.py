"""What a call asks for: a profile, and what to replace in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.profiles import SETTINGS

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


@dataclass(frozen=True)
class Setting:
    """A routing setting of one call, as `vmoe::Setting` is in C++. What is None is that of the profile.

    Attributes:
        profile: name of a stored profile, or any systematic name such as `c0.3-k1`; None for the engine's.
        capacity: capacity ratio, more than 0 and at most the number of experts.
        k: experts per token, 1 to the number of experts.
        bpr: True for Batch Priority Routing, False for vanilla order.
        pool: True makes the places of a group one pool: they go to the first pairs, whichever expert these are for.
        max_experts: experts that a group may use, those that its tokens' first choices are surest of; E is no limit.

    Example:
        >>> Setting("c0.3-k1", pool=True).changes
        {'pool': True}
    """

    profile: str | None = None
    capacity: float | None = None
    k: int | None = None
    bpr: bool | None = None
    pool: bool | None = None
    max_experts: int | None = None

    @property
    def changes(self) -> dict[str, object]:
        """What it says beside the profile, by name."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}

    @classmethod
    def of(cls, given: Self | str | None, fields: SettingFields) -> Self:
        """A setting from what methods take: a setting, the name of a profile or None, and fields to replace in it.

        Raises:
            RoutingError: it is given as something else.
            TypeError: there is no such field.
        """
        if given is None or isinstance(given, str):
            given = cls(given)
        elif not isinstance(given, cls):
            raise RoutingError(f"a setting is a Setting or the name of a profile, not {shown(given)}")
        return replace(given, **fields) if fields else given
