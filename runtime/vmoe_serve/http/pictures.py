"""The endpoints that take pictures and answer with classes or features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vmoe_runtime.bundle.manifest import Output
from vmoe_runtime.classes import most_probable, probabilities_of
from vmoe_serve import endpoints
from vmoe_serve.batcher import Answer
from vmoe_serve.http.requests import RequestError, read_json, read_object, read_query
from vmoe_serve.service import Service, run

_OTHER_MODELS: dict[Output, endpoints.Refusal] = {
    "logits": endpoints.LOGITS_MODEL,
    "features": endpoints.FEATURES_MODEL,
    "members": endpoints.MEMBERS_MODEL,
    "tokens": endpoints.TOKENS_MODEL,
}


async def classify(service: Service, request: Request) -> Response:
    """Answer with `{"predictions": [[{"class", "index", "probability"}, ...], ...], "setting", ...}`."""
    content, answer = await _answered(service, request, "logits")
    manifest = service.engine.manifest
    names = manifest.class_names or [str(index) for index in range(manifest.outputs)]
    probabilities = probabilities_of(answer.logits, manifest.probabilities)
    predictions = [
        [{"class": names[index], "index": int(index), "probability": _finite(float(shares[index]))} for index in best]
        for best, shares in zip(most_probable(answer.logits, content["top"]), probabilities, strict=True)
    ]
    return JSONResponse({"predictions": predictions} | _call(answer))


async def features(service: Service, request: Request) -> Response:
    """Answer with `{"features": [[number, ...], ...], "setting", ...}`."""
    _, answer = await _answered(service, request, "features")
    rows = [[_finite(value) for value in row] for row in answer.logits.tolist()]
    return JSONResponse({"features": rows} | _call(answer))


async def _answered(service: Service, request: Request, output: Output) -> tuple[dict[str, Any], Answer]:
    """Return the fields of a request, and the engine's answer."""
    if (own := service.engine.manifest.output) != output:
        raise RequestError(_OTHER_MODELS[own])
    content_type = request.headers.get("content-type", "")
    body = await service.body(request)
    content = await run(service.pictures, _read, body, content_type, request.query_params, service.batcher.most_images)
    return content, await service.answer(await service.decoded(content["images"]), content["setting"])


def _read(body: bytes, content_type: str, query: Mapping[str, str], most_images: int) -> dict[str, Any]:
    """Return the fields of a request body, which is JSON or one picture.

    A body that starts with a brace is read as JSON, whatever its content type, because no picture starts with a brace.
    """
    values = read_query("pictures", query)
    if content_type.partition(";")[0].strip().lower() == endpoints.JSON or body.startswith(b"{"):
        values |= read_json(body)
    elif body and not content_type.startswith("multipart/"):
        values["images"] = [body]
    else:
        raise RequestError(endpoints.NO_PICTURE)
    return read_object("pictures", values, most_items=most_images)


def _call(answer: Answer) -> dict[str, Any]:
    times = {"waited_ms": round(answer.waited * 1e3, 3), "call_ms": round(answer.seconds * 1e3, 3)}
    setting = None if answer.setting is None else answer.setting.name
    return {"setting": setting, "images_of_call": answer.batch_size} | times


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
