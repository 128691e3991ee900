"""Tests that run the real command `vmoe serve ray` with a real Ray on loopback.

They send HTTP requests, and check the messages for mistakes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sdk_build
from bad_requests import BAD_STARTS, SEVEN
from command_runs import Vmoe, kept_bundle
from http_client import (
    PATIENCE,
    HttpClient,
    assert_bits_under_load,
    connected,
    exchanged,
    free_port,
    nginx,
    unexpected,
)
from ray_cluster import ray_cluster
from serving.http_client import HEADER_LENGTH, header, http_request, infer_body
from terminal import IMPATIENT, started

from vmoe_runtime import Engine

pytestmark = pytest.mark.long

pytest.importorskip("ray", reason="Ray is not installed")
import psutil  # noqa: E402  (Ray's copy)

STEP = re.compile(r"^vmoe: waiting for (.*): [0-9]+ s\n", re.MULTILINE)
STOPS = "vmoe: stopping; requests in its queues get at most 60 s\n"
LEVELS = ("c0.2-k1", "c0.5-k1", "c1.05-k2")


class Server(HttpClient):
    """The command `vmoe serve ray` in a separate process."""

    def __init__(self, bundle: Path, *options: str, cluster: str = "") -> None:
        super().__init__(free_port())
        command = [sys.executable, "-c", IMPATIENT, "serve", "ray", bundle, "--port", str(self.port), *options]
        self.process = started(command, RAY_ADDRESS=cluster)
        lines: queue.Queue[str] = queue.Queue()
        assert self.process.stdout is not None
        output = self.process.stdout
        threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
        self.first_line = lines.get(timeout=PATIENCE)

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM to each of the command's processes, and return what `ended` returns when the command has ended.

        systemd also sends SIGTERM to each process. `timeout` sends the signal to the process group.
        """
        for process in (*descendants(self.process.pid), self.process.pid):
            os.kill(process, signal.SIGTERM)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait until the command has ended. Return its exit code, and any unexpected text on its standard error."""
        assert self.process.stderr is not None
        first, _, rest = self.process.stderr.read().partition("\n")
        assert first == "vmoe: starting Ray and its replicas"
        self.steps = dict.fromkeys(re.findall(STEP, rest))
        return self.process.wait(PATIENCE), unexpected(re.sub(STEP, "", rest))

    def replicas(self) -> list[int]:
        """Return the process ids of the replicas. Ray gives these processes the name ServeReplica."""
        return sorted(child for child in descendants(self.process.pid) if b"ServeReplica" in command_line(child))


def descendants(process: int) -> set[int]:
    """Return the process ids of all descendants. If the process has ended, the result is empty."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(process).children(recursive=True)}
    return set()


