"""Which lines and branches of the product the tests reach, measured by SlipCover.

Its own plugin for pytest-xdist merges too early, and its import hook measures no branches behind the loader that
scikit-build-core has for an editable installation. So each test process has its own measurement, which begins when
this module is imported, before the product is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from slipcover import FileMatcher, Slipcover
from slipcover.importer import SlipcoverLoader

FOLDER = os.environ.get("VMOE_TEST_COVERAGE")
"""Where this process is to write what it reached; without it nothing is measured."""
SOURCES = ["exporter", "runtime"]
OMITTED = ["runtime/vmoe_serve/ray_application.py"]
"""Ray sends its functions to other processes, which it can't with what a measurement adds."""


class Measurement(importlib.abc.MetaPathFinder):
    """Measures every module below `SOURCES` that is imported from now on. Reached lines cost nothing from then on."""

    def __init__(self) -> None:
        self._slipcover = Slipcover(branch=True, source=SOURCES, omit=OMITTED, exclude_also=["raise AssertionError"])
        self._files = FileMatcher(SOURCES, OMITTED)
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """That of the finder behind this one, with a loader that measures."""
        finders = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec and spec.origin and spec.origin.endswith(".py") and self._files.matches(spec.origin):
            source = importlib.machinery.SourceFileLoader(fullname, spec.origin)
            spec.loader = SlipcoverLoader(self._slipcover, source, spec.origin)
        return spec

    def write(self, folder: Path) -> None:
        """Writes what this process reached as JSON, as `python -m slipcover --merge` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        name = os.environ.get("PYTEST_XDIST_WORKER", "one")
        (folder / f"{name}.json").write_text(json.dumps(self._slipcover.get_coverage()))


measurement = Measurement() if FOLDER else None


def write() -> None:
    """At the end of a test process."""
    if measurement and FOLDER:
        measurement.write(Path(FOLDER))
