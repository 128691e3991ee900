"""Tests that both HTTP services, on Ray and in C++, must pass.

They check that results have the engine's bits and that each mistake gets a message.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import http.client
import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cpp_http
import numpy as np
import pytest
from bad_requests import BAD_CLASSIFY, BAD_INFER, BAD_LENGTHS, JSON, SEVEN, encoded, inputs, tensor
from cpp_http import CppServer
from http_client import HEADER_LENGTH, HttpClient
from picture_file import picture_file

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_serve.endpoints import ANSWERS, ENDPOINTS, Endpoint
from vmoe_serve.openapi import document

pytestmark = pytest.mark.long
pytest.importorskip("ray.serve", reason="Ray is not installed")

from test_wire import INFER, answered, served  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
TYPES = {"text": str, "whole": int, "number": int | float, "flag": bool, "any": object}


class AsgiClient(HttpClient):
    """A client that calls the application of the Ray service directly, without a server."""

    def __init__(self, engine: Engine) -> None:
        self.service = served(engine)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, Any]:
        reply = asyncio.run(answered(self.service, method, path, body, **headers))
        return reply.status, reply.body, reply


@contextmanager
def client_of(service: str, bundle: Path) -> Iterator[HttpClient]:
    if service == "C++":
        options = ("--name", "mnist", "--batch-size", "8", "--max-waiting", "32", "--max-body", "1", "--threads", "1")
        server = CppServer(cpp_http.program(), bundle, *options)
        yield server
        assert server.stop() == (0, "")
    else:
        with Engine.load(bundle, backend="onnxruntime", threads=1) as engine:
            client = AsgiClient(engine)
            yield client
            client.service.close()


@pytest.fixture(scope="module", params=["Ray", "C++"])
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(service: str, mnist_image_bundle: Path) -> Iterator[HttpClient]:
    with client_of(service, mnist_image_bundle) as made:
        yield made


def assert_refused(reply: tuple[int, bytes, http.client.HTTPResponse], status: int, words: str = "") -> None:
    """Assert that a reply has this status and a one-line error message that contains `words`.

    Double and single quotes count as equal, because the Ray service and the C++ service use different ones.
    """
    error = json.loads(reply[1])["error"]
    assert reply[0] == status and 10 < len(error) < 400 and "\n" not in error and words in error.replace('"', "'"), error


def assert_declared(answer: Any, kind: str) -> None:
    """Assert that the fields of a response of kind `kind` have the types that `ANSWERS` declares.

    Empty fields may be null.
    """
    if kind.endswith("[]"):
        for item in answer:
            assert_declared(item, kind.removesuffix("[]"))
    elif kind in ANSWERS:
        assert answer, f"an answer of kind {kind} has no fields"
        for name, value in answer.items():
            assert_declared(value, ANSWERS[kind][name])
    else:
        is_one = isinstance(answer, TYPES[kind]) and isinstance(answer, bool) <= (kind in ("flag", "any"))
        assert answer is None or is_one, f"{answer!r} is declared as {kind}"


def test_pictures_get_the_classes_of_the_engine_in_their_order(client: HttpClient, engine: Engine) -> None:
    made = (np.zeros((28, 28), np.uint8), np.full((40, 30), 255, np.uint8))
    pictures = [SEVEN.read_bytes(), *map(picture_file, made)]
    for setting in (None, "c0.3-k1", "c0.5-k2-vanilla"):
        query = {"top": "3"} | ({} if setting is None else {"setting": setting})
        texts = [base64.b64encode(picture).decode() for picture in pictures]
        body = encoded({"images": texts, "top": 3, "setting": setting})
        raw = client.ask("POST", f"/v1/classify?{urlencode(query)}", pictures[0], content_type="image/png")
        several = client.ask("POST", "/v1/classify", body, content_type=JSON)
        for (status, text, response), asked in ((raw, pictures[:1]), (several, pictures)):
            answer = json.loads(text)
            assert status == 200 and response.headers["content-type"] == JSON
            assert_declared(answer, "predictions")
            assert answer["setting"] == (setting or "c0.3-k1")
            assert answer["call_ms"] > 0 and answer["images_of_call"] == len(asked)
            expected = engine.classify(asked, 3, answer["setting"])
            for found, best in zip(answer["predictions"], expected, strict=True):
                assert [(part["class"], part["index"]) for part in found] == [(str(name), int(name)) for name, _ in best]
                np.testing.assert_allclose([part["probability"] for part in found], [share for _, share in best], 1e-12)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_infer_gives_the_bits_of_the_engine(
    client: HttpClient, engine: Engine, mnist_images: dict[str, Any], binary_in: bool, binary_out: bool
) -> None:
    images = engine.batch(mnist_images["images"][:3])
    part = {"name": "image", "datatype": "FP32", "shape": [3, 28, 28, 1]}
    part |= {"parameters": {"binary_data_size": images.nbytes}} if binary_in else {"data": images.tolist()}
    asked = {"id": "one", "inputs": [part], "parameters": {"setting": "c0.2-k1", "binary_data_output": binary_out}}
    header = {HEADER_LENGTH: str(len(encoded(asked)))} if binary_in else {}
    status, body, response = client.ask("POST", INFER, encoded(asked) + images.tobytes() * binary_in, **header)
    assert status == 200
    length = int(response.headers.get(HEADER_LENGTH, len(body)))
    answer = json.loads(body[:length])
    assert_declared(answer, "inferred")
    (output,) = answer["outputs"]
    assert (answer["model_name"], answer["id"], answer["parameters"]) == ("mnist", "one", {"setting": "c0.2-k1"})
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 10])
    values = body[length:] if binary_out else np.array(output["data"], np.float32).tobytes()
    assert values == engine(images, "c0.2-k1").tobytes()


def test_uint8_images_and_flat_data_and_a_named_output(client: HttpClient, engine: Engine) -> None:
    image = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}]
    for data in (image.ravel().tolist(), image.tolist()):
        body = encoded({**inputs(datatype="UINT8", data=data), "outputs": outputs})
        output = json.loads(client.ask("POST", INFER, body)[1])["outputs"][0]
        np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(1, 10), engine(image))


@pytest.fixture(scope="module")
def tokens_bundle(mnist_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens.vmoe"
    return export_bundle(mnist_checkpoint, path, output="tokens", layers=[0, 1], validate=False).path


def test_infer_answers_tokens_and_layers_as_tensors(service: str, tokens_bundle: Path) -> None:
    asked = [{"name": "layer1", "parameters": {"binary_data": True}}, {"name": "tokens"}]
    with client_of(service, tokens_bundle) as client, Engine.load(tokens_bundle, threads=1) as engine:
        expected = engine.outputs(np.array(tensor()["data"], np.float32).reshape(1, 28, 28, 1))
        declared = json.loads(client.ask("GET", "/v2/models/mnist")[1])["outputs"]
        assert [(each["name"], each["shape"]) for each in declared] == [
            (name, [-1, *values.shape[1:]]) for name, values in expected.items()
        ]
        for outputs, names in ((None, list(expected)), (asked, ["tokens", "layer1"])):
            _, body, response = client.ask("POST", INFER, encoded({**inputs(), "outputs": outputs}))
            length = int(response.headers.get(HEADER_LENGTH, len(body)))
            found = json.loads(body[:length])["outputs"]
            assert [each["name"] for each in found] == names
            for each in found:
                values = np.array(each["data"], np.float32) if "data" in each else np.frombuffer(body[length:], np.float32)
                assert each["shape"] == list(expected[each["name"]].shape)
                assert values.tobytes() == expected[each["name"]].tobytes()
        for outputs in ([{"name": "layer2"}], [{"name": "layer1"}, {"name": "layer1"}]):
            refused = client.ask("POST", INFER, encoded({**inputs(), "outputs": outputs}))
            assert_refused(refused, 400, "the model's outputs are 'tokens', 'layer0', 'layer1'")
        for path in ("/v1/classify", "/v1/features"):
            assert_refused(client.ask("POST", path, SEVEN.read_bytes()), 400, "tokens of images: use infer")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_endpoint_answers_what_is_declared(service: str, client: HttpClient, endpoint: Endpoint) -> None:
    bodies = {"": b"", "pictures": SEVEN.read_bytes(), "infer": encoded(inputs()), "repository": b""}
    body = bodies[endpoint.request]
    for path in (path.format(model="mnist") for path in endpoint.paths):
        status, text, _ = client.ask(endpoint.method, path, body)
        if endpoint.answer:
            assert_declared(json.loads(text), "error" if endpoint.name == "features" else endpoint.answer)
        assert status == (400 if endpoint.name == "features" else 200)
        if service == "C++" and endpoint.method == "GET":
            assert client.ask("HEAD", path)[:2] == (200, b"")


def test_metadata_says_what_the_model_takes_and_gives(client: HttpClient) -> None:
    model = json.loads(client.ask("GET", "/v2/models/mnist")[1])
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert "c0.3-k1" in model["parameters"]["profiles"]


def test_a_server_is_live_and_ready_and_lists_its_model(client: HttpClient) -> None:
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
        found = json.loads(client.ask("GET", path)[1])
        assert found["live"] is found["ready"] is True
    for body in (b"", b"{}", b'{"ready": true}'):
        (listed,) = json.loads(client.ask("POST", "/v2/repository/index", body)[1])
        assert listed == {"name": "mnist", "version": "1", "state": "READY", "reason": ""}


def test_the_endpoints_are_described_for_tools(client: HttpClient) -> None:
    described = json.loads(client.ask("GET", "/openapi.json")[1])
    assert described == document("mnist")
    assert described["paths"].keys() == {path.format(model="mnist") for endpoint in ENDPOINTS for path in endpoint.paths}


def test_more_images_than_a_call_takes_are_answered_as_one(
    client: HttpClient, engine: Engine, mnist_images: dict[str, Any]
) -> None:
    images = mnist_images["images"][:30, ..., None]
    for setting in (None, "c0.2-k1"):
        asked = inputs(datatype="UINT8", shape=[30, 28, 28, 1], data=images.ravel().tolist())
        answer = json.loads(client.ask("POST", INFER, encoded(asked | {"parameters": {"setting": setting}}))[1])
        assert answer["parameters"]["setting"] == (setting or "c0.3-k1")
        found = np.array(answer["outputs"][0]["data"], np.float32).reshape(30, 10)
        np.testing.assert_array_equal(found, engine(images, answer["parameters"]["setting"]))


@pytest.mark.parametrize("binary", [False, True])
def test_classification_names_the_most_probable_classes_as_triton_does(
    client: HttpClient, engine: Engine, binary: bool
) -> None:
    images = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28, 1)
    asked = inputs(datatype="UINT8", shape=[2, 28, 28, 1], data=images.ravel().tolist())
    asked["outputs"] = [{"name": "logits", "parameters": {"classification": 3, "binary_data": binary}}]
    _, body, response = client.ask("POST", INFER, encoded(asked))
    length = int(response.headers.get(HEADER_LENGTH, len(body)))
    (output,) = json.loads(body[:length])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 3])
    logits, names = engine(images), engine.manifest.class_names
    order = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    expected = [
        f"{row[k]:f}:{k}" + (f":{names[k]}" if names else "") for row, best in zip(logits, order, strict=True) for k in best
    ]
    packed = b"".join(struct.pack("<I", len(text)) + text.encode() for text in expected)
    assert body[length:] == packed if binary else output["data"] == expected


def compressed(body: bytes, encoding: str) -> bytes:
    return gzip.compress(body) if encoding.lower() == "gzip" else zlib.compress(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
def test_a_compressed_body_is_read(client: HttpClient, engine: Engine, encoding: str) -> None:
    picture, image = SEVEN.read_bytes(), np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    status, text, _ = client.ask("POST", "/v1/classify", compressed(picture, encoding), content_encoding=encoding)
    assert status == 200 and json.loads(text)["predictions"][0][0]["index"] == engine.classify(picture, 1)[0][0][0]
    head = encoded(inputs(datatype="UINT8", data=None, parameters={"binary_data_size": 784}))
    headers = {"content_encoding": encoding, HEADER_LENGTH: str(len(head))}  # of the uncompressed data
    status, text, _ = client.ask("POST", INFER, compressed(head + image.tobytes(), encoding), **headers)
    found = np.array(json.loads(text)["outputs"][0]["data"], np.float32).reshape(1, 10)
    np.testing.assert_array_equal(found, engine(image))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_that_is_damaged_or_grows_too_large_is_refused(client: HttpClient, encoding: str) -> None:
    whole = compressed(encoded(inputs()), encoding)
    cases = [(whole[:-1], 400), (whole + b"x", 400), (b"x", 400), (b"", 400), (compressed(bytes(2 << 20), encoding), 413)]
    for body, status in cases:
        assert_refused(client.ask("POST", INFER, body, content_encoding=encoding), status)
    assert_refused(client.ask("POST", INFER, whole, content_encoding="br"), 415, "gzip and deflate are known")


@pytest.mark.parametrize(("body", "content_type", "query", "message"), BAD_CLASSIFY)
def test_a_bad_classify_is_400_and_one_line(
    client: HttpClient, body: bytes | dict[str, Any], content_type: str, query: dict[str, str], message: str
) -> None:
    reply = client.ask("POST", f"/v1/classify?{urlencode(query)}", encoded(body), content_type=content_type)
    assert_refused(reply, 400, message)


@pytest.mark.parametrize(("body", "behind", "message"), BAD_INFER)
def test_a_bad_infer_is_400_and_one_line(
    client: HttpClient, body: dict[str, Any] | bytes, behind: bytes, message: str
) -> None:
    header = {HEADER_LENGTH: str(len(encoded(body)))} if behind else {}
    assert_refused(client.ask("POST", INFER, encoded(body) + behind, **header), 400, message)


def test_a_header_length_that_is_none_another_model_and_a_large_body(client: HttpClient) -> None:
    for length in BAD_LENGTHS:
        header = {HEADER_LENGTH: length.encode().decode("latin-1")}
        assert_refused(client.ask("POST", INFER, encoded(inputs()), **header), 400, "Inference-Header-Content-Length")
    for method, path, body in (("POST", "/v2/models/other/infer", encoded(inputs())), ("GET", "/v2/models/other", b"")):
        assert_refused(client.ask(method, path, body), 404, "there is no model 'other'; 'mnist' is served here")
    assert_refused(client.ask("GET", "/v2/models/mnist/versions/2/ready"), 404, "no version '2' of the model; the only one")
    assert_refused(client.ask("GET", "/v2/models/mnist/other"), 404, "there is nothing at /v2/models/mnist/other")
    assert_refused(client.ask("POST", "/v1/classify/", SEVEN.read_bytes()), 404, "there is nothing at /v1/classify/")
    assert client.ask("POST", "/v1/classify", bytes(1 << 20 | 1))[0] == 413


def test_metrics_count_what_was_done(client: HttpClient) -> None:
    def counts() -> Counter[str]:
        status, body, response = client.ask("GET", "/metrics")
        assert status == 200 and response.headers["content-type"].startswith("text/plain")
        lines = (line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        return Counter({name: int(float(number)) for name, number in lines})

    before = counts()
    for index in range(20):  # unknown settings are counted together, in a single series
        assert client.ask("POST", f"/v1/classify?setting=c0.4{index + 1}-k1", SEVEN.read_bytes())[0] == 200
    client.ask("POST", "/v1/classify", b"no picture")
    client.ask("POST", INFER, encoded(inputs(shape=[2, 28, 28, 1], data=[0.5, -0.5] * 784)))
    after = counts()
    buckets = [number for name, number in after.items() if "_bucket" in name and 'classify",status="200"' in name]
    assert buckets == sorted(buckets) and len(buckets) == 14
    after.subtract(before)
    expected = {
        'request_seconds_count{model="mnist",request="classify",status="200"}': 20,
        'request_seconds_count{model="mnist",request="classify",status="400"}': 1,
        'request_seconds_count{model="mnist",request="infer",status="200"}': 1,
        'images_served_total{model="mnist",setting="other"}': 20,
        'images_served_total{model="mnist",setting="c0.3-k1"}': 2,
        'images_waiting{model="mnist"}': 0,
        'calls_total{model="mnist"}': 21,
        'pictures_unturned_total{model="mnist"}': 0,
    }
    assert {name: after[f"vmoe_{name}"] for name in expected} == expected


def test_features_have_no_classes_and_a_dense_model_has_no_settings(service: str, tmp_path: Path) -> None:
    export_bundle(DATA / "golden" / "g4", tmp_path / "x.vmoe", output="features", validate=False)
    with client_of(service, tmp_path / "x.vmoe") as features, Engine.load(tmp_path / "x.vmoe", threads=1) as engine:
        assert_refused(features.ask("POST", "/v1/classify", SEVEN.read_bytes()), 400, "use /v1/features")
        found = json.loads(features.ask("POST", "/v1/features", SEVEN.read_bytes())[1])
        expected = engine(engine.batch(SEVEN.read_bytes()))
        shape = [1, *engine.manifest.input.size]
        image = tensor(shape=shape, data=[0.5, -0.5] * (int(np.prod(shape)) // 2))
        asked = {"inputs": [image], "parameters": {"setting": "c0.3-k1"}}
        assert_refused(features.ask("POST", INFER, encoded(asked)), 400, "nothing to set")
        status, text, _ = features.ask("POST", INFER, encoded({"inputs": [image]}))
        assert status == 200 and "parameters" not in json.loads(text)
    assert_declared(found, "features")
    np.testing.assert_array_equal(np.array(found["features"], np.float32), expected)
