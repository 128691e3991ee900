"""Functions of C++, CUDA and C have lower_case names, also where clang-tidy, which holds the rest, doesn't look."""

from __future__ import annotations

import re

import pytest
from test_structure import tracked

pytestmark = pytest.mark.fast

FOREIGN = {"OrtGetApiBase", "RegisterCustomOps"}
"""Names that ONNX Runtime looks up."""

_CAPITAL = re.compile(
    r"^[ \t]*(?!(?:return|throw|else|new|case|using)\b)"
    r"(?:[\w:]+(?:<[\w:<>,*& ]*>)?[*& \t]+)+"
    r"(?<!\bexplicit )(?<!\bconstexpr )([A-Z]\w*)\(",  # constructors have no type before them
    re.MULTILINE,
)
_LAUNCH_BOUNDS = re.compile(r"__launch_bounds__\([^()]*\)\s*")


def capital_functions(source: str) -> set[str]:
    """The functions whose declarations in a source begin with a capital; macros aren't functions."""
    names = {match[1] for match in _CAPITAL.finditer(_LAUNCH_BOUNDS.sub("", source))}
    return {name for name in names if not name.isupper()} - FOREIGN


def test_functions_are_in_lower_case() -> None:
    folders = ("plugins", "samples", "tests/cpp", "tests/on_gpu", "benchmarks")
    files = tracked(*folders, endings=(".cc", ".cpp", ".cu", ".h", ".hpp", ".c"))
    found = {path.name: capital_functions(path.read_text()) for path in files}
    assert len(files) > 200
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "void Route(const Shape& shape) {",
        "  static std::vector<std::pair<int, char>> Route(size_t i) const;",
        "template <class T>\n  const T* Route(size_t i) const {",
        "VMOE_HOST_DEVICE uint32_t Route(Key key) { return 0; }",
        "__global__ void __launch_bounds__(kThreads, 2)\n    Route(Groups groups,",
        "vmoe::Answer Engine::run() {}\nstatic Answer Route(int);",
    ],
)
def test_a_capital_is_found(source: str) -> None:
    assert capital_functions(source) == {"Route"}


@pytest.mark.parametrize(
    "source",
    [
        "  explicit Route(int x);\n  Route(int x, int y);\n  constexpr Route() = default;",
        "  return Route(x);\n  throw Route(x);\n  auto made = Route(x);\n  f(Route(x), Route(y));",
        "Route route(const Route& other);\nRoute::Route(int x) : x_(x) {}",
        "extern const char* OrtGetApiBase(void);\nint x = ROUTE(1);\nvoid ROUTE(int);",
    ],
)
def test_types_and_macros_are_no_functions(source: str) -> None:
    assert capital_functions(source) == set()
