"""A served model: requests in, replies out, whatever server carries them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vmoe_runtime import BackendError, ClassifyError, Engine, VmoeError, __version__
from vmoe_runtime.classes import likeliest, softmax
from vmoe_serve.batching import Answer, Batcher, ClosedError, QueueFullError
from vmoe_serve.metrics import Metrics
from vmoe_serve.wire import (
    RequestError,
    json_bytes,
    read_classify,
    read_infer,
    write_infer,
)

Array = np.ndarray[Any, np.dtype[Any]]

RETRY_AFTER = "1"


@dataclass(frozen=True)
class Reply:
    """An answer to a request of HTTP.

    Attributes:
        status: 200, or what went wrong: 400 the request, 404 no such model, 413 the body is too large, 500 the backend, 503
            the server is busy or shutting down.
        body: JSON, but for metrics and binary tensors.
        headers: its content type, and more.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


class Service:
    """One model behind requests of any server."""

    def __init__(self, engine: Engine, batcher: Batcher, name: str, *, most_images: int, decoders: int) -> None:
        """Serves an engine by a batcher.

        Args:
            engine: the batcher's.
            batcher: what answers.
            name: of the model, in addresses.
            most_images: of a request.
            decoders: pictures that are decoded at once.
        """
        self._engine, self._batcher, self._name, self._most_images = engine, batcher, name, most_images
        self._decoders = ThreadPoolExecutor(decoders, "vmoe-decoder")
        self.metrics = Metrics(name, batcher)

    async def classify(self, body: bytes, content_type: str, query: Mapping[str, str]) -> Reply:
        """Classes of pictures: `{"predictions": [[{"class", "index", "probability"}, ...], ...], "setting", ...}`."""

        async def answered() -> Reply:
            if self._engine.manifest.output != "logits":
                raise ClassifyError("this model puts out no logits, and so knows no classes: use infer")
            request = read_classify(body, content_type, query, self._most_images)
            batch = await self._batch(list(request.pictures))
            answer = await self._answer(batch, request.setting)
            reply = {
                "predictions": self._predictions(answer.logits, request.top),
                "setting": answer.setting,
                "waited_ms": round(answer.waited * 1e3, 3),
                "call_ms": round(answer.seconds * 1e3, 3),
                "images_of_call": answer.together,
            }
            return Reply(200, json_bytes(reply))

        return await self._replied("classify", answered)

    async def infer(self, model: str, body: bytes, header_length: str | None) -> Reply:
        """`infer` of the Open Inference Protocol; the parameter `setting` asks for a profile, and says which one served."""

        async def answered() -> Reply:
            self._check_name(model)
            output = self._engine.manifest.output
            request = read_infer(body, header_length, output)
            batch = await self._batch(request.images)
            answer = await self._answer(batch, request.setting)
            text, headers = write_infer(model, request, output, answer.logits, answer.setting)
            return Reply(200, text, headers)

        return await self._replied("infer", answered)

    async def model(self, model: str) -> Reply:
        """The model's metadata, as the Open Inference Protocol has it."""

        async def answered() -> Reply:
            self._check_name(model)
            manifest = self._engine.manifest
            datatype = {"float32": "FP32", "uint8": "UINT8"}[manifest.input.dtype]
            description = {
                "name": self._name,
                "versions": ["1"],
                "platform": f"vmoe-export, {self._engine.backend_description}",
                "inputs": [{"name": "image", "datatype": datatype, "shape": [-1, *manifest.input.size]}],
                "outputs": [{"name": manifest.output, "datatype": "FP32", "shape": [-1, *manifest.output_shape]}],
                "parameters": {"profiles": list(self._engine.profiles), "level": self._batcher.load().level},
            }
            return Reply(200, json_bytes(description))

        return await self._replied("model", answered)

    async def model_ready(self, model: str) -> Reply:
        """200 for the model's name."""

        async def answered() -> Reply:
            self._check_name(model)
            return Reply(200, json_bytes({"name": self._name, "ready": True}))

        return await self._replied("model", answered)

    def server(self) -> Reply:
        """The server's metadata, as the Open Inference Protocol has it."""
        return Reply(
            200,
            json_bytes({"name": "vmoe-export", "version": __version__, "extensions": ["binary_tensor_data", "parameters"]}),
        )

    def healthy(self) -> Reply:
        """200 while requests are taken."""
        load = self._batcher.load()
        return Reply(200, json_bytes({"status": "ok", "model": self._name, "waiting": load.waiting, "level": load.level}))

    def measured(self) -> Reply:
        """Metrics in Prometheus text."""
        text, content_type = self.metrics.text()
        return Reply(200, text, {"content-type": content_type})

    def refused(self, status: int, sentence: str) -> Reply:
        """A refusal by the server itself, counted as one."""
        self.metrics.replied("server", status, 0.0)
        return _error(status, sentence)

    def close(self) -> None:
        """Answers what waits, and ends."""
        self._batcher.close()
        self._decoders.shutdown()

    async def _replied(self, what: str, answered: Callable[[], Awaitable[Reply]]) -> Reply:
        start = time.perf_counter()
        try:
            reply = await answered()
        except _NotFoundError as error:
            reply = _error(404, str(error))
        except (QueueFullError, ClosedError) as error:
            reply = _error(503, str(error), {"retry-after": RETRY_AFTER})
        except BackendError as error:
            reply = _error(500, str(error))
        except MemoryError:
            reply = _error(503, "there is not enough memory for this request", {"retry-after": RETRY_AFTER})
        except VmoeError as error:
            reply = _error(400, str(error))
        self.metrics.replied(what, reply.status, time.perf_counter() - start)
        return reply

    async def _batch(self, images: Any) -> Array:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._engine.batch, images)

    async def _answer(self, batch: Array, setting: str | None) -> Answer:
        if setting is not None and self._engine.setting() is None:
            raise RequestError("this model has nothing to set: it takes no 'setting'")
        # Its cancellation, when a client has gone, takes the request out of the queue.
        return await asyncio.wrap_future(self._batcher.submit(batch, setting))

    def _check_name(self, model: str) -> None:
        if model != self._name:
            raise _NotFoundError(f"there is no model '{model[:80]}'; '{self._name}' is served here")

    def _predictions(self, logits: Array, top: int) -> list[list[dict[str, Any]]]:
        names = self._engine.class_names or [str(index) for index in range(self._engine.manifest.outputs)]
        return [
            [{"class": names[index], "index": int(index), "probability": _finite(float(shares[index]))} for index in best]
            for best, shares in zip(likeliest(logits, top), softmax(logits), strict=True)
        ]


class _NotFoundError(RequestError):
    """Nothing of that name."""


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json_bytes({"error": sentence}), {"content-type": "application/json", **(headers or {})})


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
