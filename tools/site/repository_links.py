"""Files outside docs/ as pages of the site, so that the links of a page work there as they do in the repository."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = "source"  # of these pages

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LANGUAGES = {".h": "c", ".hpp": "cpp", ".cuh": "cpp", ".cpp": "cpp", ".py": "python"}


def with_links(markdown: str, change: Callable[[str], str]) -> str:
    """Markdown whose link targets were changed, but for those in blocks of code."""
    parts = _CODE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: f"{link[1]}{change(link[2])}{link[3]}", part) for part in parts[::2]]
    return "".join(parts)


def link_targets(markdown: str) -> list[str]:
    """All link targets of a page, those in blocks of code left out."""
    found: list[str] = []
    with_links(markdown, lambda target: found.append(target) or target)
    return found


def repository_path(page: str, target: str) -> str | None:
    """The path in the repository that a link leads to; None for other places and for the page itself.

    Args:
        page: path of the page in the repository.
        target: of the link.
    """
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    return f"{path}/README.md" if (ROOT / path / "README.md").is_file() else path


def site_path(path: str) -> str:
    """Where a file of the repository is among the site's sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    is_page = path.endswith((".md", ".png"))
    return f"{FOLDER}/{path}" if is_page else f"{FOLDER}/{path}.md"


def for_site(page: str, markdown: str) -> str:
    """A page of the repository with its links as they are among the site's sources."""
    folder = posixpath.dirname(site_path(page))

    def change(target: str) -> str:
        path = repository_path(page, target)
        if path is None:
            return target
        _, mark, anchor = target.partition("#")
        return posixpath.relpath(site_path(path), folder or ".") + mark + anchor

    return with_links(markdown, change)


def page_of(path: str) -> str:
    """The Markdown of the page for a file outside docs/."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return for_site(path, text)
    return f"# {path}\n\n````{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text}````\n"


def linked_files(pages: list[str]) -> set[str]:
    """The files outside docs/ that pages link to, and those that such Markdown files link to in turn."""
    found: set[str] = set()
    waiting = list(pages)
    while waiting:
        page = waiting.pop()
        text = (ROOT / page).read_text(encoding="utf-8")
        paths = {path for target in link_targets(text) if (path := repository_path(page, target))}
        new = {path for path in paths if not path.startswith("docs/")} - found
        found |= new
        waiting += [path for path in new if path.endswith(".md")]
    return found
