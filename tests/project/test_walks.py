"""The walks through the code that the documentation describes name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
HOPS = re.findall(r"^[0-9]+\. `([\w/.]+)` `([^`]+)`", (ROOT / "docs" / "walks.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), HOPS, ids=lambda value: value)
def test_a_hop_is_in_its_file(file: str, name: str) -> None:
    assert name in (ROOT / file).read_text()
