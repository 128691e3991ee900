"""Python's and the C++ SDK's verdicts on bundles, manifests and graphs. A verdict is a refusal message, or None."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
from kept_build import kept
from sanitized_build import MEMORY, sanitized
from sdk_build import ROOT, SOURCES

from vmoe_runtime import BundleError
from vmoe_runtime.bundle.reader import Bundle

Kind = Literal["manifest", "graph", "bundle", "name", "picture"]
"""What is read; of a bundle the path is given, and all is checked that is checked before a runtime sees it; the name of a
profile and a picture come `with_manifest`."""


def python_verdict(read: Callable[[bytes], object], data: bytes) -> str | None:
    """Return the message with which `read` refuses the data. If it accepts the data, return None."""
    try:
        read(data)
    except BundleError as error:
        return str(error)
    return None


def read_bundle(path: bytes) -> None:
    """Run all checks that a bundle must pass before a runtime loads it."""
    Bundle.open(path.decode()).verify_weights()


def cpp_verdicts(kind: Kind, items: Sequence[bytes]) -> list[str | None]:
    """Return the message with which the C++ reader refuses each item, or None for each item that the reader accepts.

    The test fails if a sanitizer reports an error.
    """
    return [None if word == "ok" else sentence for word, sentence in cpp_answers(kind, items)]


def with_manifest(manifest: bytes, item: bytes) -> bytes:
    """Join a manifest with an item that the C++ reader checks against the manifest.

    The item is a profile name or a picture.
    """
    return len(manifest).to_bytes(4, "little") + manifest + item


def cpp_answers(kind: Kind, items: Sequence[bytes]) -> list[tuple[str, str]]:
    """Return ("ok", result) for each item that the C++ reader accepts, and ("refused", reason) for each other item.

    Results are strings in the form in which `sdk_readers` prints them.
    """
    with tempfile.TemporaryFile() as stream:
        for item in items:
            stream.write(kind[0].encode() + struct.pack("=I", len(item)) + item)
        stream.seek(0)
        done = subprocess.run([_readers()], stdin=stream, capture_output=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [line.partition("\t") for line in done.stdout.decode().splitlines()]
    assert len(lines) == len(items)
    return [(word, rest) for word, _, rest in lines]


def _readers() -> Path:
    """Build `sdk_readers`, and return its path.

    If VMOE_TEST_SANITIZED is set, build it with sanitizers. Otherwise, use the SDK's existing object files.
    """
    if os.environ.get("VMOE_TEST_SANITIZED"):
        return sanitized(MEMORY, "sdk_readers") / "tests" / "sdk_readers"
    native = ROOT / "build" / "native"
    objects = sorted((native / "sdk" / "CMakeFiles" / "vmoe_engine.dir").rglob("*.o"))
    if not objects:
        pytest.skip("the SDK was not built here")
    headers = re.findall(
        r"(?m)^(?:ONNXRUNTIME|NLOHMANN_JSON)_INCLUDE_DIR:\w+=(.*)$", (native / "CMakeCache.txt").read_text()
    )
    included = [f"-I{ROOT / 'plugins'}", f"-I{ROOT / 'plugins' / 'include'}", *(f"-I{folder}" for folder in headers)]
    return kept(
        "sdk_readers", "c++", "-std=c++17", "-O1", *included, SOURCES / "sdk_readers.cc", *objects, "-lpthread", "-ldl"
    )


def both_verdicts(paths: Sequence[Path]) -> dict[str, list[str | None]]:
    """For each reader, return its verdict on each bundle.

    A verdict is the message with which the reader refuses the bundle, or None if it accepts the bundle.
    """
    given = [str(path).encode() for path in paths]
    return {"Python": [python_verdict(read_bundle, path) for path in given], "C++": cpp_verdicts("bundle", given)}
