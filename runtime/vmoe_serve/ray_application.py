"""The Ray Serve application: replicas, each with an engine, a batcher and a `Service`, behind Ray's HTTP proxy."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response
from ray import serve
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from vmoe_runtime import Engine
from vmoe_serve.batching import Batcher
from vmoe_serve.service import Service
from vmoe_serve.settings import elastic_plan
from vmoe_serve.wire import HEADER_LENGTH


@dataclass(frozen=True)
class Options:
    """What an application serves.

    Attributes:
        bundle: absolute path of the bundle's folder, the same on every machine of the cluster.
        name: of the model, in addresses.
        levels: names of the settings that elastic capacity chooses between, the least accurate first; empty for none.
        profile: name of the setting of requests that ask for none, where there are no levels; None for the first stored one.
        target: seconds from a request's arrival to its answer, for elastic capacity.
        most_images: of a call and of a request.
        most_waiting: images that may wait in a replica.
        most_bytes: of a request's body.
        threads: CPU threads per call; None for the runtime's own choice.
        backend: name of the backend.
        replicas: (fewest, most); more are started where all are busy.
    """

    bundle: Path
    name: str
    levels: tuple[str, ...]
    profile: str | None
    target: float
    most_images: int
    most_waiting: int
    most_bytes: int
    threads: int | None
    backend: str
    replicas: tuple[int, int]


def application(options: Options) -> serve.Application:
    """The application, to be given to `ray.serve.run`."""
    fewest, most = options.replicas
    # As many requests as may wait: what is beyond them is refused by the replica, in a sentence.
    at_once = options.most_waiting + options.most_images
    deployment = serve.deployment(
        name=options.name,
        num_replicas=fewest if fewest == most else "auto",
        autoscaling_config=None
        if fewest == most
        else {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": options.most_images},
        max_ongoing_requests=2 * at_once,
        ray_actor_options={"num_cpus": options.threads or 1},
        graceful_shutdown_timeout_s=60,
        # How often, and how late at first, a replica looks whether it has answered everything; 2 s by default.
        graceful_shutdown_wait_loop_s=0.5,
        # How late a replica that has died is noticed, and another one started; 10 s by default.
        health_check_period_s=2,
        logging_config={"enable_access_log": False, "log_level": "ERROR"},
    )(_Replica)
    return deployment.bind(options)


_app = FastAPI(title="vmoe-export", docs_url=None, redoc_url=None)


@_app.exception_handler(HTTPException)
async def _refused(request: Request, error: HTTPException) -> Response:
    """What FastAPI refuses by itself, in the words of everything else."""
    path = request.url.path[:200]
    messages = {404: f"there is nothing at {path}", 405: f"{request.method} is not what {path} takes"}
    return JSONResponse({"error": messages.get(error.status_code, str(error.detail))}, error.status_code, error.headers)


@serve.ingress(_app)
class _Replica:
    """The routes; FastAPI and Ray find them by their decorators."""

    def __init__(self, options: Options) -> None:
        self._most_bytes = options.most_bytes
        engine = Engine.load(options.bundle, options.profile, options.backend, options.threads)
        plan, self._notes = None, list[str]()
        if options.levels:
            profiles = [profile for name in options.levels if (profile := engine.setting(name)) is not None]
            plan, self._notes = elastic_plan(engine, profiles, options.target, options.most_images)
        batcher = Batcher(engine, plan, most_images=options.most_images, most_waiting=options.most_waiting)
        cores = len(os.sched_getaffinity(0))
        self._service = Service(engine, batcher, options.name, most_images=options.most_images, decoders=cores)

    def notes(self) -> list[str]:
        """What is to be said of the elastic levels, a sentence each."""
        return self._notes

    @_app.post("/v1/classify")
    async def classify(self, request: Request) -> Response:
        body = await self._body(request)
        if body is None:
            return self._too_large()
        return await self._service.classify(body, request.headers.get("content-type", ""), dict(request.query_params))

    @_app.post("/v2/models/{model}/infer")
    async def infer(self, model: str, request: Request) -> Response:
        body = await self._body(request)
        if body is None:
            return self._too_large()
        return await self._service.infer(model, body, request.headers.get(HEADER_LENGTH))

    @_app.get("/v2")
    async def server(self) -> Response:
        return self._service.server()

    @_app.get("/v2/models/{model}")
    async def model(self, model: str) -> Response:
        return await self._service.model(model)

    @_app.get("/v2/models/{model}/ready")
    async def model_ready(self, model: str) -> Response:
        return await self._service.model_ready(model)

    @_app.get("/healthz")
    @_app.get("/v2/health/live")
    @_app.get("/v2/health/ready")
    async def health(self) -> Response:
        return self._service.healthy()

    @_app.get("/metrics")
    async def metrics(self) -> Response:
        return self._service.measured()

    async def _body(self, request: Request) -> bytes | None:
        """The request's body; None where it is too large, and no more than that is kept."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._most_bytes:
                return None
            parts.append(part)
        return b"".join(parts)

    def _too_large(self) -> Response:
        return self._service.refused(413, f"the body is larger than {self._most_bytes:,} bytes")

    async def __del__(self) -> None:
        await asyncio.to_thread(self._service.close)
