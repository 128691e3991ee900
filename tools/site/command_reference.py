"""The options of every command as Markdown, read from the commands themselves."""

from __future__ import annotations

import inspect

import click

from vmoe_tools.program import program


def command_markdown(command: str) -> str:
    """What `--help` of a command, such as "vmoe serve ray", says: the usage line, the description and a table of options."""
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
    """Text in which Markdown finds nothing to mark up."""
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("*", r"\*")