def command_line(process: int) -> bytes:
    """Return the command line of a process. If it has ended, return b""."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[Server]:
    limits = ("--request-seconds", "3", "--slo-ms", "50", "--batch-size", "8", "--max-body", "1", "--threads", "1")
    levels = [word for level in LEVELS for word in ("--profile", level)]
    started = Server(mnist_image_bundle, *limits, *levels, "--name", "mnist", "--replicas", "2")
    yield started
    if started.process.poll() is None:
        started.stop()


def test_many_clients_at_once_get_the_bits_of_the_engine_at_the_address_it_prints(
    server: Server, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    assert f"http://127.0.0.1:{server.port}/v1/classify" in server.first_line
    assert_bits_under_load(server, engine, mnist_images["images"], levels=LEVELS, requests=200)


def test_a_replica_that_is_killed_loses_no_answer(server: Server, engine: Engine, mnist_images: dict[str, Any]) -> None:
    before = server.replicas()
    assert len(before) == 2
    images = engine.batch(mnist_images["images"])
    refusals: list[int] = []

    def ask(index: int) -> bool:
        if index == 100:
            os.kill(before[0], signal.SIGKILL)
        part = images[index : index + 2]
        for _ in range(PATIENCE):
            status, _, logits = server.infer(part, "c0.5-k1")
            if status == 200:
                return logits == engine(part, "c0.5-k1").tobytes()
            refusals.append(status)
            time.sleep(0.1)
        return False

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(400)))
    # Clients of the killed replica may get an error, but they must never get a wrong result.
    assert set(refusals) <= {503}
    deadline = time.monotonic() + PATIENCE
    while len(after := server.replicas()) < 2 or before[0] in after:
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize(("length", "status"), [(10_000_000_000, b"413"), (1000, b"408")])
def test_bodies_that_are_too_large_or_too_slow_are_refused(server: Server, length: int, status: bytes) -> None:
    request = http_request("/v1/classify", b"x", "Connection: close")
    answer = exchanged(server.port, request.replace(b"gth: 1", f"gth: {length}".encode()))
    assert answer.startswith(b"HTTP/1.1 " + status) and b'{"error":' in answer


def test_the_documented_nginx_configuration_has_the_limits(server: Server, tmp_path: Path) -> None:
    port = free_port()
    (text,) = re.findall(r"```nginx\n(.*?)```", (Path(__file__).parents[2] / "docs" / "serving.md").read_text(), re.DOTALL)
    for old, new in (("8080", f"127.0.0.1:{port}"), ("127.0.0.1:8000", f"127.0.0.1:{server.port}"), (" 10s", " 2s")):
        assert old in text
        text = text.replace(old, new)
    with nginx(tmp_path, port, text):
        picture = http_request("/v1/classify", SEVEN.read_bytes(), "Connection: close")
        # retry, because the first attempt may take too long on a busy machine
        answers = (exchanged(port, picture) for _ in range(9))
        assert any(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
        assert exchanged(port, picture.replace(b"gth: ", b"gth: 99999")).startswith(b"HTTP/1.1 413 ")
        assert exchanged(port, b"GET / HTTP/1.1\r\nHo") == b""  # the request's head is never completed
        with contextlib.ExitStack() as held:
            for _ in range(32):
                held.enter_context(connected(port)).sendall(picture[:-1])
            refused = exchanged(port, picture)
            assert refused.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in refused and b'{"error": ' in refused


@pytest.mark.slow
def test_sigterm_answers_what_is_there_and_ends(server: Server, engine: Engine, mnist_images: dict[str, Any]) -> None:
    images = engine.batch(mnist_images["images"][:8])
    expected = {level: engine(images, level).tobytes() for level in LEVELS}
    body, length = infer_body(images, None)
    request = http_request("/v2/models/mnist/infer", body, f"{HEADER_LENGTH}: {length}", "Connection: close")
    began = threading.Event()
    outcomes: list[str] = []

    def ask() -> None:
        while server.process.poll() is None:
            outcomes.append(outcome(exchanged(server.port, request)))
            began.set()

    def outcome(answer: bytes) -> str:
        head, _, content = answer.lower().partition(b"\r\n\r\n")
        if not answer:
            return "closed"
        if len(content) != int(header(head, "content-length") or -1):
            return f"cut off: {answer!r}"
        if head.startswith(b"http/1.1 503"):
            return "refused" if json.loads(content)["error"] and header(head, "retry-after") else str(answer)
        text, logits = int(header(head, HEADER_LENGTH) or -1), answer[len(head) + 4 :]
        return "answered" if logits[text:] == expected[json.loads(logits[:text])["parameters"]["setting"]] else str(answer)

    clients = [threading.Thread(target=ask) for _ in range(24)]
    for client in clients:
        client.start()
    assert began.wait(PATIENCE)
    code, errors = server.stop()
    for client in clients:
        client.join(PATIENCE)
    assert (code, errors) == (0, STOPS)
    first, second, *others = server.steps
    assert first == "Ray's own processes"
    assert re.fullmatch(r"replicas to start \(2, each with 1 of Ray's [0-9]+ CPUs\)", second)
    last = "a replica to time the levels"  # the step before it, which is about loading, isn't shown if loading is fast
    assert {last} <= set(others) <= {last, "a replica to load the bundle"}
    assert {"answered"} <= set(outcomes) <= {"answered", "refused", "closed"}


@pytest.mark.slow
def test_a_bundle_that_a_replica_can_not_load_is_one_line(mnist_image_bundle: Path) -> None:
    failed = Server(mnist_image_bundle, "--backend", "tensorrt")
    code, errors = failed.ended()
    assert (code, failed.first_line, errors.count("\n")) == (1, "", 1), errors
    assert errors.startswith(f"vmoe: Ray can't serve {mnist_image_bundle}: ") and "TensorRT" in errors


BAD: list[tuple[str, int, str]] = [
    *BAD_STARTS,
    ("{bundle} --profile c1-k9", 2, "not 9"),
    ("{bundle} --profile fastest", 2, "fastest"),
    ("{bundle} --replicas 2:1", 2, "MIN:MAX"),
    ("{bundle} --backend tpu", 2, "--backend"),
    ("{bundle} --threads 5000", 1, "--replicas 1 with 5000 CPUs each (--threads) need 5000, and this machine has"),
    ("{bundle} --replicas 5000", 1, "--replicas 5000 with 1 CPUs each (--threads) need 5000, and this machine has"),
    ("{dense} --profile c1-k1", 2, "nothing to set"),
]


@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_a_mistake_is_one_line(
    words: str, code: int, message: str, mnist_image_bundle: Path, mnist_bundle: Path, vmoe: Vmoe
) -> None:
    given = words.format(bundle=mnist_image_bundle, grouped=mnist_bundle, dense=kept_bundle("dense"))
    assert message in vmoe.complaint(code, "serve", "ray", *given.split())


SIGTERM_AT_START = """
import signal, sys, ray
from vmoe_serve.ray_session import connected_ray
ray.init = lambda **_: sys.exit(signal.SIGTERM)  # as the handler does that Ray puts there
signal.signal(signal.SIGTERM, lambda *_: print("told"))
with connected_ray():
    pass
