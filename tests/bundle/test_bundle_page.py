"""Check that docs/bundle.md documents every field of a manifest, and the limits that readers check."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmoe_runtime.bundle.manifest_fields import FILE_FIELDS, KIND_FIELDS, MANIFEST_FIELDS, PROFILE_FIELDS, Field

PAGE = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()


@pytest.mark.parametrize(
    "field", [*MANIFEST_FIELDS, *KIND_FIELDS, *PROFILE_FIELDS, *FILE_FIELDS], ids=lambda field: field.path
)
def test_a_field_is_on_the_page(field: Field) -> None:
    line = next(line for line in PAGE.splitlines() if field.path.rpartition(".")[2] in line and line.startswith("|"))
    assert not field.most or any(
        limit in PAGE for limit in (f"1 to {field.most:,}", f"1 to 2^{field.most.bit_length() - 1}")
    )
    assert all(f'"{choice}"' in PAGE for choice in field.choices), line
