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
    "exporter/vmoe_export": {
        *("vmoe_runtime", "click", "ml_dtypes", "msgpack", "numpy", "onnx", "rich"),
        *("safetensors", "torch"),
    },
    "runtime/vmoe_runtime": {"PIL", "cuda", "numpy", "onnxruntime", "openvino", "tensorrt"},
    "runtime/vmoe_start": set(),
    "runtime/vmoe_tools.run": {"vmoe_runtime", "vmoe_start", "numpy"},
    "runtime/vmoe_tools.build": {"vmoe_runtime", "vmoe_start", "numpy"},
    "runtime/vmoe_tools.bench": {"vmoe_runtime", "vmoe_start", "matplotlib", "numpy", "rich"},
    "runtime/vmoe_tools.inspect": {"vmoe_tools.bench", "vmoe_runtime", "vmoe_start", "matplotlib", "numpy", "rich"},
    "runtime/vmoe_tools.report": {
        *(
            "vmoe_tools.bench",
            "vmoe_tools.inspect",
            "vmoe_runtime",
            "vmoe_start",
            "PIL",
            "jinja2",
            "markupsafe",
            "matplotlib",
            "numpy",
        ),
    },
    "runtime/vmoe_serve": {
        *("vmoe_tools.bench", "vmoe_runtime", "vmoe_start", "fastapi", "numpy", "prometheus_client", "pyarrow", "ray"),
        *("starlette", "triton_python_backend_utils"),
    },
}
"""What each package may import besides itself and Python's own library."""

ROOMS = {
    "exporter/vmoe_export/class_names": set(),
    "exporter/vmoe_export/ops": set(),
    "exporter/vmoe_export/checkpoint": {"errors"},
    "exporter/vmoe_export/model": {"checkpoint", "errors", "ops", "precision", "small_file"},
    "exporter/vmoe_export/bundle": {"checkpoint", "errors", "interruption", "model", "precision"},
    "exporter/vmoe_export/graphs": {"bundle", "errors", "model", "ops", "precision"},
    "exporter/vmoe_export/validation": {"checkpoint", "errors", "export_plan", "model", "ops", "precision"},
    "runtime/vmoe_runtime/bundle": {
        *("errors", "flops", "preprocessing", "profiles", "routing", "routing_kinds", "whole_files"),
    },
    "runtime/vmoe_runtime/backends": {
        *("bundle", "errors", "installation", "interrupts", "op_library", "profiles", "routing_kinds", "shared_objects"),
        *("telemetry", "version"),
    },
    "runtime/vmoe_runtime/backends/tensorrt": {"backends", "bundle", "errors", "installation", "profiles", "version"},
    "runtime/vmoe_serve/batch": {"ray_session", "settings"},
    "runtime/vmoe_serve/triton": {"settings"},
}
"""What each folder inside a package may import of its package besides its own files."""

NATIVE = {
    "core": {"hwy"},
    "cuda": {"core"},
    "ops": {"core"},
    "onnxruntime": {"core", "cuda", "ops"},
    "tensorrt": {"core", "cuda", "ops"},
    "sdk": {"vmoe"},
    "include/vmoe": {"vmoe"},
}
"""Of which folders each folder of plugins/ may include headers besides its own."""

_INCLUDE = re.compile(r'^\s*#\s*include\s+["<]((?:[\w.-]+/)+)[\w.-]+[">]', re.MULTILINE)


def tracked(*folders: str, endings: tuple[str, ...]) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name.endswith(endings)]
    return [path for path in paths if path.is_file()]


def imported(source: str) -> set[str]:
    """The packages, by their first name, that a Python file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def imported_within(package: str, source: str) -> set[str]:
    """The modules and folders of a package, by their first name, that one of its files imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    inside = {name.split(".")[1] for name in names if name.startswith(f"{package}.")}
    return {name for name in inside if not name.startswith("__")}


def included(source: str) -> set[str]:
    """The folders of plugins/ whose headers a C++ file includes, and "hwy"."""
    known = {*NATIVE, "vmoe", "hwy"}
    return {match[1].partition("/")[0] for match in _INCLUDE.finditer(source)} & known


def too_long(path: Path, source: str) -> Iterator[str]:
    if len(source.splitlines()) > LONGEST_FILE:
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
    files = tracked(package, endings=(".py",))
    found = {path.name: imported(path.read_text()) - PYTHON[package] - {Path(package).name} for path in files}
    assert files
    assert {name: names for name, names in found.items() if names} == {}


def test_every_package_has_its_rule() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix() for path in tracked("exporter", "runtime", endings=("/__init__.py",))
    }
    assert {name for name in packages if name.count("/") == 1} == set(PYTHON)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_it_may(room: str) -> None:
    package, own = room.split("/")[1:3]
    files = [path for path in tracked(room, endings=(".py",)) if path.parent == ROOT / room]
    found = {path.name: imported_within(package, path.read_text()) - ROOMS[room] - {own} for path in files}
    assert files
    assert {name: names for name, names in found.items() if names} == {}


def test_every_room_has_its_rule() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix() for path in tracked("exporter", "runtime", endings=("/__init__.py",))
    }
    assert {name for name in packages if name.count("/") > 1} == set(ROOMS)


@pytest.mark.parametrize("folder", NATIVE)
def test_native_code_includes_what_it_may(folder: str) -> None:
    files = tracked(f"plugins/{folder}", endings=(".cc", ".cu", ".h", ".hpp"))
    allowed = NATIVE[folder] | {folder}
    found = {path.name: included(path.read_text()) - allowed for path in files}
    assert files
    assert {name: names for name, names in found.items() if names} == {}


def test_no_file_and_no_function_is_too_long() -> None:
    folders = ("exporter", "runtime", "plugins", "samples")
    files = tracked(*folders, endings=(".py", ".cc", ".cu", ".h", ".hpp", ".c"))
    assert [line for path in files for line in too_long(path.relative_to(ROOT), path.read_text())] == []


def test_what_breaks_a_rule_is_found() -> None:
    assert imported("import os\ndef f():\n    from torch.nn import functional\n    import onnx.helper") == {"torch", "onnx"}
    source = "import a.b.c\nfrom a import d, __version__\nfrom a.e.f import g\nfrom ab import h"
    assert imported_within("a", source) == {"b", "d", "e"}
    assert included('#include <vector>\n#include "core/gates.h"\n  # include <hwy/highway.h>\n#include "sdk/json.h"') == {
        *("core", "hwy", "sdk"),
    }
    long = "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION
    assert list(too_long(Path("a.py"), long)) == [f"a.py: f has {LONGEST_FUNCTION + 1} lines"]
    assert list(too_long(Path("a.h"), "\n" * 401)) == ["a.h has 401 lines"]
