"""The allowed imports of each folder, and the absence of import cycles."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import sdk_build

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]

PYTHON = {
    "exporter/vmoe_export": "vmoe_measure vmoe_runtime vmoe_tools.options vmoe_tools.output vmoe_tools.program "
    "vmoe_tools.remote_sources vmoe_tools.terminal click ml_dtypes msgpack numpy onnx onnxruntime open_clip rich "
    "safetensors tensorstore timm torch yaml",
    "exporter/vmoe_torch": "vmoe_export vmoe_runtime numpy torch",
    "runtime/vmoe_runtime": "PIL cuda numpy onnxruntime openvino tensorrt",
    "runtime/vmoe_measure": "vmoe_runtime aiohttp fsspec numpy",
    "runtime/vmoe_tools": "vmoe_measure vmoe_runtime PIL click jinja2 markupsafe matplotlib numpy pyarrow rich tensorrt",
    "runtime/vmoe_serve": "vmoe_measure vmoe_runtime vmoe_tools.options vmoe_tools.output vmoe_tools.program "
    "click numpy onnx prometheus_client psutil pyarrow ray starlette triton_python_backend_utils",
}
"""The packages, or single modules, that each package may import, in addition to itself and the standard library."""

NATIVE = {
    "core": "hwy",
    "cuda": "core ops",
    "ops": "core",
    "onnxruntime": "core cuda ops",
    "tensorrt": "core cuda ops",
    "sdk": "vmoe",
    "include/vmoe": "vmoe",
    "service": "vmoe",
}
"""The folders whose headers each folder of plugins/ may include, in addition to its own."""

_INCLUDE = re.compile(r'^\s*#\s*include\s+["<]((?:[\w.-]+/)+)[\w.-]+[">]', re.MULTILINE)


def tracked(*folders: str, endings: tuple[str, ...]) -> list[Path]:
    listed = sdk_build.built("git", "ls-files", "-z", *folders, folder=ROOT)
    paths = [ROOT / name for name in listed.split("\0") if name.endswith(endings)]
    return [path for path in paths if path.is_file()]


def imported(source: str) -> set[str]:
    """Return the modules that a Python file imports anywhere in it, and the full names that it imports from them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def forbidden(source: str, allowed: set[str]) -> set[str]:
    """Return the imports of a file that are not allowed."""
    parts = {name: name.split(".") for name in imported(source)}
    return {name for name, words in parts.items() if not {words[0], ".".join(words[:2])} & allowed}


def modules() -> dict[str, str]:
    """Return the source of every module of our packages, by its name."""
    sources = {}
    for path in tracked(*PYTHON, endings=(".py",)):
        words = path.relative_to(ROOT).with_suffix("").parts[1:]
        sources[".".join(words[:-1] if words[-1] == "__init__" else words)] = path.read_text()
    return sources


def imports_among(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules among these that each imports anywhere in it; in `from package import name`, either may be one."""
    names = {module: imported(source) for module, source in sources.items()}
    return {
        module: {name if name in sources else name.rpartition(".")[0] for name in found} & sources.keys()
        for module, found in names.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that reach each other by imports."""
    reached = {}
    for module, imported in graph.items():
        found, left = set(), set(imported)
        while left:
            found.add(next_module := left.pop())
            left |= graph[next_module] - found
        reached[module] = found
    alike = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return [set(circle) for circle in alike if circle]


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


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(imports_among(modules())) == []


def test_what_breaks_a_rule_is_found() -> None:
    source = (
        "import os\ndef f():\n    from torch.nn import functional\n    import onnx.helper\nfrom a.b.c import d\nimport e.f"
    )
    assert forbidden(source, {"onnx", "a.b"}) == {"torch.nn.functional", "e.f"}


def test_a_circle_is_found_wherever_its_imports_are() -> None:
    sources = {
        "p": "from p.a import f",
        "p.a": "from p import b",
        "p.b": "def f():\n    import p.c",
        "p.c": "if TYPE_CHECKING:\n    from p.a import A",
        "p.d": "from p import a, f",
        "p.e": "from p import e",
    }
    assert sorted(map(sorted, circles(imports_among(sources)))) == [["p.a", "p.b", "p.c"], ["p.e"]]
