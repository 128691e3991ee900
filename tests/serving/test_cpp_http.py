"""The HTTP service in C++: the bits of the engine, a sentence for each mistake, and clients that misbehave."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import cpp_http
import numpy as np
import pytest
from bad_requests import BAD_CLASSIFY, BAD_INFER, BAD_LENGTHS, JSON, SEVEN, encoded, inputs
from cpp_http import CppServer
from http_client import PATIENCE, unexpected

from vmoe_export import export_bundle
from vmoe_runtime import Engine

pytestmark = pytest.mark.long

OPTIONS = ("--name", "mnist", "--max-batch", "8", "--max-body", "1", "--threads", "1")
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[CppServer]:
    levels = ("--slo-ms", "50", "--profile", "c0.2-k1", "c0.5-k1", "c1.05-k2")
    started = CppServer(cpp_http.program(), mnist_image_bundle, *levels, *OPTIONS, "--request-seconds", "3")
    yield started
    assert started.stop()[0] == 0


@pytest.fixture(scope="module")
def impatient(mnist_image_bundle: Path) -> Iterator[CppServer]:
    """One that waits a second for a request."""
    started = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--request-seconds", "1")
    yield started
    assert started.stop() == (0, "")


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_image_bundle, backend="onnxruntime", threads=1) as loaded:
        yield loaded


def test_pictures_get_the_classes_of_the_engine(server: CppServer, engine: Engine) -> None:
    picture = SEVEN.read_bytes()
    for setting in (None, "c0.3-k1", "c0.5-k2-vanilla"):
        query = "" if setting is None else f"&setting={setting}"
        body = json.dumps({"images": [base64.b64encode(picture).decode()] * 2, "top": 3, "setting": setting}).encode()
        raw = server.ask("POST", f"/v1/classify?top=3{query}", picture, content_type="image/png")
        for status, text, _ in (raw, server.ask("POST", "/v1/classify", body, content_type=JSON)):
            answer = json.loads(text)
            assert status == 200 and setting in (None, answer["setting"])
            expected = engine.classify(picture, 3, answer["setting"])[0]
            for found in answer["predictions"]:
                assert [(part["class"], part["index"]) for part in found] == [(str(name), int(name)) for name, _ in expected]
                np.testing.assert_allclose([part["probability"] for part in found], [share for _, share in expected], 1e-12)


def test_many_clients_at_once_get_the_bits_of_the_engine(
    server: CppServer, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    images = engine.batch(mnist_images["images"])
    settings = (None, "c0.3-k1", "c1.05-k2-vanilla")

    def ask(index: int) -> bool:
        part = images[index : index + 1 + index % 3]
        status, answer, logits = server.infer(part, settings[index % 3])
        assert status == 200, answer
        setting = answer["parameters"]["setting"]
        assert setting == settings[index % 3] or (index % 3 == 0 and setting in ("c0.2-k1", "c0.5-k1", "c1.05-k2"))
        return logits == engine(part, setting).tobytes()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(600)))


def test_tensors_in_json_and_uint8(server: CppServer, engine: Engine) -> None:
    image = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    for data in (image.ravel().tolist(), image.tolist()):
        asked = {**inputs(datatype="UINT8", data=data), "id": "one", "parameters": {"setting": "c0.2-k1"}}
        status, text, _ = server.ask("POST", "/v2/models/mnist/infer", json.dumps(asked).encode())
        answer = json.loads(text)
        assert (status, answer["id"], answer["parameters"]) == (200, "one", {"setting": "c0.2-k1"})
        values = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
        np.testing.assert_array_equal(values, engine(image, "c0.2-k1"))


def test_health_metadata_and_metrics(server: CppServer) -> None:
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/mnist", "/v2/models/mnist/ready"):
        status, body, _ = server.ask("GET", path)
        assert status == 200 and isinstance(json.loads(body), dict), path
    model = json.loads(server.ask("GET", "/v2/models/mnist")[1])
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    server.ask("POST", "/v1/classify?setting=c0.3-k1", SEVEN.read_bytes())
    status, body, response = server.ask("GET", "/metrics")
    assert status == 200 and response.headers["content-type"].startswith("text/plain")
    for line in (b'images_served_total{model="mnist",setting="c0.3-k1"}', b"_bucket{", b"vmoe_images_waiting{"):
        assert line in body


def refusal(status: int, body: bytes) -> str:
    error = json.loads(body)["error"]
    assert "\n" not in error and len(error) > 10, error
    return f"{status} {error}"


@pytest.mark.parametrize(("body", "content_type", "query", "said"), BAD_CLASSIFY)
def test_a_bad_classify_is_400_and_a_sentence(
    server: CppServer, body: bytes | dict[str, Any], content_type: str, query: dict[str, str], said: str
) -> None:
    sent = encoded(body)
    path = "/v1/classify?" + "&".join(f"{name}={value}" for name, value in query.items())
    status, text, _ = server.ask("POST", path, sent, content_type=content_type)
    assert refusal(status, text).startswith("400 ")
    # What no JSON is, each reader says in its own words.
    assert (
        "no JSON" in said
        or "number of JSON" in said
        or said.replace("'", '"').strip('"') in text.decode().replace("'", '"').replace('\\"', '"')
    )


@pytest.mark.parametrize(("body", "behind", "said"), BAD_INFER)
def test_a_bad_infer_is_400_and_a_sentence(
    server: CppServer, body: dict[str, Any] | bytes, behind: bytes, said: str
) -> None:
    text = encoded(body)
    header = {"Inference_Header_Content_Length": str(len(text))} if behind else {}
    status, answer, _ = server.ask("POST", "/v2/models/mnist/infer", text + behind, **header)
    assert refusal(status, answer).startswith("400 "), said


@pytest.mark.parametrize("length", BAD_LENGTHS)
def test_a_header_length_that_is_none(server: CppServer, length: str) -> None:
    header = {"Inference_Header_Content_Length": length.encode().decode("latin-1")}
    status, text, _ = server.ask("POST", "/v2/models/mnist/infer", json.dumps(inputs()).encode(), **header)
    assert status == 400 and "Inference-Header-Content-Length" in refusal(status, text)


def test_other_refusals_have_a_status_and_a_sentence(server: CppServer) -> None:
    form = {"content_type": "multipart/form-data; boundary=x"}
    bomb = gzip.compress(bytes(64 << 20))
    cases = [
        ("POST", "/v1/classify", bytes(1 << 20 | 1), {}, 413, "the body is larger than 1 MB"),
        ("POST", "/v1/classify", bomb, {"content_encoding": "gzip"}, 413, "the body is larger than 1 MB"),
        ("POST", "/v1/classify", b"--x--", form, 400, "a form is not understood"),
        ("POST", "/v2/models/other/infer", b"{}", {}, 404, "there is no model 'other'"),
        ("GET", "/v2/models/other", b"", {}, 404, "there is no model 'other'"),
        ("GET", "/elsewhere", b"", {}, 404, "there is nothing at /elsewhere"),
        ("GET", "/v1/classify", b"", {}, 405, "GET is not what /v1/classify takes"),
        ("POST", "/healthz", b"", {}, 405, "POST is not what /healthz takes"),
        ("GET", "/v2/models/mnist/infer", b"", {}, 405, "GET is not what /v2/models/mnist/infer takes"),
        ("DELETE", "/v2/models/mnist", b"", {}, 405, "DELETE is not what /v2/models/mnist takes"),
        ("OPTIONS", "/v1/classify", b"", {}, 405, "OPTIONS is not what /v1/classify takes"),
        ("GET", "/v2/models//ready", b"", {}, 404, "there is nothing at /v2/models//ready"),
        ("GET", "/healthz", b"x", {}, 400, "GET takes no body"),
        ("GET", "/healthz", b"", {"range": "bytes=x"}, 416, "the header Range can't be understood"),
        ("GET", "/" + "x" * 9000, b"", {}, 414, "the address is too long"),
    ]
    for method, path, body, headers, status, said in cases:
        found, text, response = server.ask(method, path, body, **headers)
        assert said in refusal(found, text) and found == status, path[:50]
        if status == 405:
            assert response.headers["allow"] == ("POST" if path.endswith(("classify", "infer")) else "GET, HEAD")


def test_an_answer_comes_whole_and_as_it_is(server: CppServer) -> None:
    for header in (
        {"range": "bytes=0-3"},
        {"range": "bytes=100000-"},
        {"accept_encoding": "br"},
        {"accept_encoding": "gzip"},
    ):
        status, body, response = server.ask("POST", "/v1/classify", SEVEN.read_bytes(), **header)
        assert status == 200 and json.loads(body)["predictions"]
        assert "keep-alive" not in response.headers and "content-encoding" not in response.headers


def memory(server: CppServer, field: str) -> int:
    """Bytes in a line of the system's account of the process."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) << 10


