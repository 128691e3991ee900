"""Calls at once: how many there are, what their times amount to, and what a failure does to them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from test_bench import QUICK, complaint_of, report_of

from vmoe_bench.concurrency import CALLS_EACH, ConcurrentCalls
from vmoe_runtime import BackendError


def test_so_many_callers_call_at_once_and_each_waits_for_its_answer() -> None:
    together = threading.Barrier(3, timeout=20)
    seen: list[int] = []

    def call() -> None:
        together.wait()  # of three callers: it breaks unless all three are here
        seen.append(threading.get_ident())

    calls = ConcurrentCalls(call, callers=3, images_per_call=2)
    for _ in range(2):
        calls()
    calls.close()
    assert len(set(seen)) == 3
    assert [seen.count(thread) for thread in set(seen)] == [2 * CALLS_EACH] * 3
    assert calls.images == 3 * CALLS_EACH * 2


def test_throughput_is_that_of_rounds_and_percentiles_are_those_of_calls() -> None:
    calls = ConcurrentCalls(lambda: time.sleep(0.02), callers=2, images_per_call=1)
    for _ in range(3):
        calls()
    calls.close()
    speed = calls.speed([1.0, 1.0, 9.0])
    assert speed.images_per_second == 2 * CALLS_EACH
    assert 20 <= speed.p50_ms < 1000


def test_a_call_that_fails_ends_the_round_for_all() -> None:
    def call() -> None:
        raise BackendError("out of order")

    calls = ConcurrentCalls(call, callers=4, images_per_call=1)
    with pytest.raises(BackendError, match="out of order"):
        calls()
    calls.close()


def test_the_bench_measures_calls_at_once(mnist_image_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, mnist_image_bundle, "--profile", "c0.3-k1", "--concurrency", 1, 3, "--batch-size", 1, 2)
    assert [(point["batch_size"], point["concurrency"]) for point in report["points"]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert all(point["images_per_second"] > 0 and point["p50_ms"] > 0 for point in report["points"])
    assert "--concurrency" in complaint_of(capsys, 2, mnist_image_bundle, "--concurrency", 0, *QUICK)
