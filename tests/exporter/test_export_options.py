"""The options of an export in Python: as an ExportOptions, or as keyword arguments that a type checker knows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import pytest

from vmoe_export import ExportOptions, OptionError, export_bundle
from vmoe_export.export_options import ExportFields

pytestmark = pytest.mark.fast

DENSE = Path(__file__).parents[1] / "data" / "golden" / "g4"


def test_options_and_keyword_arguments_write_the_same_bundle(tmp_path: Path) -> None:
    options = ExportOptions(input="uint8", precision="bf16")
    given = export_bundle(DENSE, tmp_path / "a.vmoe", options, validate=False)
    spelled = export_bundle(DENSE, tmp_path / "b.vmoe", input="uint8", precision="bf16", validate=False)
    assert given.plan.options == spelled.plan.options
    for name in ("manifest.json", "model.onnx", "weights.safetensors"):
        assert (tmp_path / "a.vmoe" / name).read_bytes() == (tmp_path / "b.vmoe" / name).read_bytes()


def test_the_keyword_arguments_are_the_fields_of_the_options() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(ExportOptions)}
    assert get_type_hints(ExportOptions) == get_type_hints(ExportFields)
    assert list(fields) == list(ExportFields.__annotations__)


@pytest.mark.parametrize(
    ("options", "fields", "says"),
    [
        (ExportOptions(), {"input": "uint8", "batch": 1}, "input, batch can't be given beside options"),
        ({"input": "uint8"}, {}, "must be an ExportOptions"),
        ("uint8", {}, "must be an ExportOptions"),
    ],
)
def test_options_that_contradict_or_are_none_are_refused(
    options: Any, fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=says):
        export_bundle(DENSE, tmp_path / "x.vmoe", options, **fields)
    assert list(tmp_path.iterdir()) == []


def test_a_type_checker_knows_the_keyword_arguments() -> None:
    hints = get_type_hints(export_bundle)
    assert hints["fields"] == Unpack[ExportFields]
    assert hints["options"] == ExportOptions | None
