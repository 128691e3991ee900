"""The pages of the documentation, taken apart: links, headings, blocks of code, and code in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [
    *OWN,
    ROOT / "CONTRIBUTING.md",
    ROOT / "plugins" / "README.md",
    ROOT / "plugins" / "tensorrt" / "README.md",
    *sorted((ROOT / "samples").rglob("README.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of code, with the line that it begins in."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text[: found.start()].count("\n") + 1, found[1], found[2]) for found in _BLOCK.finditer(text)]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The names that links may give the headings of a page, as GitHub and the site make them."""
    names: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        names.add(re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-"))
    return names


def spans(page: Path) -> list[str]:
    """Code within the text."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(page))]


def command_lines(page: Path) -> Iterator[tuple[Block, str]]:
    """What a reader would type of the blocks for a shell, continued lines joined."""
    for block in blocks(page):
        if block.language in ("console", "bash", "sh"):
            text = block.text.replace("\\\n", " ")
            marked = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
            lines = marked if block.language == "console" else text.splitlines()
            yield from ((block, line.strip()) for line in lines if line.strip())
