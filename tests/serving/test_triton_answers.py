"""Check that the settings in Triton requests are parsed correctly.

Requests that specify a setting must get the same results as engine calls with this setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vmoe_runtime import Engine, ImageError, RoutingError, Setting, VmoeError
from vmoe_serve.triton.answers import Request, answer, request_setting


@pytest.fixture(scope="module")
def images(engine: Engine, mnist_images: dict[str, np.ndarray]) -> np.ndarray:
    """Return the first 64 digits as inputs of the graph, float32[64,28,28,1]."""
    return engine.batch(mnist_images["images"][:64])


def test_parameters_are_a_setting() -> None:
    texts = {"profile": "c1-k1", "capacity": "0.5", "k": "2", "bpr": "false", "pool": "true"}
    assert request_setting(texts) == Setting("c1-k1", capacity=0.5, k=2, bpr=False, pool=True)
    assert request_setting({"capacity": 1, "max_experts": 4}) == Setting(capacity=1, max_experts=4)
    with pytest.raises(RoutingError, match="there is no request parameter 'capcity'; there are profile, capacity"):
        request_setting({"capcity": 0.5})


def test_each_request_gets_the_bits_of_a_call_of_its_own(engine: Engine, images: np.ndarray) -> None:
    asked: list[tuple[slice, dict[str, Any]]] = [
        (slice(0, 3), {}),
        (slice(3, 4), {"profile": "c1.05-k2"}),
        (slice(4, 9), {"capacity": 0.5, "bpr": False}),
        (slice(9, 20), {}),
        (slice(20, 21), {"profile": "c0.2-k1-pool-m4"}),
        (slice(21, 30), {"capacity": 0.5, "bpr": False}),
    ]
    answers = answer(engine, [(images[part], parameters) for part, parameters in asked])
    for (part, parameters), found in zip(asked, answers, strict=True):
        assert not isinstance(found, VmoeError)
        assert np.array_equal(found[0]["logits"], engine(images[part], **parameters))
        setting = engine.setting(**parameters)
        assert setting is not None and found[1] == setting.name
    assert answer(engine, []) == []


def test_requests_of_one_setting_are_one_call(engine: Engine, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = Engine.outputs

    def counted(self: Engine, batch: np.ndarray, setting: Any) -> dict[str, np.ndarray]:
        calls.append(len(batch))
        return real(self, batch, setting)

    monkeypatch.setattr(Engine, "outputs", counted)
    answer(engine, [(images[:2], fields) for fields in ({"k": 1}, {"k": 2}, {}, {"profile": "c0.3-k2"}, {"k": 99})])
    assert calls == [4, 4]


def test_a_bad_request_is_told_why_and_the_others_are_answered(engine: Engine, images: np.ndarray) -> None:
    bad: list[tuple[Request, str]] = [
        ((images[:1], {"profile": "fast"}), "there is no profile 'fast'"),
        ((images[:1], {"profile": 3}), "3"),
        ((images[:1], {"k": 9}), "k"),
        ((images[:1], {"k": "1_0"}), "'1_0'"),
        ((images[:1], {"k": 1.0}), "1.0"),
        ((images[:1], {"capacity": "much"}), "'much'"),
        ((images[:1], {"capacity": "NaN"}), "nan"),
        ((images[:1], {"capacity": 10**400}), "capacity"),
        ((images[:1], {"pool": "yes"}), "'yes'"),
        ((images[:1], {"capcity": 1}), "capcity"),
        ((images[:1, :20], {}), "image"),
        ((images[:1] * 50, {}), "-1"),
    ]
    good = (images[:2], {})
    answers = answer(engine, [good, *(request for request, _ in bad), good])
    for found, (_, message) in zip(answers[1:-1], bad, strict=True):
        assert isinstance(found, VmoeError) and message in str(found)
    for found in (answers[0], answers[-1]):
        assert not isinstance(found, VmoeError) and np.array_equal(found[0]["logits"], engine(images[:2]))


def test_requests_are_whole_routing_groups(mnist_bundle: Path, mnist_images: dict[str, np.ndarray]) -> None:
    with Engine.load(mnist_bundle, threads=1) as engine:
        images = engine.batch(mnist_images["images"][:64])
        parts = [images[:16], images[16:24], images[24:32], images[32:64]]
        answers = answer(engine, [(part, {"profile": "c0.3-k1"}) for part in parts])
        for number in (1, 2):
            assert isinstance(answers[number], ImageError) and "multiple of 16 in each" in str(answers[number])
        for number in (0, 3):
            found = answers[number]
            assert not isinstance(found, VmoeError)
            assert np.array_equal(found[0]["logits"], engine(parts[number], profile="c0.3-k1"))
