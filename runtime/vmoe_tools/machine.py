"""This machine: its processor, its memory, and what it can run a bundle with."""

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
    """What of this machine matters to a bundle, found out without loading it, ready for JSON.

    Returns:
        `cpu` and `cores`; `op_library` with `path`, `cpu_path` (the instruction set that its kernels take) and `reason`
        (why there is none); and in `backends`, for each of `vmoe_runtime.backends.BACKENDS` at the first profile, `name`,
        `runs`, `auto` (whether "auto" takes it), `description`, and `reason` (why it doesn't run). Others are None.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an op library that can't be loaded, which is in the result
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
    """Looks for everything that a backend needs to run a bundle here, without loading its graph and its weights.

    Args:
        name: a key of BACKENDS.
        bundle: an open bundle.
        profile: for a backend that is fixed to one; None for a model without profiles.

    Returns:
        Its description, as `engine.backend_description` would be; why it can't run the bundle, as far as that shows.
    """
    try:
        return prepare_backend(name, bundle, profile).description
    except BackendError as error:
        return error


def chosen_by_auto(found: Mapping[str, str | BackendError]) -> str | None:
    """The backend that "auto" would take; None where it would fail.

    Args:
        found: the availability of each of BACKENDS.
    """
    for name in fastest_first():
        if not isinstance(found[name], UnavailableError | UnsuitedError):
            return None if isinstance(found[name], BackendError) else name
    return None


def cpu_model() -> str:
    """Model name of the CPU; its architecture where the system doesn't tell the name."""
    name = _field("/proc/cpuinfo", "model name")
    return name or platform.processor() or platform.machine()


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system doesn't tell."""
    kilobytes = _field("/proc/self/status", "VmRSS")
    return None if kilobytes is None else int(kilobytes.split()[0]) * 1024


def _field(path: str, name: str) -> str | None:
    """The text behind a name and a colon in a file of the kernel's; None where there is none."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
