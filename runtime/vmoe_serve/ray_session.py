"""Connects subcommands to Ray, and shortens Ray's error messages."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import ray

from vmoe_runtime import VmoeError

OBJECT_STORE = 75 << 20
"""Size of Ray's shared memory in bytes: the minimum that Ray accepts."""

_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Limits the memory of Ray's processes: by default, glibc keeps ever larger freed blocks, and an arena per thread, of which
there are dozens."""

_ATTEMPTS = {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}
"""Number of attempts to start a replica: on one machine, a start that failed once fails again."""

_PROXY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "vmoe_serve.ray_proxy.middlewares"}

GRACE_SECONDS = 60
"""The longest time that a stopping replica has to answer the requests in its queues."""

_TOO_SLOW = re.compile(r"timed out|never ran", re.IGNORECASE)
"""Matches Ray's errors about processes or replicas that did not start in time, which is no fault of the bundle."""

_FOLDERS = "; set the variables HOME and RAY_TMPDIR (default: /tmp) to folders that Ray may write to"

_RETRIES = re.compile(r"To change retry attempts|Failed to apply UDF transform after ")
_FILE = re.compile(r"Failed to read fragment (.*) after \d+/\d+ attempts")
_ABSENT = re.compile(r"^FileNotFoundError: (?!\[Errno)(.*)")
_KIND = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception)(?:\(\w+\))?: ")


@contextmanager
def connected_ray(
    cpus: int | None = None,
    object_store: int = OBJECT_STORE,
    variables: Mapping[str, str] = MappingProxyType({}),
    instead: str = "",
) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS specifies. Without RAY_ADDRESS, start a new Ray and connect to it.

    At the end of the `with` block, the connection is closed. If a new Ray was started, it is stopped.

    Args:
        cpus: CPUs for the actors of a new Ray; None for all CPUs of the machine.
        object_store: size of the shared memory of a new Ray, in bytes.
        variables: environment variables for the processes of a new Ray.
        instead: advice for users if Ray is too slow; see `advised`.

    Raises:
        VmoeError: Ray can't be started.
    """
    # Turn off usage reports, which Ray sends to its developers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            for name, value in (_MALLOC | _ATTEMPTS | _PROXY | dict(variables)).items():
                os.environ.setdefault(name, value)
            with _leaving_nothing(), _children_outliving_sigterm():
                ray.init(
                    address="local",  # otherwise, Ray would join any Ray that `ray start` has started on this machine
                    include_dashboard=False,
                    num_cpus=cpus,
                    _node_ip_address="127.0.0.1",
                    object_store_memory=object_store,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    except SystemExit:  # raised by the handler that Ray installs for SIGTERM
        signal.signal(signal.SIGTERM, handlers[signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # Ray raises any error that one of its components raises
        told = advised(f"Ray can't be started: {reason(error)}", instead)
        # If there is no home folder, pathlib raises an error whose message contains "home directory".
        if getattr(error, "filename", None) or "home directory" in told:
            told += _FOLDERS
        raise VmoeError(told) from None
    try:
        # Restore the handlers, because Ray has installed its own.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _children_outliving_sigterm() -> Iterator[None]:
    """Block SIGTERM in processes that are started in the `with` block, and in their children.

    When the whole process group gets SIGTERM, these processes survive, so this process can stop them in order.
    """
    starting = [True]

    def block() -> None:
        if starting:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    os.register_at_fork(after_in_child=block)  # Python has no function that unregisters `block`
    try:
        yield
    finally:
        starting.clear()


@contextmanager
def _leaving_nothing() -> Iterator[None]:
    """If the `with` block fails, kill all processes that were started in it.

    Ray kills its own processes, but not the processes that they started.
    """
    import psutil  # Ray's own copy, which can only be imported after Ray

    def started() -> set[Any]:
        return set(psutil.Process().children(recursive=True))

    others = started()
    try:
        yield
    except BaseException:
        for process in started() - others:
            with suppress(psutil.Error):
                process.kill()
        raise


@contextmanager
def told_if_ended() -> Iterator[None]:
    """Let another process print a message if this process is killed during the `with` block.

    If Ray's own processes die, Ray kills this process without a message. Only another process can still print one.
    """
    message = "vmoe: this process was killed, or ended by Ray, which lost its other processes"
    words = ["sh", "-c", 'read -r _ || echo "$0" >&2', message]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as watch:
        try:
            yield
        finally:
            watch.communicate(b"\n")


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Hide Ray's output until the `with` block ends. No setting of Ray would turn off all of its output.

    Yields:
        Standard error, for the command's own messages.
    """
    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as kept, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stdout(nowhere):
                yield kept
        finally:
            os.dup2(kept.fileno(), 2)


def reason(error: object) -> str:
    """Return the last line of an error, which states the reason.

    The lines before the last one are the stack trace, or Ray Data's report of its retries.

    Examples:
        >>> reason("Traceback ...\\nvmoe_runtime.errors.BackendError: TensorRT is not installed")
        'TensorRT is not installed'
        >>> reason("OSError: Corrupt data.\\nFailed to read fragment a.parquet after 1/10 attempts (total backoff 0.0s).")
        "a.parquet can't be read: Corrupt data."
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _RETRIES.match(line)]
    told, file = lines[-1] if lines else type(error).__name__, ""
    if len(lines) > 1 and (read := _FILE.match(told)):
        told, file = lines[-2], f"{read[1]} can't be read: "
    told = _ABSENT.sub(r"\1 is not there", told)
    return (file + _KIND.sub("", told))[:500]


def advised(told: str, instead: str = "") -> str:
    """Return the error message `told`. If Ray was too slow, append advice.

    The advice is to try again, followed by `instead`.

    Examples:
        >>> advised("Ray can't be started: it timed out")
        "Ray can't be started: it timed out; this machine may be too busy for Ray: try again"
    """
    slow = _TOO_SLOW.search(told)
    return f"{told.rstrip('.')}; this machine may be too busy for Ray: try again{instead}" if slow else told
