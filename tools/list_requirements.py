"""Print the package's dependencies and the requirements of the given extras in pyproject.toml, one per line.

With this list, pip can install the requirements without the package.

Usage: python tools/list_requirements.py EXTRA...
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def requirements(extras: Iterable[str]) -> Iterator[str]:
    """Yield the requirements of the given extras, and of other extras to which they refer."""
    for extra in extras:
        for requirement in PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{PROJECT['name']}\[(.*)\]", requirement)
            yield from requirements(own[1].split(",")) if own else [requirement]


if __name__ == "__main__":
    print(*PROJECT["dependencies"], *requirements(sys.argv[1:]), sep="\n")
