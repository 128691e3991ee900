"""Read preprocessing steps in the notation of official configs, and provide the default steps for an image size."""

from __future__ import annotations

from vmoe_runtime.preprocessing import Preprocessing, read_steps, squash

_ALWAYS = frozenset({"decode", "value_range(-1,1)"})
_OFFICIAL_SIDE = 224


def default_steps(height: int, width: int) -> Preprocessing:
    """Return the official configs' steps for an image size.

    These steps are for models that do not state their own steps.
    """
    if height == width == _OFFICIAL_SIDE:
        return read_steps("resize_small(256)|central_crop(224)")
    return squash(height, width)


def parse_steps(text: str) -> Preprocessing:
    """Parse steps in the notation of official configs. Spaces, `decode` and `value_range(-1,1)` are optional.

    `decode` and `value_range(-1,1)` are dropped, because pictures are always decoded before the steps and scaled after them.

    Raises:
        ValueError: a step is unknown or out of order.

    Examples:
        >>> str(parse_steps("decode | resize_small(256) | central_crop(224) | value_range(-1, 1)"))
        'resize_small(256)|central_crop(224)'
    """
    parts = ["".join(part.split()) for part in text.split("|")]
    kept = [part for part in parts if part not in _ALWAYS]
    # In any other position, these two steps would describe preprocessing that does not happen.
    if "decode" in parts[1:] or "value_range(-1,1)" in parts[:-1]:
        raise ValueError("'decode' comes first and 'value_range(-1,1)' last")
    return read_steps("|".join(kept))
