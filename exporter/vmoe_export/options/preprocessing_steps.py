"""The preprocessing steps of a model: as an official config writes them, and what they are where nothing says so."""

from __future__ import annotations

from vmoe_runtime.preprocessing import Preprocessing, read_steps, squash

_ALWAYS = frozenset({"decode", "value_range(-1,1)"})
_OFFICIAL_SIDE = 224


def default_steps(height: int, width: int) -> Preprocessing:
    """What the official configs do to the images of a model of that size, which doesn't say what it was trained with."""
    if height == width == _OFFICIAL_SIDE:
        return read_steps("resize_small(256)|central_crop(224)")
    return squash(height, width)


def parse_steps(text: str) -> Preprocessing:
    """Reads steps as in an official config: with blanks, `decode` and `value_range(-1,1)`, or without.

    Pictures are always decoded before the steps and scaled after them, so these two are not kept.

    Raises:
        ValueError: in one sentence.

    Examples:
        >>> str(parse_steps("decode | resize_small(256) | central_crop(224) | value_range(-1, 1)"))
        'resize_small(256)|central_crop(224)'
    """
    parts = ["".join(part.split()) for part in text.split("|")]
    kept = [part for part in parts if part not in _ALWAYS]
    # In another order they would promise what doesn't happen.
    if "decode" in parts[1:] or "value_range(-1,1)" in parts[:-1]:
        raise ValueError("'decode' comes first and 'value_range(-1,1)' last")
    return read_steps("|".join(kept))
