"""The settings of a call. Each setting is declared once, in a `SettingRow` that belongs to a field of `Setting`.

Everything that lists settings is derived from these rows:

- profiles and their names
- manifest entries and their checks
- graph inputs
- command options
- table columns
- controls on web pages
- the structs of the C and C++ API (`tools/cpp_headers.py`)

A row does not declare the effect of a setting. A kernel, a graph or a rule of a routing kind implements the effect.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, Self, TypedDict

from vmoe_runtime.errors import RoutingError, VmoeError, shown
from vmoe_runtime.routing_kinds import SETTING_KINDS, SettingKind

SettingValue = float | int | bool

MAX_MERGE = 65_536
"""The largest `merge`; a block merges at most half of its tokens anyway."""

EXPERT_LIMIT = 65_536
"""Maximum number of experts of a MoE layer."""

_NO_MOST = 2**63 - 1
_TOP_K: tuple[SettingKind, ...] = ("top-k", "ensemble")
_RATIO = r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?"
_WHOLE = "[0-9]{1,6}"


@dataclass(frozen=True)
class SettingRow:
    """The declaration of a setting.

    Attributes:
        place: position of the setting in graph inputs, profile names and tables, counted from 0.
        type: type of the value: a capacity ratio, a whole number, or a flag (true or false).
        kinds: the routing kinds that have the setting.
        suffix: the letters before the value in profile names, such as `k` in `c0.3-k1`. For a flag, a word such as
            `vanilla`, which a name contains only if the flag differs from its default.
        title: description of the setting in controls and in the help of options. For a flag, it describes True.
        label: format of the value in legends and columns, such as `K={:g}`. For a flag, the label of True.
        off_title, off_label: for a flag, the title and the label of False.
        metavar: placeholder for the option's value in help texts; empty for a flag.
        default: value of the setting in a profile that doesn't contain the setting; None if every profile must contain it.
        range: the smallest and the largest allowed value of a whole number; None if the limits depend on the model.
        routing: how routing ops use the setting. "official": they need it. "policy": they accept it as an addition to
            official routing. Empty: they don't accept it.
        merging: whether a model has the setting only if its blocks can merge tokens.
        stored: key in manifests and results, and name of the field in the C API. Default: `name`.
        name: name of the field, the keyword argument, the graph input and the request parameter.
    """

    place: int
    type: Literal["ratio", "whole", "flag"]
    kinds: tuple[SettingKind, ...]
    suffix: str
    title: str
    label: str
    off_title: str = ""
    off_label: str = ""
    metavar: str = ""
    default: SettingValue | None = None
    range: tuple[int, int] | None = None
    routing: Literal["official", "policy", ""] = ""
    merging: bool = False
    stored: str = ""
    name: str = ""

    @property
    def word(self) -> str:
        """The setting's name in command line options, such as `max-experts`."""
        return self.name.replace("_", "-")

    def check(self, value: Any) -> SettingValue:
        """Check a user's value, and return it as the setting's type.

        Raises:
            RoutingError: the value has another type or is out of range.
        """
        if self.type == "ratio":
            return _number(self.name, value)
        if self.type == "flag":
            return checked_flag(self.name, value)
        if (number := as_whole(value)) is None:
            raise RoutingError(f"{self.name} must be a whole number, not {shown(value)}")
        if self.range is not None and not self.range[0] <= number <= self.range[1]:
            raise RoutingError(f"{self.name} must be {_range_text(*self.range)}, not {shown(number)}")
        return number

    def as_option(self, value: SettingValue) -> str:
        """Return the command line option that sets a value, such as `--k 2` or `--no-bpr`."""
        if self.type == "flag":
            return f"--{'' if value else 'no-'}{self.word}"
        return f"--{self.word} {value!r}"

    def text(self, value: SettingValue) -> str:
        """Return a value in the form that legends show, such as `K=2`, `4 experts` or `vanilla`."""
        if self.type == "flag":
            return self.label if value else self.off_label
        return self.label.format(value)


