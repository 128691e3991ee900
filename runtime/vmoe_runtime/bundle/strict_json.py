"""A strict JSON reader for manifests. It refuses every text that another parser might read differently or refuse."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

MAX_JSON_DEPTH = 64
"""Maximum depth of nested lists and objects; a manifest has 5 levels."""


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, or contains one of the following; the message says which.
            - an encoding other than UTF-8, or a byte order mark
            - a key that occurs twice in an object
            - NaN, Infinity or a number too large for a double
            - an escape for one half of a surrogate pair without the other half
            - more than MAX_JSON_DEPTH levels
    """
    try:
        value = json.loads(
            text.decode(),  # json.loads would also accept UTF-16 and lone surrogates
            object_pairs_hook=_object,
            parse_int=lambda digits: int(digits) if _float(digits) else 0,
            parse_float=_float,
            parse_constant=_float,
        )
        if _depth(value) > MAX_JSON_DEPTH:
            raise RecursionError
    except RecursionError:
        raise ValueError("nested too deeply") from None
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r:.60} stands there twice")
    return content


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits:.40} is not a number that a double has room for")
    return value


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
