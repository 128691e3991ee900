"""The setting that a request to a server asks for, by its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmoe_runtime.errors import RoutingError, shown
from vmoe_runtime.profiles import Setting
from vmoe_tools.command_line import is_whole_number


def request_setting(parameters: Mapping[str, object]) -> Setting:
    """Reads the parameters of a request.

    Args:
        parameters: by name: `profile` (a text), `capacity` (a number), `k` and `max_experts` (whole numbers), `bpr` and
            `pool` (true or false). Numbers and truth values may be texts, too, as not every client sends all types.

    Raises:
        RoutingError: a parameter of another name, or a value of another type.

    Example:
        >>> request_setting({"capacity": "0.5", "k": 2, "bpr": False})
        Setting(profile=None, capacity=0.5, k=2, bpr=False, pool=None, max_experts=None)
    """
    if unknown := sorted(parameters.keys() - _READERS.keys()):
        raise RoutingError(f"there is no request parameter {shown(unknown[0])}; there are {', '.join(_READERS)}")
    return Setting(**{name: _READERS[name](name, value) for name, value in parameters.items()})  # type: ignore[arg-type]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refused(name, value, "a text")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise _refused(name, value, "a number")


def _whole(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and is_whole_number(value):
        return int(value)
    raise _refused(name, value, "a whole number")


def _truth(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise _refused(name, value, "true or false")


def _refused(name: str, value: object, kind: str) -> RoutingError:
    return RoutingError(f"the request parameter {name} is {kind}, not {shown(value)}")


_READERS: Mapping[str, Callable[[str, object], object]] = {
    "profile": _text,
    "capacity": _number,
    "k": _whole,
    "bpr": _truth,
    "pool": _truth,
    "max_experts": _whole,
}