def _declared(**row: Any) -> Any:
    return field(default=None, kw_only=True, metadata={"row": SettingRow(**row)})


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The settings of a call, except capacity ratio and k. An export stores these settings in all profiles.

    If a field is None, the profile's value is used.

    Attributes:
        bpr: True for Batch Priority Routing, False for vanilla order.
        pool: True combines all slots of a group into one pool. The first (token, expert) pairs get the slots of the pool,
            whichever experts they are for.
        max_experts: maximum number of experts that a group uses. For each expert, the gates of the tokens that choose it
            first are added up. The group uses the experts with the largest sums. E means no limit.
        merge: number of tokens that each encoder block merges per image. The similarity of the tokens' keys decides which
            tokens are merged (ToMe). 0 merges none.
    """

    bpr: bool | None = _declared(
        place=2,
        type="flag",
        routing="official",
        kinds=_TOP_K,
        suffix="vanilla",
        title="Batch Priority Routing",
        label="BPR",
        off_title="Vanilla order",
        off_label="vanilla",
        default=True,
    )
    pool: bool | None = _declared(
        place=3,
        type="flag",
        routing="policy",
        kinds=("top-k",),
        suffix="pool",
        title="One pool of slots per group",
        label="pool",
        off_title="Separate slots for each expert",
        off_label="no pool",
        default=False,
    )
    max_experts: int | None = _declared(
        place=4,
        type="whole",
        routing="policy",
        kinds=("top-k",),
        suffix="m",
        title="Most experts per group",
        label="{} experts",
        metavar="M",
        default=EXPERT_LIMIT,
        range=(1, _NO_MOST),
    )
    merge: int | None = _declared(
        place=5,
        type="whole",
        kinds=("dense", "top-k", "experts-choice", "soft"),
        suffix="r",
        title="Tokens merged per block",
        label="merge {}",
        metavar="R",
        default=0,
        range=(0, MAX_MERGE),
        merging=True,
    )


@dataclass(frozen=True)
class Setting(Choices):
    """A routing setting for one call. `vmoe::Setting` is its equivalent in C++.

    If a field is None, the profile's value is used.

    Attributes:
        profile: name of a stored profile, or any systematic name such as `c0.3-k1`; None for the engine's profile.
        capacity: capacity ratio, more than 0 and at most the number of experts.
        k: experts per token, from 1 to the number of experts in the layer with the fewest experts.

    The other attributes are those of `Choices`: `bpr`, `pool`, `max_experts` and `merge`.

    Examples:
        >>> Setting("c0.3-k1", pool=True) == Setting(profile="c0.3-k1", pool=True)
        True
    """

    profile: str | None = None
    capacity: float | None = _declared(
        place=0,
        type="ratio",
        routing="official",
        kinds=("top-k", "ensemble", "experts-choice"),
        suffix="c",
        title="Capacity ratio",
        label="C={:g}",
        metavar="C",
        stored="capacity_ratio",
    )
    k: int | None = _declared(
        place=1,
        type="whole",
        routing="official",
        kinds=_TOP_K,
        suffix="k",
        title="Experts per token",
        label="K={}",
        metavar="K",
    )

    def __new__(cls, *_values: object, **fields: object) -> Self:
        """Refuse fields that don't exist.

        Raises:
            TypeError: a field doesn't exist; the message contains the most similar name of a field.
        """
        known = cls.__dataclass_fields__
        if unknown := next((name for name in fields if name not in known), None):
            names = ("profile", *SETTINGS)
            near = get_close_matches(unknown, names, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
            raise TypeError(f"a setting has no {shown(unknown)}; {meant}")
        return super().__new__(cls)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Setting:
        """Return the setting with the given values. The keys of `values` are setting names."""
        return Setting(**values)

    @cached_property
    def values(self) -> dict[str, SettingValue]:
        """The values that are not None, by setting name and in the order of `SETTINGS`."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


class ChoiceFields(TypedDict, total=False):
    """The fields of `Choices` as typed keyword arguments."""

    bpr: bool | None
    pool: bool | None
    max_experts: int | None
    merge: int | None


class SettingFields(ChoiceFields, total=False):
    """The fields of `Setting` as typed keyword arguments."""

    profile: str | None
    capacity: float | None
    k: int | None


def _rows() -> Iterator[SettingRow]:
    for declared in fields(Setting):
        if row := declared.metadata.get("row"):
            yield replace(row, name=declared.name, stored=row.stored or declared.name)


ROWS: Mapping[str, SettingRow] = {row.name: row for row in sorted(_rows(), key=lambda row: row.place)}
"""The rows of all settings by name, in the order of a graph's inputs."""

