"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vmoe_runtime.installation import installed_version
from vmoe_tools.bench.loading import MeasuredEngine, resident_bytes

_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine(engines: Iterable[MeasuredEngine]) -> dict[str, Any]:
    """Everything about this machine that a number depends on, ready for JSON.

    Args:
        engines: the engines that are measured; they say which runtime they are.

    Returns:
        `cpu` (model name), `cores` that this process may use, `os`, the versions of `python`, `numpy` and
        `vmoe_runtime` (None where it is not installed as a package); under `backends`, by name, which runtime that is, in
        words; under `engines` for each bundle and backend `load_seconds`, and the `resident_bytes` that memory grew by; and
        the `resident_bytes` of the whole process.
    """
    engines = list(engines)
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "vmoe_runtime": installed_version("vmoe-export"),
        "backends": {loaded.engine.backend: loaded.engine.backend_description for loaded in engines},
        "engines": [
            {
                "bundle": loaded.bundle,
                "backend": loaded.engine.backend,
                "precision": loaded.engine.manifest.precision,
                "load_seconds": loaded.load_seconds,
                "resident_bytes": loaded.resident_bytes,
            }
            for loaded in engines
        ],
        "resident_bytes": resident_bytes(),
    }


def cpu_model(cpu_info: Path = _CPU_INFO) -> str:
    """Model name of the CPU; its architecture where the system doesn't tell the name."""
    try:
        lines = cpu_info.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """CPUs that this process may run on: a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