"""


def test_sigterm_while_ray_starts_reaches_the_handler_of_before() -> None:
    done = sdk_build.run(sys.executable, "-c", SIGTERM_AT_START)
    assert (done.returncode, done.stdout) == (signal.SIGTERM, "told\n")


CHILD_AT_START_AND_LATER = """
import os, signal, ray
from vmoe_serve.ray_session import connected_ray
def blocked():
    child = os.fork()
    if not child:
        os._exit(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
ray.init = lambda **_: print(blocked())
ray.shutdown = lambda: None
with connected_ray():
    print(blocked())
"""


def test_only_what_ray_starts_outlives_a_sigterm() -> None:
    assert sdk_build.run(sys.executable, "-c", CHILD_AT_START_AND_LATER).stdout == "1\n0\n"


@pytest.mark.slow
def test_a_ray_that_does_not_start_in_time_is_one_line_and_leaves_no_process(mnist_image_bundle: Path) -> None:
    command = [sys.executable, "-c", IMPATIENT, "serve", "ray", mnist_image_bundle, "--port", free_port()]
    process, children = started(command, RAY_ADDRESS=""), set[int]()
    while process.poll() is None:
        children |= (own := descendants(process.pid))
        for child in own:
            if b"raylet/raylet" in command_line(child):  # suspend it, so that Ray waits for it and gives up after 30 s
                os.kill(child, signal.SIGSTOP)
        time.sleep(0.05)
    errors = re.sub(STEP, "", process.communicate()[1]).splitlines()
    assert process.returncode == 1 and len(errors) == 2
    assert errors[1].startswith("vmoe: Ray can't be started: The current node timed out during startup")
    assert errors[1].endswith("try again, or serve with vmoe-serve-http, the C++ service")
    deadline = time.monotonic() + PATIENCE  # wait until the processes that were killed last have ended
    while left := list(filter(None, map(command_line, children))):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.sample(1)
@pytest.mark.parametrize("variable", ["HOME", "RAY_TMPDIR"])
def test_a_folder_that_ray_may_not_write_to_is_named_with_its_variable(variable: str, mnist_image_bundle: Path) -> None:
    command = [sys.executable, "-m", "vmoe_tools", "serve", "ray", mnist_image_bundle, "--port", free_port()]
    process = started(command, RAY_ADDRESS="", RAY_AUTH_MODE="token", **{variable: "/proc/none"})
    _, errors = process.communicate(timeout=PATIENCE)
    advice = "set the variables HOME and RAY_TMPDIR (default: /tmp) to folders that Ray may write to"
    assert process.returncode == 1 and re.fullmatch(
        rf"vmoe: starting Ray and its replicas\nvmoe: Ray can't be started: .*/proc/none.*; {re.escape(advice)}\n", errors
    ), errors


def test_a_port_that_is_taken_is_one_line(mnist_image_bundle: Path, vmoe: Vmoe) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complaint = vmoe.complaint(1, "serve", "ray", mnist_image_bundle, "--port", port)
    assert f"can't serve at 127.0.0.1:{port}: Address already in use" in complaint


@pytest.mark.slow
def test_a_cluster_with_cpus_for_some_of_the_replicas_serves_with_these(mnist_image_bundle: Path) -> None:
    with ray_cluster() as variables:
        server = Server(mnist_image_bundle, "--replicas", "2", "--threads", "3", cluster=variables["RAY_ADDRESS"])
        assert server.first_line.startswith("serving mnist_image (1 of 2 replicas) on ")
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.stop() == (0, STOPS)


@pytest.mark.slow
def test_a_cluster_whose_ray_serve_answers_no_http_is_refused_and_keeps_nothing(mnist_image_bundle: Path) -> None:
    started_without = "import ray; from ray import serve; ray.init(); serve.start(http_options={'location': 'NoServer'})"
    applications = "import ray; from ray import serve; ray.init(); print('left:', [*serve.status().applications])"
    command = [sys.executable, "-c", IMPATIENT, "serve", "ray", mnist_image_bundle, "--port", str(free_port())]
    with ray_cluster() as cluster:
        variables = {**cluster, "RAY_AUTH_MODE": "disabled"}
        sdk_build.built(sys.executable, "-c", started_without, **variables)
        refused = sdk_build.run(*command, **variables)
        left = sdk_build.built(sys.executable, "-c", applications, **variables)
    assert refused.returncode == 1
    assert "Ray Serve was started on this cluster without HTTP proxies" in refused.stderr
    assert "left: []" in left


@pytest.mark.slow
def test_a_port_where_another_one_starts_is_refused_and_a_kill_leaves_no_file(
    mnist_image_bundle: Path, tmp_path: Path
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "vmoe_tools", "serve", "ray", mnist_image_bundle, "--port", str(port)]
    first = started(command, TMPDIR=str(tmp_path), RAY_TMPDIR="/tmp")
    assert first.stderr is not None
    assert first.stderr.readline() == "vmoe: starting Ray and its replicas\n"
    second = sdk_build.run(*command)
    first.kill()
    first.communicate(timeout=PATIENCE)
    assert list(tmp_path.iterdir()) == []
    assert second.returncode == 1
    assert f"can't serve at 127.0.0.1:{port}: Address already in use" in second.stderr


@pytest.mark.parametrize("word", ["ray", "batch"])
def test_help_needs_no_ray_and_what_needs_it_names_the_extra(
    word: str, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe, mnist_image_bundle: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("vmoe_serve.")]:
        monkeypatch.delitem(sys.modules, name)
    assert "BUNDLE" in vmoe.run("serve", word, "--help")[0]
    more = [SEVEN.parent, tmp_path / "out"] if word == "batch" else []
    assert "pip install 'vmoe-export[serve]'" in vmoe.complaint(1, "serve", word, mnist_image_bundle, *more)
