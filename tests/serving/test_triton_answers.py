"""Requests with settings of their own: how they are read, and that each gets what a call of the engine gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vmoe_runtime import Engine, ImageError, RoutingError, Setting
from vmoe_runtime.errors import VmoeError
from vmoe_serve.triton.answers import Answer, Request, answer
from vmoe_serve.triton.request_setting import request_setting


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_image_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def images(engine: Engine, mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """float32[64,28,28,1], as the graph takes them."""
    return engine.batch(mnist_images["images"][:64])


@pytest.mark.parametrize(
    ("parameters", "setting"),
    [
        ({}, Setting()),
        ({"profile": "c0.3-k1", "capacity": 0.5}, Setting("c0.3-k1", capacity=0.5)),
        ({"capacity": "0.5", "k": "2", "bpr": "false", "pool": "true"}, Setting(capacity=0.5, k=2, bpr=False, pool=True)),
        ({"capacity": 1, "k": 2, "bpr": False, "max_experts": 4}, Setting(capacity=1.0, k=2, bpr=False, max_experts=4)),
    ],
)
def test_parameters_are_a_setting(parameters: dict[str, object], setting: Setting) -> None:
    assert request_setting(parameters) == setting


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"capcity": 0.5}, "there is no request parameter 'capcity'; there are profile, capacity"),
        ({"profile": 3}, "profile is a text, not 3"),
        ({"capacity": "much"}, "capacity is a number, not 'much'"),
        ({"capacity": True}, "capacity is a number, not True"),
        ({"capacity": 10**400}, "capacity is a number, not 1000"),
        ({"k": 1.0}, "k is a whole number, not 1.0"),
        ({"k": "1_0"}, "k is a whole number, not '1_0'"),
        ({"k": True}, "k is a whole number, not True"),
        ({"bpr": 1}, "bpr is true or false, not 1"),
        ({"pool": "yes"}, "pool is true or false, not 'yes'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_one_sentence(parameters: dict[str, object], says: str) -> None:
    with pytest.raises(RoutingError, match=says.replace("(", r"\(")):
        request_setting(parameters)


def test_each_request_gets_the_bits_of_a_call_of_its_own(engine: Engine, images: np.ndarray) -> None:
    asked: list[tuple[slice, dict[str, Any]]] = [
        (slice(0, 3), {}),
        (slice(3, 4), {"profile": "c1.05-k2"}),
        (slice(4, 9), {"capacity": 0.5, "bpr": False}),
        (slice(9, 20), {}),
        (slice(20, 21), {"profile": "c0.2-k1-pool-m4"}),
        (slice(21, 30), {"capacity": 0.5, "bpr": False}),
    ]
    answers = answer(engine, [Request(images[part], parameters) for part, parameters in asked])
    for (part, parameters), found in zip(asked, answers, strict=True):
        assert isinstance(found, Answer)
        assert np.array_equal(found.output, engine(images[part], **parameters))
        setting = engine.setting(**parameters)
        assert setting is not None and found.setting == setting.name


def test_requests_of_one_setting_are_one_call(engine: Engine, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = Engine.__call__

    def counted(self: Engine, batch: np.ndarray, setting: str) -> np.ndarray:
        calls.append((len(batch), setting))
        return real(self, batch, setting)

    monkeypatch.setattr(Engine, "__call__", counted)
    settings = [{"k": 1}, {"k": 2}, {}, {"profile": "c0.3-k2"}, {"capacity": 0.3}, {"k": 99}]
    answer(engine, [Request(images[:2], parameters) for parameters in settings])
    assert calls == [(6, "c0.3-k1"), (4, "c0.3-k2")]
    calls.clear()
    assert answer(engine, []) == [] and calls == []


def test_a_bad_request_is_told_why_and_the_others_are_answered(engine: Engine, images: np.ndarray) -> None:
    bad: list[tuple[Request, str]] = [
        (Request(images[:1], {"profile": "fast"}), "there is no profile 'fast'"),
        (Request(images[:1], {"k": 9}), "k"),
        (Request(images[:1], {"capacity": "nan"}), "capacity"),
        (Request(images[:1], {"capcity": 1}), "capcity"),
        (Request(images[:1, :20], {}), "image"),
        (Request(images[:1] * 50, {}), "-1"),
    ]
    good = Request(images[:2], {})
    answers = answer(engine, [good, *(request for request, _ in bad), good])
    for found, (_, says) in zip(answers[1:-1], bad, strict=True):
        assert isinstance(found, VmoeError) and says in str(found)
    for found in (answers[0], answers[-1]):
        assert isinstance(found, Answer) and np.array_equal(found.output, engine(images[:2]))


def test_what_fails_in_a_call_hits_the_requests_of_its_setting(
    engine: Engine, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine.__call__

    def failing(self: Engine, batch: np.ndarray, setting: str) -> np.ndarray:
        if setting == "c0.3-k2":
            raise RoutingError("no such graph")
        return real(self, batch, setting)

    monkeypatch.setattr(Engine, "__call__", failing)
    answers = answer(engine, [Request(images[:1], {"k": k}) for k in (1, 2, 1, 2)])
    assert [isinstance(found, Answer) for found in answers] == [True, False, True, False]


def test_requests_are_whole_routing_groups(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    with Engine.load(mnist_bundle, threads=1) as engine:
        images = engine.batch(mnist_images["images"][:64])
        parts = [images[:16], images[16:24], images[24:32], images[32:64]]
        answers = answer(engine, [Request(part, {"profile": "c0.3-k1"}) for part in parts])
        for number in (1, 2):
            found = answers[number]
            assert isinstance(found, ImageError)
            assert "8 images" in str(found) and "--group image" in str(found) and "multiple of 16 in each" in str(found)
        for number in (0, 3):
            found = answers[number]
            assert isinstance(found, Answer)
            assert np.array_equal(found.output, engine(parts[number], profile="c0.3-k1"))
