"""Tests of the batcher.

They check that concurrent clients get the right results and that requests stay whole and in order. They also cover limits,
cancellation, and elastic levels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from vmoe_runtime import BackendError, Engine, RoutingError, VmoeError
from vmoe_runtime.profiles import Profile
from vmoe_serve.batcher import Answer, Batcher
from vmoe_serve.elastic import Elastic, Level
from vmoe_serve.levels import cheaper_ones, elastic_plan

LOW, HIGH = "c0.2-k1", "c1.05-k2"
PLAN = Elastic((Level(LOW, 0.001, 0.001), Level(HIGH, 0.001, 0.002)), target=0.1, most_images=8)
Images = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture
def images(mnist_images: dict[str, Any]) -> Images:
    found: Images = mnist_images["images"]
    return found


class Gate:
    """An engine that records its calls, and blocks each call until the test lets it continue."""

    def __init__(self, engine: Engine) -> None:
        self.manifest, self.setting, self._engine = engine.manifest, engine.setting, engine
        self.calls: list[tuple[int, str | None]] = []
        self.began, self.let_through = threading.Semaphore(0), threading.Semaphore(0)
        self.error: Exception | None = None

    def outputs(self, images: Images, setting: Profile | None) -> Any:
        self.calls.append((len(images), setting and setting.name))
        self.began.release()
        assert self.let_through.acquire(timeout=60)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self._engine.outputs(images, setting)


@contextmanager
def held(engine: Engine, images: Images, plan: Elastic | None = None, **limits: int) -> Iterator[tuple[Gate, Batcher]]:
    """Yield a batcher whose first call is blocked, so that new requests have to wait."""
    gate = Gate(engine)
    batcher = Batcher(gate, plan, **{"most_images": 8, "most_waiting": 100, **limits})  # type: ignore[arg-type]
    first = batcher.submit(images[:1], HIGH)
    assert gate.began.acquire(timeout=60)
    try:
        yield gate, batcher
    finally:
        gate.let_through.release(1000)
        batcher.close()
        assert first.done()


def answer_of(future: Future[Answer]) -> Answer:
    return future.result(timeout=60)


def test_calls_take_whole_requests_of_one_setting_in_their_order(engine: Engine, images: Images) -> None:
    with held(engine, images) as (gate, batcher):
        asked = [(3, LOW), (2, HIGH), (3, LOW), (3, LOW), (1, HIGH), (1, LOW)]
        futures = [batcher.submit(images[:count], setting) for count, setting in asked]
        assert batcher.load().waiting == 13
        gate.let_through.release(1000)
        answers = [answer_of(future) for future in futures]
    # If the call included the third request at LOW, it would exceed the limit of eight images. The fourth request at LOW
    # must not overtake the third one.
    assert gate.calls == [(1, HIGH), (6, LOW), (3, HIGH), (4, LOW)]
    assert [answer.batch_size for answer in answers] == [6, 3, 6, 4, 3, 4]
    assert all(answer.waited > 0 and answer.seconds > 0 for answer in answers)


def test_a_request_that_is_cancelled_is_not_run(engine: Engine, images: Images) -> None:
    with held(engine, images) as (gate, batcher):
        kept, gone = batcher.submit(images[:2], LOW), batcher.submit(images[:3], LOW)
        alone = batcher.submit(images[:1], HIGH)
        assert gone.cancel() and alone.cancel()
        gate.let_through.release(1000)
        np.testing.assert_array_equal(answer_of(kept).logits, engine(images[:2], LOW))
        answer_of(batcher.submit(images[:1], LOW))
        assert batcher.load().cancelled == 2 and batcher.load().waiting == 0
    assert gate.calls == [(1, HIGH), (2, LOW), (1, LOW)]


def test_an_error_of_a_call_reaches_all_of_its_requests_and_nobody_else(engine: Engine, images: Images) -> None:
    with held(engine, images) as (gate, batcher):
        failing = [batcher.submit(images[:1], LOW) for _ in range(2)]
        gate.let_through.release()
        assert gate.began.acquire(timeout=60)
        gate.error = BackendError("out of order")
        fine = batcher.submit(images[:1], HIGH)
        gate.let_through.release(1000)
        for future in failing:
            with pytest.raises(BackendError, match="out of order"):
                answer_of(future)
        np.testing.assert_array_equal(answer_of(fine).logits, engine(images[:1], HIGH))


def test_memory_that_lacks_for_a_batch_ends_its_requests_and_not_the_batcher(
    engine: Engine, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(engine, images) as (gate, batcher):
        failing = [batcher.submit(images[:1], LOW) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(np, "concatenate", Mock(side_effect=MemoryError))
            gate.let_through.release(1000)
            for future in failing:
                assert isinstance(future.exception(timeout=60), MemoryError)
        assert answer_of(batcher.submit(images[:1], HIGH)).batch_size == 1


def test_a_rush_is_served_at_the_low_level_and_requests_for_the_high_one_get_it(engine: Engine, images: Images) -> None:
    with held(engine, images, PLAN) as (gate, batcher):
        assert batcher.load().level == HIGH
        rush = [batcher.submit(images[index : index + 1]) for index in range(60)]
        own = batcher.submit(images[:1], HIGH)
        gate.let_through.release(1000)
        answers = [answer_of(future) for future in rush]
        assert answer_of(own).setting == engine.setting(HIGH)
        assert {answer.setting for answer in answers} == {engine.setting(LOW)}
        for index, answer in enumerate(answers):
            np.testing.assert_array_equal(answer.logits, engine(images[index : index + 1], LOW))
        assert batcher.load().level == LOW
        assert batcher.load().served == {HIGH: 2, LOW: 60}


def test_settings_that_clients_make_up_are_counted_together(engine: Engine, images: Images) -> None:
    batcher = Batcher(engine, PLAN, most_images=8, most_waiting=100)
    for index in range(20):
        answer_of(batcher.submit(images[:1], f"c0.4{index + 1}-k1"))
    for setting in (LOW, HIGH, "c0.3-k1"):
        answer_of(batcher.submit(images[:2], setting))
    batcher.close()
    assert batcher.load().served == {"other": 20, LOW: 2, HIGH: 2, "c0.3-k1": 2}


def test_what_can_not_be_served_is_one_line(engine: Engine, images: Images) -> None:
    with held(engine, images) as (_, batcher):
        for count in (0, 9):
            with pytest.raises(VmoeError, match=f"a request takes 1 to 8 images, not {count}"):
                batcher.submit(images[:count])
        with pytest.raises(RoutingError, match="fastest"):
            batcher.submit(images[:1], "fastest")
        assert batcher.load().waiting == 0


def test_levels_are_timed_on_this_machine_and_more_expensive_ones_are_left_out(engine: Engine) -> None:
    profiles = [engine.setting(name) for name in (LOW, HIGH)]
    plan, notes = elastic_plan(engine, [profile for profile in profiles if profile], 1.0, 8)
    assert [level.profile for level in plan.levels] in ([LOW, HIGH], [HIGH])
    assert len(plan.levels) + len(notes) == 2
    _, notes = elastic_plan(engine, [profile for profile in profiles if profile], 1e-6, 8)
    assert "the target of 0.001 ms can't be kept" in notes[-1]
    levels = [Level("a", 0.0, 3.0), Level("b", 0.0, 1.0), Level("c", 0.0, 2.0), Level("d", 1.0, 2.0), Level("e", 0.0, 2.5)]
    kept, notes = cheaper_ones(levels, 2)
    assert [level.profile for level in kept] == ["b", "c", "e"]
    assert notes == [
        "a is left out: it takes no less time here than b",
        "d is left out: it takes no less time here than e",
    ]
