"""Answers requests that each choose a setting. The engine is called once for each distinct setting."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmoe_runtime import Engine, ImageError, RoutingError, Setting, VmoeError
from vmoe_runtime.errors import shown
from vmoe_runtime.profiles import Profile
from vmoe_runtime.settings import SETTINGS

Array = np.ndarray[Any, np.dtype[Any]]


Request = tuple[Array, Mapping[str, object]]
"""A client's images in the form that the bundle takes, float32 or uint8 [N,H,W,C]; and parameters for `request_setting`."""

Answer = tuple[Mapping[str, Array], str | None]
"""The engine's outputs for the images of a request, float32[N, ...] by name; and the name of the setting that they were
computed with, such as `c0.5-k2`, or None if the model has no settings."""


def answer(engine: Engine, requests: Sequence[Request]) -> list[Answer | VmoeError]:
    """Answer requests. Requests with the same setting are answered in one call.

    Each request consists of whole routing groups, so a request can't change the answers to other requests.

    Args:
        engine: a loaded bundle.
        requests: any number of requests.

    Returns:
        The answer to each request, or its error. An error does not affect the other requests.
    """
    answers: dict[int, Answer | VmoeError] = {}
    batches: dict[Profile | None, dict[int, Array]] = {}
    for number, (images, parameters) in enumerate(requests):
        try:
            setting = engine.setting(request_setting(parameters))
            batches.setdefault(setting, {})[number] = _batch(engine, images)
        except VmoeError as error:
            answers[number] = error
    for setting, batch in batches.items():
        if batch:
            answers |= _answer(engine, setting, batch)
    return [answers[number] for number in range(len(requests))]


def _batch(engine: Engine, images: Array) -> Array:
    """Return the images of one request as the graph's input.

    Each request is checked separately, so that an error affects no other request.
    """
    batch = engine.batch(images)
    if misfit := engine.manifest.misfit(len(batch)):
        raise ImageError(
            f"the request has {len(batch)} images, and this {misfit} in each request; a bundle exported with --group image "
            "takes any number"
        )
    return batch


def _answer(engine: Engine, setting: Profile | None, batch: Mapping[int, Array]) -> dict[int, Answer | VmoeError]:
    name = None if setting is None else setting.name
    try:
        outputs = engine.outputs(np.concatenate(list(batch.values())), setting)
    except VmoeError as error:
        return dict.fromkeys(batch, error)
    ends = np.cumsum([len(images) for images in batch.values()])
    parts = {own: np.split(values, ends[:-1]) for own, values in outputs.items()}
    return {number: ({own: part[i] for own, part in parts.items()}, name) for i, number in enumerate(batch)}


def request_setting(parameters: Mapping[str, object]) -> Setting:
    """Return the setting that a request's parameters describe.

    Args:
        parameters: fields of a `Setting` by name. Numbers and booleans may also be given as strings, because not every
            client can send other types.

    Raises:
        RoutingError: a parameter is not a field of `Setting`. The engine checks the values.

    Examples:
        >>> request_setting({"capacity": "0.5", "k": 2, "bpr": "false"}) == Setting(capacity=0.5, k=2, bpr=False)
        True
    """
    names = ("profile", *SETTINGS)
    if unknown := sorted(parameters.keys() - set(names)):
        raise RoutingError(f"there is no request parameter {shown(unknown[0])}; there are {', '.join(names)}")
    fields: dict[str, Any] = {name: value if name == "profile" else _value(value) for name, value in parameters.items()}
    return Setting(**fields)


def _value(value: Any) -> Any:
    """Return the number or boolean that a string contains. Return any other value unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
