"""A served model as an ASGI application: requests in, replies out."""

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
from vmoe_runtime.pictures import pixels_of
from vmoe_runtime.processors import usable_processors
from vmoe_serve import endpoints
from vmoe_serve.batcher import Answer, Batcher, ClosedError, QueueFullError
from vmoe_serve.http.requests import RequestError
from vmoe_serve.prometheus_text import Metrics

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MOST_ARRIVING = 1 << 27  # bytes of all bodies that are on their way, and of unpacked ones until their replies
_WINDOWS = {"identity": None, "gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What zlib takes to unpack a body, by its encoding."""
_STATUSES = {BackendError: 500, QueueFullError: 503, ClosedError: 503}


class Service:
    """One model as an ASGI application, with the endpoints and refusals of `vmoe_serve.endpoints`.

    Attributes:
        app: the application.
        engine, batcher, name: of the model.
        metrics: counts of its replies.
        seconds: for the body of a request to arrive, and then for its pictures to be decoded.
        tensors, pictures, large_pictures: threads that read and decode; `infer` waits for no picture, and a small picture
            for no large one.
    """

    def __init__(self, engine: Engine, batcher: Batcher, name: str, *, max_body: int, seconds: float) -> None:
        """Serves an engine by a batcher.

        Args:
            engine: the batcher's.
            batcher: what answers.
            name: of the model, in addresses.
            max_body: megabytes of a request's body.
            seconds: see above.
        """
        self.engine, self.batcher, self.name = engine, batcher, name
        self._most_body, self.seconds = max_body << 20, seconds
        self._arriving = 0  # bytes of the bodies that have not arrived as a whole, and of unpacked ones
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
        self.app.router.redirect_slashes = False  # to the address that a proxy knows, which is not the client's

    def close(self) -> None:
        """Answers what waits, and ends."""
        self.batcher.close()
        for executor in (self.tensors, self.pictures, self.large_pictures):
            executor.shutdown()

    async def body(self, request: Request) -> bytes:
        """The body of a request, unpacked; no more of it is kept than it may have.

        Raises:
            RequestError: it is too large or too slow, it can't be unpacked, or too many arrive.
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
        # A client pays for what it sends, but not for what that unpacks to.
        request.state.unpacked = len(body)
        self._arriving += len(body)
        self._check_size(len(body))
        if not unpacking.eof or unpacking.unused_data:
            raise RequestError(endpoints.NO_BODY_ENCODING, encoding)
        return body

    def _check_size(self, size: int) -> None:
        """Refuses a body of so many bytes that is larger than it may be, or one too many."""
        if size > self._most_body:
            raise RequestError(endpoints.TOO_LARGE, self._most_body >> 20)
        if self._arriving > max(_MOST_ARRIVING, self._most_body):
            raise RequestError(endpoints.MANY_BODIES)

    async def decoded(self, pictures: Sequence[Any]) -> Array:
        """Picture files as the graph takes them, dtype[N,H,W,C].

        Raises:
            RequestError: other pictures took too long.
            ImageError: one can't be read.
        """
        batches = []
        try:
            async with asyncio.timeout(self.seconds):
                for picture in pictures:
                    is_large = await run(self.pictures, pixels_of, picture) > endpoints.LARGE_PICTURE
                    batches.append(await run(self.large_pictures if is_large else self.pictures, self.engine.batch, picture))
        except TimeoutError:
            raise RequestError(endpoints.DECODING, f"{self.seconds:g}") from None
        return np.concatenate(batches)

    async def answer(self, batch: Array, setting: str | None) -> Answer:
        """The answer to a batch as `Engine.batch` makes it; more images than a call takes are served one call after another.

        Raises:
            RequestError: a setting is named, and the model has none; no images, or more than may wait.
            VmoeError: as for `Batcher.submit` and a call of the engine.
        """
        if setting is not None and self.engine.setting() is None:
            raise RequestError(endpoints.NO_SETTINGS)
        most, limit = self.batcher.most_images, self.batcher.most_waiting
        if not 1 <= len(batch) <= limit:
            raise RequestError(endpoints.WRONG_IMAGE_COUNT, limit, len(batch))
        answers = list[Answer]()
        for start in range(0, len(batch), most):
            # If the client disconnects, this is cancelled, which takes the request out of the queue.
            answers.append(await asyncio.wrap_future(self.batcher.submit(batch[start : start + most], setting)))
            setting = answers[0].setting  # all images have the setting that was chosen for the first ones
        outputs = {name: np.concatenate([each.outputs[name] for each in answers]) for name in answers[0].outputs}
        return replace(answers[0], outputs=outputs)

    def _replying(self, endpoint: endpoints.Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """What answers at an endpoint: its function, whose errors become a status and a message, and whose replies count."""
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
        """What the routes refuse by themselves, in the words of everything else."""
        assert isinstance(error, HTTPException)
        path = request.scope["path"][:200]  # a query that is not UTF-8 would make request.url raise
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
    """What a function returns that runs in a thread."""
    return asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, {"retry-after": "1"} if status == 503 else None)
