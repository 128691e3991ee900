"""From image files to answers, in batches that the bundle takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_runtime import Engine, ImageError
from vmoe_runtime.classes import likeliest, softmax
from vmoe_runtime.images import to_batch

Array = np.ndarray[Any, np.dtype[Any]]

_BATCH = 8  # images at a time: more make nothing faster, and cost memory


@dataclass(frozen=True)
class Answer:
    """The answer to one image.

    Attributes:
        image: the file.
        classes: index and probability of the likeliest classes, likeliest first; empty where there is an error.
        error: why there are none, in one sentence; None where there are.
    """

    image: Path
    classes: tuple[tuple[int, float], ...]
    error: str | None = None


def answer(engine: Engine, images: Sequence[Path], top: int) -> Iterator[Answer]:
    """Classifies images, each as soon as its batch is done, in their order.

    Images that share a routing group change each other's answers. So a group with an image that can't be read is not
    answered at all.

    Args:
        engine: a loaded bundle that returns logits; its profile is the setting.
        images: as many as fill whole routing groups.
        top: classes per image.

    Raises:
        VmoeError: the model can't be run.
    """
    multiple = engine.manifest.batch_multiple
    at_once = max(1, _BATCH // multiple) * multiple
    for start in range(0, len(images), at_once):
        chunk = images[start : start + at_once]
        groups = [_prepare(engine, chunk[i : i + multiple]) for i in range(0, len(chunk), multiple)]
        readable = [array for arrays, _ in groups for array in arrays]
        if readable:
            logits = engine(np.concatenate(readable))
            found = iter(zip(likeliest(logits, top), softmax(logits), strict=True))
        for number, (arrays, errors) in enumerate(groups):
            for path, error in zip(chunk[number * multiple :], errors, strict=False):
                yield Answer(path, (), error) if not arrays else _answer(path, *next(found))


def _prepare(engine: Engine, group: Sequence[Path]) -> tuple[list[Array], list[str | None]]:
    """The images of one routing group as the graph takes them, none where one can't be read; and what is wrong with each."""
    arrays, errors = [], []
    for path in group:
        error = None
        try:
            arrays.append(to_batch(path, engine.manifest.input))
        except ImageError as reason:
            error = str(reason)
        errors.append(error)
    bad = next((path for path, error in zip(group, errors, strict=True) if error is not None), None)
    if bad is None:
        return arrays, errors
    return [], [
        error or f"{path} is not answered: it shares a routing group with {bad}, which can't be read"
        for path, error in zip(group, errors, strict=True)
    ]


def _answer(path: Path, best: Array, shares: Array) -> Answer:
    if not np.isfinite(shares).all():
        return Answer(path, (), f"{path} has no classes: the model's logits are not finite numbers")
    return Answer(path, tuple((int(index), float(shares[index])) for index in best))
