"""Measures which lines and branches of the product the tests run.

Each test process uses coverage.py to measure itself.
"""

from __future__ import annotations

import os

import coverage

FILE = os.environ.get("VMOE_TEST_COVERAGE")
"""Prefix of the files that processes write their measurements to; without it, nothing is measured."""

_OMITTED = ["runtime/vmoe_serve/ray_application.py"]
"""Not measured: Ray sends these functions to other processes, and can't if a measurement has changed them."""

measurement = None
if FILE:
    measurement = coverage.Coverage(FILE, data_suffix=True, branch=True, source=["exporter", "runtime"], omit=_OMITTED)
    measurement.start()


def write() -> None:
    """Write the measurement to its file when a test process ends."""
    if measurement:
        measurement.stop()
        measurement.save()
