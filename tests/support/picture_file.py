"""A picture as a file that Pillow writes, without a disk."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def picture_file(picture: Any, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file of a picture, which is Pillow's or pixels uint8[H,W] or uint8[H,W,3]."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, form, **options)
    return file.getvalue()
