"""Looks up classes by name, and reads files that list the labels of pictures."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from vmoe_runtime.errors import ImageError, shown

_MOST_BYTES = 256 << 20


def unambiguous(class_names: tuple[str, ...]) -> dict[str, int]:
    """Map class names to class indices. Leave out names that several classes share, such as "crane" in ImageNet."""
    times = Counter(class_names)
    return {name: index for index, name in enumerate(class_names) if times[name] == 1}


def read_labels(path: Path, class_names: tuple[str, ...] | None, folder: Path) -> dict[str, int]:
    """Read labels from a CSV file. Return a dictionary that maps each picture's path to its class index.

    The dictionary has the order of the file.

    Args:
        path: a CSV file in UTF-8. Each line has the path of a picture inside `folder`, and the name or index of its class.
            The first line may be a heading.
        class_names: names of the model's classes; None if the classes have only indices.
        folder: the folder that contains the pictures.

    Raises:
        ImageError: the file can't be read, or a line has no valid path and label.
    """
    try:
        if not path.is_file():
            raise ImageError(f"{path} is not a file of labels")
        if path.stat().st_size > _MOST_BYTES:
            raise ImageError(f"{path} is larger than {_MOST_BYTES >> 20} MiB, which no list of labels is")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{path} is not a readable CSV file ({error})") from None
    index_of = unambiguous(class_names or ())
    labels: dict[str, int] = {}
    for position, (number, row) in enumerate(rows):
        if len(row) != 2:
            raise ImageError(
                f"{path}, line {number}: {shown(','.join(row))} is not the path of a picture inside {folder}, a comma, and "
                "the name or index of its class"
            )
        label = class_index(row[1], index_of)
        if label is None:
            if position == 0 and not (folder / row[0]).is_file():
                continue
            names = "" if class_names else ", and the bundle has no class names"
            raise ImageError(f"{path}, line {number}: {shown(row[1])} is not the name or index of one class{names}")
        picture = str(Path(row[0]))  # so that ./a.png and a.png are the same
        if picture in labels:
            raise ImageError(f"{path}, line {number}: {shown(row[0])} has a label already")
        if Path(row[0]).is_absolute() or ".." in Path(row[0]).parts:
            raise ImageError(f"{path}, line {number}: {shown(row[0])} is no path inside the folder of pictures")
        labels[picture] = label
    if not labels:
        raise ImageError(f"{path} has no labels")
    return labels


def class_index(text: str, index_of: Mapping[str, int]) -> int | None:
    """Return the index of the class whose name or index is `text`. Return None if `text` is neither.

    The returned index may be out of range.
    """
    text = text if text in index_of else text.strip()
    if text in index_of:
        return index_of[text]
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
