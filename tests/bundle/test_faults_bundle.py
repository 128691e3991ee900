"""A bundle that is damaged, changed after export, or made to do harm is refused by Engine.load before any runtime sees it.

What both readers refuse is the list in `bundle_cases.py`; here is how the engine says it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundle_cases import CASES
from bundle_changes import BUNDLES, WEIGHTS
from damaged_files import assert_one_sentence

from vmoe_runtime import BundleError, Engine

BY_NAME = {case.name: case for case in CASES}


def refused(bundle: Path, *words: str, **options: Any) -> None:
    with pytest.raises(BundleError) as refusal:
        Engine.load(bundle, **options)
    assert_one_sentence(str(refusal.value), bundle.name, *words)


@pytest.mark.parametrize(
    "name",
    [
        "weights with one bit changed",
        "a graph with one bit changed",
        "a pipe as manifest",
        "half an object",
        "no experts",
        "fp32 that says int8",
        "a scale of nan",
    ],
)
def test_engine_refuses(name: str, tmp_path: Path) -> None:
    refused(BY_NAME[name].build(tmp_path), *BY_NAME[name].words)


@pytest.mark.parametrize("name", ["weights cut short", "weights behind a link", "fp32 that says int8"])
def test_all_but_hashes_is_checked_without_verify_too(name: str, tmp_path: Path) -> None:
    refused(BY_NAME[name].build(tmp_path), *BY_NAME[name].words, verify=False)


@pytest.mark.parametrize("name", ["absent.vmoe", "x" * 300], ids=["not there", "too long"])
def test_engine_refuses_a_path(name: str, tmp_path: Path) -> None:
    refused(tmp_path / name, "not a bundle")


def test_engine_refuses_a_file_in_place_of_a_bundle() -> None:
    refused(BUNDLES / "v3-plain" / WEIGHTS, "not a bundle")
