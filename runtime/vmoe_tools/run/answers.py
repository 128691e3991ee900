"""Runs image files in batches of a size that the bundle accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vmoe_runtime import Engine, ImageError
from vmoe_runtime.classes import most_probable, probabilities_of
from vmoe_runtime.routing import Array

_BATCH = 8  # images per call; larger calls are no faster and need more memory


@dataclass(frozen=True)
class Answer:
    """The result for one image.

    Attributes:
        image: the file.
        classes: index and probability of each of the most likely classes, in descending order of probability. The tuple is
            empty if there is an error.
        error: one sentence that says why the image has no result; None if it has a result.
        outputs: the other outputs by name, such as features, tokens and block outputs, as float32 arrays. The mapping is
            empty if there is an error.
    """

    image: Path
    classes: tuple[tuple[int, float], ...] = ()
    error: str | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)


def answer(engine: Engine, images: Sequence[Path], top: int) -> Iterator[Answer]:
    """Run images, and yield their results in order. A batch's results are yielded as soon as the batch is done.

    The images in a routing group influence each other's results. So if an image can't be read, all images in its group get
    an error instead of a result.

    Args:
        engine: an engine that doesn't return the members of an ensemble. The images are run at the engine's profile.
        images: image files. Their number must be a multiple of the routing group's size.
        top: number of classes per image.

    Raises:
        VmoeError: the model can't be run.
    """
    multiple = engine.manifest.batch_multiple
    at_once = max(1, _BATCH // multiple) * multiple
    for start in range(0, len(images), at_once):
        chunk = images[start : start + at_once]
        arrays, errors, bad = dict[int, Array](), dict[int, str](), dict[int, Path]()
        for index, path in enumerate(chunk):
            try:
                arrays[index] = engine.batch(path)
            except ImageError as error:
                errors[index] = str(error)
                bad.setdefault(index // multiple, path)
        readable = [index for index in arrays if index // multiple not in bad]
        if readable:
            batch = np.concatenate([arrays[index] for index in readable])
            found = _answers(engine, [chunk[index] for index in readable], batch, top)
        for index, path in enumerate(chunk):
            if (other := bad.get(index // multiple)) is None:
                yield next(found)
            else:
                shared = f"{path} is not answered: it shares a routing group with {other}, which can't be read"
                yield Answer(path, error=errors.get(index, shared))


def _answers(engine: Engine, paths: Sequence[Path], images: Array, top: int) -> Iterator[Answer]:
    """Run one batch of decoded images, and yield their results."""
    outputs, manifest = engine.outputs(images), engine.manifest
    logits = outputs.pop("logits", None)
    rows = [{name: values[i] for name, values in outputs.items()} for i in range(len(paths))]
    if logits is None:
        yield from (Answer(path, outputs=row) for path, row in zip(paths, rows, strict=True))
        return
    for path, best, shares, row in zip(
        paths, most_probable(logits, top), probabilities_of(logits, manifest.probabilities), rows, strict=True
    ):
        if np.isfinite(shares).all():
            yield Answer(path, tuple((int(index), float(shares[index])) for index in best), outputs=row)
        else:
            yield Answer(path, error=f"{path} has no classes: the model's logits are not finite numbers")