def test_no_body_is_unpacked_where_none_is_taken(server: CppServer) -> None:
    bomb = gzip.compress(bytes(256 << 20))
    form = b"--x\r\nContent-Disposition: form-data; name=x\r\n\r\n" + bytes(1 << 19) + b"\r\n--x--\r\n"
    before = memory(server, "VmHWM")
    for method, path in (
        ("POST", "/healthz"),
        ("POST", "/nowhere"),
        ("PUT", "/v1/classify"),
        ("PATCH", "/v1/classify"),
        ("DELETE", "/v2/models/mnist/infer"),
        ("OPTIONS", "/v1/classify"),
        ("GET", "/metrics"),
    ):
        for body, headers in (
            (bomb, {"content_encoding": "gzip"}),
            (form, {"content_type": "multipart/form-data; boundary=x"}),
        ):
            status, text, response = server.ask(method, path, body, **headers)
            assert refusal(status, text) and status in (400, 404, 405) and response.headers["connection"] == "close"
    assert memory(server, "VmHWM") < before + (64 << 20)


def raw(server: CppServer, *parts: bytes, pause: float = 0) -> bytes:
    """What comes back when these bytes are sent, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        with suppress(OSError):  # it may close before all were sent
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        answer = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


def test_bytes_that_are_no_http_are_refused_and_end_the_connection(impatient: CppServer) -> None:
    for sent in (b"hello\r\n\r\n", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        answer = raw(impatient, sent)
        assert answer == b"" or (b" 40" in answer.split(b"\r\n")[0] and b'{"error":' in answer), answer
    many = b"".join(b"x%d: y\r\n" % index for index in range(500))
    assert b" 400 " in raw(impatient, b"GET /healthz HTTP/1.1\r\n" + many + b"\r\n").split(b"\r\n")[0]
    for length in (b"-5", b"abc", b"9" * 30):
        answer = raw(impatient, b"POST /v1/classify HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\nx", b"x" * 100)
        assert b'{"error":' in answer, (length, answer)
    assert impatient.ask("GET", "/healthz")[0] == 200


CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /healthz HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"DELETE /v1/classify HTTP/1.1\r\n" + CHUNKED, 405),
        (b"DELETE /nowhere HTTP/1.1\r\n" + CHUNKED, 404),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: %d\r\n" % len(NEXT), 404),
        (b"GET /healthz HTTP/1.1\r\nContent-Length: %d\r\n" % len(NEXT), 400),
        (b"GET /healthz HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: %d\r\n" % len(NEXT), 400),
        (b"POST /v1/classify HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: %d\r\n" % len(NEXT), 400),
        (b"POST /v1/classify HTTP/1.1\r\nContent-Length: 3\r\n" + CHUNKED, 400),
        (b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
        (b"POST /v1/classify HTTP/1.1\r\n", 411),
    ],
)
def test_a_body_that_was_not_read_is_no_next_request(server: CppServer, head: bytes, status: int) -> None:
    answer = raw(server, head + b"\r\n", NEXT)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and answer.count(b"HTTP/1.1 ") == 1, answer
    assert b'{"error":' in answer


def test_a_refused_request_without_a_body_keeps_its_connection(server: CppServer) -> None:
    answer = raw(server, b"GET /nowhere HTTP/1.1\r\n\r\n", NEXT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")] == [b"", b"404", b"200"]


def test_a_client_that_drips_gets_408_and_one_that_says_nothing_is_closed(impatient: CppServer) -> None:
    drips = [
        (b"POST /v1/classify HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"", b"G"),
        (b"GET /healthz HTTP/1.1\r\n", b"X-a: b\r\n"),
        (b"POST /v1/classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ]
    with ThreadPoolExecutor(len(drips)) as pool:
        body, first_line, headers, chunks = pool.map(
            lambda drip: raw(impatient, drip[0], *[drip[1]] * 30, pause=0.05), drips
        )
    for answer in (body, first_line, headers, chunks):
        assert b" 408 " in answer.split(b"\r\n")[0], answer
    for answer in (body, headers):
        assert b"did not arrive within 1 seconds" in answer
    assert impatient.ask("GET", "/healthz")[0] == 200


def test_a_slow_upload_leaves_the_answer_its_time(mnist_image_bundle: Path) -> None:
    slow = CppServer(cpp_http.program(), mnist_image_bundle, "--name", "mnist", "--request-seconds", "4")
    asked = json.dumps({**inputs(), "id": "x" * (12 << 20)}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # the answer waits in the server
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", slow.port))
        head = b"POST /v2/models/mnist/infer HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: %d"
        connection.sendall(head % len(asked) + b"\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert (stream.readline(), stream.readline()) == (b"HTTP/1.1 100 Continue\r\n", b"\r\n")
            connection.sendall(asked[:-1])
            time.sleep(2.7)
            connection.sendall(asked[-1:])
            time.sleep(2)
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 200 ") and len(answer) > len(asked) - 10_000 and answer.endswith(b"}")
    assert slow.stop() == (0, "")


def test_more_clients_than_may_be_are_refused_and_those_that_are_there_answered(mnist_image_bundle: Path) -> None:
    few = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--connections", "4")
    held = [http.client.HTTPConnection("127.0.0.1", few.port, timeout=PATIENCE) for _ in range(4)]
    for connection in held:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    for _ in range(20):
        status, body, response = few.ask("GET", "/healthz")
        assert (status, response.headers["retry-after"]) == (503, "1") and "as many clients" in refusal(status, body)
        status, body, _ = few.ask("POST", "/v1/classify", bytes(8 << 20))
        assert status == 503 and "as many clients" in refusal(status, body)
    assert b" 503 " in raw(few).split(b"\r\n")[0]  # it need not say anything
    for connection in held:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        connection.close()
    deadline = time.monotonic() + PATIENCE
    while few.ask("GET", "/healthz")[0] != 200:
        assert time.monotonic() < deadline
    assert few.stop() == (0, "")


def test_a_lack_of_threads_or_memory_or_files_is_no_end(mnist_image_bundle: Path) -> None:
    short = CppServer(cpp_http.program(), mnist_image_bundle, "--name", "mnist", "--max-body", "64")
    pid = short.process.pid
    with closing(http.client.HTTPConnection("127.0.0.1", short.port, timeout=PATIENCE)) as there:
        there.request("GET", "/healthz")
        assert there.getresponse().read()
        before = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (memory(short, "VmSize") + (1 << 20), before[1]))
        status, body, _ = short.ask("GET", "/healthz")  # it would take a thread's stack
        assert status == 503 and "as many clients" in refusal(status, body)
        there.request("POST", "/v1/classify", bytes(60 << 20))
        response = there.getresponse()
        assert response.status == 503 and "not enough memory" in refusal(503, response.read())
        assert response.headers["connection"] == "close"
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    assert short.ask("GET", "/healthz")[0] == 200

    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()) + 5
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", short.port), PATIENCE)) for _ in range(12)]
        for connection in waiting:
            connection.sendall(NEXT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        for connection in waiting:  # those that found no file wait until others are done
            assert b" 200 " in connection.recv(65536).split(b"\r\n")[0]
            connection.close()
    assert short.stop() == (0, "")


def test_a_full_queue_is_503_and_the_others_are_answered(
    mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    short = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--max-waiting", "8")
    images = engine.batch(mnist_images["images"][:8])
    expected = engine(images, "c1.05-k2").tobytes()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: short.infer(images, "c1.05-k2"), range(400)))
    refused = [answer for status, answer, _ in answers if status != 200]
    assert all("images wait already, and at most 8 may" in answer["error"] for answer in refused) and refused
    assert {logits for status, _, logits in answers if status == 200} == {expected}
    assert short.stop() == (0, "")


def test_a_client_that_goes_away_is_taken_out_of_the_queue(mnist_image_bundle: Path, engine: Engine) -> None:
    there = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS, "--max-waiting", "4096", "--connections", "600")
    images = np.zeros((8, 28, 28, 1), np.float32)
    part = {"name": "image", "datatype": "FP32", "shape": [8, 28, 28, 1], "parameters": {"binary_data_size": images.nbytes}}
    text = json.dumps({"inputs": [part], "parameters": {"setting": "c2-k2"}}).encode()
    request = (
        b"POST /v2/models/mnist/infer HTTP/1.1\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        % (
            len(text),
            len(text) + images.nbytes,
        )
    )
    connections = []
    for _ in range(300):
        connection = socket.create_connection(("127.0.0.1", there.port), PATIENCE)
        connection.sendall(request + text + images.tobytes())
        connections.append(connection)
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + PATIENCE
    while json.loads(there.ask("GET", "/healthz")[1])["waiting"]:
        assert time.monotonic() < deadline
    assert there.stop() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_is_there_and_ends(
    number: int, mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    images = engine.batch(mnist_images["images"][:8])
    expected = engine(images, "c1.05-k2").tobytes()
    part = {"name": "image", "datatype": "FP32", "shape": [8, 28, 28, 1], "parameters": {"binary_data_size": images.nbytes}}
    text = json.dumps({"inputs": [part], "parameters": {"setting": "c1.05-k2", "binary_data_output": True}}).encode()
    began = threading.Event()
    outcomes: list[bool] = []

    def ask() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
            for _ in range(2000):
                sent = False
                try:
                    headers = {"Inference-Header-Content-Length": str(len(text))}
                    connection.request("POST", "/v2/models/mnist/infer", text + images.tobytes(), headers)
                    sent = True
                    body = connection.getresponse().read()
                except (OSError, http.client.RemoteDisconnected):
                    # A request that came after the end was not taken: nothing of an answer had come.
                    assert sent or outcomes
                    return
                outcomes.append(body.endswith(expected))
                began.set()

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    assert began.wait(PATIENCE)
    assert server.stop(number) == (0, "")
    for client in clients:
        client.join(PATIENCE)
    assert outcomes and all(outcomes) and len(outcomes) < 8000


def test_a_signal_before_it_serves_ends_it(mnist_image_bundle: Path) -> None:
    command = [cpp_http.program(), mnist_image_bundle, "--port", "0", "--slo-ms", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cpp_http.environment()) as process:
        try:
            blocked = 0
            while not blocked >> (signal.SIGTERM - 1) & 1:  # until then it is a signal to any process
                (line,) = (line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigBlk" in line)
                blocked = int(line.split()[1], 16)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0


def test_a_signal_finds_requests_that_nobody_has_read(mnist_image_bundle: Path) -> None:
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    with ExitStack() as stack:
        clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE) for _ in range(16)]
        for client in clients:
            stack.enter_context(closing(client))
        for known in clients[:8]:
            known.request("GET", "/healthz")
            assert known.getresponse().read()
        server.process.send_signal(signal.SIGSTOP)
        for client in clients:  # the system accepts the new ones, and the server has not
            client.request("GET", "/healthz")
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            response = client.getresponse()
            assert (response.status, json.loads(response.read())["status"]) == (200, "ok")
    _, errors = server.process.communicate(timeout=PATIENCE)
    assert (server.process.returncode, unexpected(errors)) == (0, "")


BAD: list[tuple[tuple[str, ...], int, str]] = [
    ((), 2, "which BUNDLE?"),
    (("absent.vmoe",), 1, "absent.vmoe"),
    (("{bundle}", "--slo-ms", "0"), 2, "--slo-ms must be more than 0"),
    (("{bundle}", "--slo-ms", "nan"), 2, "--slo-ms must be more than 0"),
    (("{bundle}", "--slo-ms", "1e9"), 2, "at most 600000 milliseconds"),
    (("{bundle}", "--slo-ms"), 2, "--slo-ms needs a value"),
    (("{bundle}", "--capacity", "0.2:1.05"), 2, "--capacity is what --slo-ms chooses from"),
    (("{bundle}", "--slo-ms", "5", "--capacity", "1.05:0.2"), 2, "--capacity 1.05:0.2: capacity ratios"),
    (("{bundle}", "--slo-ms", "5", "--capacity", "x"), 2, "--capacity takes ratios above 0"),
    (("{bundle}", "--slo-ms", "5", "--capacity", "0.2:1:x"), 2, "--capacity must be a whole number"),
    (("{bundle}", "--slo-ms", "5", "--capacity", "9"), 2, "9"),
    (("{bundle}", "--slo-ms", "5", "--capacity", "0.2", "--profile", "c1-k1", "c1-k2"), 2, "starts from one profile"),
    (("{bundle}", "--profile", "c1-k1", "c1-k2"), 2, "several settings are what --slo-ms"),
    (("{bundle}", "--profile", "c1-k9"), 1, "not 9"),
    (("{bundle}", "--profile", "fastest"), 1, "fastest"),
    (("{bundle}", "--slo-ms", "5", "--profile", "fastest"), 2, "fastest"),
    (("{bundle}", "--port", "65536"), 2, "--port must be a whole number"),
    (("{bundle}", "--host", "no such host"), 1, "can't serve at no such host:8000"),
    (("{bundle}", "--name", "a/b"), 2, "--name"),
    (("{bundle}", "--max-batch", "32", "--max-waiting", "16"), 2, "--max-waiting 16 is less than"),
    (("{bundle}", "--max-body", "0"), 2, "--max-body"),
    (("{bundle}", "--connections", "0"), 2, "--connections"),
    (("{bundle}", "--request-seconds", "0"), 2, "--request-seconds"),
    (("{bundle}", "--threads", "2000"), 2, "--threads"),
    (("{bundle}", "--slow-ms", "5"), 2, "'--slow-ms' is not known"),
    (("{bundle}", "{bundle}"), 2, "is not known"),
    (("{grouped}",), 1, "export it with --group image"),
    (("{dense}", "--slo-ms", "5"), 2, "the bundle has none"),
    (("{dense}", "--profile", "c1-k1"), 1, "c1-k1"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD)
def test_a_mistake_is_one_sentence(
    words: tuple[str, ...], code: int, said: str, mnist_image_bundle: Path, mnist_bundle: Path
) -> None:
    names = {"bundle": mnist_image_bundle, "grouped": mnist_bundle, "dense": DATA / "bundles" / "v3-dense"}
    given = [word.format(**names) for word in words]
    done = subprocess.run(
        [cpp_http.program(), *given],
        capture_output=True,
        text=True,
        env=cpp_http.environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("vmoe-http: ") and done.stderr.count("\n") == 1 and said in done.stderr


def test_a_port_that_is_taken_and_a_missing_onnxruntime_are_one_sentence(mnist_image_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [cpp_http.program(), mnist_image_bundle, "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, env=cpp_http.environment(), check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"can't serve at 127.0.0.1:{port}: Address already in use" in done.stderr
    other = CppServer(cpp_http.program(), mnist_image_bundle)
    command = [cpp_http.program(), mnist_image_bundle, "--port", str(other.port)]
    done = subprocess.run(command, capture_output=True, text=True, env=cpp_http.environment(), timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "Address already in use" in done.stderr
    assert other.stop() == (0, "")
    absent = {**os.environ, "VMOE_ONNXRUNTIME": "/nowhere/libonnxruntime.so"}
    done = subprocess.run(command, capture_output=True, text=True, env=absent, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "VMOE_ONNXRUNTIME" in done.stderr


def test_an_address_of_ipv6_stands_in_brackets(mnist_image_bundle: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"there is no IPv6 here: {error}")
    command = [cpp_http.program(), mnist_image_bundle, "--port", "0", "--host", "::1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cpp_http.environment()) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.terminate()
    assert "http://[::1]:" in said and process.returncode == 0


def test_other_models(tmp_path: Path) -> None:
    export_bundle(DATA / "golden" / "g4", tmp_path / "x.vmoe", output="features", validate=False)
    features = CppServer(cpp_http.program(), tmp_path / "x.vmoe")
    status, text, _ = features.ask("POST", "/v1/classify", SEVEN.read_bytes())
    assert status == 400 and "knows no classes" in refusal(status, text)
    assert features.stop() == (0, "")
    dense = CppServer(cpp_http.program(), DATA / "bundles" / "v3-dense", "--name", "dense")
    shape = json.loads(dense.ask("GET", "/v2/models/dense")[1])["inputs"][0]["shape"][1:]
    image = {"name": "image", "datatype": "UINT8", "shape": [1, *shape], "data": [0, 255] * (int(np.prod(shape)) // 2)}
    for parameters, expected in (({"setting": "c0.3-k1"}, 400), ({}, 200)):
        asked = json.dumps({"inputs": [image], "parameters": parameters}).encode()
        status, text, _ = dense.ask("POST", "/v2/models/dense/infer", asked)
        assert status == expected, text
    assert dense.stop() == (0, "")


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_sanitizers_find_nothing_under_load(
    sanitizers: str, mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    """Good requests, bad ones and clients that vanish, at once, and a signal in the middle of it."""
    levels = ("--slo-ms", "20", "--capacity", "0.2:1.05", "--max-waiting", "64")
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
            sent = encoded(body)
            statuses.add(server.ask("POST", "/v1/classify", sent, content_type=content_type)[0])
        else:
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
                connection.sendall(b"POST /v1/classify HTTP/1.1\r\nContent-Length: 500\r\n\r\n" + bytes(index % 501))
            server.ask("GET", "/metrics")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(800)))
    assert server.stop() == (0, "")
    assert statuses >= {200, 400}
