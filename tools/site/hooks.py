"""What MkDocs calls while it builds the site: generated parts of pages, and pages of files outside docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from command_reference import command_markdown
from mkdocs.structure.files import File, Files
from repository_links import ROOT, for_site, linked_files, page_of, site_path

_MARK = re.compile(r"^<!-- options: (.*) -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the files outside docs/ that pages link to."""
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    for path in sorted(linked_files(pages)):
        if path.endswith(".png"):
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
        else:
            files.append(File.generated(config, site_path(path), content=page_of(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts in what is generated, and leads links out of docs/ to the pages that were added."""
    if page.file.generated_by is not None:
        return markdown
    markdown = for_site(f"docs/{page.file.src_uri}", markdown)
    return _MARK.sub(lambda mark: command_markdown(mark[1]), markdown)
