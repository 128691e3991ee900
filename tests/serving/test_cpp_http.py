"""Tests of the HTTP service in C++.

They check that results have the engine's bits and that each mistake gets a message. Clients that misbehave must do no harm.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import cpp_http
import numpy as np
import pytest
from bad_requests import BAD_CLASSIFY, BAD_STARTS, SEVEN, encoded, inputs
from command_runs import kept_bundle
from cpp_http import CppServer
from http_client import (
    PATIENCE,
    HttpClient,
    assert_bits_under_load,
    connected,
    exchanged,
    free_port,
    unexpected,
)
from sdk_build import built, run
from serving.http_client import http_request, infer_request
from terminal import started

from vmoe_runtime import Engine
from vmoe_serve.levels import model_name

pytestmark = pytest.mark.long

OPTIONS = ("--name", "mnist", "--batch-size", "8", "--max-body", "1", "--threads", "1")
LEVELS = ("--slo-ms", "50", "--profile", "c0.2-k1", "--profile", "c0.5-k1", "--profile", "c1.05-k2")
HOST = b" HTTP/1.1\r\nHost: x\r\n"
HEALTH = b"GET /healthz" + HOST + b"\r\n"
LAST = b"GET /healthz" + HOST + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[CppServer]:
    served = CppServer(cpp_http.program(), mnist_image_bundle, *LEVELS, *OPTIONS, "--request-seconds", "2")
    yield served
    assert served.stop()[0] == 0


def test_many_clients_at_once_get_the_bits_of_the_engine(
    server: CppServer, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    assert_bits_under_load(server, engine, mnist_images["images"], levels=("c0.2-k1", "c0.5-k1", "c1.05-k2"), requests=600)


def test_a_body_may_come_in_chunks(server: CppServer, engine: Engine) -> None:
    body = encoded({**inputs(), "parameters": {"setting": "c0.2-k1"}})
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:99], body[99:])) + b"0\r\n\r\n"
    answer = exchanged(server.port, b"POST /v2/models/mnist/infer" + HOST + b"Connection: close\r\n" + CHUNKED + chunks)
    values = json.loads(answer.split(b"\r\n\r\n")[1])["outputs"][0]["data"]
    image = np.array(inputs()["inputs"][0]["data"], np.float32).reshape(1, 28, 28, 1)
    np.testing.assert_array_equal(np.array(values, np.float32).reshape(1, 10), engine(image, "c0.2-k1"))


def refusal(status: int, body: bytes) -> str:
    error = json.loads(body)["error"]
    assert "\n" not in error and len(error) > 10, error
    return f"{status} {error}"


POST = b"POST /v1/classify" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
NOWHERE = b"http://x http:// http://x?/v2 ftp://x/v2 /v2% /v2%0 /v2%00 /v2%2Fmodels%2Fmnist /v2%253F".split()
REFUSED = [
    *((b"GET " + path + HOST + b"Connection: close\r\n\r\n", 404, "there is nothing at") for path in NOWHERE),
    (b"hello\r\n\r\n", 400, "can't be understood"),
    (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "one Host header"),
    (b"GET /healthz" + HOST + b"no colon\r\n\r\n", 400, "can't be understood"),
    (b"GET /" + b"x" * 99999 + HOST + b"\r\n", 431, "more than 16384 bytes"),
    (b"GET /healthz" + HOST + b"".join(b"x%d: y\r\n" % i for i in range(9999)) + b"\r\n", 431, "more than 16384 bytes"),
    (b"GET /healthz" + HOST + b"Content-Length: 1\r\n\r\n", 400, "GET takes no body"),
    (b"GET /healthz" + HOST + CHUNKED, 400, "GET takes no body"),
    (POST + b"\r\n", 411, "Content-Length"),
    (POST + b"Content-Length: 1048577\r\n\r\n", 413, "the body is larger than 1 MB"),
    (POST + CHUNKED + b"100001\r\n" + bytes(1 << 20) + b"x\r\n0\r\n\r\n", 413, "the body is larger than 1 MB"),
    (POST + b"Content-Length: 3\r\n" + CHUNKED, 400, ""),
    (POST + b"Content-Encoding: br\r\nContent-Length: 38\r\n\r\n", 415, "gzip and deflate are known"),
    (
        POST + b"Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        400,
        "no picture",
    ),
    (b"DELETE /v1/classify" + HOST + CHUNKED, 405, "DELETE is not allowed"),
    (b"POST /healthz" + HOST + b"Content-Length: 38\r\n\r\n", 405, "POST is not allowed"),
    (b"POST /nowhere" + HOST + b"Content-Length: 38\r\n\r\n", 404, "there is nothing at /nowhere"),
    (b"POST /v2/models/other/infer" + HOST + b"Content-Length: 38\r\n\r\n", 404, "there is no model 'other'"),
]


@pytest.mark.parametrize(
    "target",
    [
        b"http://x:1/v2/models/mnist",
        b"HTTPS://[::1]/v2/models/mnist?x",
        b"/v2/%6Dodels/mni%73t",
        b"http://x/v2/models/%6d%6eist",
    ],
)
def test_a_target_may_have_a_host_before_it_and_letters_that_are_encoded(server: CppServer, target: bytes) -> None:
    answer = exchanged(server.port, b"GET " + target + HOST + b"Connection: close\r\n\r\n")
    assert json.loads(answer.split(b"\r\n\r\n")[1])["name"] == "mnist", answer


def test_a_refused_request_without_a_body_keeps_its_connection(server: CppServer) -> None:
    answer = exchanged(server.port, b"GET /nowhere" + HOST + b"\r\n", LAST)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")] == [b"", b"404", b"200"]


def test_clients_that_drip_get_408_and_hold_nobody(server: CppServer) -> None:
    heads = (b"G", POST + b"X-a: ", POST + b"Content-Length: 1000\r\n\r\n", POST + CHUNKED + b"fff\r\n")

    def answered_meanwhile() -> bool:
        with ThreadPoolExecutor(32) as pool:
            drips = [pool.submit(exchanged, server.port, head, *[b"x"] * 60, pause=0.05) for head in heads * 8]
            time.sleep(0.5)
            assert server.ask("POST", "/v1/classify", SEVEN.read_bytes())[0] == 200
            late = any(drip.done() for drip in drips)
            assert all(drip.result().startswith(b"HTTP/1.1 408 ") for drip in drips)
        return not late

    # retry, because the first attempt may take too long on a busy machine
    assert any(answered_meanwhile() for _ in range(9))


def test_a_client_that_waits_for_100_gets_it(server: CppServer) -> None:
    with connected(server.port) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % SEVEN.stat().st_size)
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(SEVEN.read_bytes())
        assert connection.recv(17) == b"HTTP/1.1 200 OK\r\n"


def test_more_clients_than_may_be_are_refused_and_those_that_are_there_answered(mnist_image_bundle: Path) -> None:
    few = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--connections", "4")
    with ExitStack() as stack:
        held = [http.client.HTTPConnection("127.0.0.1", few.port, timeout=PATIENCE) for _ in range(4)]
        for connection in held:
            stack.enter_context(closing(connection))
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        for method, body in (("GET", b""), ("POST", bytes(1 << 20))) * 5:
            status, text, response = few.ask(method, "/healthz", body)
            assert (status, response.headers["retry-after"]) == (503, "1") and "too many clients" in refusal(status, text)
        for connection in held:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
    deadline = time.monotonic() + PATIENCE
    while few.ask("GET", "/healthz")[0] != 200:
        assert time.monotonic() < deadline
    assert few.stop() == (0, "")


def tasks(server: CppServer) -> dict[str, int]:
    """For each thread of the server's process, return how often the thread has waited."""
    files = Path(f"/proc/{server.process.pid}/task").glob("*/status")
    return {file.parent.name: int(file.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for file in files}


def test_idle_connections_cost_no_thread_and_wake_none(mnist_image_bundle: Path) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--connections", "300")
    before = tasks(server)
    with ExitStack() as stack:
        for index in range(200):
            connection = stack.enter_context(connected(server.port))
            if index % 2:  # half of the connections send one request first; the others send nothing
                connection.sendall(HEALTH)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        idle = tasks(server)
        assert idle.keys() == before.keys()
        time.sleep(1)
        woken = sum(tasks(server).values()) - sum(idle.values())
    assert woken < 100  # if each connection were checked even once, threads would wake up 200 times
    assert server.stop() == (0, "")


@pytest.mark.slow
def test_a_connection_without_a_request_is_closed_after_a_minute(mnist_image_bundle: Path) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--request-seconds", "1")
    start = time.monotonic()
    with connected(server.port) as fresh, connected(server.port) as used:
        used.sendall(HEALTH)
        assert used.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert fresh.recv(1) == used.recv(1) == b""
        assert time.monotonic() - start >= 60
    assert server.stop() == (0, "")


def test_a_client_that_takes_no_answer_is_closed(mnist_image_bundle: Path) -> None:
    """Send requests but read no responses, until the responses have filled the send and receive buffers."""
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--request-seconds", "1")
    with connected(server.port) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        while True:
            connection.sendall(b"GET /openapi.json" + HOST + b"\r\n")
    assert server.ask("GET", "/healthz")[0] == 200
    assert server.stop() == (0, "")


def test_a_full_queue_is_503_and_clients_that_disconnect_leave_it(
    mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    short = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--max-waiting", "8", "--connections", "600")
    images = engine.batch(mnist_images["images"][:8])
    expected = engine(images, "c1.05-k2").tobytes()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: short.infer(images, "c1.05-k2"), range(400)))
    refused = [answer for status, answer, _ in answers if status != 200]
    assert all("images wait already, and at most 8 may" in answer["error"] for answer in refused) and refused
    assert {logits for status, _, logits in answers if status == 200} == {expected}
    for _ in range(100):
        with connected(short.port) as connection:
            connection.sendall(infer_request("mnist", images, "c2-k2"))
        with connected(short.port) as connection:
            connection.sendall(http_request("/v1/classify", SEVEN.read_bytes()))
    deadline = time.monotonic() + PATIENCE
    while json.loads(short.ask("GET", "/healthz")[1])["waiting"]:
        assert time.monotonic() < deadline
    lines = short.ask("GET", "/metrics")[1].decode().splitlines()
    counts = {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines if line[0] != "#")}
    busy = [count for name, count in counts.items() if "seconds_count" in name and 'status="503"' in name]
    assert len(refused) <= sum(busy) <= counts['vmoe_requests_refused_total{model="mnist"}']
    assert short.stop() == (0, "")


