"""The options of every command as Markdown, read from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import click

from vmoe_tools.program import program

COMMANDS = (
    *("vmoe export", "vmoe prune", "vmoe run", "vmoe bench", "vmoe inspect", "vmoe fewshot", "vmoe report", "vmoe page"),
    *("vmoe serve ray", "vmoe serve batch", "vmoe serve triton", "vmoe build"),
)


@dataclass(frozen=True)
class CommandHelp:
    """What `--help` says: the usage line, a description, and all options, each as it is written and with its meaning."""

    usage: str
    description: str
    options: Sequence[tuple[str, str]]


def command_help(command: str) -> CommandHelp:
    """The usage, description and options of a command, such as "vmoe serve ray"."""
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
    return CommandHelp(usage, inspect.cleandoc(context.command.help or ""), records)


def command_markdown(command: str) -> str:
    """The usage line, the description and a table of options."""
    found = command_help(command)
    rows = [f"| `{written}` | {' '.join(_text(meaning).split())} |" for written, meaning in found.options]
    table = ["| option | meaning |", "|---|---|", *rows]
    return "\n".join(["```text", found.usage, "```", "", _text(found.description), "", *table, ""])


def _text(text: str) -> str:
    """Text in which Markdown finds nothing to mark up."""
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("*", r"\*")
