"""JSON as a manifest may be written: what other parsers would read otherwise, or not at all, is refused."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64
"""Lists and objects inside each other; a manifest has 5."""


def parse_json(text: bytes) -> Any:
    """The value of a JSON text.

    Refused beside what is no JSON: other encodings than UTF-8 and a byte order mark; a key that an object has twice; NaN,
    Infinity and numbers that a double has no room for; escapes that are half a character; more than MAX_DEPTH levels.

    Raises:
        ValueError: with what is wrong, in a few words.
    """
    try:
        value = json.loads(
            text.decode(),  # json.loads would take UTF-16 and lone surrogates, too
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_float,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(value, 0)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.60} stands there twice")
    return content


def _integer(digits: str) -> int:
    _float(digits)
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.40} is not a number that a double has room for")
    return value


def _check(value: Any, depth: int) -> None:
    if isinstance(value, str):
        value.encode()  # half a character raises UnicodeEncodeError, a ValueError
    elif isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(value, dict):
            for key in value:
                key.encode()
            value = value.values()
        for item in value:
            _check(item, depth + 1)
