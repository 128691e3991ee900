"""docs/bundle.md names every field that is written, and the limits that are checked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bundle_changes import BUNDLES

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
NAMED = {part for code in re.findall(r"`([^`\n]+)`", PAGE) for part in re.split(r"[. ]", code)}


@pytest.mark.parametrize("name", ["v3-bf16", "v3-bf16", "v3-ensemble"])
def test_every_field_of_a_kept_bundle_is_on_the_page(name: str) -> None:
    content = json.loads((BUNDLES / name / "manifest.json").read_bytes())
    inside = {key for part in ("input", "output", "routing", "source", "producer", "validation") for key in content[part]}
    assert {*content, *inside, *content["profiles"][0]} - NAMED == set()
