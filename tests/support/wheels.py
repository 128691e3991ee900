"""Packages that tests use without installing them. Each set of packages is downloaded once, into its own folder."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sdk_build import locked

OLDEST_ONNXRUNTIME = "1.21.1"
"""The newest release of the oldest minor version that is supported."""

_CACHE = Path(tempfile.gettempdir()) / f"vmoe-tests-{os.getuid()}"
_OPTIONS = ("-q", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1", "--timeout", "15")


def wheel_folder(*requirements: str) -> Path:
    """Return a folder with the given packages, without their dependencies.

    If pip can't download them, skip the test with pip's reason.
    """
    folder, complaint = _fetched(requirements)
    if complaint:
        pytest.skip(f"pip can't fetch {', '.join(requirements)}: {complaint}")
    return folder


def onnxruntime_folder(version: str) -> Path:
    """Return a folder that contains only this version of onnxruntime. If pip can't download it, skip the test."""
    return wheel_folder(f"onnxruntime=={version}")


@functools.cache
def _fetched(requirements: tuple[str, ...]) -> tuple[Path, str]:
    """Return the folder with the given packages, and the last line of pip's errors.

    If pip succeeded, that line is empty. The result is cached. Therefore, if the network can't be reached, a process waits
    for it only once.
    """
    digest = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:12]
    folder = _CACHE / f"wheels-{digest}-{sys.implementation.cache_tag}"
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    with locked(_CACHE):  # otherwise, concurrent test processes would download the same packages
        if folder.is_dir():
            return folder, ""
        with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "install", *_OPTIONS, "--target", f"{scratch}/packages", *requirements]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return folder, (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
            Path(scratch, "packages").rename(folder)
    return folder, ""
