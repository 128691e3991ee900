"""The command `vmoe serve ray`.

It starts Ray if Ray isn't running, deploys the application, and removes the application on SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from vmoe_serve import endpoints
from vmoe_serve.command import name_option, service_options
from vmoe_serve.levels import levels, model_name, served_manifest
from vmoe_tools import options
from vmoe_tools.output import WAIT_SECONDS, regular_lines

_NICENESS = {"RAY_worker_niceness": "0"}
"""Gives replicas the same priority as other services. With Ray's default of 15, even a little other work starves them."""
_INSTEAD = ", or serve with vmoe-serve-http, the C++ service"
_REPLICAS = re.compile(r"([0-9]{1,4})(?::([0-9]{1,4}))?")


def _read_replicas(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int]:
    match = _REPLICAS.fullmatch(value) if value.isascii() else None
    fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= fewest <= most:
        raise click.BadParameter(f"use N or MIN:MAX, at least 1, not '{value}'")
    return fewest, most


@click.command(context_settings=options.CONTEXT)
@options.bundle_argument
@click.option(
    "--slo-ms",
    metavar="MS",
    type=options.FiniteRange(0, endpoints.MAX_SLO_MS, min_open=True),
    help="Latency target of elastic capacity: milliseconds from a request to its answer. Default: one setting for all.",
)
@options.sweep_option
@click.option(
    "--capacity", "capacities", metavar="C", type=float, multiple=True, help="A capacity ratio for --slo-ms; repeatable."
)
@options.profiles_option
@name_option
@click.option("--host", metavar="HOST", default="127.0.0.1", show_default=True, help="Address to listen on.")
@options.count_option("--port", most=65535, default=8000, help="Port to listen on.")
@click.option(
    "--replicas",
    metavar="N",
    default="1",
    show_default=True,
    callback=_read_replicas,
    help="Number of replicas, or MIN:MAX to scale with the load.",
)
@service_options
@options.threads_option
@options.backend_option
@options.errors_only_option
@options.verbose_option
def ray(bundle: Path, host: str, port: int, quiet: bool, **values: Any) -> None:
    """Serve a bundle over HTTP, as a Ray Serve application.

    The application runs on this machine, or on the cluster that RAY_ADDRESS specifies. POST /v1/classify (or features)
    takes a picture or JSON. POST /v2/models/NAME/infer takes requests of the Open Inference Protocol. GET /healthz and GET
    /metrics report the server's state. With --slo-ms, the capacity follows the load: a request that specifies no setting
    gets the best setting that meets the latency target. The candidates are the settings of --sweep, --capacity or
    --profile. Without --slo-ms, a request that specifies no setting gets the profile that --profile names, or else the
    first stored profile. SIGTERM and Ctrl-C stop the server after it has answered the requests in its queues.
    """
    from ray import cluster_resources, serve

    from vmoe_serve.ray_proxy import SERVING
    from vmoe_serve.ray_session import GRACE_SECONDS, connected_ray, told_if_ended

    name = values.pop("name") or model_name(bundle)
    arguments = _checked(bundle, values)
    with socket.socket(socket.AF_UNIX) as claim, told_if_ended(), TemporaryFile() as serving, ExitStack() as closing:
        _claim(claim, host, port)
        if not quiet:
            click.echo("vmoe: starting Ray and its replicas", err=True)
        # Other processes open the progress file by this path. The path disappears when this process ends, even if the
        # process is killed.
        step, start = Path(f"/proc/{os.getpid()}/fd/{serving.fileno()}"), time.monotonic()
        step.write_text("Ray's own processes")

        def line() -> str:
            return f"vmoe: waiting for {step.read_text()}: {time.monotonic() - start:.0f} s"

        served = closing.enter_context(regular_lines(line, sys.stderr, quiet=quiet, seconds=WAIT_SECONDS))
        closing.enter_context(connected_ray(variables={SERVING: str(step), **_NICENESS}, instead=_INSTEAD))
        fewest, cpus = arguments["replicas"][0], cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
        _check_cpus(arguments, cpus)
        step.write_text(f"replicas to start ({fewest}, each with {arguments['threads'] or 1} of Ray's {cpus:g} CPUs)")
        try:
            handle, running = _deploy(bundle, name, host, port, arguments)
        except BaseException:
            if os.environ.get("RAY_ADDRESS"):  # leave nothing behind on the user's own cluster
                with suppress(Exception):
                    serve.delete(name)
            raise
        served()
        try:
            if not quiet:
                what, runtime, notes = handle.described.remote().result()
                for note in notes:
                    click.echo(f"vmoe: {note}", err=True)
                address = f"{_address(host, port)}/v1/{what}"
                missing = f" ({running} of {fewest} replicas)" if running < fewest else ""
                print(f"serving {name}{missing} on {runtime}; try: curl --data-binary @IMAGE {address}", flush=True)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
            if not quiet:
                click.echo(f"vmoe: stopping; requests in its queues get at most {GRACE_SECONDS} s", err=True)
        finally:
            # From now on, replicas accept no new requests. They only answer requests that they have already accepted.
            serve.delete(name)
            step.write_text("")
            time.sleep(1)  # time to finish refusals that have begun