def test_a_client_that_has_sent_more_and_disconnects_leaves_the_queue(mnist_image_bundle: Path) -> None:
    patient = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--max-waiting", "800")
    request = infer_request("mnist", np.zeros((8, 28, 28, 1), np.float32), "c2-k2")
    deadline = time.monotonic() + PATIENCE

    def asked(path: str) -> bytes:
        status, body, _ = patient.ask("GET", path)
        while status == 503:  # the server may still count clients that are gone as connections
            assert time.monotonic() < deadline, body
            status, body, _ = patient.ask("GET", path)
        return body

    while b'vmoe_requests_cancelled_total{model="mnist"} 0\n' in asked("/metrics"):
        assert time.monotonic() < deadline
        for _ in range(100):  # a fast server may have computed them all before it sees that a client is gone
            with connected(patient.port) as connection:
                connection.sendall(request + bytes(70000))  # more bytes than the server reads before it responds
    while json.loads(asked("/healthz"))["waiting"]:
        assert time.monotonic() < deadline
    assert patient.stop() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_answers_what_has_arrived_and_ends(number: int, mnist_image_bundle: Path, engine: Engine) -> None:
    """Send requests on new and on open connections. Then send a signal before the server has read the requests."""
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    images = np.zeros((8, 28, 28, 1), np.float32)
    expected = engine(images, "c1.05-k2").tobytes()
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(server.port)) for _ in range(8)]
        for known in clients:
            known.sendall(HEALTH)
            assert known.recv(65536)
        server.process.send_signal(signal.SIGSTOP)
        clients += [stack.enter_context(connected(server.port)) for _ in range(8)]
        for client in clients:
            client.sendall(infer_request("mnist", images, "c1.05-k2"))
        server.process.send_signal(number)
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            answer = b"".join(iter(lambda: client.recv(65536), b""))  # noqa: B023
            assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(expected)
    _, errors = server.process.communicate(timeout=PATIENCE)
    assert (server.process.returncode, unexpected(errors)) == (0, "")


