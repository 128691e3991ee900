"""The serving benchmark: its traces have the rates that they say, its load comes on time, it sees what a service does."""

from __future__ import annotations

import doctest
import json
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import cpp_http
import numpy as np
import pytest
from serving import arrivals, http_client, picture, saturation, subject, traces

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "serving.py"
TEST_DATA = Path(__file__).parents[2] / "samples" / "mnist" / "test_data.npz"
SEVEN = TEST_DATA.with_name("seven.png")


def test_traces_have_their_rates_and_are_the_same_again() -> None:
    means = {"poisson": 1.0, "bursts": 0.5, "day": 0.6}
    for name in arrivals.TRACES:
        times = arrivals.arrivals(name, 500.0, 60.0, 1)
        assert (np.diff(times) >= 0).all() and times[0] >= 0 and times[-1] < 60
        assert len(times) / (500 * 60) == pytest.approx(means[name], rel=0.05)
        np.testing.assert_array_equal(times, arrivals.arrivals(name, 500.0, 60.0, 1))
        assert len(arrivals.arrivals(name, 500.0, 60.0, 2)) != len(times)
    phase = arrivals.arrivals("bursts", 500.0, 60.0, 1) % (arrivals.BURST + arrivals.CALM)
    in_bursts = np.count_nonzero(phase >= arrivals.CALM) / arrivals.BURST
    assert in_bursts / (np.count_nonzero(phase < arrivals.CALM) / arrivals.CALM) == pytest.approx(4, rel=0.15)
    hours = np.histogram(arrivals.arrivals("day", 500.0, 60.0, 1), bins=6, range=(0, 60))[0]
    assert hours[0] < hours[1] < hours[2] and hours[5] < hours[4] < hours[3] and hours[2] > 3 * hours[0]


@pytest.mark.parametrize("window", [2.5, 2.9, 3.1, 3.4])
def test_a_rate_does_not_depend_on_where_a_window_cuts_calls(window: float) -> None:
    done = np.repeat(np.arange(1, 20) * 0.7, 8)
    assert subject.rate(done[done < window], window) == pytest.approx(8 / 0.7)
    steady = np.random.default_rng(0).uniform(0, window, 5000)
    assert subject.rate(steady, window) == pytest.approx(5000 / window, rel=0.05)
    assert subject.rate(done[:0], window) == 0 and subject.rate(done[:8], window) == 8 / window


def test_the_time_until_a_lower_setting_serves_counts_from_the_burst(tmp_path: Path) -> None:
    done = np.array([1.0, 2.0, 4.1, 4.3, 4.4, 9.0, 10.2, 11.0, 17.0, 18.0])
    settings = ("high", "high", "high", "low", "low", "high", "high", "high", "low", "low")
    status = np.array([200] * 10 + [503, 0])
    due = np.array([*(done - 0.1), 18.0, 18.1])
    notes = http_client.Notes(
        start=0.0,
        due=due,
        sent=due + 0.001,
        done=np.array([*done, 18.2, np.nan]),
        status=status,
        setting=(*settings, "", ""),
        classes=np.zeros((12, 1), int),
        cpu=0.5,
    )
    assert arrivals.burst_starts(20.0) == [4.0, 10.0, 16.0]
    row = traces.outcome(notes, 0.2, ("low", "high"), [4.0, 10.0, 16.0, 17.5])
    # The third one sees the low setting a second after its start, and the fourth one begins there.
    assert row["switch_ms"] == [pytest.approx(300), None, pytest.approx(1000)]
    assert (row["requests"], row["refused"], row["lost"], row["changes"]) == (12, 1, 1, 3)
    assert row["in_time"] == pytest.approx(10 / 12) and row["settings"] == {"high": 0.6, "low": 0.4}
    assert row["p50_ms"] == pytest.approx(100) and row["late_ms"] == pytest.approx(1)
    assert row["timeline"][0][1] == 1.0 and row["timeline"][-1][1] == 0.0 and row["mean_level"] == pytest.approx(0.6)
    # Without labels, and with tenths in which nothing was answered.
    rows = [row | {"trace": "bursts", "mode": mode, "accuracy": None} for mode in ("elastic", "fixed high")]
    assert None in [level for _, level in row["timeline"]]
    picture.draw({"rows": rows}, tmp_path / "picture.png", 200.0)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_an_open_loop_waits_for_no_answer() -> None:
    """The service here takes requests one after the other, a tenth of a second each, and hangs up on the last one."""
    request = http_client.infer_request("model", np.zeros((1, 2, 2, 1), np.float32), "low")
    logits = np.array([[0, 3, 1]], "<f4").tobytes()
    text = b'{"parameters":{"setting":"low"}}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text) + 12}\r\nInference-Header-Content-Length: {len(text)}\r\n\r\n"
    seen: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connections = [listener.accept()[0] for _ in range(5)]
        for connection in connections[:4]:
            seen.append(connection.recv(1 << 16))
            time.sleep(0.1)
            connection.sendall(head.encode() + text[:5])
            connection.sendall(text[5:] + logits)
        connections[4].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with http_client.generator() as process:
            due = np.arange(5) * 0.01
            notes = process.submit(http_client.open_loop, listener.getsockname()[1], [request], 1, due).result()
        thread.join()
    assert seen == [request] * 4
    assert notes.status.tolist() == [200] * 4 + [0] and notes.classes.ravel().tolist() == [1] * 4 + [-1]
    assert notes.setting == ("low",) * 4 + ("",) and np.isnan(notes.done[4]) and notes.cpu > 0
    np.testing.assert_allclose(notes.due - notes.due[0], due, atol=1e-6)
    # All were sent before the first answer came.
    assert (notes.sent >= notes.due).all() and notes.sent.max() < np.nanmin(notes.done)


