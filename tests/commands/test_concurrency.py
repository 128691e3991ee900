"""Calls at once: how many there are, what their times amount to, what a failure does to them, and OpenVINO's streams."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from bundle_changes import BUNDLES
from test_bench import QUICK, complaint_of, report_of

from vmoe_runtime import BackendError, Engine
from vmoe_tools.bench.concurrency import CALLS_EACH, ConcurrentCalls
from vmoe_tools.bench.machine import usable_cores

BUNDLE = BUNDLES / "v3-fp32"


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


def test_the_bench_measures_calls_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(capsys, BUNDLE, "--profile", "c0.3-k1", "--concurrency", 1, 3, "--batch-size", 1, 2)
    assert [(point["batch_size"], point["concurrency"]) for point in report["points"]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert all(point["images_per_second"] > 0 and point["p50_ms"] > 0 for point in report["points"])
    assert "--concurrency" in complaint_of(capsys, 2, BUNDLE, "--concurrency", 0, *QUICK)


def model_of(engine: Engine) -> Any:
    """What OpenVINO has compiled, the only one who knows how it will run."""
    return engine._backend._model  # type: ignore[attr-defined]


def test_openvino_has_the_streams_that_were_asked_for() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    with Engine.load(BUNDLE, backend="openvino", threads=1) as engine:
        expected = engine(images)
    cores = usable_cores()
    for threads, streams in ((1, 2), (2, 1), (1, cores + 1)):
        with Engine.load(BUNDLE, backend="openvino", threads=threads, streams=streams) as engine:
            got = min(streams, cores)
            assert model_of(engine).get_property("NUM_STREAMS") == got
            assert model_of(engine).get_property("INFERENCE_NUM_THREADS") == min(threads * streams, cores)
            assert engine.backend_description.endswith(f", {got} stream{'s' * (got > 1)}")
            np.testing.assert_array_equal(engine(images), expected)
    with (
        Engine.load(BUNDLE, backend="openvino", threads=1, streams=2) as first,
        Engine.load(BUNDLE, backend="openvino", threads=1, streams=2) as second,
        Engine.load(BUNDLE, backend="openvino", threads=1) as other,
    ):
        assert model_of(first) is model_of(second) is not model_of(other)


def test_a_backend_without_streams_says_who_has_them_and_auto_takes_that_one() -> None:
    with pytest.raises(BackendError, match=r"^backend 'onnxruntime' has no streams \(openvino has\)"):
        Engine.load(BUNDLE, backend="onnxruntime", streams=2)
    Engine.load(BUNDLE, backend="onnxruntime", streams=1).close()
    with Engine.load(BUNDLE, streams=2) as auto:
        assert auto.backend == "openvino"
    for wrong in (0, 1025, True, 2.0, "2"):
        with pytest.raises(BackendError, match="streams must be a whole number from 1 to 1024"):
            Engine.load(BUNDLE, streams=wrong)  # type: ignore[arg-type]


def test_the_bench_calls_as_often_at_once_as_there_are_streams(capsys: pytest.CaptureFixture[str]) -> None:
    given = (BUNDLE, "--profile", "c0.3-k1", "--backend", "openvino", "--streams", 2)
    for more, expected in (((), [2]), (("--concurrency", 1, 4), [1, 4])):
        points = report_of(capsys, *given, *more)["points"]
        assert [(point["streams"], point["concurrency"]) for point in points] == [(2, number) for number in expected]
    complaint = complaint_of(capsys, 1, BUNDLE, "--backend", "onnxruntime", "--streams", 2, *QUICK)
    assert "'onnxruntime' has no streams" in complaint
