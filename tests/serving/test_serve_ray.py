"""`vmoe-serve ray`: the real command with a real Ray on loopback, asked over HTTP; and what it says of mistakes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from http_client import PATIENCE, HttpClient, unexpected
from terminal import default_signals

from vmoe_runtime import Engine
from vmoe_serve import cli

pytestmark = pytest.mark.long

pytest.importorskip("ray", reason="Ray is not installed")

SEVEN = Path(__file__).parents[2] / "samples" / "mnist" / "seven.png"


class Server(HttpClient):
    """The command, as its own process."""

    def __init__(self, bundle: Path, *options: str, wait: bool = True) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            super().__init__(probe.getsockname()[1])
        command = [sys.executable, "-m", "vmoe_serve", "ray", bundle, "--port", str(self.port), *options]
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=default_signals,  # noqa: PLW1509  (this process has no threads that matter to the child)
            env={**os.environ, "RAY_ADDRESS": ""},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.said = self.line() if wait else ""

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line(self) -> str:
        """What it prints next; nothing where it has ended."""
        return self._lines.get(timeout=PATIENCE)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """The exit code, and what stands on standard error unexpectedly."""
        assert self.process.stderr is not None
        errors = unexpected(self.process.stderr.read())
        return self.process.wait(PATIENCE), errors


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[Server]:
    options = ("--slo-ms", "50", "--profile", "c0.2-k1", "c0.5-k1", "c1.05-k2", "--name", "mnist", "--max-batch", "8")
    started = Server(mnist_image_bundle, *options, "--max-body", "1", "--threads", "1")
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_image_bundle, threads=1) as loaded:
        yield loaded


def test_the_address_it_prints_answers(server: Server, engine: Engine) -> None:
    assert f"http://127.0.0.1:{server.port}/v1/classify" in server.said
    status, body, _ = server.ask("POST", "/v1/classify?top=2&setting=c0.3-k1", SEVEN.read_bytes(), content_type="image/png")
    answer = json.loads(body)
    expected = engine.classify(SEVEN, 2, "c0.3-k1")[0]
    assert status == 200 and answer["setting"] == "c0.3-k1"
    assert [(part["index"], part["probability"]) for part in answer["predictions"][0]] == [(int(n), p) for n, p in expected]


def test_many_clients_at_once_get_the_bits_of_the_engine(
    server: Server, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    images = engine.batch(mnist_images["images"])
    settings = (None, "c0.3-k1", "c1.05-k2-vanilla")

    def ask(index: int) -> tuple[str, bytes, bytes]:
        part = images[index : index + 1 + index % 3]
        status, answer, logits = server.infer(part, settings[index % len(settings)])
        assert status == 200, answer
        setting = answer["parameters"]["setting"]
        return setting, logits, engine(part, setting).tobytes()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(200)))
    for index, (setting, logits, expected) in enumerate(answers):
        wanted = settings[index % len(settings)]
        assert setting in ("c0.2-k1", "c0.5-k1", "c1.05-k2") if wanted is None else setting == wanted
        assert logits == expected


def test_refusals_have_a_status_and_a_sentence(server: Server) -> None:
    cases = [
        ("POST", "/v1/classify", b"x" * (1 << 20 | 1), 413, "larger than 1,048,576 bytes"),
        ("POST", "/v1/classify", b"no picture", 400, "not a readable image"),
        ("POST", "/v1/classify?setting=fastest", SEVEN.read_bytes(), 400, "fastest"),
        ("POST", "/v2/models/other/infer", b"{}", 404, "there is no model 'other'"),
        ("POST", "/v2/models/mnist/infer", b"{}", 400, "one input"),
        ("GET", "/v2/models/other", b"", 404, "there is no model 'other'"),
        ("GET", "/elsewhere", b"", 404, "there is nothing at /elsewhere"),
        ("GET", "/v1/classify", b"", 405, "GET is not what /v1/classify takes"),
    ]
    for method, path, body, status, said in cases:
        found, text, _ = server.ask(method, path, body)
        assert (found, said in json.loads(text)["error"]) == (status, True), (path, text)


def test_health_metadata_and_metrics(server: Server) -> None:
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/mnist", "/v2/models/mnist/ready"):
        status, body, _ = server.ask("GET", path)
        assert status == 200 and isinstance(json.loads(body), dict), path
    status, body, response = server.ask("GET", "/metrics")
    assert status == 200 and response.headers["content-type"].startswith("text/plain")
    assert b'vmoe_images_served_total{model="mnist",setting="' in body


def test_its_processes_keep_to_fixed_thresholds_of_malloc(server: Server) -> None:
    # Ray's other processes write their titles over what they were started with; this one starts them.
    (starter,) = processes(server, b"raylet/raylet")
    said = Path(f"/proc/{starter}/environ").read_bytes().split(b"\0")
    assert {b"MALLOC_ARENA_MAX=2", b"MALLOC_MMAP_THRESHOLD_=131072", b"MALLOC_TRIM_THRESHOLD_=131072"} <= set(said)


def test_sigterm_answers_what_is_there_and_ends(server: Server, engine: Engine, mnist_images: dict[str, Any]) -> None:
    images = engine.batch(mnist_images["images"][:8])
    began = threading.Event()
    outcomes: list[bool] = []

    def ask() -> None:
        for _ in range(400):
            try:
                status, answer, logits = server.infer(images)
            except (OSError, http.client.HTTPException):
                return
            if status != 200:
                return
            outcomes.append(logits == engine(images, answer["parameters"]["setting"]).tobytes())
            began.set()

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    assert began.wait(PATIENCE)
    code, errors = server.stop()
    for client in clients:
        client.join(PATIENCE)
    assert (code, errors) == (0, "")
    assert outcomes and all(outcomes)


BAD: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "a subcommand is missing"),
    (("rays",), 2, "'rays' is none of its subcommands: ray"),
    (("ray",), 2, "BUNDLE"),
    (("ray", "absent.vmoe"), 1, "absent.vmoe is not a bundle"),
    (("ray", "{bundle}", "--slo-ms", "0"), 2, "must be more than 0"),
    (("ray", "{bundle}", "--slo-ms", "nan"), 2, "must be more than 0"),
    (("ray", "{bundle}", "--slo-ms", "-5"), 2, "must be more than 0"),
    (("ray", "{bundle}", "--slo-ms", "1e9"), 2, "at most 600000 milliseconds"),
    (("ray", "{bundle}", "--capacity", "0.2:1.05"), 2, "--capacity is what --slo-ms chooses from"),
    (("ray", "{bundle}", "--slo-ms", "5", "--capacity", "1.05:0.2"), 2, "--capacity 1.05:0.2: capacity ratios"),
    (("ray", "{bundle}", "--slo-ms", "5", "--capacity", "9"), 2, "--capacity at 9"),
    (("ray", "{bundle}", "--slo-ms", "5", "--capacity", "0.2", "--profile", "c1-k1", "c1-k2"), 2, "starts from one profile"),
    (("ray", "{bundle}", "--profile", "c1-k1", "c1-k2"), 2, "several settings are what --slo-ms"),
    (("ray", "{bundle}", "--profile", "c1-k9"), 2, "not 9"),
    (("ray", "{bundle}", "--profile", "fastest"), 2, "fastest"),
    (("ray", "{bundle}", "--port", "0"), 2, "--port"),
    (("ray", "{bundle}", "--port", "65536"), 2, "--port"),
    (("ray", "{bundle}", "--host", "no such host"), 1, "can't serve at no such host:8000"),
    (("ray", "{bundle}", "--replicas", "2:1"), 2, "FEWEST:MOST"),
    (("ray", "{bundle}", "--replicas", "0"), 2, "FEWEST:MOST"),
    (("ray", "{bundle}", "--name", "a/b"), 2, "--name"),
    (("ray", "{bundle}", "--max-batch", "32", "--max-waiting", "16"), 2, "--max-waiting 16 is less than"),
    (("ray", "{bundle}", "--max-body", "0"), 2, "--max-body"),
    (("ray", "{bundle}", "--backend", "tpu"), 2, "--backend"),
    (("ray", "{bundle}", "--slow-ms", "5"), 2, "--slow-ms"),
    (("ray", "{bundle}", "{bundle}"), 2, "unrecognized"),
    (("ray", "{grouped}"), 1, "export it with --group image"),
    (("ray", "{dense}", "--slo-ms", "5"), 2, "the bundle has none"),
    (("ray", "{dense}", "--slo-ms", "5", "--capacity", "0.5"), 2, "has no capacity to choose"),
    (("ray", "{dense}", "--profile", "c1-k1"), 2, "nothing to set"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD)
def test_a_mistake_is_one_sentence(
    words: tuple[str, ...],
    code: int,
    said: str,
    mnist_image_bundle: Path,
    mnist_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dense = Path(__file__).parents[1] / "data" / "bundles" / "v3-dense"
    given = [word.format(bundle=mnist_image_bundle, grouped=mnist_bundle, dense=dense) for word in words]
    assert cli.main(given) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and said in captured.err


def test_a_port_that_is_taken_is_one_sentence(mnist_image_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["ray", str(mnist_image_bundle), "--port", str(port)]) == 1
    assert f"can't serve at 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "ray" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vmoe-serve, version ")
    with pytest.raises(SystemExit):
        cli.main(["ray", "--help"])
    assert "--slo-ms" in capsys.readouterr().out


def test_help_and_mistakes_need_no_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "vmoe_serve.ray_command", raising=False)
    with pytest.raises(SystemExit):
        cli.main(["ray", "--help"])
    assert cli.main(["ray"]) == 2 and cli.main(["ray", "absent.vmoe"]) == 1
    missing, absent = capsys.readouterr().err.splitlines()
    assert "BUNDLE" in missing and absent.startswith("vmoe-serve: vmoe-serve ray needs a package that can't be loaded")


def test_a_bundle_that_a_replica_can_not_load_is_one_sentence(mnist_image_bundle: Path) -> None:
    failed = Server(mnist_image_bundle, "--backend", "tensorrt")
    code, errors = failed.ended()
    assert (code, failed.said, errors.count("\n")) == (1, "", 1), errors
    assert errors.startswith(f"vmoe-serve: Ray can't serve {mnist_image_bundle}: ") and "TensorRT" in errors


def test_ctrl_c_while_it_starts(mnist_image_bundle: Path) -> None:
    starting = Server(mnist_image_bundle, wait=False)
    time.sleep(2)
    assert starting.stop(signal.SIGINT) == (130, "vmoe-serve: interrupted\n")


def test_sigterm_while_it_starts_ends_it_as_one_that_serves(mnist_image_bundle: Path) -> None:
    starting = Server(mnist_image_bundle, wait=False)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):  # nothing listens yet
            socket.create_connection(("127.0.0.1", starting.port), 1).close()
            break
        time.sleep(0.05)
    assert starting.stop(signal.SIGTERM) == (0, "")
    assert "serving mnist_image;" in starting.line()


def replicas(server: Server) -> list[int]:
    """Process ids of the replicas, which Ray names so."""
    return processes(server, b"ServeReplica")


def processes(server: Server, name: bytes) -> list[int]:
    """Process ids of those that have a name in their command line."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if name in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))

    def is_own(process: int) -> bool:
        return process == server.process.pid or (process > 1 and is_own(parents.get(process, 0)))

    return sorted(filter(is_own, found))


def test_a_replica_that_is_killed_loses_no_answer_and_ctrl_c_ends_it(
    mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    options = ("--replicas", "2", "--name", "mnist", "--threads", "1", "--profile", "c0.5-k1")
    server = Server(mnist_image_bundle, *options)
    before = replicas(server)
    assert len(before) == 2
    images = engine.batch(mnist_images["images"])
    killed = threading.Event()
    refusals: list[int] = []

    def ask(index: int) -> bool:
        if index == 150:
            os.kill(before[0], signal.SIGKILL)
            killed.set()
        part = images[index : index + 2]
        for _ in range(PATIENCE):
            status, _, logits = server.infer(part)
            if status == 200:
                return logits == engine(part, "c0.5-k1").tobytes()
            refusals.append(status)
            time.sleep(0.1)
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(600)))
    # Who asked the killed one was told so, and never given an answer that is none.
    assert killed.is_set() and set(refusals) <= {500, 503}
    deadline = time.monotonic() + PATIENCE
    while len(after := replicas(server)) < 2 or before[0] in after:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert server.stop(signal.SIGINT) == (0, "")
