"""Answers of an HTTP service, compared with what `vmoe_serve.endpoints` declares of them."""

from __future__ import annotations

from typing import Any

from vmoe_serve.endpoints import ANSWERS

_TYPES = {"text": str, "whole": int, "number": int | float, "flag": bool, "any": object}


def assert_declared(answer: Any, kind: str) -> None:
    """Every field of an answer has the type that is declared for it; one that has nothing to say may be null."""
    if kind.endswith("[]"):
        for item in answer:
            assert_declared(item, kind.removesuffix("[]"))
    elif kind in ANSWERS:
        assert answer, f"an answer of kind {kind} has no fields"
        for name, value in answer.items():
            assert_declared(value, ANSWERS[kind][name])
    else:
        is_one = isinstance(answer, _TYPES[kind]) and isinstance(answer, bool) <= (kind in ("flag", "any"))
        assert answer is None or is_one, f"{answer!r} is declared as {kind}"
