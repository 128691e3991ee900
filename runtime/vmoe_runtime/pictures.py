"""Opens pictures: PIL images, files and encoded bytes."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from vmoe_runtime.errors import ImageError
from vmoe_runtime.forkable_lock import forkable_lock
from vmoe_runtime.picture_files import checked_picture
from vmoe_runtime.preprocessing import Preprocessing, Window
from vmoe_runtime.resampling import MODES, read_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

# The only formats that are accepted. Pillow can read more formats. But for some of them, it runs other programs or
# needs far more memory than the pixels take.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# Maximum number of rows. Pillow keeps a pointer for each row. For a picture that is one pixel wide, these pointers take
# more memory than the pixels.
_MOST_ROWS = 1 << 22
_MOST_FILE = 1 << 29  # maximum number of bytes read from a file; a longer file is refused because it is cut off
_MOST_PIXELS = 1 << 25  # maximum number of pixels; 16-bit channels halve it, because decoders need up to 8 bytes per pixel

_ORIENTATION = 0x0112


_filters = forkable_lock()


def check_takes_pictures(channels: int) -> None:
    """Check that this installation can decode pictures for a model with this number of channels.

    Raises:
        ImageError: Pillow is missing or can't be loaded, or the model takes neither grey nor RGB images.
    """
    needs = "PIL images, files and their bytes need pillow"
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError:
        raise ImageError(f"{needs}: pip install 'vmoe-export[images]'") from None
    except ImportError as error:
        raise ImageError(f"{needs}, which is installed and can't be loaded: {error}") from None
    if channels not in MODES:
        raise ImageError(f"the model takes {channels} channels, so images must be arrays")


@contextmanager
def opened(picture: Any, channels: int, transparent: bool = False) -> Iterator[tuple[Image, str]]:
    """Yield a decoded PIL image, and its name for messages.

    The image has 8 bits per channel, except that a grey PNG may have 16.

    Args:
        picture: a PIL image, a path, the bytes of a file, or a binary file object.
        channels: number of channels of the model.
        transparent: whether the preprocessing steps need to know which colours are transparent.

    Raises:
        ImageError: the picture can't be opened, is not a picture, or has too many pixels or too many bits per channel. If
            the operating system refused to open or read the file, the error's cause is an OSError with an error number.
        MemoryError: the picture's pixels don't fit into memory.
    """
    check_takes_pictures(channels)
    from PIL import Image

    name = path_text(picture) if isinstance(picture, str | os.PathLike) else "the image"
    with ExitStack() as stack:
        if isinstance(picture, str | os.PathLike):
            with _explained(name):
                picture = stack.enter_context(open_regular(picture))
        elif isinstance(picture, bytes | bytearray | memoryview):
            picture = io.BytesIO(picture)
        image = picture if isinstance(picture, Image.Image) else stack.enter_context(_open(picture, name, transparent))
        _decode(image, channels, name)
        yield image, name


def orientation_of(image: Image) -> int:
    """Return the `Orientation` value in a picture's EXIF data, from 1 to 8.

    If the value is missing or can't be read, return 1, which means not turned.
    """
    try:
        with _filters, warnings.catch_warnings():  # Pillow warns about damaged EXIF data
            warnings.simplefilter("ignore")
            found: int = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever Pillow's readers raise
        return 1
    return found if found in range(2, 9) else 1


def arranged(image: Image, steps: Preprocessing, channels: int) -> Image:
    """Return a decoded picture after the steps that turn the picture and fill its background."""
    from PIL import Image, ImageOps

    if steps.rotates and orientation_of(image) > 1:
        image = ImageOps.exif_transpose(image)
    if steps.background and image.has_transparency_data:
        mode, colours = MODES[channels], image.convert("RGBA")
        image = Image.new("RGB", image.size, steps.background).convert(mode)
        image.paste(colours.convert(mode), mask=colours.getchannel("A"))
    return image


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Any other kind of file is refused, because it may be endless, or wait for a writer.

    Raises:
        OSError, ValueError: the file can't be opened.
        ImageError: the path is not a regular file.
    """
    flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))  # some systems lack some flags
    descriptor = os.open(path, os.O_RDONLY | flags)
    file = os.fdopen(descriptor, "rb") if stat.S_ISREG(mode := os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
        raise ImageError(f"{path_text(path)} is {kind}, and images are read from plain files")
    return file


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as printable text, even if it contains bytes that can't be decoded."""
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()


def open_picture(file: bytes, transparent: bool = False) -> tuple[Image, int]:
    """Open a picture file without decoding it.

    Args:
        file: bytes of the file.
        transparent: as for `opened`. That function accepts the returned picture without checking it again.

    Returns:
        The picture, and its number of pixels according to the header. For 16 bits per channel, the number is doubled.

    Raises:
        ImageError: the file is not a picture, is damaged, or has too many pixels.
    """
    name = "the image"
    return _opened(checked_picture(file, name, transparent), name)


def _opened(file: bytes, name: str) -> tuple[Image, int]:
    """Open a file as `open_picture` does, but don't check it first."""
    from PIL import Image, UnidentifiedImageError

    with _explained(name):
        try:
            # Pillow warns about large pictures and about each damaged tag. A picture may contain up to 65,535 damaged tags.
            with _filters, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.init()
                image = Image.open(io.BytesIO(file), formats=[name for name in FORMATS if name in Image.OPEN])
                if image.format == "TIFF":
                    # Read EXIF data while warnings are off. Otherwise, Pillow would read the data and warn later, when it
                    # decodes the picture.
                    image.getexif()
        except Image.DecompressionBombError:
            raise ImageError(f"{name} has more than {_MOST_PIXELS:,} pixels; scale it down") from None
        except UnidentifiedImageError:
            raise ImageError(f"{name} is not a readable image (none of {', '.join(FORMATS)})") from None
        pixels = image.width * image.height * (2 if image.format == "PNG" and file[24] == 16 else 1)
    if pixels > _MOST_PIXELS:
        raise ImageError(f"{name} has {image.width}x{image.height} pixels, more than {_MOST_PIXELS:,}; scale it down")
    return image, pixels


def _open(file: BinaryIO, name: str, transparent: bool) -> Image:
    with _explained(name):
        with suppress(AttributeError, io.UnsupportedOperation):
            file.seek(0)
        content = file.read(_MOST_FILE)
        if not isinstance(content, bytes | bytearray):  # a text file or a web framework's upload may return another type
            raise ImageError(f"{name} is not a readable image (read() returns a {type(content).__name__}, not bytes)")
        content = checked_picture(content, name, transparent)
    return _opened(content, name)[0]


def _decode(image: Image, channels: int, name: str) -> None:
    if image.mode.startswith("F") or (image.mode.startswith("I") and image.format != "PNG"):
        # If a channel has more than 8 bits, Pillow would clip its values at 255 instead of scaling them.
        raise ImageError(f"{name} has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
    if image.height > _MOST_ROWS:
        raise ImageError(f"{name} has {image.height:,} rows, more than {_MOST_ROWS:,}; crop it first")
    with _explained(name):
        image.load()
    try:
        read_pixels(image, Window(0, 0, 1, 1), channels)
    except ValueError:
        raise ImageError(
            f"{name} has colours (mode {image.mode}) that don't become {MODES[channels]}; convert it first"
        ) from None


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Convert exceptions of the system, a file object or a decoder to ImageErrors. MemoryErrors are not converted."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # The text of an OSError contains the path, which may not be printable. So use only the error's reason.
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ImageError(f"{name} is not a readable image ({' '.join(reason.split())})") from error
