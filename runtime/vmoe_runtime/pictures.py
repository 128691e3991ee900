"""Opens pictures - PIL images, files, encoded bytes - and reads their pixels piece by piece."""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from vmoe_runtime.errors import ImageError
from vmoe_runtime.preprocessing import Window
from vmoe_runtime.resampling import PIECE

if TYPE_CHECKING:
    from PIL.Image import Image

Array = np.ndarray[Any, np.dtype[Any]]

# Pillow knows more, and some of those run other programs or need far more memory than their pixels.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Pillow keeps a pointer for each row, which would be most of a picture that is one pixel wide.
_MOST_ROWS = 1 << 22

_MODES = {1: "L", 3: "RGB"}
_filters = threading.Lock()


class PicturePixels:
    """The pixels of a PIL image as `vmoe_runtime.resampling.Pixels`: uint8, grey for one channel and RGB for three.

    The conversion is done piece by piece, too: a converted copy would be as large as the picture.
    """

    def __init__(self, image: Image, channels: int) -> None:
        self._image = image
        self.channels = channels

    def read(self, window: Window) -> Array:
        """See Pixels."""
        box = (window.left, window.top, window.left + window.width, window.top + window.height)
        piece = self._image.crop(box)
        # Pillow warns of a transparency that it can't keep, and what is seen through it is not asked for.
        piece.info.pop("transparency", None)
        return np.asarray(piece.convert(_MODES[self.channels])).reshape(window.height, window.width, self.channels)

    def pick(self, rows: Array, columns: Array) -> Array:
        """See Pixels."""
        picked = np.empty((len(rows), len(columns), self.channels), np.uint8)
        start, stop = int(columns[0]), int(columns[-1]) + 1
        most = max(1, PIECE // (stop - start))
        for first, last in _runs(rows, most):
            for left in range(start, stop, PIECE):
                right = min(left + PIECE, stop)
                some = slice(*np.searchsorted(columns, [left, right]))
                if some.start < some.stop:
                    piece = self.read(Window(int(rows[first]), left, last - first, right - left))
                    picked[first:last, some] = piece[:, columns[some] - left]
        return picked


def check_takes_pictures(channels: int) -> None:
    """Checks that pictures can be decoded here for a model of so many channels.

    Raises:
        ImageError: Pillow is missing, or the model takes something else than grey or colours.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ImageError("PIL images, files and their bytes need pillow: pip install 'vmoe-export[images]'") from None
    if channels not in _MODES:
        raise ImageError(f"the model takes {channels} channels, so images must be arrays")


@contextmanager
def opened(picture: Any, channels: int) -> Iterator[tuple[Image, str]]:
    """A decoded PIL image of 8 bits per channel, and what to call it in a sentence.

    Args:
        picture: a PIL image, a path, the bytes of a file, or a binary file object.
        channels: of the model.

    Raises:
        ImageError: it can't be opened, is no picture, or has more pixels or bits than are taken. Where the operating system
            has refused to open or read a file, its cause is an OSError with a number.
        MemoryError: there is not enough for its pixels.
    """
    check_takes_pictures(channels)
    from PIL import Image

    if isinstance(picture, Image.Image):
        _check_bits(picture, "the image")
        _check_rows(picture, "the image")
        _decode(picture, "the image")
        _check_colours(picture, channels, "the image")
        yield picture, "the image"
        return
    name = "the image"
    file: BinaryIO
    if isinstance(picture, str | os.PathLike):
        name = path_text(picture)
        try:
            file = open_regular(picture)
        except ImageError:
            raise
        except (OSError, ValueError) as error:
            raise _unreadable(name, error) from error
    elif isinstance(picture, bytes | bytearray | memoryview):
        file = io.BytesIO(picture)
    else:
        file = picture
    try:
        with _open(file, name) as image:
            _check_bits(image, name)
            _check_rows(image, name)
            _decode(image, name)
            _check_colours(image, channels, name)
            yield image, name
    finally:
        if file is not picture:
            file.close()


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file for reading; others may have no end, or wait for somebody to write.

    Raises:
        OSError, ValueError: it can't be opened.
        ImageError: it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb") if stat.S_ISREG(mode := os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise ImageError(f"{path_text(path)} is {kind}, and images are read from plain files")
    return file


def path_text(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed, whatever bytes it has."""
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()


def _open(file: BinaryIO, name: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow's warning about large pictures comes before their size can be asked for.
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down, "
            "or set PIL.Image.MAX_IMAGE_PIXELS if such pictures are wanted"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a readable image (none of {', '.join(FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes a decoder fail in any way
        raise _unreadable(name, error) from error


def _decode(image: Image, name: str) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> ImageError:
    # A path that can't be printed would stand in an OSError's text, too.
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return ImageError(f"{name} is not a readable image ({' '.join(reason.split())})")


def _check_rows(image: Image, name: str) -> None:
    if image.height > _MOST_ROWS:
        raise ImageError(f"{name} has {image.height:,} rows, more than {_MOST_ROWS:,}; crop it first")


def _check_colours(image: Image, channels: int, name: str) -> None:
    try:
        PicturePixels(image, channels).read(Window(0, 0, 1, 1))
    except ValueError:
        raise ImageError(
            f"{name} has colours (mode {image.mode}) that don't become {_MODES[channels]}; convert it first"
        ) from None


def _check_bits(image: Image, name: str) -> None:
    if image.mode.startswith(("I", "F")):
        # Pillow would cut such pixels off at 255 instead of scaling them.
        raise ImageError(f"{name} has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")


def _runs(rows: Array, most: int) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) index of neighbouring rows, `most` of them at the most."""
    first = 0
    for last in range(1, len(rows) + 1):
        if last == len(rows) or rows[last] != rows[last - 1] + 1 or last - first == most:
            yield first, last
            first = last
