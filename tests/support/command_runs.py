"""Runs the program `vmoe` inside the test's own process.

This module is a pytest plugin whose fixtures any test can use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_changes import BUNDLES
from damaged_files import assert_one_sentence, everything

from vmoe_tools.program import main

QUICK = ("--duration", "0.001", "--threads", "1")

Refuse = Callable[..., str]


@dataclass(frozen=True)
class Vmoe:
    """A class that runs the program `vmoe` and returns the text that the program prints."""

    capture: pytest.CaptureFixture[str]

    def run(self, *words: object, code: int = 0) -> tuple[str, str]:
        """Run the program with `words` as arguments, and return its standard output and standard error.

        The run must exit with `code`.
        """
        self.capture.readouterr()
        found = main([*map(str, words)])
        out, err = self.capture.readouterr()
        assert found == code, err
        return out, err

    def json(self, *words: object) -> dict[str, Any]:
        """Return the JSON that a run prints. Its standard output must contain nothing else."""
        found: dict[str, Any] = json.loads(self.run(*words, "-q", "--json", "-")[0])
        return found

    def complaint(self, code: int, *words: object) -> str:
        """Return the error message of a run that must exit with `code`.

        The message must be one line, and standard output must be empty.
        """
        out, err = self.run(*words, code=code)
        assert out == "" and err.startswith("vmoe: ") and err.count("\n") == 1, err
        return err


@pytest.fixture
def vmoe(capsys: pytest.CaptureFixture[str]) -> Vmoe:
    return Vmoe(capsys)


@pytest.fixture
def refuse_export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Return a function that runs `vmoe export`, checks that the export fails, and returns its standard output.

    The run must exit with `code`, print one line on standard error that contains all of `names`, and leave `tmp_path`
    unchanged. The default target is `tmp_path` / "x.vmoe".
    """

    def refuse(*words: object, names: Iterable[str], code: int = 1) -> str:
        before = everything(tmp_path)
        target = () if "-o" in words else ("-o", tmp_path / "x.vmoe")
        out, err = Vmoe(capfd).run("export", *words, *target, code=code)
        assert err.startswith("vmoe: ")
        assert_one_sentence(err.removesuffix("\n"), *names)
        assert everything(tmp_path) == before
        return out

    return refuse


def npz(path: Path, **arrays: np.ndarray) -> Path:
    """Write arrays, such as `images` and `labels`, to an npz file, and return the file's path."""
    np.savez(path, **arrays)
    return path


def noise(path: Path, count: int = 8) -> Path:
    """Write an npz file with noise images and their labels, and return the file's path.

    The images and labels fit any bundle from `kept_bundle`.
    """
    images = np.random.default_rng(0).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return npz(path, images=images, labels=np.arange(count) % 7)


def kept_bundle(kind: str) -> Path:
    """Return the bundle of the given kind from tests/data.

    If there are several, return the one in the newest format.
    """
    return max(BUNDLES.glob(f"v*-{kind}"))
