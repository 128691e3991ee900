"""Packages that the tests look at without installing them: each in a folder of its own, downloaded once per machine."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


@functools.cache
def wheel_folder(*requirements: str) -> Path:
    """A folder with these packages and nothing that they need; skips the test, and says why, where pip can't fetch them."""
    cache = Path(tempfile.gettempdir()) / f"vmoe-tests-{os.getuid()}"
    digest = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:12]
    folder = cache / f"wheels-{digest}-{sys.implementation.cache_tag}"
    if not folder.is_dir():
        cache.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:"]
            options = ["--disable-pip-version-check", "--retries", "1", "--timeout", "15", "--target", f"{scratch}/packages"]
            done = subprocess.run([*command, *options, *requirements], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"pip can't fetch {', '.join(requirements)}: {done.stderr.strip().splitlines()[-1][:200]}")
            Path(scratch, "packages").rename(folder)
    return folder
