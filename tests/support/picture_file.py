"""Picture files made with Pillow, in memory and on disk."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def picture_file(picture: Any, form: str = "PNG", **options: Any) -> bytes:
    """Return the content of a picture file as bytes.

    The picture is a Pillow image, or pixels uint8[H,W] or uint8[H,W,3].
    """
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, form, **options)
    return file.getvalue()


def write_pictures(folder: Path, pictures: Any, labels: Sequence[object] | None = None) -> list[Path]:
    """Write pictures as numbered PNG files into a folder, and return their paths.

    If `labels` is given, each picture is written into a subfolder named after its label.
    """
    paths = []
    for number, picture in enumerate(pictures):
        place = folder if labels is None else folder / str(labels[number])
        place.mkdir(parents=True, exist_ok=True)
        paths.append(place / f"{number}.png")
        paths[-1].write_bytes(picture_file(picture))
    return paths
