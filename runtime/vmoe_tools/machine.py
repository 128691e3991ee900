"""This machine: its processor, its memory, and the backends on which it can run a bundle."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmoe_runtime import op_library
from vmoe_runtime.backends import BACKENDS, fastest_first, prepare_backend
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError
from vmoe_runtime.processors import usable_processors
from vmoe_runtime.profiles import Profile


def describe_backends(bundle: Bundle) -> dict[str, Any]:
    """Find out how this machine can run a bundle, without loading it.

    Returns:
        Plain values for JSON. A value that doesn't apply is None.

        - `cpu`, `cores`
        - `op_library`:
            - `path`
            - `cpu_path`: the instruction set that its kernels use
            - `reason`: why there is no library
        - `backends`: for each of `vmoe_runtime.backends.BACKENDS`, at the first profile:
            - `name`
            - `runs`: whether the backend can run the bundle
            - `auto`: whether "auto" selects it
            - `description`
            - `reason`: why it can't run the bundle
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result reports the reason, so no warning about the op library is needed
        profile = next(iter(bundle.manifest.profiles.values()), None)
        found = {name: availability(name, bundle, profile) for name in BACKENDS}
        auto = chosen_by_auto(found)
        library, reason = op_library.usable_library()
    return {
        "cpu": cpu_model(),
        "cores": usable_processors(),
        "op_library": {
            "path": None if library is None else str(library),
            "cpu_path": None if library is None else op_library.cpu_path(library),
            "reason": None if library is not None else reason,
        },
        "backends": [
            {
                "name": name,
                "runs": isinstance(state, str),
                "auto": name == auto,
                "description": state if isinstance(state, str) else None,
                "reason": None if isinstance(state, str) else str(state),
            }
            for name, state in found.items()
        ],
    }


def availability(name: str, bundle: Bundle, profile: Profile | None) -> str | BackendError:
    """Check whether a backend can run a bundle here, without loading the graph and the weights.

    Args:
        name: a key of BACKENDS.
        bundle: an open bundle.
        profile: the profile, for a backend that fixes an engine to one profile; None for a model without profiles.

    Returns:
        The description of the backend, as in `engine.backend_description`. If the backend can't run the bundle, the error.
    """
    try:
        return prepare_backend(name, bundle, profile).description
    except BackendError as error:
        return error


def chosen_by_auto(found: Mapping[str, str | BackendError]) -> str | None:
    """Return the backend that "auto" would select; None if "auto" would fail.

    Args:
        found: the `availability` of each of BACKENDS.
    """
    for name in fastest_first():
        if not isinstance(found[name], UnavailableError | UnsuitedError):
            return None if isinstance(found[name], BackendError) else name
    return None


def cpu_model() -> str:
    """Return the model name of the CPU, or its architecture if the system doesn't report the name."""
    name = _field("/proc/cpuinfo", "model name")
    return name or platform.processor() or platform.machine()


def resident_bytes() -> int | None:
    """Return the size in bytes of this process's memory in RAM; None if the system doesn't report it."""
    kilobytes = _field("/proc/self/status", "VmRSS")
    return None if kilobytes is None else int(kilobytes.split()[0]) * 1024


def _field(path: str, name: str) -> str | None:
    """Return the value of a `name: value` line in a file that the operating system provides, such as /proc/cpuinfo.

    The result is None if there is no such file or line.
    """
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
