"""Runs of the program `vmoe` inside the test's process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_changes import BUNDLES

from vmoe_tools.program import main

QUICK = ("--duration", "0.001", "--threads", "1")


def run(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a run that ends with that code."""
    capsys.readouterr()
    found = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def json_of(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The JSON of a run, which stands alone on standard output."""
    found: dict[str, Any] = json.loads(run(capsys, *words, "-q", "--json", "-")[0])
    return found


def complaint_of(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """What a run that must fail with this code prints: one line, and nothing on standard output."""
    out, err = run(capsys, *words, code=code)
    assert out == "" and err.startswith("vmoe: ") and err.count("\n") == 1, err
    return err


def kept_bundle(kind: str) -> Path:
    """The bundle of a kind among those that are kept with the tests, of the newest format that has one."""
    return max(BUNDLES.glob(f"v*-{kind}"))
