"""A served model as an ASGI application: the bits of the engine, and a status and one line for each bad request."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import pytest
from bad_requests import JSON, SEVEN, encoded, inputs
from picture_file import picture_file

from vmoe_runtime import Engine
from vmoe_runtime.images import unturned_pictures

pytestmark = pytest.mark.fast
pytest.importorskip("ray.serve", reason="Ray is not installed")

from vmoe_serve.batcher import Batcher  # noqa: E402
from vmoe_serve.service import Service  # noqa: E402


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
    return Service(engine, batcher, name, max_body=1, seconds=5)


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


def infer(service: Service, body: dict[str, Any]) -> Reply:
    return ask(service, "POST", "/v2/models/mnist/infer", encoded(body))


@pytest.fixture(scope="module")
def service(engine: Engine) -> Iterator[Service]:
    started = served(engine)
    yield started
    started.close()


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


def test_small_bodies_that_unpack_to_large_ones_are_limited(service: Service) -> None:
    body = gzip.compress(b" " * 1_000_000 + json.dumps(inputs()).encode())

    async def asked() -> list[Reply]:
        headers = {"content_encoding": "gzip"}
        return await asyncio.gather(
            *(answered(service, "POST", "/v2/models/mnist/infer", body, **headers) for _ in range(200))
        )

    errors = {reply.content["error"] for reply in asyncio.run(asked()) if reply.status == 503}
    assert "too many large requests arrive at once" in errors
    assert asyncio.run(answered(service, "POST", "/v2/models/mnist/infer", body, content_encoding="gzip")).status == 200


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
        f'vmoe_pictures_unturned_total{{model="mnist"}} {unturned_pictures():.1f}',
    }
    reply = ask(service, "GET", "/metrics")
    assert expected <= set(reply.body.decode().splitlines())
    assert reply.headers["content-type"].startswith("text/plain")
