"""Which lines and branches of the product the tests reach, measured by coverage.py, in each test process by itself."""

from __future__ import annotations

import os

import coverage

FILE = os.environ.get("VMOE_TEST_COVERAGE")
"""What this process writes what it reached to, with an end of its own; without it nothing is measured."""

_OMITTED = ["runtime/vmoe_serve/ray_application.py"]
"""Ray sends its functions to other processes, which it can't with what a measurement adds."""

measurement = None
if FILE:
    measurement = coverage.Coverage(FILE, data_suffix=True, branch=True, source=["exporter", "runtime"], omit=_OMITTED)
    measurement.start()


def write() -> None:
    """At the end of a test process."""
    if measurement:
        measurement.stop()
        measurement.save()
