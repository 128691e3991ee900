"""The C++ adapters' declaration of the ops is the table's, and they have no other."""

from __future__ import annotations

import re

import pytest
from sdk_build import ROOT

from vmoe_export.ops import cpp_declarations
from vmoe_export.ops.table import OPS, Op, Value

pytestmark = pytest.mark.fast

PLUGINS = ROOT / "plugins"
HEADER = PLUGINS / "ops" / "op_table.h"


def test_the_header_is_the_table() -> None:
    command = f"python -m {cpp_declarations.__name__} > plugins/ops/op_table.h"
    assert command in HEADER.read_text()
    assert HEADER.read_bytes() == cpp_declarations.header().encode(), f"{HEADER} is not the table's: run {command}"


def test_what_adapters_share_includes_no_framework() -> None:
    for path in (PLUGINS / "ops").glob("*.*"):
        for include in re.findall(r"#include (.+)", path.read_text()):
            assert re.fullmatch(r'"(ops|core)/\w+\.h"|<\w+>', include), f"{path.name} includes {include}"


@pytest.mark.parametrize("adapter", ["onnxruntime", "tensorrt"])
def test_adapters_declare_no_op_of_their_own(adapter: str) -> None:
    dims = {"".join(value.dims) for op in OPS.values() for value in (*op.inputs, *op.outputs)} - {"D", "1", ""}
    names = "|".join(sorted({*OPS, *dims}))
    for path in [*(PLUGINS / adapter).glob("*.h"), *(PLUGINS / adapter).glob("*.cc")]:
        found = re.findall(rf'"(?:{names})"', path.read_text())
        assert not found, f"{path.name} has {', '.join(found)}, which the table declares"


def test_an_attribute_needs_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    _add(monkeypatch, Op("VmoeScale", (Value("x", "float", ("N",)),), (Value("y", "float", ("N",)),), {"factor": 1}))
    with pytest.raises(KeyError, match="factor"):
        cpp_declarations.header()


def test_int64_inputs_are_the_settings_of_a_routing(monkeypatch: pytest.MonkeyPatch) -> None:
    _add(monkeypatch, Op("VmoeRepeat", (Value("count", "i64", ("1",)),), (Value("y", "float", ("N",)),)))
    with pytest.raises(ValueError, match="VmoeRepeat has the int64 inputs count, not capacity, k, bpr"):
        cpp_declarations.header()


def _add(monkeypatch: pytest.MonkeyPatch, op: Op) -> None:
    monkeypatch.setattr(cpp_declarations, "OPS", {**OPS, op.name: op})
