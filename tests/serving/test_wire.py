"""A served model as an ASGI application: the bits of the engine, and a status and one line for each bad request."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import pytest
from bad_requests import BAD_CLASSIFY, BAD_INFER, BAD_LENGTHS, JSON, SEVEN, encoded, inputs, tensor
from declared_answers import assert_declared
from picture_file import picture_file

from vmoe_export import export_bundle
from vmoe_runtime import Engine

pytestmark = pytest.mark.fast
pytest.importorskip("ray.serve", reason="Ray is not installed")

from vmoe_serve.batching import Batcher  # noqa: E402
from vmoe_serve.endpoints import ENDPOINTS, HEADER_LENGTH, Endpoint  # noqa: E402
from vmoe_serve.service import Service  # noqa: E402

DATA = Path(__file__).parents[1] / "data"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def served(engine: Engine, *, most_images: int = 8, most_waiting: int = 32, name: str = "mnist") -> Service:
    batcher = Batcher(engine, None, most_images=most_images, most_waiting=most_waiting)
    return Service(engine, batcher, name, most_images=most_images, max_body=1, seconds=5)


async def answered(service: Service, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
    """What a server gets from the application."""
    sent: list[dict[str, Any]] = []
    path, _, query = path.partition("?")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    encoded_headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": encoded_headers}
    await service.app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


def ask(service: Service, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
    return asyncio.run(answered(service, method, path, body, **headers))


def classify(service: Service, body: bytes | dict[str, Any], content_type: str = JSON, **query: str) -> Reply:
    return ask(service, "POST", f"/v1/classify?{urlencode(query)}", encoded(body), content_type=content_type)


def infer(
    service: Service, body: dict[str, Any] | bytes, behind: bytes = b"", model: str = "mnist", length: str | None = None
) -> Reply:
    text = encoded(body)
    if behind and length is None:
        length = str(len(text))
    headers = {} if length is None else {HEADER_LENGTH.lower(): length}
    return ask(service, "POST", f"/v2/models/{model}/infer", text + behind, **headers)


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_image_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def service(engine: Engine) -> Iterator[Service]:
    started = served(engine)
    yield started
    started.close()


def test_pictures_get_the_classes_of_the_engine(service: Service, engine: Engine) -> None:
    picture = SEVEN.read_bytes()
    for setting in (None, "c0.5-k2-vanilla"):
        query = {"top": "3"} | ({} if setting is None else {"setting": setting})
        expected = [
            {"class": str(name), "index": int(name), "probability": share}
            for name, share in engine.classify(picture, 3, setting)[0]
        ]
        body = {"images": [base64.b64encode(picture).decode()], "top": 3, "setting": setting}
        for reply in (classify(service, picture, "image/png", **query), classify(service, body)):
            assert reply.status == 200 and reply.headers["content-type"] == JSON
            assert reply.content["predictions"] == [expected]
            assert reply.content["setting"] == (setting or engine.profile.name)  # type: ignore[union-attr]
            assert reply.content["call_ms"] > 0 and reply.content["images_of_call"] == 1


def test_several_pictures_of_a_request_are_answered_in_their_order(service: Service, engine: Engine) -> None:
    made = (np.zeros((28, 28), np.uint8), np.full((40, 30), 255, np.uint8))
    pictures = [SEVEN.read_bytes(), *map(picture_file, made)]
    reply = classify(service, {"images": [base64.b64encode(picture).decode() for picture in pictures], "top": 1})
    found = [prediction[0]["index"] for prediction in reply.content["predictions"]]
    assert found == [int(best[0][0]) for best in engine.classify(pictures, 1)]


def test_large_pictures_delay_nobody_and_wait_for_no_longer_than_they_may(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = picture_file(np.zeros((5000, 5000, 3), np.uint8))
    decoded = threading.Event()
    service.large_pictures.submit(decoded.wait, 60)  # what a picture takes that is larger still

    async def ask_all() -> tuple[Reply, list[Reply]]:
        monkeypatch.setattr(service, "seconds", 60)
        tasks = [asyncio.create_task(answered(service, "POST", "/v1/classify", large)) for _ in range(3)]
        small = await answered(service, "POST", "/v1/classify", SEVEN.read_bytes())
        assert small.status == 200 and not any(task.done() for task in tasks)
        monkeypatch.setattr(service, "seconds", 0.1)
        refused = await answered(service, "POST", "/v1/classify", large)
        decoded.set()
        return refused, await asyncio.gather(*tasks)

    refused, replies = asyncio.run(ask_all())
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "other pictures were decoded" in refused.content["error"]
    assert [reply.status for reply in replies] == [200] * 3


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_infer_gives_the_bits_of_the_engine(
    service: Service, engine: Engine, mnist_images: dict[str, Any], binary_in: bool, binary_out: bool
) -> None:
    images = engine.batch(mnist_images["images"][:3])
    part = {"name": "image", "datatype": "FP32", "shape": [3, 28, 28, 1]}
    part |= {"parameters": {"binary_data_size": images.nbytes}} if binary_in else {"data": images.tolist()}
    asked = {"id": "one", "inputs": [part], "parameters": {"setting": "c0.2-k1", "binary_data_output": binary_out}}
    reply = infer(service, asked, images.tobytes() if binary_in else b"")
    assert reply.status == 200
    expected = engine(images, "c0.2-k1")
    length = int(reply.headers.get(HEADER_LENGTH.lower(), len(reply.body)))
    answer = json.loads(reply.body[:length])
    (output,) = answer["outputs"]
    assert (answer["model_name"], answer["id"], answer["parameters"]) == ("mnist", "one", {"setting": "c0.2-k1"})
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 10])
    values = reply.body[length:] if binary_out else np.array(output["data"], np.float32).tobytes()
    assert values == expected.tobytes()


def test_uint8_images_and_flat_data_and_a_named_output(service: Service, engine: Engine) -> None:
    image = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}]
    for data in (image.ravel().tolist(), image.tolist()):
        reply = infer(service, {**inputs(datatype="UINT8", data=data), "outputs": outputs})
        np.testing.assert_array_equal(
            np.array(reply.content["outputs"][0]["data"], np.float32).reshape(1, 10), engine(image)
        )


def test_metadata_and_health(service: Service) -> None:
    model = ask(service, "GET", "/v2/models/mnist").content
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert "c0.3-k1" in model["parameters"]["profiles"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_endpoint_answers_what_is_declared(service: Service, endpoint: Endpoint) -> None:
    body = {"": b"", "pictures": SEVEN.read_bytes(), "infer": encoded(inputs())}[endpoint.request]
    for path in endpoint.paths:
        reply = ask(service, endpoint.method, path.format(model="mnist"), body)
        if endpoint.answer:
            assert_declared(reply.content, "error" if endpoint.name == "features" else endpoint.answer)
        assert reply.status == (400 if endpoint.name == "features" else 200)


@pytest.mark.parametrize(("body", "content_type", "query", "message"), BAD_CLASSIFY)
def test_a_bad_classify_is_400_and_one_line(
    service: Service, body: bytes | dict[str, Any], content_type: str, query: dict[str, str], message: str
) -> None:
    reply = classify(service, body, content_type, **query)
    error = reply.content["error"]
    assert reply.status == 400 and error and "\n" not in error and len(error) < 400, message


@pytest.mark.parametrize(("body", "behind", "message"), BAD_INFER)
def test_a_bad_infer_is_400_and_one_line(
    service: Service, body: dict[str, Any] | bytes, behind: bytes, message: str
) -> None:
    reply = infer(service, body, behind)
    error = reply.content["error"]
    assert reply.status == 400 and error and "\n" not in error and len(error) < 400, message


@pytest.mark.parametrize(
    ("reply_to", "words"),
    [
        (({"images": ["eA=="], "tops": 1}, b""), ("tops",)),
        (({"images": ["%%%"]}, b""), ("images.0", "base64")),
        ((inputs(datatype="FP64"), b""), ("inputs.0.datatype", "'FP32' or 'UINT8'")),
        ((inputs(shape=[1, -28]), b""), ("inputs.0.shape.1", "0 or more")),
        (({**inputs(), "parameters": {"setting": ["c0.3-k1"]}}, b""), ("parameters.setting", "text")),
    ],
)
def test_a_bad_field_is_named(service: Service, reply_to: tuple[Any, bytes], words: tuple[str, ...]) -> None:
    body, behind = reply_to
    reply = classify(service, body) if "images" in body else infer(service, body, behind)
    assert all(word in reply.content["error"] for word in words), reply.content


def test_a_header_length_that_is_none_another_model_and_a_large_body(service: Service) -> None:
    for length in BAD_LENGTHS:
        reply = infer(service, inputs(), length=length)
        assert reply.status == 400 and "Inference-Header-Content-Length" in reply.content["error"]
    for reply in (infer(service, inputs(), model="other"), ask(service, "GET", "/v2/models/other")):
        assert reply.status == 404 and "'mnist' is served here" in reply.content["error"]
    assert classify(service, bytes(1 << 20 | 1), "image/png").status == 413


def test_a_full_queue_and_a_closed_one_are_503(engine: Engine) -> None:
    service = served(engine, most_waiting=8)
    body = json.dumps(inputs(shape=[8, 28, 28, 1], data=[0.5] * 784 * 8)).encode()

    async def rush() -> list[Reply]:
        return await asyncio.gather(*[answered(service, "POST", "/v2/models/mnist/infer", body) for _ in range(60)])

    replies = asyncio.run(rush())
    refused = [reply for reply in replies if reply.status != 200]
    assert refused and len(refused) < 60
    for reply in refused:
        assert reply.status == 503 and reply.headers["retry-after"] == "1"
        assert "images wait already, and at most 8 may" in reply.content["error"]
    service.batcher.close()
    late = infer(service, inputs())
    assert late.status == 503 and "shutting down" in late.content["error"]
    service.close()


def test_metrics_count_what_was_done(engine: Engine) -> None:
    service = served(engine)
    classify(service, SEVEN.read_bytes(), "image/png", setting="c0.3-k1")
    classify(service, b"no picture", "image/png")
    infer(service, inputs(shape=[2, 28, 28, 1], data=[0.5, -0.5] * 784))
    service.close()
    expected = {
        'vmoe_request_seconds_count{model="mnist",request="classify",status="200"} 1.0',
        'vmoe_request_seconds_count{model="mnist",request="classify",status="400"} 1.0',
        'vmoe_request_seconds_count{model="mnist",request="infer",status="200"} 1.0',
        'vmoe_images_served_total{model="mnist",setting="c0.3-k1"} 3.0',
        'vmoe_images_waiting{model="mnist"} 0.0',
        'vmoe_calls_total{model="mnist"} 2.0',
    }
    reply = ask(service, "GET", "/metrics")
    assert expected <= set(reply.body.decode().splitlines())
    assert reply.headers["content-type"].startswith("text/plain")


def test_features_have_no_classes_and_a_dense_model_has_no_settings(tmp_path: Path) -> None:
    export_bundle(DATA / "golden" / "g4", tmp_path / "x.vmoe", output="features", validate=False)
    with Engine.load(tmp_path / "x.vmoe", threads=1) as features:
        service = served(features)
        reply = classify(service, SEVEN.read_bytes(), "image/png")
        found = ask(service, "POST", "/v1/features", SEVEN.read_bytes(), content_type="image/png")
        service.close()
        expected = features(features.batch(SEVEN.read_bytes()))
    assert reply.status == 400 and "use /v1/features" in reply.content["error"]
    assert_declared(found.content, "features")
    np.testing.assert_array_equal(np.array(found.content["features"], np.float32), expected)
    with Engine.load(next((DATA / "bundles").glob("*-dense")), threads=1) as dense:
        service = served(dense)
        shape = [1, *dense.manifest.input.size]
        image = tensor(datatype="UINT8", shape=shape, data=[0, 255] * (int(np.prod(shape)) // 2))
        refused = infer(service, {"inputs": [image], "parameters": {"setting": "c0.3-k1"}})
        reply = infer(service, {"inputs": [image]})
        service.close()
    assert refused.status == 400 and "nothing to set" in refused.content["error"]
    assert reply.status == 200 and "parameters" not in reply.content