def _address(host: str, port: int) -> str:
    """Return the URL of the server.

    Examples:
        >>> _address("::1", 8000)
        'http://[::1]:8000'
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _claim(claim: socket.socket, host: str, port: int) -> None:
    """Refuse a port that is in use, or that another run of this command is about to use.

    Without this check, Ray would share a port that is in use.

    Args:
        claim: a Unix socket. It reserves the port among runs of this command until it is closed or the process ends.
        host: host name or IP address to listen on.
        port: TCP port to listen on.
    """
    try:
        claim.bind(f"\0vmoe serve ray, port {port}")
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise click.ClickException(f"can't serve at {host}:{port}: {error.strerror or error}") from None


def _checked(bundle: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Check the command line, and return the arguments of `ray_application.application`.

    Args:
        bundle: the bundle on the command line.
        values: the values of the command line options.
    """
    profiles = tuple(dict.fromkeys(values.pop("profiles")))
    ratios = options.ratios_of(values.pop("sweeps"), values.pop("capacities"))
    if values["slo_ms"] is None and (ratios or len(profiles) > 1):
        raise click.UsageError("several settings need --slo-ms, which chooses between them")
    if ratios and len(profiles) > 1:
        raise click.UsageError("--sweep and --capacity change the capacity of one --profile, not of several")
    if values["max_waiting"] < values["batch_size"]:
        raise click.UsageError(
            f"--max-waiting {values['max_waiting']} is less than --batch-size {values['batch_size']}, the images of a call"
        )
    _check_cpus(values, os.cpu_count() or 1)
    manifest = served_manifest(bundle)
    chosen = [] if values["slo_ms"] is None else levels(manifest, ratios, profiles)
    fixed = manifest.profile_named(profiles[0]).name if profiles and not chosen else None
    return {"bundle": bundle.resolve(), "levels": [profile.name for profile in chosen], "profile": fixed, **values}


def _check_cpus(values: dict[str, Any], cpus: float) -> None:
    """Refuse to start more replicas than this machine's CPUs allow, because Ray would wait for more CPUs.

    On a cluster, any number is accepted, because the cluster may still get more CPUs.
    """
    fewest, each = values["replicas"][0], values["threads"] or 1
    if fewest * each > cpus and not os.environ.get("RAY_ADDRESS"):
        raise click.ClickException(
            f"--replicas {fewest} with {each} CPUs each (--threads) need {fewest * each}, and this machine has {cpus:g}"
        )


def _deploy(
    bundle: Path, name: str, host: str, port: int, arguments: dict[str, Any], *, is_last: bool = False
) -> tuple[Any, int]:
    """Deploy the application. Return Ray's handle for it, and the number of running replicas."""
    from ray import serve

    from vmoe_serve.ray_application import application
    from vmoe_serve.ray_session import advised, reason

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "ERROR"})
        target = serve.RunTarget(application(name, **arguments), name, "/")
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        return handle, _await_replicas(name, arguments["replicas"][0])
    except Exception as error:  # Ray raises any error that one of its components raises
        status = serve.status().applications.get(name)
        reasons = [part.message for part in status.deployments.values() if part.message] if status else []
        told = reason(reasons[0] if reasons else error)
        # Ray gives up if a replica did not start in time. The cause is a slow machine and not the bundle, so try once more.
        if is_last or "never ran" not in told:
            raise click.ClickException(advised(f"Ray can't serve {bundle}: {told}", _INSTEAD)) from None
    serve.delete(name)
    return _deploy(bundle, name, host, port, arguments, is_last=True)


def _await_replicas(name: str, fewest: int) -> int:
    """Wait until at least `fewest` replicas run, and return the number of running replicas.

    If a cluster has too few CPUs for `fewest` replicas, one replica is enough after a while.

    Raises:
        RuntimeError: a replica can't start, or Ray Serve on the cluster does not listen for HTTP.
    """
    from ray import serve

    start = time.monotonic()
    while True:
        status = serve.status()
        found = status.applications[name]
        states = [each for part in found.deployments.values() for each in part.replica_states.items()]
        running = sum(count for state, count in states if state == "RUNNING")
        is_late = os.environ.get("RAY_ADDRESS") and time.monotonic() - start > WAIT_SECONDS
        if running >= (1 if is_late else fewest) and "HEALTHY" in status.proxies.values():  # a healthy proxy listens
            return running
        if found.status == "DEPLOY_FAILED":
            raise RuntimeError(found.message)
        if running >= fewest and not status.proxies and is_late:
            raise RuntimeError("Ray Serve was started on this cluster without HTTP proxies")
        time.sleep(0.1)