SETTINGS = tuple(ROWS)
"""The names of all settings."""

MERGE = "merge"
"""The one setting that needs no routing: the number of tokens that each encoder block merges."""

NEEDED = frozenset(name for name, row in ROWS.items() if row.default is None)
"""The settings without a default. If a routing kind has one of these, each of its profiles must give it."""

OFFICIAL_SETTINGS = tuple(name for name, row in ROWS.items() if row.routing == "official")
"""The settings that ops need to route."""

POLICIES = tuple(name for name, row in ROWS.items() if row.routing == "policy")
"""The settings that make ops route in another way than the official one."""

PROFILE_PATTERN = re.compile(
    "".join(
        f"(?P<{row.name}>-{row.suffix})?"
        if row.type == "flag"
        else f"(?:-{row.suffix}(?P<{row.name}>{_RATIO if row.type == 'ratio' else _WHOLE}))?"
        for row in ROWS.values()
    )
)
"""Matches a dash and a systematic name. Each setting has a group, which is its value, or the whole part for a flag."""

_READ: Mapping[str, Any] = {"ratio": float, "whole": int}


def profile_name(setting: Setting) -> str:
    """Return the systematic name of a setting. It has a part for each value that differs from its default.

    If `merge` is the only setting of a model, it is part of the name even if it is 0.

    Examples:
        >>> profile_name(Setting(capacity=0.3, k=1)), profile_name(Setting(capacity=1.05, k=2, bpr=False))
        ('c0.3-k1', 'c1.05-k2-vanilla')
        >>> profile_name(Setting(capacity=0.2, k=1, pool=True, max_experts=4)), profile_name(Setting(capacity=1.0))
        ('c0.2-k1-pool-m4', 'c1.0')
        >>> profile_name(Setting(capacity=0.3, k=1, merge=8)), profile_name(Setting(merge=0))
        ('c0.3-k1-r8', 'r0')
    """
    parts: list[str] = []
    for name, value in setting.values.items():
        row = ROWS[name]
        if value == row.default and parts:
            continue
        # If a name has no k, as in expert choice, its ratio keeps the decimal point. Without the point, the ratio would
        # look like a whole number.
        shortest = repr(value).removesuffix(".0") if setting.k is not None else repr(value)
        parts.append(row.suffix if row.type == "flag" else row.suffix + shortest)
    return "-".join(parts)


def parse_profile_name(name: str) -> Setting | None:
    """Return the setting that a systematic name describes. Only the values in the name are set.

    The result is None if the name is not systematic.

    Examples:
        >>> parse_profile_name("c0.2-k1-pool-m4-r8").values
        {'capacity': 0.2, 'k': 1, 'pool': True, 'max_experts': 4, 'merge': 8}
        >>> parse_profile_name("c1.0").values, parse_profile_name("r8").values, parse_profile_name("k1")
        ({'capacity': 1.0}, {'merge': 8}, None)
    """
    match = PROFILE_PATTERN.fullmatch(f"-{name}")
    if match is None:
        return None
    said = {name: text for name, text in match.groupdict().items() if text}
    of_kinds = (
        {needed for needed in NEEDED if kind in ROWS[needed].kinds}
        for kind in SETTING_KINDS
        if all(kind in ROWS[name].kinds for name in said)
    )
    if not any(needed <= said.keys() for needed in of_kinds):
        return None
    values: dict[str, Any] = {
        name: not ROWS[name].default if ROWS[name].type == "flag" else _READ[ROWS[name].type](text)
        for name, text in said.items()
    }
    return Setting.of(values)


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise RoutingError(f"{name} must be a number, not {shown(value)}") from None


def as_whole(value: Any) -> int | None:
    """Convert an integer of Python, numpy or another library to an int.

    Return None for a bool, and for anything that is not an integer.
    """
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def checked_flag(name: str, value: Any, error: type[VmoeError] = RoutingError) -> bool:
    """Convert a value that equals True or False, such as numpy's booleans, to a bool. Raise `error` for anything else."""
    try:
        if value in (True, False):
            return bool(value)
    except Exception:  # if `value` is an array of several values, each library raises its own error
        pass
    raise error(f"{name} must be True or False, not {shown(value)}")


def _range_text(least: int, most: int) -> str:
    return f"at least {least}" if most == _NO_MOST else f"between {least} and {most:,}"
