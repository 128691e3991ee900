"""What a served model makes of requests: the bits of the engine, and a status and a sentence for each bad one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_requests import BAD_CLASSIFY, BAD_INFER, BAD_LENGTHS, JSON, SEVEN, encoded, inputs, tensor
from PIL import Image

from vmoe_export import export_bundle
from vmoe_runtime import Engine
from vmoe_serve.batching import Batcher
from vmoe_serve.service import Reply, Service
from vmoe_serve.wire import HEADER_LENGTH

pytestmark = pytest.mark.fast

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Iterator[Engine]:
    with Engine.load(mnist_image_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def service(engine: Engine) -> Iterator[Service]:
    batcher = Batcher(engine, None, most_images=8, most_waiting=32)
    served = Service(engine, batcher, "mnist", most_images=8, decoders=2)
    yield served
    served.close()


def classify(service: Service, body: bytes | dict[str, Any], content_type: str = JSON, **query: str) -> Reply:
    sent = encoded(body)
    return asyncio.run(service.classify(sent, content_type, query))


def infer(
    service: Service, body: dict[str, Any] | bytes, behind: bytes = b"", model: str = "mnist", length: str | None = None
) -> Reply:
    text = encoded(body)
    header = str(len(text)) if behind and length is None else length
    return asyncio.run(service.infer(model, text + behind, header))


def png(picture: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_pictures_get_the_classes_of_the_engine(service: Service, engine: Engine) -> None:
    picture = SEVEN.read_bytes()
    for setting in (None, "c0.3-k1", "c0.5-k2-vanilla"):
        query = {"top": "3"} | ({} if setting is None else {"setting": setting})
        raw = classify(service, picture, "image/png", **query)
        expected = [
            {"class": str(name), "index": int(name), "probability": share}
            for name, share in engine.classify(picture, 3, setting)[0]
        ]
        body = {"images": [base64.b64encode(picture).decode()], "top": 3, "setting": setting}
        for reply in (raw, classify(service, body)):
            answer = json.loads(reply.body)
            assert reply.status == 200 and reply.headers["content-type"] == JSON
            assert answer["predictions"] == [expected]
            assert answer["setting"] == (setting or engine.profile.name)  # type: ignore[union-attr]
            assert answer["waited_ms"] >= 0 and answer["call_ms"] > 0 and answer["images_of_call"] == 1


def test_several_pictures_of_a_request_are_answered_in_their_order(service: Service, engine: Engine) -> None:
    pictures = [SEVEN.read_bytes(), png(np.zeros((28, 28), np.uint8)), png(np.full((40, 30), 255, np.uint8))]
    reply = classify(service, {"images": [base64.b64encode(picture).decode() for picture in pictures], "top": 1})
    found = [prediction[0]["index"] for prediction in json.loads(reply.body)["predictions"]]
    assert found == [int(best[0][0]) for best in engine.classify(pictures, 1)]


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
    length = int(reply.headers.get(HEADER_LENGTH, len(reply.body)))
    answer = json.loads(reply.body[:length])
    (output,) = answer["outputs"]
    assert (answer["model_name"], answer["id"], answer["parameters"]) == ("mnist", "one", {"setting": "c0.2-k1"})
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 10])
    values = reply.body[length:] if binary_out else np.array(output["data"], np.float32).tobytes()
    assert values == expected.tobytes()
    if binary_out:
        assert output["parameters"] == {"binary_data_size": expected.nbytes}


def test_uint8_images_and_flat_data_and_a_named_output(service: Service, engine: Engine) -> None:
    image = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}]
    for data in (image.ravel().tolist(), image.tolist()):
        reply = infer(service, {**inputs(datatype="UINT8", data=data), "outputs": outputs})
        np.testing.assert_array_equal(
            np.array(json.loads(reply.body)["outputs"][0]["data"], np.float32).reshape(1, 10), engine(image)
        )


def test_metadata_and_health(service: Service) -> None:
    model = json.loads(asyncio.run(service.model("mnist")).body)
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert "c0.3-k1" in model["parameters"]["profiles"]
    assert json.loads(asyncio.run(service.model_ready("mnist")).body) == {"name": "mnist", "ready": True}
    assert json.loads(service.server().body)["name"] == "vmoe-export"
    assert json.loads(service.healthy().body)["status"] == "ok"


@pytest.mark.parametrize(("body", "content_type", "query", "said"), BAD_CLASSIFY)
def test_a_bad_classify_is_400_and_a_sentence(
    service: Service, body: bytes | dict[str, Any], content_type: str, query: dict[str, str], said: str
) -> None:
    reply = classify(service, body, content_type, **query)
    error = json.loads(reply.body)["error"]
    assert reply.status == 400 and said in error and "\n" not in error


@pytest.mark.parametrize(("body", "behind", "said"), BAD_INFER)
def test_a_bad_infer_is_400_and_a_sentence(service: Service, body: dict[str, Any] | bytes, behind: bytes, said: str) -> None:
    reply = infer(service, body, behind)
    error = json.loads(reply.body)["error"]
    assert reply.status == 400 and said in error and "\n" not in error, error


@pytest.mark.parametrize("length", BAD_LENGTHS)
def test_a_header_length_that_is_none(service: Service, length: str) -> None:
    reply = infer(service, inputs(), length=length)
    assert reply.status == 400 and "Inference-Header-Content-Length" in json.loads(reply.body)["error"]


def test_another_model_is_404(service: Service) -> None:
    for reply in (infer(service, inputs(), model="other"), asyncio.run(service.model("other"))):
        assert reply.status == 404 and "'mnist' is served here" in json.loads(reply.body)["error"]


def test_a_full_queue_and_a_closed_one_are_503(engine: Engine) -> None:
    batcher = Batcher(engine, None, most_images=8, most_waiting=8)
    service = Service(engine, batcher, "mnist", most_images=8, decoders=1)

    async def rush() -> list[Reply]:
        body = json.dumps(inputs(shape=[8, 28, 28, 1], data=[0.5] * 784 * 8)).encode()
        return await asyncio.gather(*[service.infer("mnist", body, None) for _ in range(60)])

    replies = asyncio.run(rush())
    refused = [reply for reply in replies if reply.status != 200]
    assert refused and len(refused) < 60
    for reply in refused:
        assert reply.status == 503 and reply.headers["retry-after"] == "1"
        assert "images wait already, and at most 8 may" in json.loads(reply.body)["error"]
    batcher.close()
    late = infer(service, inputs())
    assert late.status == 503 and "shutting down" in json.loads(late.body)["error"]
    service.close()


def test_who_goes_away_is_taken_out_of_the_queue(engine: Engine) -> None:
    batcher = Batcher(engine, None, most_images=1, most_waiting=1000)
    service = Service(engine, batcher, "mnist", most_images=1, decoders=2)

    async def leave() -> None:
        body = json.dumps(inputs()).encode()
        asked = [asyncio.create_task(service.infer("mnist", body, None)) for _ in range(200)]
        await asked[0]
        for task in asked[1:]:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(leave())
    service.close()
    load = batcher.load()
    assert load.waiting == 0 and load.cancelled + sum(load.served.values()) <= 200 and load.calls < 200


def test_metrics_count_what_was_done(engine: Engine) -> None:
    batcher = Batcher(engine, None, most_images=8, most_waiting=32)
    service = Service(engine, batcher, "mnist", most_images=8, decoders=1)
    classify(service, SEVEN.read_bytes(), "image/png", setting="c0.3-k1")
    classify(service, b"no picture", "image/png")
    infer(service, inputs(shape=[2, 28, 28, 1], data=[0.5, -0.5] * 784))
    service.refused(413, "too large")
    service.close()
    lines = service.measured().body.decode().splitlines()
    expected = {
        'vmoe_request_seconds_count{model="mnist",request="classify",status="200"} 1.0',
        'vmoe_request_seconds_count{model="mnist",request="classify",status="400"} 1.0',
        'vmoe_request_seconds_count{model="mnist",request="infer",status="200"} 1.0',
        'vmoe_request_seconds_count{model="mnist",request="server",status="413"} 1.0',
        'vmoe_images_served_total{model="mnist",setting="c0.3-k1"} 3.0',
        'vmoe_images_waiting{model="mnist"} 0.0',
        'vmoe_calls_total{model="mnist"} 2.0',
    }
    assert expected <= set(lines)
    assert service.measured().headers["content-type"].startswith("text/plain")


def test_features_have_no_classes_and_a_dense_model_has_no_settings(tmp_path: Path) -> None:
    export_bundle(DATA / "golden" / "g4", tmp_path / "x.vmoe", output="features", validate=False)
    with Engine.load(tmp_path / "x.vmoe", threads=1) as features:
        service = Service(features, Batcher(features, None, most_images=8, most_waiting=8), "x", most_images=8, decoders=1)
        reply = classify(service, SEVEN.read_bytes(), "image/png")
        service.close()
    assert reply.status == 400 and "knows no classes" in json.loads(reply.body)["error"]
    with Engine.load(DATA / "bundles" / "v3-dense", threads=1) as dense:
        service = Service(dense, Batcher(dense, None, most_images=8, most_waiting=8), "x", most_images=8, decoders=1)
        shape = [1, *dense.manifest.input.size]
        image = tensor(datatype="UINT8", shape=shape, data=[0, 255] * (int(np.prod(shape)) // 2))
        refused = infer(service, {"inputs": [image], "parameters": {"setting": "c0.3-k1"}}, model="x")
        answered = infer(service, {"inputs": [image]}, model="x")
        service.close()
    assert refused.status == 400 and "nothing to set" in json.loads(refused.body)["error"]
    assert answered.status == 200 and "parameters" not in json.loads(answered.body)
