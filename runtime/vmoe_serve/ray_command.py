"""`vmoe-serve ray`: starts Ray where none runs, deploys the application, and ends it on SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from typing import Any

from ray import serve

from vmoe_runtime.bundle.reader import Bundle
from vmoe_serve.ray_application import Options, application
from vmoe_serve.ray_arguments import PROGRAM, Arguments
from vmoe_serve.ray_session import connected_ray, reason, signals_handled
from vmoe_serve.settings import check_served, levels, model_name, named
from vmoe_tools.command_line import CommandError, UsageError, complain

_MEGABYTE = 1 << 20


def run(arguments: Arguments) -> None:
    """Serves until it is told to stop.

    Raises:
        VmoeError: the bundle can't be served, or Ray failed.
    """
    options, notes = _options(arguments)
    _check_port(arguments.host, arguments.port)
    stopped = threading.Event()

    def stop(_: int) -> None:
        stopped.set()

    # A SIGTERM while it starts ends it once it has started, so that nothing of it stays; Ctrl-C interrupts the start.
    with connected_ray(), signals_handled(stop, [signal.SIGTERM]):
        handle = _deploy(arguments, options)
        with signals_handled(stop):
            if not arguments.quiet:
                for note in [*notes, *handle.notes.remote().result()]:
                    complain(PROGRAM, note)
                address = f"http://{arguments.host}:{arguments.port}"
                print(f"serving {options.name}; try: curl --data-binary @IMAGE {address}/v1/classify", flush=True)
            stopped.wait()
            # Replicas take no more and answer what they have.
            serve.delete(options.name)


def _options(arguments: Arguments) -> tuple[Options, list[str]]:
    with Bundle.open(arguments.bundle) as bundle:
        bundle.verify_weights()
        manifest = bundle.manifest
    check_served(manifest, arguments.bundle)
    chosen, notes = ([], []) if arguments.slo_ms is None else levels(manifest, arguments.capacity, arguments.profiles)
    fixed = None
    if arguments.slo_ms is None and arguments.profiles:
        fixed = named(manifest, arguments.profiles[0]).name
    if arguments.most_waiting < arguments.most_images:
        raise UsageError(
            f"--max-waiting {arguments.most_waiting} is less than --max-batch {arguments.most_images}, which a call takes"
        )
    return Options(
        bundle=arguments.bundle.resolve(),
        name=arguments.name or model_name(arguments.bundle),
        levels=tuple(profile.name for profile in chosen),
        profile=fixed,
        target=(arguments.slo_ms or 1.0) / 1e3,
        most_images=arguments.most_images,
        most_waiting=arguments.most_waiting,
        most_bytes=arguments.most_megabytes * _MEGABYTE,
        threads=arguments.threads,
        backend=arguments.backend,
        replicas=arguments.replicas,
    ), notes


def _check_port(host: str, port: int) -> None:
    """Ray would go on without a port that is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CommandError(f"can't serve at {host}:{port}: {error.strerror or error}") from None


def _deploy(arguments: Arguments, options: Options) -> Any:
    try:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options={"host": arguments.host, "port": arguments.port}, logging_config={"log_level": "ERROR"})
        return serve.run(application(options), name=options.name, route_prefix="/")
    except Exception as error:  # Ray raises whatever its parts raise
        status = serve.status().applications.get(options.name)
        reasons = [part.message for part in status.deployments.values() if part.message] if status else []
        raise CommandError(f"Ray can't serve {arguments.bundle}: {reason(reasons[0] if reasons else error)}") from None
