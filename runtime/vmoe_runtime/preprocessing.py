"""The official preprocessing steps: how a picture of any size becomes an image of the model's size.

A picture is decoded to 8 bits per channel before the steps and scaled to [-1, 1] after them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vmoe_runtime.errors import ImageError

StepName = Literal["resize_small", "central_crop", "resize"]

MAX_STEPS = 4
MAX_SIDE = 65_536
# Positions are float32, as in the official code; beyond, neighbours would fall on the same one.
MAX_RESIZED_SIDE = 1 << 23

_STEP = re.compile(r"(resize_small|central_crop|resize)\(([1-9][0-9]{0,4})(?:,([1-9][0-9]{0,4}))?\)")
_KNOWN = "resize_small(N), central_crop(N) and resize(N), such as resize_small(256)|central_crop(224)"


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels inside a larger one."""

    top: int
    left: int
    height: int
    width: int

    def center(self, height: int, width: int) -> Window:
        """The rectangle of that size in the middle, rounded towards the top left."""
        return Window(self.top + (self.height - height) // 2, self.left + (self.width - width) // 2, height, width)


@dataclass(frozen=True)
class Step:
    """One step: `height` and `width` in pixels; `resize_small` has the short side in both."""

    name: StepName
    height: int
    width: int

    def __str__(self) -> str:
        size = f"{self.height}" if self.height == self.width else f"{self.height},{self.width}"
        return f"{self.name}({size})"


@dataclass(frozen=True)
class Geometry:
    """What the steps do to a picture of one size.

    Attributes:
        source: what is used of the picture.
        method: how it is resized; None for not at all.
        height, width: what it is resized to.
        target: what is kept of that.
    """

    source: Window
    method: Literal["area", "bilinear"] | None
    height: int
    width: int
    target: Window


@dataclass(frozen=True)
class Preprocessing:
    """Checked steps; `str` gives them in the form that a manifest holds.

    Examples:
        >>> str(read_steps("resize_small(256)|central_crop(224,224)"))
        'resize_small(256)|central_crop(224)'
    """

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.steps))

    def check_size(self, height: int, width: int) -> None:
        """Makes sure that the steps end in images of the model's size, whatever they are given.

        Raises:
            ValueError: in one sentence.
        """
        size: tuple[int, int] | None = None  # where it is the same for every picture
        least: tuple[int, int] | None = None  # what every picture has at this point
        for step in self.steps:
            if step.name == "resize_small":
                size = size and _resized_small(*size, step.height)
                least = size or (step.height, step.height)
                continue
            if step.name == "central_crop" and least and (step.height > least[0] or step.width > least[1]):
                raise ValueError(f"{step} takes more pixels than the steps before it leave")
            size = least = (step.height, step.width)
        if size != (height, width):
            made = "pictures of several sizes" if size is None else f"pictures of {size[0]}x{size[1]} pixels"
            raise ValueError(f"the steps {self} give {made}, and the model takes {height}x{width}")

    def geometry(self, height: int, width: int, name: str) -> Geometry:
        """What the steps do to a picture of height x width pixels; `name` is what a sentence calls it.

        Raises:
            ImageError: the picture is empty, too small to be cropped, or too long and narrow to be resized.
        """
        if height < 1 or width < 1:
            raise ImageError(f"{name} has no pixels: it is {height}x{width}")
        source = target = Window(0, 0, height, width)
        method: Literal["area", "bilinear"] | None = None
        resized = (height, width)
        for step in self.steps:
            if step.name == "central_crop":
                if step.height > target.height or step.width > target.width:
                    raise ImageError(f"{name} is too small for {step}: it has {target.height}x{target.width} pixels there")
                target = target.center(step.height, step.width)
                continue
            source = target
            if step.name == "resize":
                method, resized = "bilinear", (step.height, step.width)
            else:
                method, resized = "area", _resized_small(source.height, source.width, step.height)
            if max(resized) > MAX_RESIZED_SIDE:
                raise ImageError(
                    f"{name} is too long and narrow: {step} makes {resized[0]}x{resized[1]} pixels of its {height}x{width}; "
                    "crop it first"
                )
            target = Window(0, 0, *resized)
        if method is None:
            source = Window(0, 0, height, width)
        return Geometry(source, method, *resized, target)


def squash(height: int, width: int) -> Preprocessing:
    """The official `resize(PX)`: the whole picture, whatever its shape."""
    return Preprocessing((Step("resize", height, width),))


def read_steps(text: str) -> Preprocessing:
    """Reads steps in the form that a manifest holds.

    Raises:
        ValueError: in one sentence.
    """
    parts = text.split("|", MAX_STEPS)
    if len(parts) > MAX_STEPS:
        raise ValueError(f"there are more than {MAX_STEPS} steps")
    steps = tuple(map(_read_step, parts))
    if sum(step.name != "central_crop" for step in steps) > 1:
        raise ValueError("only one step may resize")
    return Preprocessing(steps)


def _read_step(text: str) -> Step:
    match = _STEP.fullmatch(text)
    if not match or (match[1] == "resize_small" and match[3]):
        raise ValueError(f"{text!r:.40} is not a step; the steps are {_KNOWN}")
    height, width = int(match[2]), int(match[3] or match[2])
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"{text} is out of range: a side has at most {MAX_SIDE} pixels")
    name: StepName = match[1]  # type: ignore[assignment]
    return Step(name, height, width)


def _resized_small(height: int, width: int, small: int) -> tuple[int, int]:
    # Each operation is rounded to float32, as in the official code.
    ratio = np.float32(small) / np.float32(min(height, width))
    return int(np.rint(np.float32(height) * ratio)), int(np.rint(np.float32(width) * ratio))
