"""Check that the declarations in the C++ adapters are exactly those in the op table."""

from __future__ import annotations

import re

import cpp_headers
import pytest
from sdk_build import ROOT

from vmoe_export.ops.table import OPS, Op, Value

pytestmark = pytest.mark.fast

PLUGINS = ROOT / "plugins"


def test_the_headers_say_what_python_declares() -> None:
    for path, text in cpp_headers.headers().items():
        assert path.read_text() == text, f"{path} is not what Python declares: run python tools/cpp_headers.py"


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
        cpp_headers.op_table()


def test_int64_inputs_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    _add(monkeypatch, Op("VmoeRepeat", (Value("count", "i64", ("1",)),), (Value("y", "float", ("N",)),)))
    with pytest.raises(ValueError, match="VmoeRepeat has the int64 input count, none of the settings capacity, k, bpr"):
        cpp_headers.op_table()


def _add(monkeypatch: pytest.MonkeyPatch, op: Op) -> None:
    monkeypatch.setattr(cpp_headers, "OPS", {**OPS, op.name: op})
