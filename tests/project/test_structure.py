"""Check which modules each folder imports, and that Python, C++ and JavaScript code has no import cycles."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from os.path import normpath
from pathlib import Path

import pytest
import sdk_build

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]

PYTHON = {
    "exporter/vmoe_export": "vmoe_measure vmoe_remote vmoe_runtime vmoe_tools.options vmoe_tools.output vmoe_tools.program "
    "vmoe_tools.remote_sources vmoe_tools.terminal click ml_dtypes msgpack numpy onnx onnxruntime open_clip rich "
    "safetensors tensorstore timm torch yaml",
    "exporter/vmoe_torch": "vmoe_export vmoe_runtime numpy torch",
    "runtime/vmoe_runtime": "PIL cuda numpy onnxruntime openvino tensorrt",
    "runtime/vmoe_measure": "vmoe_runtime numpy",
    "runtime/vmoe_remote": "vmoe_runtime aiohttp fsspec",
    "runtime/vmoe_tools": "vmoe_measure vmoe_remote vmoe_runtime "
    "PIL click jinja2 markupsafe matplotlib numpy pyarrow rich tensorrt",
    "runtime/vmoe_serve": "vmoe_measure vmoe_remote vmoe_runtime vmoe_tools.options vmoe_tools.output vmoe_tools.program "
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
_INCLUDED = re.compile(r'^\s*#\s*include\s+["<]([\w./-]+)[">]', re.MULTILINE)
_INCLUDE_FOLDERS = (Path("plugins"), Path("plugins/include"), Path("plugins/service"))
_LOADED = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*|\bnew URL\(\s*)["']([\w./-]+\.js)["']""")


def tracked(*folders: str, endings: tuple[str, ...]) -> list[Path]:
    listed = sdk_build.built("git", "ls-files", "-z", *folders, folder=ROOT)
    paths = [ROOT / name for name in listed.split("\0") if name.endswith(endings)]
    return [path for path in paths if path.is_file()]


def imported(source: str) -> set[str]:
    """Return the modules that a Python file imports, and the full names of what it imports from them.

    Imports inside functions are included.
    """
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
    """Return the source of every module of this project's packages, by module name."""
    sources = {}
    for path in tracked(*PYTHON, endings=(".py",)):
        words = path.relative_to(ROOT).with_suffix("").parts[1:]
        sources[".".join(words[:-1] if words[-1] == "__init__" else words)] = path.read_text()
    return sources


def imports_among(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return, for each module, which of the other modules in `sources` it imports.

    In `from package import name`, both `package` and `package.name` may be modules.
    """
    names = {module: imported(source) for module, source in sources.items()}
    return {
        module: {name if name in sources else name.rpartition(".")[0] for name in found} & sources.keys()
        for module, found in names.items()
    }


def included_among(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """For each C or C++ file, return which other files in `sources` it includes.

    A header and the files that implement it count as one file. For example, name.h is implemented by name.c, name.cc and
    name.cu. It is also implemented by name-inl.h if that file includes name.h.
    """

    def module(name: str) -> str:
        header = re.sub(r"(-inl\.h|\.cc?|\.cu)$", ".h", name)
        implements = not name.endswith("-inl.h") or f'"{header.partition("/")[2]}"' in sources[name]
        return header if header in sources and implements else name

    graph: dict[str, set[str]] = {module(name): set() for name in sources}
    for name, source in sources.items():
        for path in _INCLUDED.findall(source):
            folders = (Path(name).parent, *_INCLUDE_FOLDERS)
            found = next((each for folder in folders if (each := normpath(folder / path)) in sources), name)
            graph[module(name)] |= {module(found)} - {module(name)}
    return graph


def scripts_among(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """For each JavaScript file, return which other files in `sources` it imports or starts as a worker."""
    return {
        name: {normpath(Path(name).parent / path) for path in _LOADED.findall(source)} & sources.keys()
        for name, source in sources.items()
    }


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the import cycles. Each cycle is a set of modules that import one another, directly or indirectly."""
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


def test_no_native_files_include_each_other_in_a_circle() -> None:
    files = tracked("plugins", "samples", "tests/cpp", "tests/gpu_emulator", endings=(".c", ".cc", ".cu", ".h", ".hpp"))
    graph = included_among({path.relative_to(ROOT).as_posix(): path.read_text() for path in files})
    assert {"plugins/sdk/decimal.h", "plugins/include/vmoe/engine.h"} <= graph["plugins/sdk/setting.h"]
    assert circles(graph) == []


def test_no_scripts_import_each_other_in_a_circle() -> None:
    graph = scripts_among({path.relative_to(ROOT).as_posix(): path.read_text() for path in tracked(endings=(".js",))})
    site = "runtime/vmoe_tools/page/site"
    assert {f"{site}/settings.js", f"{site}/session.js"} <= graph[f"{site}/side.js"]
    assert circles(graph) == []


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


def test_a_circle_of_includes_is_found_through_what_implements_a_header() -> None:
    sources = {
        "plugins/sdk/a.h": "",
        "plugins/sdk/a.cc": '#include "sdk/a.h"\n#include "sdk/b.h"',
        "plugins/sdk/b.h": '#include "sdk/a.h"',
        "plugins/core/c.h": "",
        "plugins/core/c-inl.h": '#include "core/c.h"',
        "plugins/core/c.cc": '#include "core/c-inl.h"\n#include "core/d-inl.h"',
        "plugins/core/d.h": '#include "core/c.h"',
        "plugins/core/d-inl.h": "",
        "plugins/service/routes/e.cc": '#include "f.h"\n#include <string>',
        "plugins/service/f.h": '# include "routes/e.cc"',
    }
    assert sorted(map(sorted, circles(included_among(sources)))) == [
        ["plugins/sdk/a.h", "plugins/sdk/b.h"],
        ["plugins/service/f.h", "plugins/service/routes/e.cc"],
    ]


def test_a_circle_of_scripts_is_found_however_they_are_loaded() -> None:
    sources = {
        "a/main.js": 'import {\n  f,\n} from "./part.js";\nimport "./other.js";',
        "a/part.js": 'new Worker(new URL("worker.js", import.meta.url));',
        "a/worker.js": 'await import("../a/main.js");',
        "a/other.js": 'import { g } from "./part.js";',
    }
    assert sorted(map(sorted, circles(scripts_among(sources)))) == [["a/main.js", "a/other.js", "a/part.js", "a/worker.js"]]
