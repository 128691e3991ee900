"""The walks through the code that the documentation tells pass where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
HOPS = re.findall(r"`([\w/.]+):(\d+)` `([^`]+)`", (ROOT / "docs" / "walks.md").read_text())


def test_there_are_three_walks_of_many_hops() -> None:
    assert len(re.findall(r"^## ", (ROOT / "docs" / "walks.md").read_text(), re.MULTILINE)) == 3
    assert len(HOPS) >= 40


@pytest.mark.parametrize(("file", "line", "name"), HOPS, ids=lambda value: value)
def test_a_hop_is_where_it_should_be(file: str, line: str, name: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    where = [number for number, text in enumerate(lines, 1) if name in text]
    assert int(line) in where, f"{name} is now in {file} at {where}"
