"""Ray, for the subcommands that run on it: a connection, and what it says of an error."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

import ray

from vmoe_tools.command_line import CommandError

_OBJECT_STORE = 75 << 20
"""Bytes of Ray's shared memory on a machine of its own, the fewest that Ray takes; only large requests go through it."""

_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Of Ray's processes; without them glibc keeps ever larger freed blocks, and an arena for each of dozens of threads."""

_ATTEMPTS = {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}
"""How often a replica is started that never answered; on one machine, what failed once fails again."""


@contextmanager
def connected_ray(cpus: int | None = None) -> Iterator[None]:
    """A connection to the cluster of RAY_ADDRESS, or a Ray of this process's own.

    Args:
        cpus: that a Ray of this process's own lends to actors; None for those of the machine.

    Raises:
        CommandError: there is none.
    """
    # Ray would report its use to its maker.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            for name, value in (_MALLOC | _ATTEMPTS).items():
                os.environ.setdefault(name, value)
            ray.init(
                address="local",  # without it Ray would join whatever `ray start` has started on this machine
                include_dashboard=False,
                num_cpus=cpus,
                _node_ip_address="127.0.0.1",
                object_store_memory=_OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises whatever its parts raise
        raise CommandError(f"Ray can't be started: {reason(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def signals_handled(
    handle: Callable[[int], object], numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[None]:
    """SIGTERM and Ctrl-C call a function with their number in the block, also where Ray has put a handler of its own."""
    before = {number: signal.signal(number, lambda number, _: handle(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Keeps what Ray prints from the user, until the block ends; no setting turns off all of it.

    Its threads print to Python's standard output, such as that a process has died and is started again, and its C++ parts to
    the descriptor of standard error.

    Yields:
        Standard error, for what the command itself has to say meanwhile.
    """
    descriptor = os.dup(2)
    with os.fdopen(descriptor, "w", errors="backslashreplace") as kept, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield kept
        finally:
            os.dup2(descriptor, 2)


def reason(error: object) -> str:
    """The last line of an error, which says what went wrong where the others say where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]
