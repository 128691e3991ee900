"""Ray, for the subcommands that run on it: a connection, and what it says of an error."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import ray

from vmoe_runtime import VmoeError

OBJECT_STORE = 75 << 20
"""Bytes of Ray's shared memory, the fewest that Ray takes."""

_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Of Ray's processes; without them glibc keeps ever larger freed blocks, and an arena for each of dozens of threads."""

_ATTEMPTS = {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}
"""How often a replica is started that never answered; on one machine, what failed once fails again."""

_PROXY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "vmoe_serve.ray_proxy.middlewares"}

_KIND = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception)(?:\(\w+\))?: ")


@contextmanager
def connected_ray(
    cpus: int | None = None, object_store: int = OBJECT_STORE, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
    """A connection to the cluster of RAY_ADDRESS, or a Ray of this process's own.

    Args:
        cpus: that a Ray of this process's own lends to actors; None for those of the machine.
        object_store: bytes of its shared memory.
        variables: that its processes get.

    Raises:
        VmoeError: there is none.
    """
    # Ray would report its use to its maker.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            for name, value in (_MALLOC | _ATTEMPTS | _PROXY | dict(variables)).items():
                os.environ.setdefault(name, value)
            ray.init(
                address="local",  # without it Ray would join whatever `ray start` has started on this machine
                include_dashboard=False,
                num_cpus=cpus,
                _node_ip_address="127.0.0.1",
                object_store_memory=object_store,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except SystemExit:  # of the handler that Ray puts there for SIGTERM
        signal.signal(signal.SIGTERM, handlers[signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # Ray raises whatever its parts raise
        raise VmoeError(f"Ray can't be started: {reason(error)}") from None
    try:
        # Ray has put handlers of its own there.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


@contextmanager
def told_if_ended() -> Iterator[None]:
    """Has somebody else say so if this process ends within: Ray does that without a message when its other processes die."""
    message = "vmoe: this process was killed, or ended by Ray, which lost its other processes"
    words = ["sh", "-c", 'read -r _ || echo "$0" >&2', message]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as watch:
        try:
            yield
        finally:
            watch.communicate(b"\n")


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Keeps what Ray prints from the user until the block ends; no setting turns off all of it.

    Yields:
        Standard error, for what the command itself has to say meanwhile.
    """
    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as kept, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stdout(nowhere):
                yield kept
        finally:
            os.dup2(kept.fileno(), 2)


def reason(error: object) -> str:
    """The last line of an error, which says what went wrong where the others say where.

    Examples:
        >>> reason("Traceback ...\\nvmoe_runtime.errors.BackendError: TensorRT is not installed")
        'TensorRT is not installed'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _KIND.sub("", lines[-1] if lines else type(error).__name__)[:500]
