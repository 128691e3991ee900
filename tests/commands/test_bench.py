"""Tests for `vmoe bench`: its measurements, the order of its calls, and its messages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_runs import QUICK, Vmoe, kept_bundle, npz
from picture_file import write_pictures

from vmoe_measure import image_source
from vmoe_measure.timing import summarize, time_interleaved
from vmoe_runtime import BackendError, Engine
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.images import to_batch
from vmoe_runtime.processors import usable_processors
from vmoe_tools.bench.measurement import CALLS_EACH, ConcurrentCalls

POINT_KEYS = [
    *("bundle", "precision", "profile", "capacity_ratio", "k", "bpr", "pool", "max_experts", "merge", "backend"),
    *("batch_size", "threads", "images_per_second", "p50_ms", "p90_ms", "p99_ms", "p50_low_ms", "p50_high_ms"),
    *("kept_pairs", "top1", "images", "flops_per_image", "expert_bytes_per_call", "pareto", "chance", "concurrency"),
    *("streams", "then", "margin", "escalated", "compared", "speed_ratio", "flops_ratio"),
    *("agreement", "cosine_mean", "cosine_p5", "cosine_least", "same_neighbour"),
]


def report_of(vmoe: Vmoe, *words: object) -> dict[str, Any]:
    """Run a short `vmoe bench`, and return its JSON."""
    return vmoe.json("bench", *words, *QUICK)


# Statistics and turns


@pytest.mark.parametrize("count", [1, 2, 101])
def test_percentiles_are_those_of_numpy_and_a_slow_call_does_not_move_the_throughput(count: int) -> None:
    seconds = np.random.default_rng(count).gamma(2.0, 0.01, count)
    speed = summarize(list(seconds), images_per_call=16)
    assert speed.p50_ms == pytest.approx(1000 * np.percentile(seconds, 50), rel=1e-12)
    assert speed.p99_ms == pytest.approx(1000 * np.percentile(seconds, 99), rel=1e-12)
    assert speed.images_per_second == pytest.approx(16 / np.percentile(seconds, 50), rel=1e-12)
    assert summarize([0.1, 0.1, 0.1, 0.1, 60.0], images_per_call=8).images_per_second == pytest.approx(80)


def test_the_interval_of_the_median_has_the_true_median_in_95_of_100_measurements() -> None:
    random = np.random.default_rng(0)
    speeds = [summarize(list(random.lognormal(size=41)), images_per_call=1) for _ in range(1000)]
    assert 0.93 < np.mean([speed.p50_low_ms <= 1000 <= speed.p50_high_ms for speed in speeds]) < 0.98
    few = summarize([0.3, 0.1, 0.2], images_per_call=1)
    assert (few.p50_low_ms, few.p50_high_ms) == pytest.approx((100, 300))


class Stopwatch:
    """A source of calls that take a known time on a fake clock. It records the order in which they are run."""

    def __init__(self, *durations: float) -> None:
        self.now = 0.0
        self.log: list[int] = []
        self.calls = [self._call(index, duration) for index, duration in enumerate(durations)]

    def __call__(self) -> float:
        return self.now

    def _call(self, index: int, duration: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(index)
            self.now += duration

        return call


def test_calls_take_turns_from_the_first_to_the_last_round() -> None:
    watch, rounds = Stopwatch(1, 2, 4), list[float]()
    times = time_interleaved(watch.calls, duration=28, clock=watch, after_round=rounds.append)
    warm_up, timed = watch.log[:6], watch.log[6:]
    assert warm_up == [0, 1, 2, 1, 2, 0]
    assert timed == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert times == [[1] * 4, [2] * 4, [4] * 4]
    assert np.cumsum(rounds).tolist() == pytest.approx([7 / 35, *(n * 7 / 42 for n in (2, 3, 4, 5, 6))])


def test_a_call_of_another_session_is_timed_after_an_untimed_one() -> None:
    watch = Stopwatch(1, 2, 4, 100, 200)
    *calls, first, second = watch.calls
    times = time_interleaved(calls, duration=0, clock=watch, settle=[first, first, second])
    assert watch.log[6:] == [3, 0, 1, 4, 2, 3, 1, 4, 2, 3, 0, 4, 2, 3, 0, 1]
    assert times == [[1] * 3, [2] * 3, [4] * 3]


def test_so_many_callers_call_concurrently_and_each_waits_for_its_answer() -> None:
    together = threading.Barrier(3, timeout=20)
    seen: list[int] = []

    def call() -> None:
        together.wait()  # the barrier breaks unless all three callers wait at it at the same time
        seen.append(threading.get_ident())

    calls = ConcurrentCalls(call, callers=3, images_per_call=2)
    for _ in range(2):
        calls()
    calls.close()
    assert [seen.count(thread) for thread in set(seen)] == [2 * CALLS_EACH] * 3
    assert calls.images == 3 * CALLS_EACH * 2


def test_a_call_that_fails_ends_the_round_for_all() -> None:
    def call() -> None:
        raise BackendError("out of order")

    calls = ConcurrentCalls(call, callers=4, images_per_call=1)
    with pytest.raises(BackendError, match="out of order"):
        calls()
    calls.close()


# Results


def test_json_has_exactly_the_documented_keys(mnist_bundle: Path, mnist_digits: Path, vmoe: Vmoe) -> None:
    words = (mnist_bundle, "--profile", "c0.3-k1", "--backend", "onnxruntime", "--images", mnist_digits)
    report = report_of(vmoe, *words)
    assert list(report) == ["machine", "points"]
    machine_keys = ["cpu", "cores", "os", "python", "numpy", "vmoe_runtime", "backends", "engines", "resident_bytes"]
    assert list(report["machine"]) == machine_keys
    (loaded,) = report["machine"]["engines"]
    assert (loaded["bundle"], loaded["backend"], loaded["precision"]) == (mnist_bundle.name, "onnxruntime", "fp32")
    assert loaded["load_seconds"] > 0
    assert [list(point) for point in report["points"]] == [POINT_KEYS]
    point = report["points"][0]
    assert (point["profile"], point["capacity_ratio"], point["k"], point["bpr"]) == ("c0.3-k1", 0.3, 1, True)
    assert (point["backend"], point["batch_size"], point["threads"]) == ("onnxruntime", 16, 1)
    assert 0 < point["p50_low_ms"] <= point["p50_ms"] <= point["p90_ms"] <= point["p99_ms"]
    assert point["p50_ms"] <= point["p50_high_ms"]
    assert point["images_per_second"] > 0
    assert "ONNX Runtime" in report["machine"]["backends"]["onnxruntime"]


def test_all_stored_profiles_are_measured_with_the_smallest_batch_by_default(mnist_bundle: Path, vmoe: Vmoe) -> None:
    points = report_of(vmoe, mnist_bundle)["points"]
    stored = [f"c{ratio}-k{k}" for ratio in ("0.1", "0.2", "0.3", "0.5", "1.05", "2") for k in (1, 2)]
    assert sorted(point["profile"] for point in points) == sorted(stored)
    assert {(point["batch_size"], point["top1"]) for point in points} == {(16, None)}
    kept = {point["profile"]: point["kept_pairs"] for point in points}
    assert kept["c0.1-k1"] <= 0.1 < kept["c2-k1"] <= 1


def test_options_repeat_and_duplicates_are_measured_once(mnist_bundle: Path, mnist_digits: Path, vmoe: Vmoe) -> None:
    report = report_of(
        vmoe,
        *("--profile", "c2-k1", "--backend", "onnxruntime", mnist_bundle, "--profile", "c0.1-k1", "--profile", "c2.0-k1"),
        *("--backend", "openvino", "--backend", "onnxruntime", "--batch-size", 32, "--batch-size", 32),
        *("--images", mnist_digits),
    )
    points = [(point["backend"], point["profile"], point["batch_size"]) for point in report["points"]]
    assert points == [(name, profile, 32) for name in ("onnxruntime", "openvino") for profile in ("c2-k1", "c0.1-k1")]
    by_backend = {point["backend"]: point for point in report["points"] if point["profile"] == "c2-k1"}
    assert by_backend["onnxruntime"]["top1"] == by_backend["openvino"]["top1"]


def test_a_dense_model_is_one_point_without_routing(vmoe: Vmoe) -> None:
    (point,) = report_of(vmoe, kept_bundle("dense"))["points"]
    assert [point[key] for key in ("profile", "capacity_ratio", "k", "bpr", "kept_pairs")] == [None] * 5
    assert (point["batch_size"], point["flops_per_image"] > 0) == (1, True)


@pytest.mark.parametrize(("cascade", "times"), [((), 1), (("--cascade",), 3)], ids=["points", "cascade"])
def test_a_picture_is_read_once_for_all_settings(
    cascade: tuple[str, ...],
    times: int,
    mnist_image_bundle: Path,
    mnist_images: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vmoe: Vmoe,
) -> None:
    read: list[Path] = []

    def watched(images: tuple[Path, ...], spec: InputSpec) -> np.ndarray:
        read.extend(images)
        return to_batch(images, spec)

    write_pictures(tmp_path, mnist_images["images"][:20], mnist_images["labels"])
    monkeypatch.setattr(image_source, "to_batch", watched)
    swept = "--capacity", 0.1, "--capacity", 0.5, "--capacity", 1.05, "--images", tmp_path
    report = report_of(vmoe, mnist_image_bundle, *swept, *cascade)
    assert [point["images"] for point in report["points"]] == [20] * 3
    assert len(read) == 1 + times * 20, "those that are timed, and all for accuracy, and for both again"


# Concurrency and streams


def test_concurrent_calls_are_measured_as_many_as_there_are_streams(vmoe: Vmoe) -> None:
    bundle = kept_bundle("fp32")
    words = (bundle, "--profile", "c0.3-k1", "--batch-size", 1, "--batch-size", 2)
    points = report_of(vmoe, *words, "--concurrency", 1, "--concurrency", 3)["points"]
    assert [(point["batch_size"], point["concurrency"]) for point in points] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    points = report_of(vmoe, bundle, "--profile", "c0.3-k1", "--backend", "openvino", "--streams", 2)["points"]
    assert [(point["streams"], point["concurrency"]) for point in points] == [(2, 2)]
    complaint = vmoe.complaint(1, "bench", bundle, "--backend", "onnxruntime", "--streams", 2, *QUICK)
    assert "'onnxruntime' has no streams" in complaint


def test_openvino_has_the_requested_streams() -> None:
    bundle = kept_bundle("fp32")
    images = np.random.default_rng(0).integers(0, 256, (4, 12, 12, 3), np.uint8)
    with Engine.load(bundle, backend="openvino", threads=1) as engine:
        expected = engine(images)
    cores = usable_processors()
    for threads, streams in ((1, 2), (2, 1), (1, cores + 1)):
        with Engine.load(bundle, backend="openvino", threads=threads, streams=streams) as engine:
            got = min(streams, cores)
            assert engine.backend_description.endswith(f", {got} stream{'s' * (got > 1)}")
            np.testing.assert_array_equal(engine(images), expected)


def test_an_image_takes_as_many_flops_in_any_batch_whatever_is_merged(
    mnist_image_bundle: Path, mnist_images: dict[str, np.ndarray], tmp_path: Path, vmoe: Vmoe
) -> None:
    digits = npz(tmp_path / "digits.npz", images=mnist_images["images"][:16])
    words = ("--merge", 8, "--batch-size", 1, "--batch-size", 16, "--images", digits)
    alone, together = report_of(vmoe, mnist_image_bundle, *words)["points"]
    assert (alone["batch_size"], together["batch_size"], alone["merge"]) == (1, 16, 8)
    assert alone["flops_per_image"] == together["flops_per_image"]
