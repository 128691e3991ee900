"""The HTTP service in C++: the bits of the engine, a message for each mistake, and clients that misbehave."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
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
from declared_answers import assert_declared
from http_client import PATIENCE, HttpClient, unexpected

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_serve.endpoints import ENDPOINTS

pytestmark = pytest.mark.long

OPTIONS = ("--name", "mnist", "--batch-size", "8", "--max-body", "1", "--threads", "1")
LEVELS = ("--slo-ms", "50", "--profile", "c0.2-k1", "--profile", "c0.5-k1", "--profile", "c1.05-k2")
DATA = Path(__file__).parents[1] / "data"
HOST = b" HTTP/1.1\r\nHost: x\r\n"
HEALTH = b"GET /healthz" + HOST + b"\r\n"
LAST = b"GET /healthz" + HOST + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server(mnist_image_bundle: Path) -> Iterator[CppServer]:
    started = CppServer(cpp_http.program(), mnist_image_bundle, *LEVELS, *OPTIONS, "--request-seconds", "2")
    yield started
    assert started.stop()[0] == 0


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
            assert_declared(answer, "predictions")
            expected = engine.classify(picture, 3, answer["setting"])[0]
            for best in answer["predictions"]:
                assert [(part["class"], part["index"]) for part in best] == [(str(name), int(name)) for name, _ in expected]
                np.testing.assert_allclose([part["probability"] for part in best], [share for _, share in expected], 1e-12)


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


def test_clients_that_send_nan_are_refused_and_change_no_answer_of_others(
    server: CppServer, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    images = engine.batch(mnist_images["images"][:8])
    expected = engine(images, "c0.3-k1")

    def ask(index: int) -> bool:
        part = slice(index % 7, index % 7 + 1 + index % 2)
        if index % 3:
            status, _, logits = server.infer(images[part], "c0.3-k1")
            return status == 200 and logits == expected[part].tobytes()
        status, answer, _ = server.infer(np.full_like(images[part], np.nan), "c0.3-k1")
        return status == 400 and "'image' has NaN or infinite values" in answer["error"]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(90)))


def test_tensors_in_json_and_chunked_bodies(server: CppServer, engine: Engine) -> None:
    image = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    for data in (image.ravel().tolist(), image.tolist()):
        asked = {**inputs(datatype="UINT8", data=data), "id": "one", "parameters": {"setting": "c0.2-k1"}}
        body = json.dumps(asked).encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:99], body[99:])) + b"0\r\n\r\n"
        head = b"POST /v2/models/mnist/infer" + HOST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        for text in (
            server.ask("POST", "/v2/models/mnist/infer", body)[1],
            raw(server, head + chunks).split(b"\r\n\r\n")[1],
        ):
            answer = json.loads(text)
            assert_declared(answer, "inferred")
            assert (answer["id"], answer["parameters"]) == ("one", {"setting": "c0.2-k1"})
            values = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
            np.testing.assert_array_equal(values, engine(image, "c0.2-k1"))


def test_health_metadata_and_metrics(server: CppServer) -> None:
    for endpoint in ENDPOINTS:
        for path in (path.format(model="mnist") for path in endpoint.paths if endpoint.method == "GET"):
            status, body, _ = server.ask("GET", path)
            assert status == 200, path
            if endpoint.answer:
                assert_declared(json.loads(body), endpoint.answer)
            assert server.ask("HEAD", path)[:2] == (200, b"")
    model = json.loads(server.ask("GET", "/v2/models/mnist")[1])
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    for index in range(20):  # names that clients make up are one series
        assert server.ask("POST", f"/v1/classify?setting=c0.4{index + 1}-k1", SEVEN.read_bytes())[0] == 200
    status, body, response = server.ask("GET", "/metrics")
    assert status == 200 and response.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
    assert float(lines['vmoe_images_served_total{model="mnist",setting="other"}']) >= 20
    buckets = [float(n) for line, n in lines.items() if "_bucket" in line and 'classify",status="200"' in line]
    assert buckets == sorted(buckets) and len(buckets) == 14 and buckets[-1] >= 20
    assert lines['vmoe_images_waiting{model="mnist"}'] == "0"


def refusal(status: int, body: bytes) -> str:
    error = json.loads(body)["error"]
    assert "\n" not in error and len(error) > 10, error
    return f"{status} {error}"


def test_bad_bodies_are_400_and_a_message(server: CppServer) -> None:
    for body, content_type, query, message in BAD_CLASSIFY:
        path = "/v1/classify?" + "&".join(f"{name}={value}" for name, value in query.items())
        status, text, _ = server.ask("POST", path, encoded(body), content_type=content_type)
        assert refusal(status, text).startswith("400 "), message
    for infer, binary, message in BAD_INFER:
        header = {"Inference_Header_Content_Length": str(len(encoded(infer)))} if binary else {}
        status, text, _ = server.ask("POST", "/v2/models/mnist/infer", encoded(infer) + binary, **header)
        assert refusal(status, text).startswith("400 "), message
    for length in BAD_LENGTHS:
        header = {"Inference_Header_Content_Length": length.encode().decode("latin-1")}
        status, text, _ = server.ask("POST", "/v2/models/mnist/infer", json.dumps(inputs()).encode(), **header)
        assert status == 400 and "Inference-Header-Content-Length" in refusal(status, text)


def connect(server: HttpClient) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE)


def raw(server: HttpClient, *parts: bytes, pause: float = 0) -> bytes:
    """What comes back when these bytes are sent, until the server closes the connection."""
    with connect(server) as connection:
        with suppress(OSError):  # it may close before all were sent
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        answer = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


POST = b"POST /v1/classify" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = [
    (b"hello\r\n\r\n", 400, "can't be understood"),
    (b"\0" * 100 + b"\r\n\r\n", 400, "can't be understood"),
    (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", 400, ""),
    (b"GET /healthz HTTP/1.1\r\n\r\n", 400, "one Host header"),
    (b"GET /healthz" + HOST + b"Host: y\r\n\r\n", 400, "one Host header"),
    (b"GET /healthz" + HOST + b"no colon\r\n\r\n", 400, "can't be understood"),
    (b"GET /healthz" + HOST + b"X: y\nZ: z\r\n\r\n", 400, "can't be understood"),
    (b"GET /" + b"x" * 99999 + HOST + b"\r\n", 431, "more than 16384 bytes"),
    (b"GET /healthz" + HOST + b"".join(b"x%d: y\r\n" % i for i in range(9999)) + b"\r\n", 431, "more than 16384 bytes"),
    (b"GET /healthz" + HOST + b"Content-Length: 1\r\n\r\n", 400, "GET takes no body"),
    (b"GET /healthz" + HOST + CHUNKED, 400, "GET takes no body"),
    (POST + b"\r\n", 411, "Content-Length"),
    (POST + b"Content-Length: -5\r\n\r\n", 400, "can't be understood"),
    (POST + b"Content-Length: abc\r\n\r\n", 400, "can't be understood"),
    (POST + b"Content-Length: 999999999999999999999\r\n\r\n", 400, "can't be understood"),
    (POST + b"Content-Length: 1048577\r\n\r\n", 413, "the body is larger than 1 MB"),
    (POST + CHUNKED + b"100001\r\n" + bytes(1 << 20) + b"x\r\n0\r\n\r\n", 413, "the body is larger than 1 MB"),
    (POST + b"Content-Length: 0\r\nContent-Length: 38\r\n\r\n", 400, ""),
    (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, ""),
    (POST + b"Content-Length: 3\r\n" + CHUNKED, 400, ""),
    (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "end of the body"),
    (b"POST /v1/classify HTTP/1.0\r\n" + CHUNKED, 400, "end of the body"),
    (POST + CHUNKED + b"zz\r\n", 400, "can't be understood"),
    (POST + b"Content-Encoding: gzip\r\nContent-Length: 38\r\n\r\n", 415, "without encoding"),
    (
        POST + b"Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        400,
        "no picture",
    ),
    (b"DELETE /v1/classify" + HOST + CHUNKED, 405, "DELETE is not allowed"),
    (b"POST /healthz" + HOST + b"Content-Length: 38\r\n\r\n", 405, "POST is not allowed"),
    (b"POST /nowhere" + HOST + b"Content-Length: 38\r\n\r\n", 404, "there is nothing at /nowhere"),
    (b"POST /v2/models/other/infer" + HOST + b"Content-Length: 38\r\n\r\n", 404, "there is nothing at /v2/models/other"),
]


@pytest.mark.parametrize(("sent", "status", "message"), REFUSED)
def test_what_is_refused_is_no_begin_of_a_next_request(server: CppServer, sent: bytes, status: int, message: str) -> None:
    answer = raw(server, sent, HEALTH)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and answer.count(b"HTTP/1.1 ") == 1, answer
    assert message in refusal(status, answer.split(b"\r\n\r\n", 1)[1])


def test_a_refused_request_without_a_body_keeps_its_connection(server: CppServer) -> None:
    answer = raw(server, b"GET /nowhere" + HOST + b"\r\n", LAST)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")] == [b"", b"404", b"200"]


def test_clients_that_drip_get_408_and_hold_nobody(server: CppServer) -> None:
    heads = (b"G", POST + b"X-a: ", POST + b"Content-Length: 1000\r\n\r\n", POST + CHUNKED + b"fff\r\n")

    def answered_meanwhile() -> bool:
        with ThreadPoolExecutor(32) as pool:
            drips = [pool.submit(raw, server, head, *[b"x"] * 60, pause=0.05) for head in heads * 8]
            time.sleep(0.5)
            assert server.ask("POST", "/v1/classify", SEVEN.read_bytes())[0] == 200
            late = any(drip.done() for drip in drips)
            assert all(drip.result().startswith(b"HTTP/1.1 408 ") for drip in drips)
        return not late

    assert any(answered_meanwhile() for _ in range(9))  # a loaded machine may take too long for the first one


def test_a_client_that_waits_for_100_gets_it(server: CppServer) -> None:
    with connect(server) as connection:
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


def infer_request(images: np.ndarray, setting: str) -> bytes:
    part = {"name": "image", "datatype": "FP32", "shape": images.shape, "parameters": {"binary_data_size": images.nbytes}}
    text = json.dumps({"inputs": [part], "parameters": {"setting": setting, "binary_data_output": True}}).encode()
    head = b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(text), len(text) + images.nbytes)
    return b"POST /v2/models/mnist/infer" + HOST + head + text + images.tobytes()


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
        with connect(short) as connection:
            connection.sendall(infer_request(images, "c2-k2"))
    deadline = time.monotonic() + PATIENCE
    while json.loads(short.ask("GET", "/healthz")[1])["waiting"]:
        assert time.monotonic() < deadline
    assert short.stop() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_has_arrived_and_ends(number: int, mnist_image_bundle: Path, engine: Engine) -> None:
    """Requests of new connections and of known ones, which nobody has read when the signal comes."""
    server = CppServer(cpp_http.program(), mnist_image_bundle, *OPTIONS)
    images = np.zeros((8, 28, 28, 1), np.float32)
    expected = engine(images, "c1.05-k2").tobytes()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(8)]
        for known in clients:
            known.sendall(HEALTH)
            assert known.recv(65536)
        server.process.send_signal(signal.SIGSTOP)
        clients += [stack.enter_context(connect(server)) for _ in range(8)]
        for client in clients:
            client.sendall(infer_request(images, "c1.05-k2"))
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
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=cpp_http.environment())
    status = Path(f"/proc/{started.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> signal.SIGTERM - 1 & 1:
        assert started.poll() is None
    started.send_signal(number)
    assert started.communicate(timeout=PATIENCE) == ("", f"vmoe-serve-http: {says}\n")
    assert started.returncode == 128 + number


def test_https(mnist_image_bundle: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    secure = CppServer(cpp_http.program(), mnist_image_bundle, "--tls-cert", str(certificate), "--tls-key", str(key))
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    with closing(http.client.HTTPSConnection("127.0.0.1", secure.port, timeout=PATIENCE, context=context)) as connection:
        for _ in range(3):
            connection.request("POST", "/v1/classify?top=1", SEVEN.read_bytes())
            assert json.loads(connection.getresponse().read())["predictions"][0][0]["class"] == "7"
    assert b"HTTP" not in raw(secure, HEALTH)
    assert secure.stop() == (0, "")


BAD: list[tuple[str, int, str]] = [
    ("", 2, "BUNDLE is required"),
    ("absent.vmoe", 1, "absent.vmoe"),
    ("{bundle} --slo-ms 0", 2, "--slo-ms"),
    ("{bundle} --slo-ms nan", 2, "--slo-ms"),
    ("{bundle} --slo-ms 1e9", 2, "--slo-ms"),
    ("{bundle} --slo-ms", 2, "--slo-ms"),
    ("{bundle} --capacity 0.2", 2, "--slo-ms"),
    ("{bundle} --slo-ms 5 --sweep 1.05:0.2", 2, "--sweep: '1.05:0.2' is no range"),
    ("{bundle} --slo-ms 5 --sweep 0.2:1:x", 2, "--sweep: '0.2:1:x' is no range"),
    ("{bundle} --slo-ms 5 --capacity x", 2, "--capacity"),
    ("{bundle} --slo-ms 5 --capacity 9", 2, "9"),
    ("{bundle} --slo-ms 5 --capacity 0.2 --profile c1-k1 --profile c1-k2", 2, "one --profile"),
    ("{bundle} --profile c1-k1 --profile c1-k2", 2, "--slo-ms"),
    ("{bundle} --profile c1-k9", 1, "not 9"),
    ("{bundle} --slo-ms 5 --profile fastest", 2, "fastest"),
    ("{bundle} --port 65536", 2, "--port"),
    ("{bundle} --host -q", 1, "can't serve at -q:8000"),
    ("{bundle} --host absent.invalid", 1, "can't serve at absent.invalid:8000"),
    ("{bundle} --port {taken}", 1, "Address already in use"),
    ("{bundle} --name a/b", 2, "--name"),
    ("{bundle} --batch-size 32 --max-waiting 16", 2, "--max-waiting 16 is less than"),
    ("{bundle} --max-body 0", 2, "--max-body"),
    ("{bundle} --tls-cert x.pem", 2, "--tls-key"),
    ("{bundle} --tls-cert x.pem --tls-key x.pem", 1, "--tls-cert x.pem: No such file"),
    ("{bundle} --slow-ms 5", 2, "--slow-ms"),
    ("{bundle} {bundle}", 2, "{bundle}"),
    ("{grouped}", 1, "export it with --group image"),
    ("{dense} --slo-ms 5", 2, "the bundle has none"),
]


@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_a_mistake_is_one_message(
    words: str, code: int, message: str, server: CppServer, mnist_image_bundle: Path, mnist_bundle: Path
) -> None:
    names = {"bundle": mnist_image_bundle, "grouped": mnist_bundle, "dense": DATA / "bundles" / "v3-dense"}
    names |= {"taken": Path(str(server.port))}
    command = [cpp_http.program(), *words.format(**names).split()]
    done = subprocess.run(command, capture_output=True, text=True, env=cpp_http.environment(), timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("vmoe-serve-http: ") and done.stderr.count("\n") == 1, done.stderr
    assert message.format(**names) in done.stderr


def test_a_missing_onnxruntime_is_one_message(mnist_image_bundle: Path) -> None:
    absent = {**os.environ, "VMOE_ONNXRUNTIME": "/nowhere/libonnxruntime.so"}
    command = [cpp_http.program(), mnist_image_bundle]
    done = subprocess.run(command, capture_output=True, text=True, env=absent, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "VMOE_ONNXRUNTIME" in done.stderr


def test_other_models(tmp_path: Path) -> None:
    export_bundle(DATA / "golden" / "g4", tmp_path / "x.vmoe", output="features", validate=False)
    features = CppServer(cpp_http.program(), tmp_path / "x.vmoe")
    status, text, _ = features.ask("POST", "/v1/classify", SEVEN.read_bytes())
    assert status == 400 and "use /v1/features" in refusal(status, text)
    status, text, _ = features.ask("POST", "/v1/features", SEVEN.read_bytes())
    with Engine.load(tmp_path / "x.vmoe", threads=1) as engine:
        expected = engine(engine.batch(SEVEN.read_bytes()))
    assert_declared(json.loads(text), "features")
    np.testing.assert_array_equal(np.array(json.loads(text)["features"], np.float32), expected)
    assert features.stop() == (0, "")


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_sanitizers_find_nothing_under_load(
    sanitizers: str, mnist_image_bundle: Path, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    """Good requests, bad ones and clients that vanish, at once, and a signal in the middle of it."""
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
            raw(server, *REFUSED[index % len(REFUSED)][:1])
        else:
            with connect(server) as connection:
                connection.sendall(POST + b"Content-Length: 500\r\n\r\n" + bytes(index % 501))
            server.ask("GET", "/metrics")

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(800)))
    assert server.stop() == (0, "")
    assert statuses >= {200, 400}
