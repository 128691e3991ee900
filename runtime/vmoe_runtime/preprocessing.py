"""The preprocessing steps, which turn a picture of any size into an image of the model's size.

`resize_small`, `central_crop` and `resize` are the official steps of V-MoE. Further steps crop and resize like timm,
torchvision and transformers. Before the steps that crop and resize, `exif` turns a picture by its EXIF orientation, and
`background` fills transparent pixels. A picture is decoded to 8 bits per channel before all steps, and scaled to [-1, 1]
after them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vmoe_runtime.errors import ImageError

MAX_STEPS = 6
MAX_SIDE = 65_536
# Maximum length of a side after resizing. Pixel positions are float32, as in the official code. If a side were longer,
# neighbouring pixels would get the same position.
MAX_RESIZED_SIDE = 1 << 23
# Maximum memory that Pillow may use to resize a picture. The unit is a pixel of 4 bytes.
MAX_PILLOW_PIXELS = 1 << 24

_STEP_PATTERN = re.compile(
    r"((?:round_)?central_crop|(?:resize|pillow_bilinear|pillow_bicubic)(?:_small)?)"
    r"\(([1-9][0-9]{0,4})(?:,([1-9][0-9]{0,4}))?\)"
)
_BACKGROUND_PATTERN = re.compile(r"background\(([0-9]{1,3}),([0-9]{1,3}),([0-9]{1,3})\)")
ROTATION = "exif"
KNOWN_STEPS = (
    "resize_small(N), central_crop(N), resize(N), pillow_bilinear_small(N), pillow_bicubic_small(N), pillow_bilinear(N), "
    "pillow_bicubic(N), round_central_crop(N), and before them exif and background(R,G,B)"
)


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels inside a larger rectangle."""

    top: int
    left: int
    height: int
    width: int

    def center(self, height: int, width: int, *, to_even: bool) -> Window:
        """Return the centred rectangle of the size `height` x `width`.

        If an offset ends in a half, it is rounded to an even number if `to_even` is True, else towards the top left.
        """
        top, left = self.height - height, self.width - width
        if to_even:
            top, left = top + (top % 4 == 3), left + (left % 4 == 3)
        return Window(self.top + top // 2, self.left + left // 2, height, width)


@dataclass(frozen=True)
class Step:
    """One step, with `height` and `width` in pixels.

    If the step keeps the aspect ratio, `height` and `width` are both the length of the short side.
    """

    name: str
    height: int
    width: int

    @property
    def method(self) -> str | None:
        """The resizing method, or None for a crop; see `Geometry`."""
        if self.name.endswith("central_crop"):
            return None
        return {"resize_small": "area", "resize": "bilinear"}.get(self.name, self.name.removesuffix("_small"))

    @property
    def by_pillow(self) -> bool:
        """Whether the step uses Pillow's method to resize."""
        return self.name.startswith("pillow")

    @property
    def keeps_shape(self) -> bool:
        """Whether the step resizes the short side to a given length and keeps the aspect ratio."""
        return self.name.endswith("_small")

    def __str__(self) -> str:
        size = f"{self.height}" if self.height == self.width else f"{self.height},{self.width}"
        return f"{self.name}({size})"


@dataclass(frozen=True)
class Geometry:
    """The effect of the preprocessing steps on pictures of one size.

    Attributes:
        source: the part of the picture that is used.
        method: resizing method: "area", "bilinear", "pillow_bilinear" or "pillow_bicubic"; None if there is no resizing.
        height, width: the size after resizing.
        target: the part of the resized picture that is kept.
    """

    source: Window
    method: str | None
    height: int
    width: int
    target: Window


@dataclass(frozen=True)
class Preprocessing:
    """Checked preprocessing steps. `str` returns them in the format of a manifest.

    Attributes:
        steps: the steps that crop and resize.
        rotates: whether a picture is first turned by its EXIF orientation.
        background: red, green and blue behind transparent pixels, 0 to 255; None keeps the colours stored in these pixels.

    Examples:
        >>> str(read_steps("exif|resize_small(256)|central_crop(224,224)"))
        'exif|resize_small(256)|central_crop(224)'
    """

    steps: tuple[Step, ...]
    rotates: bool = False
    background: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        first = [ROTATION] if self.rotates else []
        if self.background:
            first.append(f"background({','.join(map(str, self.background))})")
        return "|".join([*first, *map(str, self.steps)])

    def check_size(self, height: int, width: int) -> None:
        """Check that the steps turn pictures of any size into images of the size `height` x `width`, the model's size.

        Raises:
            ValueError: the steps don't; the message gives the reason.
        """
        size: tuple[int, int] | None = None  # size at this point if all pictures have the same size here, else None
        least: tuple[int, int] | None = None  # smallest size that a picture can have at this point, or None if it is unknown
        for step in self.steps:
            if step.keeps_shape:
                size = size and _resized(step, *size)
                least = size or (step.height, step.height)
                continue
            if step.method is None and least and (step.height > least[0] or step.width > least[1]):
                raise ValueError(f"{step} takes more pixels than the steps before it leave")
            size = least = (step.height, step.width)
        if size != (height, width):
            made = "pictures of several sizes" if size is None else f"pictures of {size[0]}x{size[1]} pixels"
            raise ValueError(f"the steps {self} give {made}, and the model takes {height}x{width}")

    def geometry(self, height: int, width: int, name: str) -> Geometry:
        """Return the effect of the steps on a picture of height x width pixels.

        `name` is the picture's name in error messages.

        Raises:
            ImageError: the picture is empty, too small to be cropped, or too long and narrow to be resized.
        """
        if height < 1 or width < 1:
            raise ImageError(f"{name} has no pixels: it is {height}x{width}")
        source = target = Window(0, 0, height, width)
        method: str | None = None
        resized = (height, width)
        for step in self.steps:
            if step.method is None:
                if step.height > target.height or step.width > target.width:
                    raise ImageError(f"{name} is too small for {step}: it has {target.height}x{target.width} pixels there")
                target = target.center(step.height, step.width, to_even=step.name == "round_central_crop")
                continue
            source, method, resized = target, step.method, _resized(step, target.height, target.width)
            if max(resized) > MAX_RESIZED_SIDE or (step.by_pillow and _held(source, resized) > MAX_PILLOW_PIXELS):
                raise ImageError(
                    f"{name} is too long and narrow: {step} makes {resized[0]}x{resized[1]} pixels of its {height}x{width}; "
                    "crop it first"
                )
            target = Window(0, 0, *resized)
        if method is None:
            source = Window(0, 0, height, width)
        return Geometry(source, method, *resized, target)


def pillow_passes(source: Window, height: int, width: int) -> list[tuple[int, int]]:
    """Return the (height, width) after each of the two passes of Pillow's resize.

    The order of the passes matters, because each pass rounds to 8 bits. Normally the first pass is along rows. Since Pillow
    13, the first pass is down columns if resizing removes more than twice as many pixels from the height as from the width.
    """
    lost = source.height - height
    down_first = lost > 0 and lost > 2 * (source.width - width)
    return [(height, source.width) if down_first else (source.height, width), (height, width)]


def squash(height: int, width: int) -> Preprocessing:
    """Return the official step `resize(PX)`, which resizes the whole picture and ignores its aspect ratio."""
    return Preprocessing((Step("resize", height, width),))


def read_steps(text: str) -> Preprocessing:
    """Read the steps from a manifest's text.

    Raises:
        ValueError: the text is not a list of valid steps; the message is one sentence.
    """
    parts = text.split("|", MAX_STEPS)
    if len(parts) > MAX_STEPS:
        raise ValueError(f"there are more than {MAX_STEPS} steps")
    rotates = parts[0] == ROTATION
    del parts[:rotates]
    background = _BACKGROUND_PATTERN.fullmatch(parts[0]) if parts else None
    if background:
        del parts[0]
        if max(map(int, background.groups())) > 255:
            raise ValueError(f"{background[0]} is out of range: red, green and blue are 0 to 255")
    steps = tuple(map(_read_step, parts))
    if sum(step.method is not None for step in steps) > 1:
        raise ValueError("only one step may resize")
    red, green, blue = map(int, background.groups()) if background else (0, 0, 0)
    return Preprocessing(steps, rotates, (red, green, blue) if background else None)


def _read_step(text: str) -> Step:
    match = _STEP_PATTERN.fullmatch(text)
    if not match or (match[1].endswith("_small") and match[3]):
        raise ValueError(f"{text!r:.40} is not a step; the steps are {KNOWN_STEPS}")
    step = Step(match[1], int(match[2]), int(match[3] or match[2]))
    if max(step.height, step.width) > MAX_SIDE:
        raise ValueError(f"{text} is out of range: a side has at most {MAX_SIDE} pixels")
    return step


def _resized(step: Step, height: int, width: int) -> tuple[int, int]:
    if not step.keeps_shape:
        return step.height, step.width
    short = min(height, width)
    if step.by_pillow:
        return step.height * height // short, step.height * width // short
    # Round the result of each operation to float32, as in the official code.
    ratio = np.float32(step.height) / np.float32(short)
    return int(np.rint(np.float32(height) * ratio)), int(np.rint(np.float32(width) * ratio))


def _held(source: Window, resized: tuple[int, int]) -> int:
    """Return the memory that Pillow needs to resize a picture, in pixels.

    The memory holds the results of both passes, and Pillow's coefficients for the resizing.
    """
    return sum(height * width for height, width in pillow_passes(source, *resized)) + 8 * (source.height + source.width)
