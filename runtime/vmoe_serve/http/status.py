"""What the server is doing, for those who watch it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from vmoe_serve import endpoints
from vmoe_serve.service import Service


async def health(service: Service, _: Request) -> Response:
    """The queue, and the setting of requests that name none."""
    load = service.batcher.load()
    state = {"status": "ok", "live": True, "ready": True}  # two fields of the Open Inference Protocol
    return JSONResponse(state | {"model": service.name, "waiting": load.waiting, "level": load.level})


async def metrics(service: Service, _: Request) -> Response:
    """Prometheus text."""
    return Response(service.metrics.text(), headers={"content-type": endpoints.PROMETHEUS})