@pytest.fixture
def service() -> Path:
    """The one that starts faster, where it was built."""
    return cpp_http.program()


def words(command: str, bundle: str | Path, folder: Path, service: str | Path, *options: str) -> list[str]:
    """A command line of the benchmark, which writes its report to the folder."""
    given = [command, bundle, "--images", TEST_DATA, "--service", service, "--settings", "c0.1-k1", "c1.05-k2"]
    return list(map(str, [*given, "--threads", "1", "--slo-ms", "200", "-o", folder, *options]))


@pytest.fixture
def run() -> Callable[[list[str]], int]:
    """The benchmark's command line, in this process."""
    main: Callable[[list[str]], int] = runpy.run_path(str(PROGRAM))["main"]
    return main


def test_traces_are_replayed_in_every_mode(service: Path, mnist_image_bundle: Path, tmp_path: Path) -> None:
    options = ("--traces", "day", "--seconds", "1.5", "--saturate-seconds", "0.7", "--load", "0.3")
    command = [sys.executable, PROGRAM, *words("traces", mnist_image_bundle, tmp_path, service, *options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "traces.json").read_text())
    low, high = report["points"]
    assert (low["setting"], high["setting"]) == ("c0.1-k1", "c1.05-k2") and low["accuracy"] < high["accuracy"]
    assert report["requests_per_second"] == pytest.approx(0.3 * low["images_per_second"])
    assert ("The comparison means little" in done.stdout) == (report["over_high"] < 1.1)
    assert [(row["trace"], row["mode"]) for row in report["rows"]] == [
        ("day", mode) for mode in ("elastic", "fixed high", "fixed low")
    ]
    for row in report["rows"]:
        fixed = {"fixed high": {"c1.05-k2"}, "fixed low": {"c0.1-k1"}}.get(row["mode"])
        assert set(row["settings"]) <= (fixed or {"c0.1-k1", "c1.05-k2"}) and sum(row["settings"].values()) == pytest.approx(
            1
        )
        assert 0 <= row["in_time"] <= 1 and (row["refused"], row["lost"]) == (0, 0) and 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["accuracy"] > 0.75 and row["images_per_call"] >= 1
        assert row["generator_seconds"] > 0 and row["service_seconds"] > 0
    assert (tmp_path / "traces.png").stat().st_size > 10_000


def test_saturation_is_held_against_the_engine(
    run: Callable[[list[str]], int], service: Path, mnist_image_bundle: Path, tmp_path: Path
) -> None:
    options = ("--seconds", "0.25", "--rounds", "2")
    assert run(words("saturation", mnist_image_bundle, tmp_path, service, *options)) == 0
    report = json.loads((tmp_path / "saturation.json").read_text())
    assert [row["setting"] for row in report["rows"]] == ["c0.1-k1", "c1.05-k2"]
    for row in report["rows"]:
        ratios = [part["images_per_second"] / part["engine_images_per_second"] for part in row["rounds"]]
        assert len(ratios) == 2 and row["ratio"] == pytest.approx(np.median(ratios)) and row["least"] == min(ratios) > 0
        assert 1 <= row["batch"] <= 16 and min(row["alone_ms"], row["call_ms"], row["generator_ms"]) > 0
    assert 0 < report["start_seconds"] < 60


@pytest.mark.parametrize("module", [subject, arrivals])
def test_examples_in_docstrings_hold(module: types.ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0 and results.failed == 0


def test_one_picture_is_enough(
    run: Callable[[list[str]], int], service: Path, mnist_image_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(SEVEN, tmp_path / "pictures")
    few = ("--seconds", "0.2", "--rounds", "1", "--images", str(tmp_path / "pictures"), "--max-batch", "2")
    assert run(words("saturation", mnist_image_bundle, tmp_path, service, *few)) == 0


@pytest.mark.parametrize(
    ("bundle", "service", "said"),
    [
        ("absent.vmoe", "ray", "absent.vmoe is not a bundle"),
        ("{bundle}", "absent", "absent can't be started: No such file"),
        ("{bundle}", "/bin/false", "the service ended with exit code 1: it said nothing"),
    ],
)
def test_what_can_not_be_measured_is_one_sentence(
    bundle: str,
    service: str,
    said: str,
    run: Callable[[list[str]], int],
    mnist_image_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(words("traces", bundle.format(bundle=mnist_image_bundle), tmp_path, service)) == 1
    out, errors = capsys.readouterr()
    assert (out, errors.count("\n"), list(tmp_path.iterdir())) == ("", 1, []) and said in errors


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf"])
def test_a_load_is_a_number_above_zero(
    value: str,
    run: Callable[[list[str]], int],
    mnist_image_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(words("traces", mnist_image_bundle, tmp_path, "ray", "--load", value))
    assert (stopped.value.code, list(tmp_path.iterdir())) == (2, [])
    assert f"argument --load: must be a number above 0, not '{value}'" in capsys.readouterr().err


def test_calls_of_the_engine_are_full_however_few_the_images() -> None:
    sizes: list[int] = []
    given = types.SimpleNamespace(seconds=0.01)
    few = types.SimpleNamespace(given=given, images=np.zeros((3, 2, 2, 1)), engine=lambda batch, _: sizes.append(len(batch)))
    taken = saturation._calls(few, 8, "c0.1-k1")
    assert len(taken) == len(sizes) > 0 and set(sizes) == {8}
