"""A served model: requests in, replies out, whatever server carries them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response

from vmoe_runtime import BackendError, ClassifyError, Engine, VmoeError, __version__
from vmoe_runtime.classes import likeliest, softmax
from vmoe_serve.batching import Answer, Batcher, ClosedError, QueueFullError
from vmoe_serve.metrics import Metrics
from vmoe_serve.wire import RequestError, read_classify, read_infer, write_infer

Array = np.ndarray[Any, np.dtype[Any]]

_LATER = {"retry-after": "1"}


class _NotFoundError(RequestError):
    """Nothing of that name."""


class Service:
    """One model behind requests of any server.

    Replies are JSON but for metrics and binary tensors. Their status is 200, or what went wrong: 400 the request, 404 no
    such model, 413 the body is too large, 500 the backend, 503 the server is busy or shutting down.
    """

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

    async def classify(self, body: bytes, content_type: str, query: Mapping[str, str]) -> Response:
        """Classes of pictures: `{"predictions": [[{"class", "index", "probability"}, ...], ...], "setting", ...}`."""
        return await self._replied("classify", self._classify(body, content_type, query))

    async def infer(self, model: str, body: bytes, header_length: str | None) -> Response:
        """`infer` of the Open Inference Protocol; the parameter `setting` names a profile, and in the reply the one used."""
        return await self._replied("infer", self._infer(model, body, header_length))

    async def model(self, model: str) -> Response:
        """The model's metadata, as the Open Inference Protocol has it."""
        return await self._replied("model", self._model(model))

    async def model_ready(self, model: str) -> Response:
        """200 for the model's name."""
        reply = await self.model(model)
        return JSONResponse({"name": self._name, "ready": True}) if reply.status_code == 200 else reply

    def server(self) -> Response:
        """The server's metadata, as the Open Inference Protocol has it."""
        extensions = ["binary_tensor_data", "parameters"]
        return JSONResponse({"name": "vmoe-export", "version": __version__, "extensions": extensions})

    def healthy(self) -> Response:
        """200 while requests are taken."""
        load = self._batcher.load()
        return JSONResponse({"status": "ok", "model": self._name, "waiting": load.waiting, "level": load.level})

    def measured(self) -> Response:
        """Metrics in Prometheus text."""
        text, content_type = self.metrics.text()
        return Response(text, headers={"content-type": content_type})

    def refused(self, status: int, message: str) -> Response:
        """A refusal by the server itself, counted as one."""
        self.metrics.replied("server", status, 0.0)
        return JSONResponse({"error": message}, status)

    def close(self) -> None:
        """Answers what waits, and ends."""
        self._batcher.close()
        self._decoders.shutdown()

    async def _classify(self, body: bytes, content_type: str, query: Mapping[str, str]) -> Response:
        if self._engine.manifest.output != "logits":
            raise ClassifyError("this model outputs no logits, and so knows no classes: use infer")
        request = read_classify(body, content_type, query, self._most_images)
        answer = await self._answer(await self._batch(request.images), request.setting)
        names = self._engine.class_names or [str(index) for index in range(self._engine.manifest.outputs)]
        predictions = [
            [{"class": names[index], "index": int(index), "probability": _finite(float(shares[index]))} for index in best]
            for best, shares in zip(likeliest(answer.logits, request.top), softmax(answer.logits), strict=True)
        ]
        return JSONResponse(
            {
                "predictions": predictions,
                "setting": answer.setting,
                "waited_ms": round(answer.waited * 1e3, 3),
                "call_ms": round(answer.seconds * 1e3, 3),
                "images_of_call": answer.batch_size,
            }
        )

    async def _infer(self, model: str, body: bytes, header_length: str | None) -> Response:
        self._check_name(model)
        output = self._engine.manifest.output
        request, images = read_infer(body, header_length, output)
        answer = await self._answer(await self._batch(images), request.parameters.setting)
        text, headers = write_infer(model, request, output, answer.logits, answer.setting)
        return Response(text, headers=headers)

    async def _model(self, model: str) -> Response:
        self._check_name(model)
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

    async def _replied(self, what: str, answering: Awaitable[Response]) -> Response:
        start = time.perf_counter()
        try:
            reply = await answering
        except _NotFoundError as error:
            reply = _error(404, str(error))
        except (QueueFullError, ClosedError) as error:
            reply = _error(503, str(error), _LATER)
        except BackendError as error:
            reply = _error(500, str(error))
        except MemoryError:
            reply = _error(503, "there is not enough memory for this request", _LATER)
        except VmoeError as error:
            reply = _error(400, str(error))
        self.metrics.replied(what, reply.status_code, time.perf_counter() - start)
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


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