@pytest.mark.parametrize(("number", "says"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_signal_ends_the_start(number: int, says: str, mnist_image_bundle: Path) -> None:
    command = [cpp_http.program(), mnist_image_bundle, "--port", "0", "--slo-ms", "50", "--sweep", "0.2:1.05"]
    process = started(command, **cpp_http.environment())
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1:
        assert process.poll() is None
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE) == ("", f"vmoe-serve-http: {says}\n")
    assert process.returncode == 128 + number


def test_a_reader_of_the_log_may_end_earlier(mnist_image_bundle: Path) -> None:
    client = HttpClient(free_port())
    command = [cpp_http.program(), mnist_image_bundle, "--port", str(client.port)]
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(command, stdout=writing, stderr=writing, env=cpp_http.environment()) as process:
        while process.poll() is None and not exchanged(client.port, b"GET /healthz HTTP/1.0\r\n\r\n"):
            time.sleep(0.05)
        assert process.poll() is None and client.ask("GET", "/healthz")[0] == 200
        process.terminate()
    os.close(writing)
    assert process.returncode == 0


@pytest.mark.parametrize("folder", ["été (2).vmoe", "_a+-b_.vmoe", "a.vmoe.vmoe", "é.vmoe", ".vmoe", "x" * 150, "v1.5"])
def test_a_model_has_the_name_that_it_has_on_ray(folder: str, mnist_image_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(mnist_image_bundle, tmp_path / folder))
    server = CppServer(cpp_http.program(), bundle, *OPTIONS[2:])
    assert json.loads(server.ask("POST", "/v2/repository/index")[1])[0]["name"] == model_name(bundle)
    assert server.stop() == (0, "")


def test_https(mnist_image_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x")
    built(*made, "-keyout", key, "-out", certificate)
    files = ("--tls-cert", str(certificate), "--tls-key", str(key))
    secure = CppServer(cpp_http.program(), mnist_image_bundle, *files, "--request-seconds", "1")
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    with closing(http.client.HTTPSConnection("127.0.0.1", secure.port, timeout=PATIENCE, context=context)) as connection:
        for _ in range(3):
            connection.request("POST", "/v1/classify?top=1", SEVEN.read_bytes())
            assert json.loads(connection.getresponse().read())["predictions"][0][0]["class"] == "7"
    # First send a request and the first byte of a second request together. Then send the rest of the second request byte
    # by byte.
    with context.wrap_socket(connected(secure.port)) as connection:
        connection.sendall(HEALTH + POST[:1])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        for byte in POST[1:31]:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert b"HTTP" not in exchanged(secure.port, HEALTH)
    assert exchanged(secure.port, b"\x16\x03\x01") == b""  # half of a handshake
    with context.wrap_socket(connected(secure.port)) as idle:
        assert secure.stop() == (0, "")
        assert idle.recv(1) == b""


BAD: list[tuple[str, int, str]] = [
    *BAD_STARTS,
    ("{bundle} --slo-ms", 2, "--slo-ms"),
    ("{bundle} --slo-ms 5 --sweep 0.2:1:x", 2, "--sweep: '0.2:1:x' is not a range"),
    ("{bundle} --slo-ms 5 --capacity x", 2, "--capacity"),
    ("{bundle} --profile c1-k9", 1, "not 9"),
    ("{bundle} --slo-ms 5 --profile fastest", 2, "fastest"),
    ("{bundle} --host -q", 1, "can't serve at -q:8000"),
    ("{bundle} --port {taken}", 1, "Address already in use"),
    ("{bundle} --max-body 0", 2, "--max-body"),
    ("{bundle} --tls-cert x.pem", 2, "--tls-key"),
    ("{bundle} --tls-cert x.pem --tls-key x.pem", 1, "--tls-cert x.pem: No such file"),
    ("{bundle} --slow-ms 5", 2, "--slow-ms"),
    ("{bundle} {bundle}", 2, "{bundle}"),
]


@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_a_mistake_is_one_message(
    words: str, code: int, message: str, server: CppServer, mnist_image_bundle: Path, mnist_bundle: Path
) -> None:
    names = {"bundle": mnist_image_bundle, "grouped": mnist_bundle, "dense": kept_bundle("dense")}
    names |= {"taken": Path(str(server.port))}
    done = run(cpp_http.program(), *words.format(**names).split(), **cpp_http.environment())
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("vmoe-serve-http: ") and done.stderr.count("\n") == 1, done.stderr
    assert message.format(**names) in done.stderr


def test_a_missing_onnxruntime_is_one_message(mnist_image_bundle: Path) -> None:
    done = run(cpp_http.program(), mnist_image_bundle, VMOE_ONNXRUNTIME="/nowhere/libonnxruntime.so")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "VMOE_ONNXRUNTIME" in done.stderr


def test_a_system_that_does_not_start_all_threads_is_one_message(mnist_image_bundle: Path) -> None:
    limits = 'ulimit -s 1000000; ulimit -v 3300000; exec "$0" "$@"'  # enough for two threads with stacks of 1 GB each
    command = ["sh", "-c", limits, cpp_http.program(), mnist_image_bundle, "--port", "0", "--threads", "1"]
    process = started(command, **cpp_http.environment())
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 1 and errors.count("\n") == 1 and re.search("can't start [0-9]+ threads: ", errors)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_sanitizers_find_nothing_under_load(
    sanitizers: str, mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    """Concurrently send good and bad requests, and disconnect clients. Meanwhile, send a signal to the service."""
    levels = ("--slo-ms", "200", "--sweep", "0.2:1.05", "--max-waiting", "64")
    tsan = "ignore_noninstrumented_modules=1"
    server = CppServer(cpp_http.program(sanitizers), mnist_image_bundle, *levels, *OPTIONS, TSAN_OPTIONS=tsan)
    images = engine.batch(mnist_images["images"][:64])
    statuses: set[int] = set()

    def ask(index: int) -> None:
        kind = index % 8
        if kind < 5:
            part = images[index % 56 : index % 56 + 1 + kind]
            status, answer, logits = server.infer(part, "c0.3-k1" if kind == 1 else None)
            statuses.add(status)
            assert status == 503 or logits == engine(part, answer["parameters"]["setting"]).tobytes()
        elif kind == 5:
            statuses.add(server.ask("POST", "/v1/classify", SEVEN.read_bytes())[0])
        elif kind == 6:
            body, content_type, _, _ = BAD_CLASSIFY[index % len(BAD_CLASSIFY)]
            statuses.add(server.ask("POST", "/v1/classify", encoded(body), content_type=content_type)[0])
            exchanged(server.port, *REFUSED[index % len(REFUSED)][:1])
        else:
            with connected(server.port) as connection:
                connection.sendall(POST + b"Content-Length: 500\r\n\r\n" + bytes(index % 501))
            server.ask("GET", "/metrics")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(800)))
    assert server.stop() == (0, "")
    assert statuses >= {200, 400}
