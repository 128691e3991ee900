"""Which folder may import what, and how long a file and a function may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

PYTHON = {
    "exporter/vmoe_export": "vmoe_measure vmoe_runtime vmoe_tools.options vmoe_tools.output vmoe_tools.program "
    "vmoe_tools.remote_sources click ml_dtypes msgpack numpy onnx onnxruntime rich safetensors tensorstore torch yaml",
    "exporter/vmoe_torch": "vmoe_export vmoe_runtime numpy torch",
    "runtime/vmoe_runtime": "PIL cuda numpy onnxruntime openvino tensorrt",
    "runtime/vmoe_measure": "vmoe_runtime fsspec numpy",
    "runtime/vmoe_tools": "vmoe_measure vmoe_runtime PIL click jinja2 markupsafe matplotlib numpy rich tensorrt",
    "runtime/vmoe_serve": "vmoe_measure vmoe_runtime vmoe_tools.options vmoe_tools.output vmoe_tools.program "
    "click fastapi numpy onnx prometheus_client pyarrow pydantic ray starlette triton_python_backend_utils",
}
"""What each package may import besides itself and Python's own library; a module of a package stands with its name."""

NATIVE = {
    "core": "hwy",
    "cuda": "core",
    "ops": "core",
    "onnxruntime": "core cuda ops",
    "tensorrt": "core cuda ops",
    "sdk": "vmoe",
    "include/vmoe": "vmoe",
    "service": "vmoe",
}
"""Of which folders each folder of plugins/ may include headers besides its own."""

_INCLUDE = re.compile(r'^\s*#\s*include\s+["<]((?:[\w.-]+/)+)[\w.-]+[">]', re.MULTILINE)


def tracked(*folders: str, endings: tuple[str, ...]) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name.endswith(endings)]
    return [path for path in paths if path.is_file()]


def imported(source: str) -> set[str]:
    """The modules that a Python file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def forbidden(source: str, allowed: set[str]) -> set[str]:
    """What a file imports besides the packages and modules that it may."""
    parts = {name: name.split(".") for name in imported(source)}
    return {name for name, words in parts.items() if not {words[0], ".".join(words[:2])} & allowed}


def too_long(path: Path, source: str) -> Iterator[str]:
    is_written_by_a_tool = "op_table.h" in path.name
    if len(source.splitlines()) > LONGEST_FILE and not is_written_by_a_tool:
        yield f"{path} has {len(source.splitlines())} lines"
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{path}: {node.name} has {lines} lines"


@pytest.mark.parametrize("package", PYTHON)
def test_a_package_imports_what_it_may(package: str) -> None:
    allowed = {*PYTHON[package].split(), Path(package).name}
    found = {path.name: forbidden(path.read_text(), allowed) for path in tracked(package, endings=(".py",))}
    assert found
    assert {name: names for name, names in found.items() if names} == {}


def test_every_package_has_its_rule() -> None:
    assert {f"{folder}/{path.name}" for folder in ("exporter", "runtime") for path in (ROOT / folder).glob("vmoe_*")} == set(
        PYTHON
    )


@pytest.mark.parametrize("folder", NATIVE)
def test_native_code_includes_what_it_may(folder: str) -> None:
    allowed = {*NATIVE[folder].split(), *folder.split("/")}
    files = tracked(f"plugins/{folder}", endings=(".cc", ".cu", ".h", ".hpp"))
    known = {*NATIVE, "vmoe", "hwy"}
    included = {path.name: {name.split("/")[0] for name in _INCLUDE.findall(path.read_text())} & known for path in files}
    assert files
    assert {name: folders - allowed for name, folders in included.items() if folders - allowed} == {}


def test_no_file_and_no_function_is_too_long() -> None:
    files = tracked("exporter", "runtime", "plugins", "samples", endings=(".py", ".cc", ".cu", ".h", ".hpp", ".c"))
    assert [line for path in files for line in too_long(path.relative_to(ROOT), path.read_text())] == []


def test_what_breaks_a_rule_is_found() -> None:
    source = (
        "import os\ndef f():\n    from torch.nn import functional\n    import onnx.helper\nfrom a.b.c import d\nimport e.f"
    )
    assert forbidden(source, {"onnx", "a.b"}) == {"torch.nn", "e.f"}
    assert list(too_long(Path("a.py"), "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION)) == ["a.py: f has 61 lines"]
    assert list(too_long(Path("a.h"), "\n" * 401)) == ["a.h has 401 lines"]
