"""Ray, for the subcommands that run on it: a connection, and what it says of an error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray

from vmoe_runtime.command_line import CommandError

_OBJECT_STORE = 100 << 20
"""Bytes of Ray's shared memory on a machine of its own: no images go through it."""


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
            ray.init(
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
def standard_error_of_python() -> Iterator[None]:
    """Gives standard error to Python alone: Ray's C++ parts print there, too, which no setting turns off."""
    before, descriptor = sys.stderr, os.dup(2)
    with os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace") as kept, Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = kept
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(descriptor, 2)


def reason(error: object) -> str:
    """The last line of an error, which says what went wrong where the others say where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]
