"""docs/bundle.md names every field that is written."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
from bundle_changes import BUNDLES

from vmoe_export import bundle_manifest
from vmoe_runtime.routing_kinds import TopKRules

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
NAMED = {part for code in re.findall(r"`([^`\n]+)`", PAGE) for part in re.split(r"[. ]", code)}


def written() -> set[str]:
    """Keys of the dictionaries in the functions that make a manifest, and of what they make of profiles."""
    trees = [ast.parse(inspect.getsource(function)) for function in (bundle_manifest.manifest_of, bundle_manifest._routing)]
    dicts = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    keys = {key.value for node in dicts for key in node.keys if isinstance(key, ast.Constant)}
    return keys | TopKRules(8, 50, 1).profile(0.3, 1, True).entry().keys()


def test_every_field_that_is_written_is_on_the_page() -> None:
    assert len(written()) > 30
    assert written() - NAMED == set()


@pytest.mark.parametrize("name", ["v3-bf16", "v3-ensemble"])
def test_every_field_of_a_kept_bundle_is_on_the_page(name: str) -> None:
    content = json.loads((BUNDLES / name / "manifest.json").read_bytes())
    inside = {key for part in ("input", "output", "routing", "source", "producer", "validation") for key in content[part]}
    assert {*content, *inside, *content["profiles"][0]} - NAMED == set()
