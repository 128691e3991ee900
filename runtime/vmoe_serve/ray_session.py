"""Ray, for the subcommands that run on it: a connection, and its error messages."""

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
"""Bytes of Ray's shared memory, the minimum that Ray accepts."""

_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""For Ray's processes; by default glibc keeps ever larger freed blocks, and an arena for each of dozens of threads."""

_ATTEMPTS = {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}
"""Attempts to start a replica; on one machine, what failed once fails again."""

_PROXY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "vmoe_serve.ray_proxy.middlewares"}

GRACE_SECONDS = 60
"""The longest that a replica which stops has for the requests in its queues."""

_TOO_SLOW = re.compile(r"timed out|never ran", re.IGNORECASE)
"""In Ray's errors, if its processes or replicas did not start in time, which says nothing of the bundle."""

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
    """A connection to the cluster of RAY_ADDRESS, or to a new Ray of this process.

    Args:
        cpus: for the actors of a new Ray; None for all CPUs of the machine.
        object_store: bytes of its shared memory.
        variables: environment of its processes.
        instead: what else to do if Ray is too slow; see `advised`.

    Raises:
        VmoeError: Ray can't be started.
    """
    # Ray reports its use to its maker by default.
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
                    address="local",  # the default joins whatever `ray start` has started on this machine
                    include_dashboard=False,
                    num_cpus=cpus,
                    _node_ip_address="127.0.0.1",
                    object_store_memory=object_store,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
    except SystemExit:  # from the handler that Ray installs for SIGTERM
        signal.signal(signal.SIGTERM, handlers[signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # Ray raises whatever its parts raise
        told = advised(f"Ray can't be started: {reason(error)}", instead)
        if getattr(error, "filename", None) or "home directory" in told:  # as pathlib says if there is none
            told += _FOLDERS
        raise VmoeError(told) from None
    try:
        # Ray has installed handlers of its own.
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _children_outliving_sigterm() -> Iterator[None]:
    """Has children started here, and theirs, outlive a SIGTERM to the whole group, so that this process can stop them."""
    starting = [True]

    def block() -> None:
        if starting:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    os.register_at_fork(after_in_child=block)  # which nothing takes back
    try:
        yield
    finally:
        starting.clear()


@contextmanager
def _leaving_nothing() -> Iterator[None]:
    """Kills all processes that were started in the block if it fails: Ray kills its own, but not those that they started."""
    import psutil  # Ray's copy, which is there once Ray is imported

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
    """Has another process print a message if this one is killed: Ray ends it silently when its other processes die."""
    message = "vmoe: this process was killed, or ended by Ray, which lost its other processes"
    words = ["sh", "-c", 'read -r _ || echo "$0" >&2', message]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as watch:
        try:
            yield
        finally:
            watch.communicate(b"\n")


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Hides what Ray prints until the block ends; no setting of Ray turns off all of it.

    Yields:
        Standard error, for the messages of the command itself.
    """
    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as kept, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stdout(nowhere):
                yield kept
        finally:
            os.dup2(kept.fileno(), 2)


def reason(error: object) -> str:
    """The last line of an error, which has the reason; the others have the stack, or what Ray Data says of its retries.

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
    """An error message, with what to do if Ray was too slow.

    Examples:
        >>> advised("Ray can't be started: it timed out")
        "Ray can't be started: it timed out; this machine may be too busy for Ray: try again"
    """
    slow = _TOO_SLOW.search(told)
    return f"{told.rstrip('.')}; this machine may be too busy for Ray: try again{instead}" if slow else told
