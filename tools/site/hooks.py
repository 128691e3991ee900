"""MkDocs hooks that insert each command's options, and replace links to files outside docs/ with the link text."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click

from vmoe_tools.program import program

_MARK = re.compile(r"^<!-- options: (.*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Insert the generated option tables, and replace links to files outside the site with the link text."""
    outside = re.escape("../" * (page.file.src_uri.count("/") + 1))
    markdown = re.sub(rf"\[([^\]]*)\]\({outside}[^)]*\)", r"\1", markdown)
    return _MARK.sub(lambda mark: command_markdown(mark[1]), markdown)


def command_markdown(command: str) -> str:
    """Return a command's help in Markdown: usage, description, and a table of options.

    `command` is a command such as "vmoe serve ray".
    """
    first, *words = command.split()
    context = click.Context(program, info_name=first, max_content_width=10_000, terminal_width=10_000)
    for word in words:
        assert isinstance(context.command, click.Group)
        found = context.command.get_command(context, word)
        assert found is not None, f"there is no command {command}"
        context = click.Context(found, parent=context, info_name=word)
    usage = " ".join(context.command.get_usage(context).removeprefix("Usage: ").split())
    given = [parameter for parameter in context.command.get_params(context) if isinstance(parameter, click.Option)]
    records = [record for option in given if (record := option.get_help_record(context))]
    rows = [f"| `{written}` | {' '.join(_text(meaning).split())} |" for written, meaning in records]
    table = ["| option | meaning |", "|---|---|", *rows]
    description = _text(inspect.cleandoc(context.command.help or ""))
    return "\n".join(["```text", usage, "```", "", description, "", *table, ""])


def _text(text: str) -> str:
    """Escape the characters that have a meaning in Markdown."""
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("*", r"\*")
