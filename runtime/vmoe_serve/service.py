"""A served model as an ASGI application: requests in, replies out."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vmoe_runtime import BackendError, ClassifyError, Engine, VmoeError, __version__
from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.classes import Array, likeliest, softmax
from vmoe_runtime.pictures import pixels_of
from vmoe_serve.batching import Answer, Batcher, ClosedError, QueueFullError
from vmoe_serve.metrics import Metrics
from vmoe_serve.wire import HEADER_LENGTH, ClassifyRequest, RequestError, read_classify, read_infer, write_infer

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

_MOST_ARRIVING = 1 << 27  # bytes of all bodies that are on their way
_LATER = {"retry-after": "1"}
_OTHERS: dict[Output, str] = {
    "logits": "this model outputs logits: use /v1/classify",
    "features": "this model outputs features, and so knows no classes: use /v1/features",
    "members": "this model outputs the logits of each member: use infer",
}
_LARGE = 1 << 21  # pixels; some 30 ms


class Service:
    """One model as an ASGI application.

    Replies are JSON but for metrics and binary tensors. Their status is 200, or what went wrong: 400 the request, 404 no
    such model, 413 the body is too large, 500 the backend, 503 the server is busy or shutting down.

    Attributes:
        app: the application, with the routes of `docs/serving.md`.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, name: str, *, most_images: int, most_bytes: int, seconds: float
    ) -> None:
        """Serves an engine by a batcher.

        Args:
            engine: the batcher's.
            batcher: what answers.
            name: of the model, in addresses.
            most_images: of a request.
            most_bytes: of a request's body.
            seconds: for a request's body to arrive, and then for its pictures to be decoded.
        """
        self._engine, self._batcher, self._name = engine, batcher, name
        self._most_images, self._most_bytes, self._seconds = most_images, most_bytes, seconds
        self._arriving = 0  # bytes of the bodies that have not arrived as a whole
        # infer waits for no picture, and a small one for no large one.
        self._tensors, self._pictures = (
            ThreadPoolExecutor(len(os.sched_getaffinity(0)), f"vmoe-{n}") for n in ("tensors", "pictures")
        )
        self._large_pictures = ThreadPoolExecutor(1, "vmoe-large-pictures")
        self._metrics = Metrics(name, batcher)
        routes = [
            Route("/v1/classify", self._replying("classify", self._classify), methods=["POST"]),
            Route("/v1/features", self._replying("features", self._features), methods=["POST"]),
            Route("/v2/models/{model}/infer", self._replying("infer", self._infer), methods=["POST"]),
            Route("/v2/models/{model}", self._replying("model", self._describe_model)),
            Route("/v2/models/{model}/ready", self._replying("model", self._model_ready)),
            Route("/v2", self._describe_server),
            Route("/metrics", self._measured),
            *(Route(path, self._healthy) for path in ("/healthz", "/v2/health/live", "/v2/health/ready")),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _refused})

    def close(self) -> None:
        """Answers what waits, and ends."""
        self._batcher.close()
        for executor in (self._tensors, self._pictures, self._large_pictures):
            executor.shutdown()

    async def _classify(self, request: Request) -> Response:
        """Classes of pictures: `{"predictions": [[{"class", "index", "probability"}, ...], ...], "setting", ...}`."""
        content, answer = await self._of_pictures(request, "logits")
        names = self._engine.class_names or [str(index) for index in range(self._engine.manifest.outputs)]
        predictions = [
            [{"class": names[index], "index": int(index), "probability": _finite(float(shares[index]))} for index in best]
            for best, shares in zip(likeliest(answer.logits, content.top), softmax(answer.logits), strict=True)
        ]
        return JSONResponse({"predictions": predictions} | _told(answer))

    async def _features(self, request: Request) -> Response:
        """Features of pictures: `{"features": [[number, ...], ...], "setting", ...}`."""
        _, answer = await self._of_pictures(request, "features")
        features = [[_finite(value) for value in row] for row in answer.logits.tolist()]
        return JSONResponse({"features": features} | _told(answer))

    async def _of_pictures(self, request: Request, output: Output) -> tuple[ClassifyRequest, Answer]:
        """What a request of pictures asks for, and the answer. Raises ClassifyError: the model has another output."""
        if (own := self._engine.manifest.output) != output:
            raise ClassifyError(_OTHERS[own])
        content_type = request.headers.get("content-type", "")
        body = await self._body(request)
        content = await _run(self._pictures, read_classify, body, content_type, request.query_params, self._most_images)
        return content, await self._answer(await self._decoded(content.images), content.setting)

    async def _infer(self, request: Request) -> Response:
        """`infer` of the Open Inference Protocol; the parameter `setting` names a profile, and in the reply the one used."""
        self._check_name(request)
        output = self._engine.manifest.output
        content, images = read_infer(await self._body(request), request.headers.get(HEADER_LENGTH), output)
        answer = await self._answer(await _run(self._tensors, self._engine.batch, images), content.parameters.setting)
        text, headers = write_infer(self._name, content, output, answer.logits, answer.setting)
        return Response(text, headers=headers)

    async def _describe_model(self, request: Request) -> Response:
        self._check_name(request)
        manifest = self._engine.manifest
        datatype = {"float32": "FP32", "uint8": "UINT8"}[manifest.input.dtype]
        return JSONResponse(
            {
                "name": self._name,
                "versions": ["1"],
                "platform": f"vmoe-export, {self._engine.backend_description}",
                "inputs": [{"name": "image", "datatype": datatype, "shape": [-1, *manifest.input.size]}],
                "outputs": [{"name": manifest.output, "datatype": "FP32", "shape": [-1, *manifest.output_shape]}],
                "parameters": {"profiles": list(self._engine.profiles), "level": self._batcher.load().level},
            }
        )

    async def _model_ready(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse({"name": self._name, "ready": True})

    async def _describe_server(self, _: Request) -> Response:
        extensions = ["binary_tensor_data", "parameters"]
        return JSONResponse({"name": "vmoe-export", "version": __version__, "extensions": extensions})

    async def _healthy(self, _: Request) -> Response:
        load = self._batcher.load()
        return JSONResponse({"status": "ok", "model": self._name, "waiting": load.waiting, "level": load.level})

    async def _measured(self, _: Request) -> Response:
        text, content_type = self._metrics.text()
        return Response(text, headers={"content-type": content_type})

    def _replying(self, what: str, answer: Endpoint) -> Endpoint:
        """An endpoint that is counted, and turns what goes wrong into a status and a message."""

        async def reply_to(request: Request) -> Response:
            start = time.perf_counter()
            try:
                reply = await answer(request)
            except (VmoeError, MemoryError) as error:
                status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 400)
                status = error.status if isinstance(error, RequestError) else status
                message = str(error) or "there is not enough memory for this request"
                reply = JSONResponse({"error": message}, status, _LATER if status == 503 else None)
            self._metrics.replied(what, reply.status_code, time.perf_counter() - start)
            return reply

        return reply_to

    async def _body(self, request: Request) -> bytes:
        """The request's body; no more than it may have is kept, and no longer than it may take."""
        parts, size = [], 0
        length = request.headers.get("content-length", "0")[:15]
        too_large = RequestError(f"the body is larger than {self._most_bytes:,} bytes", 413)
        if int(length) > self._most_bytes:
            raise too_large
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    size += len(part)
                    self._arriving += len(part)
                    if size > self._most_bytes:
                        raise too_large
                    if self._arriving > max(_MOST_ARRIVING, self._most_bytes):
                        raise RequestError("too many large requests arrive at once", 503)
                    parts.append(part)
        except TimeoutError:
            raise RequestError(f"the request did not arrive within {self._seconds:g} seconds", 408) from None
        finally:
            self._arriving -= size
        return b"".join(parts)

    async def _decoded(self, pictures: Sequence[Any]) -> Array:
        """The files of pictures as the graph takes them, dtype[N,H,W,C]."""
        batches = []
        try:
            async with asyncio.timeout(self._seconds):
                for picture in pictures:
                    is_large = await _run(self._pictures, pixels_of, picture) > _LARGE
                    decoders = self._large_pictures if is_large else self._pictures
                    batches.append(await _run(decoders, self._engine.batch, picture))
        except TimeoutError:
            raise RequestError(f"other pictures were decoded for {self._seconds:g} seconds", 503) from None
        return np.concatenate(batches)

    async def _answer(self, batch: Array, setting: str | None) -> Answer:
        if setting is not None and self._engine.setting() is None:
            raise RequestError("this model has nothing to set: it takes no 'setting'")
        # Its cancellation, when a client has gone, takes the request out of the queue.
        return await asyncio.wrap_future(self._batcher.submit(batch, setting))

    def _check_name(self, request: Request) -> None:
        model = request.path_params["model"]
        if model != self._name:
            raise RequestError(f"there is no model '{model[:80]}'; '{self._name}' is served here", 404)


def _run(executor: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> Awaitable[T]:
    return asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


_STATUSES = {BackendError: 500, QueueFullError: 503, ClosedError: 503, MemoryError: 503}


async def _refused(request: Request, error: Exception) -> Response:
    """What the routes refuse by themselves, in the words of everything else."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    messages = {404: f"there is nothing at {path}", 405: f"{request.method} is not what {path} takes"}
    return JSONResponse({"error": messages.get(error.status_code, error.detail)}, error.status_code, error.headers)


def _told(answer: Answer) -> dict[str, Any]:
    times = {"waited_ms": round(answer.waited * 1e3, 3), "call_ms": round(answer.seconds * 1e3, 3)}
    return {"setting": answer.setting, "images_of_call": answer.batch_size} | times


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
