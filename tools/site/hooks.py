"""What MkDocs calls while it builds the site: generated parts of pages, and links that lead out of docs/."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from command_reference import command_markdown

_MARK = re.compile(r"^<!-- options: (.*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts in what is generated; leaves only the text of links to files that the site doesn't have."""
    outside = re.escape("../" * (page.file.src_uri.count("/") + 1))
    markdown = re.sub(rf"\[([^\]]*)\]\({outside}[^)]*\)", r"\1", markdown)
    return _MARK.sub(lambda mark: command_markdown(mark[1]), markdown)
