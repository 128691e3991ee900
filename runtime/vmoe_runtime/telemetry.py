"""Keeps the runtimes that are imported here from reporting to their makers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def silence_onnxruntime() -> None:
    """Sets ORT_DISABLE_TELEMETRY, unless it is set. ONNX Runtime reads it when it is imported.

    With telemetry, versions from 1.29 on look up a host and write files, and a process that is forked after the import never
    ends.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@contextmanager
def silent_openvino() -> Iterator[None]:
    """Around the first import of openvino: keeps it from finding the package that reports the import.

    That one looks up a host and writes into the home folder, on threads that a process forked meanwhile waits for in vain.
    OpenVINO has no option for it, and goes without the package where it isn't installed.
    """
    package = "openvino_telemetry"
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
