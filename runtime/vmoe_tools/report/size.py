"""What a page has room for: it is to be mailed, so it never is larger than 5 MB."""

from __future__ import annotations

from dataclasses import dataclass

from vmoe_tools.command_line import CommandError, UsageError
from vmoe_tools.inspect.statistics import BINS

MOST_BYTES = 5_000_000
"""Of a page."""

CLASS_BYTES = 2
"""Of the weight of a class and an expert."""

# Bytes, each somewhat more than it takes.
_EMPTY_PAGE = 150_000
_POINT = 4_000  # with its dots and rows
_EXPERT = 18  # its load and what it drops
_BIN = 16  # gates of kept and of dropped pairs
_PICTURE = 60_000
_ANSWER = 60
_NAME = 100
_SHARE_OF_SAMPLES = 0.6  # of what there is beside the numbers, at most


@dataclass(frozen=True)
class Room:
    """How many of what takes most there is room for.

    Attributes:
        samples: sample images with their patches at all settings, as far as they were asked for.
        classes: classes with their experts at all settings, in what the samples leave.
    """

    samples: int
    classes: int


def room_of(points: int, settings: int, layers: int, experts: int, patches: int, samples: int) -> Room:
    """What a page has room for beside the numbers of its settings.

    Args:
        points: settings of all bundles.
        settings: those among them that are shown in detail.
        layers: MoE layers.
        experts: of each of them.
        patches: of an image; 0 where they aren't shown.
        samples: images that were asked for.

    Raises:
        UsageError: there is no room for the numbers alone.

    Example:
        >>> room_of(points=8, settings=8, layers=24, experts=32, patches=196, samples=12)
        Room(samples=12, classes=201)
    """
    left = MOST_BYTES - _EMPTY_PAGE - points * _POINT - settings * layers * (experts * _EXPERT + BINS * _BIN)
    if left < 0:
        raise UsageError(
            f"the page of {points:,} settings would be larger than {MOST_BYTES / 1e6:g} MB: "
            "fewer ratios after --sweep, or fewer --curves, make it smaller"
        )
    sample = _PICTURE + settings * (_ANSWER + _base64(layers * patches * patch_bytes(experts)))
    of_class = _NAME + settings * _base64(layers * experts * CLASS_BYTES)
    shown = min(samples, int(left * _SHARE_OF_SAMPLES / sample))
    return Room(shown, int((left - shown * sample) / of_class))


def patch_bytes(experts: int) -> int:
    """Bytes of a number that tells so many experts from a dropped patch."""
    return 1 if experts < 255 else 2


def check_size(page: str) -> None:
    """Holds a page to its limit.

    Raises:
        CommandError: it is larger.
    """
    size = len(page.encode())
    if size > MOST_BYTES:
        raise CommandError(
            f"the page would be {size / 1e6:.1f} MB large, and {MOST_BYTES / 1e6:g} MB is the most: "
            "fewer --samples, --curves, bundles or ratios after --sweep make it smaller"
        )


def _base64(size: int) -> float:
    return size * 4 / 3
