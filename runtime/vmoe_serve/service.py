"""An ASGI application that serves one model."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vmoe_runtime import BackendError, Engine, VmoeError
from vmoe_runtime.classes import Array
from vmoe_runtime.errors import shown
from vmoe_runtime.pictures import open_picture
from vmoe_runtime.processors import usable_processors
from vmoe_runtime.profiles import Profile
from vmoe_serve import endpoints
from vmoe_serve.batcher import Answer, Batcher, ClosedError, QueueFullError
from vmoe_serve.http.requests import RequestError
from vmoe_serve.prometheus_text import Metrics

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MOST_ARRIVING = 1 << 27  # maximum total bytes of bodies that are arriving, or are unpacked and not yet answered
_WINDOWS = {"identity": None, "gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""The `wbits` argument with which zlib unpacks a body, by the body's encoding."""
_STATUSES = {BackendError: 500, QueueFullError: 503, ClosedError: 503}


class Service:
    """One model as an ASGI application, with the endpoints and error responses of `vmoe_serve.endpoints`.

    Attributes:
        app: the application.
        engine, batcher, name: the model's engine, batcher and name.
        metrics: counts of the service's replies.
        seconds: time limit for a request's body to arrive. After the body has arrived, the same limit applies to decoding
            its pictures.
        tensors, pictures, large_pictures: thread pools that read tensors, decode pictures and decode large pictures. They
            are separate so that `infer` doesn't wait for pictures, and small pictures don't wait for large pictures.
    """

    def __init__(self, engine: Engine, batcher: Batcher, name: str, *, max_body: int, seconds: float) -> None:
        """Create the service for an engine and its batcher.

        Args:
            engine: the batcher's engine.
            batcher: the batcher that answers the requests.
            name: name of the model in URLs.
            max_body: maximum size of a request's body, in megabytes.
            seconds: see the attributes of the class.
        """
        self.engine, self.batcher, self.name = engine, batcher, name
        self._most_body, self.seconds = max_body << 20, seconds
        self._arriving = 0  # total bytes of request bodies that are arriving or await their response
        threads = usable_processors()
        self.tensors = ThreadPoolExecutor(threads, "vmoe-tensors")
        self.pictures = ThreadPoolExecutor(threads, "vmoe-pictures")
        self.large_pictures = ThreadPoolExecutor(1, "vmoe-large-pictures")
        self.metrics = Metrics(name, batcher)
        routes = [
            Route(path.format(model=name), self._replying(row), methods=[row.method])
            for row in endpoints.ENDPOINTS
            for path in row.paths
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: self._refused})
        self.app.router.redirect_slashes = False  # a redirect would contain the proxy's address, which clients can't reach

    def close(self) -> None:
        """Answer the waiting requests, then end all threads."""
        self.batcher.close()
        for executor in (self.tensors, self.pictures, self.large_pictures):
            executor.shutdown()

    async def body(self, request: Request) -> bytes:
        """Return the unpacked body of a request. At most `max_body` megabytes of it are kept in memory.

        Raises:
            RequestError: the body is too large or arrives too slowly, it can't be unpacked, or too many bodies arrive at
                once.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in _WINDOWS:
            raise RequestError(endpoints.ENCODED_BODY, shown(encoding))
        self._check_size(int(request.headers.get("content-length", "0")[:15]))
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.seconds):
                async for part in request.stream():
                    size += len(part)
                    self._arriving += len(part)
                    self._check_size(size)
                    parts.append(part)
        except TimeoutError:
            raise RequestError(endpoints.TOO_SLOW, f"{self.seconds:g}") from None
        finally:
            self._arriving -= size
        body = b"".join(parts)
        if (window := _WINDOWS[encoding]) is None:
            return body
        unpacking = zlib.decompressobj(window)
        try:
            body = await run(self.tensors, unpacking.decompress, body, self._most_body + 1)
        except zlib.error:
            raise RequestError(endpoints.NO_BODY_ENCODING, encoding) from None
        # A small body that unpacks to a large one costs a client nothing. So unpacked bytes count towards the limit until
        # the request is answered.
        request.state.unpacked = len(body)
        self._arriving += len(body)
        self._check_size(len(body))
        if not unpacking.eof or unpacking.unused_data:
            raise RequestError(endpoints.NO_BODY_ENCODING, encoding)
        return body

    def _check_size(self, size: int) -> None:
        """Refuse a body of this size if it is too large, or if all bodies in memory together are too large."""
        if size > self._most_body:
            raise RequestError(endpoints.TOO_LARGE, self._most_body >> 20)
        if self._arriving > max(_MOST_ARRIVING, self._most_body):
            raise RequestError(endpoints.MANY_BODIES)

    async def decoded(self, pictures: Sequence[Any]) -> Array:
        """Decode picture files to the graph's input, an array [N,H,W,C].

        Raises:
            RequestError: the time limit passed, because the pictures of other requests took too long.
            ImageError: a picture can't be read.
        """
        try:
            async with asyncio.timeout(self.seconds):
                return np.concatenate([await self._decoded(picture) for picture in pictures])
        except TimeoutError:
            raise RequestError(endpoints.DECODING, f"{self.seconds:g}") from None

    async def _decoded(self, picture: bytes) -> Array:
        """Decode one picture file to the graph's input, an array [1,H,W,C]."""
        needs_transparency = self.engine.manifest.input.steps.background is not None
        image, pixels = await run(self.pictures, open_picture, picture, needs_transparency)
        return await run(
            self.large_pictures if pixels > endpoints.LARGE_PICTURE else self.pictures, self.engine.batch, image
        )

    async def answer(self, batch: Array, setting: str | None) -> Answer:
        """Answer a batch that `Engine.batch` returned. If it has too many images for one call, use several calls.

        Raises:
            RequestError: the request specifies a setting although the model has none, the request has no images, or it has
                more images than may wait in the queue.
            VmoeError: any error that `Batcher.submit` or a call of the engine raises.
        """
        if setting is not None and self.engine.setting() is None:
            raise RequestError(endpoints.NO_SETTINGS)
        most, limit = self.batcher.most_images, self.batcher.most_waiting
        if not 1 <= len(batch) <= limit:
            raise RequestError(endpoints.WRONG_IMAGE_COUNT, limit, len(batch))
        answers = list[Answer]()
        requested: Profile | str | None = setting
        for start in range(0, len(batch), most):
            # If the client disconnects, this coroutine is cancelled. The cancellation removes the request from the queue.
            answers.append(await asyncio.wrap_future(self.batcher.submit(batch[start : start + most], requested)))
            requested = answers[0].setting  # the setting chosen for the first call also applies to the other calls
        outputs = {name: np.concatenate([each.outputs[name] for each in answers]) for name in answers[0].outputs}
        return replace(answers[0], outputs=outputs)

    def _replying(self, endpoint: endpoints.Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of an endpoint.

        The handler calls the endpoint's function and counts the reply. It turns an error into a status and a message.
        """
        function = getattr(import_module(f"vmoe_serve.http.{endpoint.module}"), endpoint.name)

        async def reply_to(request: Request) -> Response:
            start = time.perf_counter()
            try:
                reply: Response = await function(self, request)
            except MemoryError:
                reply = _error(endpoints.NO_MEMORY.status, endpoints.NO_MEMORY.message)
            except VmoeError as error:
                known = (status for kind, status in _STATUSES.items() if isinstance(error, kind))
                reply = _error(error.status if isinstance(error, RequestError) else next(known, 400), str(error))
            except ClientDisconnect:
                raise
            except Exception as error:
                _log.exception("%r", request.scope["path"][:200])
                reply = _error(500, " ".join(f"{type(error).__name__}: {error}".split())[:300])
            finally:
                self._arriving -= getattr(request.state, "unpacked", 0)
            if endpoint.label:
                self.metrics.replied(endpoint.label, reply.status_code, time.perf_counter() - start)
            return reply

        return reply_to

    async def _refused(self, request: Request, error: Exception) -> Response:
        """Return a reply to a request that no route accepts. Its messages match those of other refusals."""
        assert isinstance(error, HTTPException)
        path = request.scope["path"][:200]  # request.url would raise an error if the query is not UTF-8
        known = {404: self._no_path(path), 405: RequestError(endpoints.NO_METHOD, request.method, path)}
        message = str(known.get(error.status_code, error.detail))
        return JSONResponse({"error": message}, error.status_code, error.headers)

    def _no_path(self, path: str) -> RequestError:
        found = re.fullmatch(endpoints.MODEL_PATH, path)
        if found and found[1] != self.name:
            return RequestError(endpoints.NO_MODEL, found[1], self.name)
        if found and found[2] not in (None, endpoints.VERSION):
            return RequestError(endpoints.NO_VERSION, found[2], endpoints.VERSION)
        return RequestError(endpoints.NO_PATH, path)


def run(executor: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
    """Run a function in a thread of `executor`, and return an awaitable for its result."""
    return asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, {"retry-after": "1"} if status == 503 else None)
