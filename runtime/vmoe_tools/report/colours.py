"""Colours of heat maps, and the ink that can be read on a colour."""

from __future__ import annotations

_COLD, _HOT = (0xF4, 0xF7, 0xFA), (0x0B, 0x4F, 0x8A)
_BLACK, _WHITE = "#000000", "#ffffff"


def heat_colour(share: float) -> str:
    """The colour of a share from 0, light, to 1, deep blue.

    Example:
        >>> heat_colour(0), heat_colour(1)
        ('#f4f7fa', '#0b4f8a')
    """
    share = min(max(share, 0.0), 1.0)
    return _hex(tuple(round(cold + (hot - cold) * share) for cold, hot in zip(_COLD, _HOT, strict=True)))


def text_on(colour: str) -> str:
    """The ink that stands out more on a colour, black or white."""
    return _BLACK if contrast(_BLACK, colour) >= contrast(_WHITE, colour) else _WHITE


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG, 1 to 21.

    Example:
        >>> round(contrast("#000000", "#ffffff"))
        21
    """
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = (part / 255 for part in bytes.fromhex(colour[1:]))
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _hex(parts: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in parts)
