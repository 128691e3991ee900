"""Tests of a served model as an ASGI application.

They check that results have the engine's bits, and that a bad request gets an error status and one line of text.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
from bad_requests import SEVEN, encoded, inputs
from picture_file import picture_file

from vmoe_runtime import Engine, pictures
from vmoe_runtime.bundle import manifest

pytestmark = pytest.mark.fast
pytest.importorskip("ray.serve", reason="Ray is not installed")
from starlette.requests import ClientDisconnect  # noqa: E402

from vmoe_serve.batcher import Batcher  # noqa: E402
from vmoe_serve.service import Service  # noqa: E402

INFER = "/v2/models/mnist/infer"


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
    """Send a request to the application, and return its reply."""
    sent: list[dict[str, Any]] = []
    path, _, query = path.partition("?")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    encoded_headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": os.fsencode(query), "headers": encoded_headers}
    await service.app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture(scope="module")
def service(engine: Engine) -> Iterator[Service]:
    started = served(engine)
    yield started
    started.close()


def test_large_pictures_delay_nobody_and_wait_for_no_longer_than_they_may(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = picture_file(np.zeros((5000, 5000, 3), np.uint8))
    decoded = threading.Event()
    # Keep the thread for large pictures busy, as if it decoded a very large picture.
    service.large_pictures.submit(decoded.wait, 60)

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


def test_a_picture_is_checked_once_and_a_name_is_read_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, read = Mock(wraps=pictures.checked_picture), Mock(wraps=manifest.profile_named)
    monkeypatch.setattr(pictures, "checked_picture", checked)
    monkeypatch.setattr(manifest, "profile_named", read)
    reply = asyncio.run(answered(service, "POST", "/v1/classify?setting=c0.37-k1", SEVEN.read_bytes()))
    assert (reply.status, reply.content["setting"]) == (200, "c0.37-k1")
    assert (checked.call_count, read.call_count) == (1, 1)
    # 16 images need two calls, because a call takes at most 8 images.
    content = inputs(shape=[16, 28, 28, 1], data=[0.5] * 784 * 16) | {"parameters": {"setting": "c0.41-k1"}}
    reply = asyncio.run(answered(service, "POST", INFER, encoded(content)))
    assert (reply.status, reply.content["parameters"]["setting"]) == (200, "c0.41-k1")
    assert read.call_count == 2


def test_a_full_queue_and_a_closed_one_are_503(engine: Engine) -> None:
    service = served(engine, most_waiting=8)
    body = json.dumps(inputs(shape=[8, 28, 28, 1], data=[0.5] * 784 * 8)).encode()

    async def rush() -> list[Reply]:
        return await asyncio.gather(*[answered(service, "POST", INFER, body) for _ in range(60)])

    replies = asyncio.run(rush())
    refused = [reply for reply in replies if reply.status != 200]
    assert refused and len(refused) < 60
    for reply in refused:
        assert reply.status == 503 and reply.headers["retry-after"] == "1"
        assert "images wait already, and at most 8 may" in reply.content["error"]
    service.batcher.close()
    late = asyncio.run(answered(service, "POST", INFER, encoded(inputs())))
    assert late.status == 503 and "shutting down" in late.content["error"]
    service.close()


def test_small_bodies_that_unpack_to_large_ones_are_limited(service: Service) -> None:
    body = gzip.compress(b" " * 1_000_000 + json.dumps(inputs()).encode())

    async def asked() -> list[Reply]:
        headers = {"content_encoding": "gzip"}
        return await asyncio.gather(*(answered(service, "POST", INFER, body, **headers) for _ in range(200)))

    errors = {reply.content["error"] for reply in asyncio.run(asked()) if reply.status == 503}
    assert "too many large requests arrive at once" in errors
    assert asyncio.run(answered(service, "POST", INFER, body, content_encoding="gzip")).status == 200


def test_an_error_that_no_one_foresaw_is_500_counted_and_logged(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no such\nluck")

    service = served(engine)
    monkeypatch.setattr(service.engine, "outputs", fail)
    reply = asyncio.run(answered(service, "POST", f"{INFER}?\udcff", encoded(inputs())))
    service.close()
    assert (reply.status, reply.content) == (500, {"error": "ZeroDivisionError: no such luck"})
    assert b'vmoe_request_seconds_count{model="mnist",request="infer",status="500"} 1.0' in service.metrics.text()
    assert "in fail" in caplog.text


def test_of_a_client_that_disconnects_nothing_is_counted(service: Service) -> None:
    async def leave() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "POST", "path": INFER, "query_string": b"", "headers": []}
        await service.app(scope, receive, lambda message: asyncio.sleep(0))

    before = service.metrics.text()
    with pytest.raises(ClientDisconnect):
        asyncio.run(leave())
    assert service.metrics.text() == before


@pytest.mark.parametrize(("path", "status"), [("/nowhere?\udcff", 404), ("/v1/classify?\udcff", 405)])
def test_a_query_that_is_not_utf_8_changes_no_refusal(path: str, status: int, service: Service) -> None:
    assert asyncio.run(answered(service, "GET", path)).status == status
