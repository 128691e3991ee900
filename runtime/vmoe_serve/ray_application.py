"""The Ray Serve application, which runs behind Ray's HTTP proxy.

Each of its replicas has an engine, a batcher and a `Service`.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import serve
from starlette.applications import Starlette

from vmoe_runtime import Engine
from vmoe_serve.batcher import Batcher
from vmoe_serve.levels import elastic_plan
from vmoe_serve.ray_proxy import SERVING
from vmoe_serve.ray_session import GRACE_SECONDS
from vmoe_serve.service import Service


def application(name: str, replicas: tuple[int, int], **arguments: Any) -> serve.Application:
    """Return the application for `ray.serve.run`.

    Args:
        name: name of the model in URLs.
        replicas: minimum and maximum number of replicas. Ray starts more replicas while all running replicas are busy.
        **arguments: arguments of `Replica`.
    """
    fewest, most = replicas
    # The queue and a call together can contain at most this many requests. Ray admits twice as many. So the replica refuses
    # the excess requests itself, with a message.
    at_once = arguments["max_waiting"] + arguments["batch_size"]
    bounds = {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": arguments["batch_size"]}
    deployment = serve.deployment(
        name=name,
        num_replicas=fewest if fewest == most else "auto",
        autoscaling_config=None if fewest == most else bounds,
        max_ongoing_requests=2 * at_once,
        ray_actor_options={"num_cpus": arguments["threads"] or 1},
        graceful_shutdown_timeout_s=GRACE_SECONDS,
        # Interval at which a stopping replica checks whether it has answered all its requests. The default is 2 s.
        graceful_shutdown_wait_loop_s=0.5,
        # Interval at which Ray looks for dead replicas to replace. The default is 10 s.
        health_check_period_s=2,
        logging_config={"enable_access_log": False, "log_level": "ERROR"},
    )(Replica)
    return deployment.bind(name, **arguments)


@serve.ingress()
class Replica:
    """One process of the application. It has an engine, a batcher and a `Service`."""

    def __init__(
        self,
        name: str,
        bundle: Path,
        levels: Sequence[str],
        profile: str | None,
        slo_ms: float | None,
        batch_size: int,
        max_waiting: int,
        max_body: int,
        request_seconds: int,
        threads: int | None,
        backend: str,
    ) -> None:
        """Load the engine, and time the levels.

        Args:
            name: name of the model in URLs.
            bundle: absolute path of the bundle's folder. The path is the same on every machine of the cluster.
            levels: names of the settings for elastic capacity, the least accurate first. It is empty without elastic
                capacity.
            profile: setting for requests that specify no setting, if there are no levels. None selects the first stored
                profile.
            slo_ms: latency target of elastic capacity: milliseconds from a request's arrival to its answer.
            batch_size: maximum number of images per call and per request.
            max_waiting: maximum number of images in the queue.
            max_body: maximum size of a request's body, in megabytes.
            request_seconds: maximum time for a body to arrive, in seconds.
            threads: CPU threads per call; None lets the runtime choose.
            backend: name of the backend.
        """
        _tell("a replica to load the bundle")
        engine = Engine.load(bundle, profile, backend, threads)
        self._what = "features" if engine.manifest.output == "features" else "classify"
        self._runtime = engine.backend_description
        plan, self._notes = None, list[str]()
        if levels and slo_ms is not None:
            _tell("a replica to time the levels")
            profiles = [found for level in levels if (found := engine.setting(level)) is not None]
            plan, self._notes = elastic_plan(engine, profiles, slo_ms / 1e3, batch_size)
        batcher = Batcher(engine, plan, most_images=batch_size, most_waiting=max_waiting)
        self._service = Service(engine, batcher, name, max_body=max_body, seconds=request_seconds)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the ASGI application for Ray's HTTP proxy."""
        return self._service.app

    def described(self) -> tuple[str, str, list[str]]:
        """Return a description of the replica.

        The description consists of the endpoint for pictures ("classify" or "features"), the runtime, and notes about the
        settings of elastic capacity.
        """
        return self._what, self._runtime, self._notes

    async def __del__(self) -> None:
        await asyncio.to_thread(self._service.close)


def _tell(awaited: str) -> None:
    """Write `awaited` into the command's progress file.

    `awaited` describes what the command is waiting for. The file exists only on the machine that runs the command.
    """
    with suppress(OSError), Path(os.environ.get(SERVING, "")).open("r+") as step:
        step.truncate(step.write(awaited))
