"""Colours of experts that people with any colour vision tell apart as far as their number allows."""

from __future__ import annotations

import colorsys

# The palette of Okabe and Ito without black, and a wine red; none is grey, which stands for dropped patches.
_PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#882255")
FEW = len(_PALETTE)
"""So many experts have colours that are safe on their own."""

_LIGHTNESS = (0.45, 0.75, 0.6)


def expert_colours(count: int) -> list[str]:
    """Colours as #rrggbb, one for each of `count` experts.

    Up to `FEW` are safe. More are spread over hues and three lightnesses, where neighbours differ in both; numbers in the
    patches tell them apart for sure.
    """
    if count <= FEW:
        return list(_PALETTE[:count])
    colours = []
    for index in range(count):
        red, green, blue = colorsys.hls_to_rgb((index * 0.381966) % 1, _LIGHTNESS[index % len(_LIGHTNESS)], 0.75)
        colours.append(f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}")
    return colours
