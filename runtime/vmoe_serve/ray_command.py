"""`vmoe serve ray`: starts Ray where none runs, deploys the application, and ends it on SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import re
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import click

from vmoe_runtime.bundle.reader import Bundle
from vmoe_serve.command import count_option, name_option
from vmoe_serve.settings import check_served, levels, model_name, named
from vmoe_tools.options import (
    CONTEXT,
    backend_option,
    bundle_argument,
    errors_only_option,
    profiles_option,
    ratios_of,
    sweep_option,
    threads_option,
    verbose_option,
)
from vmoe_tools.output import regular_lines

_LONGEST_MS = 600_000.0
_NICENESS = {"RAY_worker_niceness": "0"}
"""Replicas have the priority of any other service. Ray's own default is 15, by which the least other work starves them."""
_REPLICAS = re.compile(r"([0-9]{1,4})(?::([0-9]{1,4}))?")


def _checked_target(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value <= _LONGEST_MS:
        raise click.BadParameter(f"it is more than 0 and at most {_LONGEST_MS:.0f} milliseconds, not {value:g}")
    return value


def _read_replicas(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    match = _REPLICAS.fullmatch(value) if value.isascii() else None
    fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= fewest <= most:
        raise click.BadParameter(f"it is N or FEWEST:MOST, at least 1, not '{value}'")
    return fewest, most


@click.command(context_settings=CONTEXT)
@bundle_argument
@click.option(
    "--slo-ms",
    metavar="MS",
    type=float,
    callback=_checked_target,
    help="Elastic capacity: the most milliseconds from a request to its answer. Default: one setting for all requests.",
)
@sweep_option
@click.option(
    "--capacity", "capacities", metavar="C", type=float, multiple=True, help="A capacity ratio for --slo-ms; repeats."
)
@profiles_option
@name_option
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address to serve at.")
@count_option("--port", 65535, 8000, "Its port.")
@click.option(
    "--replicas",
    metavar="N",
    default="1",
    show_default=True,
    callback=_read_replicas,
    help="Number of replicas, or FEWEST:MOST, of which as many run as the load needs.",
)
@count_option("--batch-size", 4096, 16, "The most images of a call and of a request.")
@count_option("--max-waiting", 1 << 20, 256, "Images that may wait in a replica; further requests get 503.")
@count_option("--max-body", 1024, 16, "Megabytes that a request's body may have; larger ones get 413.")
@count_option("--request-seconds", 3600, 10, "Seconds for a request's body to arrive; a slower one gets 408.")
@threads_option
@backend_option
@errors_only_option
@verbose_option
def ray(bundle: Path, host: str, port: int, quiet: bool, **values: Any) -> None:
    """Serve a bundle over HTTP, as an application of Ray Serve.

    It runs on this machine, or on the cluster that the variable RAY_ADDRESS names. POST /v1/classify (or features) takes a
    picture or JSON, POST /v2/models/NAME/infer the Open Inference Protocol; GET /healthz and /metrics. With --slo-ms the
    capacity follows the load: requests that name no setting get the best one of --sweep, --capacity or --profile that
    answers in time. SIGTERM and Ctrl-C end it once the requests in its queues are answered.
    """
    from ray import serve

    from vmoe_serve.ray_proxy import SERVING
    from vmoe_serve.ray_session import connected_ray, told_if_ended

    name = values.pop("name") or model_name(bundle)
    arguments = _checked(bundle, values)
    with socket.socket(socket.AF_UNIX) as claim, told_if_ended(), NamedTemporaryFile() as serving, ExitStack() as closing:
        _claim(claim, host, port)
        if not quiet:
            click.echo("vmoe: starting Ray and its replicas", err=True)
        step, start = Path(serving.name), time.monotonic()
        step.write_text("starting Ray")
        lines = regular_lines(lambda: f"vmoe: {step.read_text()}: {time.monotonic() - start:.0f} s", sys.stderr, quiet=quiet)
        served = closing.enter_context(lines)
        closing.enter_context(connected_ray(variables={SERVING: serving.name, **_NICENESS}))
        step.write_text("starting the replicas")
        handle = _deploy(bundle, name, host, port, arguments)
        served()
        try:
            if not quiet:
                what, runtime, notes = handle.described.remote().result()
                for note in notes:
                    click.echo(f"vmoe: {note}", err=True)
                address = f"http://{host}:{port}/v1/{what}"
                print(f"serving {name} on {runtime}; try: curl --data-binary @IMAGE {address}", flush=True)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        finally:
            # Replicas take no more requests, and answer what they have.
            serve.delete(name)
            serving.close()
            time.sleep(1)  # refusals that have begun end


def _claim(claim: socket.socket, host: str, port: int) -> None:
    """Refuses a port that is taken, which Ray would share, also by one of these commands that doesn't listen yet.

    Args:
        claim: has the port's name until it is closed, or the process ends.
        host: to listen at.
        port: of that host.
    """
    try:
        claim.bind(f"\0vmoe serve ray, port {port}")
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise click.ClickException(f"can't serve at {host}:{port}: {error.strerror or error}") from None


def _checked(bundle: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `ray_application.application`.

    Args:
        bundle: of the command line.
        values: of its options, some of which become others.
    """
    profiles = tuple(dict.fromkeys(values.pop("profiles")))
    ratios = ratios_of(values.pop("sweeps"), values.pop("capacities"))
    if values["slo_ms"] is None and (ratios or len(profiles) > 1):
        raise click.UsageError("several settings are what --slo-ms chooses from, which is missing")
    if ratios and len(profiles) > 1:
        raise click.UsageError("--sweep and --capacity start from one profile, which says what k and order are")
    if values["max_waiting"] < values["batch_size"]:
        raise click.UsageError(
            f"--max-waiting {values['max_waiting']} is less than --batch-size {values['batch_size']}, which a call takes"
        )
    with Bundle.open(bundle) as opened:
        opened.verify_weights()
        manifest = opened.manifest
    check_served(manifest, bundle)
    chosen = [] if values["slo_ms"] is None else levels(manifest, ratios, profiles)
    fixed = named(manifest, profiles[0]).name if profiles and not chosen else None
    return {"bundle": bundle.resolve(), "levels": [profile.name for profile in chosen], "profile": fixed, **values}


def _deploy(bundle: Path, name: str, host: str, port: int, arguments: dict[str, Any], *, is_last: bool = False) -> Any:
    from ray import serve

    from vmoe_serve.ray_application import application
    from vmoe_serve.ray_session import reason

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "ERROR"})
        return serve.run(application(name, **arguments), name=name, route_prefix="/")
    except Exception as error:  # Ray raises whatever its parts raise
        status = serve.status().applications.get(name)
        reasons = [part.message for part in status.deployments.values() if part.message] if status else []
        told = reason(reasons[0] if reasons else error)
        # A replica that Ray gave up before it ran, as on a machine that is slow to start it, says nothing of the bundle.
        if is_last or "never ran" not in told:
            raise click.ClickException(f"Ray can't serve {bundle}: {told}") from None
    serve.delete(name)
    return _deploy(bundle, name, host, port, arguments, is_last=True)
