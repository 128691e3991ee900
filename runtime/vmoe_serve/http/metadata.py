"""The endpoints that describe the server and its model, and report the server's state.

The descriptions follow the Open Inference Protocol.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vmoe_runtime import __version__
from vmoe_serve import endpoints
from vmoe_serve.http.requests import read_json, read_object
from vmoe_serve.openapi import document
from vmoe_serve.service import Service


async def server(_: Service, __: Request) -> Response:
    """Answer with the name and version of the server."""
    extensions = ["binary_tensor_data", "classification", "model_repository", "parameters"]
    return JSONResponse({"name": "vmoe-export", "version": __version__, "extensions": extensions})


async def model(service: Service, _: Request) -> Response:
    """Answer with the input, outputs and profiles of the model."""
    manifest = service.engine.manifest
    datatype = {"float32": "FP32", "uint8": "UINT8"}[manifest.input.dtype]
    return JSONResponse(
        {
            "name": service.name,
            "versions": [endpoints.VERSION],
            "platform": f"vmoe-export, {service.engine.backend_description}",
            "inputs": [{"name": endpoints.INPUT_NAME, "datatype": datatype, "shape": [-1, *manifest.input.size]}],
            "outputs": [
                {"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in manifest.answers.items()
            ],
            "parameters": {
                "profiles": list(service.engine.profiles),
                "level": service.batcher.load().level,
                "probabilities": manifest.probabilities if manifest.output == "logits" else None,
            },
        }
    )


async def repository(service: Service, request: Request) -> Response:
    """Answer with the list of models, in the format of Triton's extension.

    The list contains only the model that is served.
    """
    read_object("repository", read_json(await service.body(request) or b"{}"))
    return JSONResponse([{"name": service.name, "version": endpoints.VERSION, "state": "READY", "reason": ""}])


async def openapi(service: Service, _: Request) -> Response:
    """Answer with a description of all endpoints in the OpenAPI format."""
    return JSONResponse(document(service.name))


async def model_ready(service: Service, _: Request) -> Response:
    """Answer that the model is ready. It is ready from the start."""
    return JSONResponse({"name": service.name, "ready": True})


async def health(service: Service, _: Request) -> Response:
    """Answer with the state of the queue, and with the current setting for requests that specify no setting."""
    load = service.batcher.load()
    state = {"status": "ok", "live": True, "ready": True}  # the Open Inference Protocol defines `live` and `ready`
    return JSONResponse(state | {"model": service.name, "waiting": load.waiting, "level": load.level})


async def metrics(service: Service, _: Request) -> Response:
    """Answer with the metrics as Prometheus text."""
    return Response(service.metrics.text(), headers={"content-type": endpoints.PROMETHEUS})
