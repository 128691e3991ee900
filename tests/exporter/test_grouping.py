"""Tests for the routing group: its number of tokens, and the batch sizes that consist of whole groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmoe_export.errors import OptionError
from vmoe_export.model.grouping import Grouping, parse_group

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "batch", "tokens", "batch_multiple"),
    [
        ("image", None, 50, 1),
        ("image", 7, 50, 1),
        ("1", None, 50, 1),
        ("8", None, 400, 8),
        ("8", 16, 400, 8),
        ("batch", 12, 600, 12),
        ("tokens:400", None, 400, 8),
        ("tokens:50", None, 50, 1),
        ("tokens:25", None, 25, 1),
        ("tokens:20", None, 20, 2),
        ("tokens:75", None, 75, 3),
        ("tokens:1", None, 1, 1),
        ("tokens:7", 14, 7, 7),
    ],
)
def test_a_group_has_its_tokens_and_the_batches_it_fills(
    text: str, batch: int | None, tokens: int, batch_multiple: int
) -> None:
    assert parse_group(text, 50, batch) == Grouping(text, tokens, batch_multiple)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_the_batch_multiple_is_the_smallest_batch_of_whole_groups(group: int, tokens_per_image: int) -> None:
    multiple = parse_group(f"tokens:{group}", tokens_per_image, None).batch_multiple
    assert multiple == next(n for n in range(1, group + 1) if n * tokens_per_image % group == 0)


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "images", "tokens", "tokens:", "tokens:0", "tokens:-4", " 8", "8 ", "tokens: 8"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not image, batch, a number of images or tokens:S"):
        parse_group(text, 50, None)


def test_the_group_of_a_whole_batch_needs_to_know_the_batch() -> None:
    with pytest.raises(OptionError, match="--batch-size N"):
        parse_group("batch", 50, None)


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_has_at_least_one_image(batch: int) -> None:
    with pytest.raises(OptionError, match="at least 1 image"):
        parse_group("batch", 50, batch)


@pytest.mark.parametrize(("text", "batch", "multiple"), [("8", 12, 8), ("tokens:20", 3, 2)])
def test_a_batch_that_groups_do_not_fill_is_refused(text: str, batch: int, multiple: int) -> None:
    with pytest.raises(OptionError, match=f"need a multiple of {multiple}"):
        parse_group(text, 50, batch)
