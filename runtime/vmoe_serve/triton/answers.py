"""Requests with settings of their own, answered together: one call of the engine for each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vmoe_runtime import Engine
from vmoe_runtime.errors import ImageError, VmoeError
from vmoe_runtime.profiles import Profile
from vmoe_serve.triton.request_setting import request_setting

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Request:
    """What one client asks for.

    Attributes:
        images: as the bundle takes them, float32 or uint8 [N,H,W,C].
        parameters: the setting, as `request_setting` reads it.
    """

    images: Array
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes:
        output: float32[N, ...], the rows of the request's images of what an engine's call returns.
        setting: name of the setting that it was run with, such as `c0.5-k2`; None where the model has none.
    """

    output: Array
    setting: str | None


def answer(engine: Engine, requests: Sequence[Request]) -> list[Answer | VmoeError]:
    """Answers requests, those of one setting by one call.

    A request is made of whole routing groups, so no request changes the answer of another one.

    Args:
        engine: a loaded bundle.
        requests: any number of them.

    Returns:
        For each request its answer; or why it has none, which is no matter of the others.
    """
    answers: dict[int, Answer | VmoeError] = {}
    batches: dict[Profile | None, dict[int, Array]] = {}
    for number, request in enumerate(requests):
        try:
            setting = engine.setting(request_setting(request.parameters))
            batches.setdefault(setting, {})[number] = _batch(engine, request.images)
        except VmoeError as error:
            answers[number] = error
    for setting, batch in batches.items():
        if batch:
            answers |= _answer(engine, setting, batch)
    return [answers[number] for number in range(len(requests))]


def _batch(engine: Engine, images: Array) -> Array:
    """The images as the graph takes them. Each request is checked alone, so that what is wrong with one hits no other."""
    batch = engine.batch(images)
    multiple = engine.manifest.batch_multiple
    if len(batch) % multiple:
        raise ImageError(
            f"the request has {len(batch)} images, and this bundle routes in groups ({engine.manifest.group}) that need a "
            f"multiple of {multiple} in each request; a bundle exported with --group image takes any number"
        )
    return batch


def _answer(engine: Engine, setting: Profile | None, batch: Mapping[int, Array]) -> dict[int, Answer | VmoeError]:
    name = None if setting is None else setting.name
    try:
        output = engine(np.concatenate(list(batch.values())), name)
    except VmoeError as error:
        return dict.fromkeys(batch, error)
    ends = np.cumsum([len(images) for images in batch.values()])
    return {number: Answer(rows, name) for number, rows in zip(batch, np.split(output, ends[:-1]), strict=True)}
