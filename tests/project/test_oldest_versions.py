"""Check that documents, headers and tests state the same oldest runtime versions as pyproject.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sdk_build
from wheels import OLDEST_ONNXRUNTIME

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text()
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT", "pillow": "Pillow"}


def oldest(package: str) -> str:
    (version,) = set(re.findall(rf"\"{package}>=([\d.]+)", PROJECT))
    return version


def named(text: str, package: str) -> Iterator[str]:
    """Yield the package versions that a text states as the oldest supported ones.

    The recognized forms are "NAME ... 1.21 or newer", "NAME 1.21 and 1.32", and "package>=1.21".
    """
    text = " ".join(re.sub(r"[`*]|\n//", " ", text).split())
    between = r"(?:(?!\. |CUDA|nvcc|capability)[^|]){0,80}?"
    yield from re.findall(rf"\b{RUNTIMES[package]}\b{between} \(?([\d.]*\d) (?:or|and)(?: all)? newer", text)
    yield from re.findall(rf"\b{RUNTIMES[package]} ([\d.]*\d) and [\d.]*\d", text)
    if package == "pillow":  # documents also name the Pillow version that gives the same grey levels as this project
        yield from re.findall(r"\bPillow (\d+)", text)
    yield from re.findall(rf"\b{package}>=([\d.]*\d)", text)


@pytest.mark.parametrize(("package", "places"), [("onnxruntime", 7), ("openvino", 1), ("tensorrt", 6), ("pillow", 3)])
def test_documents_and_headers_name_the_oldest_version(package: str, places: int) -> None:
    listed = sdk_build.built("git", "ls-files", "-z", folder=ROOT).split("\0")
    paths = [name for name in listed if name.endswith((".md", ".h", ".hpp", ".cc")) and name != "CHANGELOG.md"]
    found = [(name, version) for name in paths for version in named((ROOT / name).read_text(), package)]
    assert {version for _, version in found} <= {oldest(package)}, found
    assert len(found) >= places


def test_tests_run_with_the_oldest_onnxruntime() -> None:
    assert OLDEST_ONNXRUNTIME.startswith(f"{oldest('onnxruntime')}.")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("loads ONNX Runtime at run time, so one\nbinary works with version 1.20 and all newer ones", "1.20"),
        ("| headers of ONNX Runtime 1.2 or newer |", "1.2"),
        ("with `ONNX Runtime` 1.20 and 1.32", "1.20"),
        ("run `pip install 'onnxruntime>=1.22'`", "1.22"),
        ("ONNX Runtime has it. The compiler is 12 or newer", None),
        ("Debian's ONNX Runtime 1.21 prints messages", None),
    ],
)
def test_an_oldest_version_is_recognized(text: str, version: str | None) -> None:
    assert [*named(text, "onnxruntime")] == [version] * (version is not None)
