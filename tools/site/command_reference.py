"""The options of every command as Markdown, read from the commands' own parsers."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn
from unittest import mock

# By command: the module whose function `parse_arguments`, or `main`, reads its command line with argparse.
ARGPARSE_MODULES = {
    "vmoe-bench": "vmoe_tools.bench.arguments",
    "vmoe-report": "vmoe_tools.report.arguments",
    "vmoe-inspect": "vmoe_tools.inspect.arguments",
    "vmoe-run": "vmoe_tools.run.arguments",
    "vmoe-build": "vmoe_tools.build.arguments",
    "vmoe-serve ray": "vmoe_serve.ray_arguments",
    "vmoe-serve batch": "vmoe_serve.batch.arguments",
    "vmoe-serve triton": "vmoe_serve.triton.arguments",
    "python -m vmoe_runtime": "vmoe_runtime.__main__",
}


@dataclass(frozen=True)
class Option:
    """One option or positional argument: how it is written, and its help."""

    written: str
    help: str


@dataclass(frozen=True)
class CommandHelp:
    """What `--help` says: the usage line, a description, and all arguments."""

    usage: str
    description: str
    options: Sequence[Option]


class _ParserFound(BaseException):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _give_up(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
    raise _ParserFound(parser)


def argparse_parser(read: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    """The parser that a function reads a command line with.

    Args:
        read: takes the arguments, and hands them to argparse before it does anything else.
    """
    patches = dict.fromkeys(("parse_args", "parse_intermixed_args"), _give_up)
    with mock.patch.multiple(argparse.ArgumentParser, **patches):
        try:
            read([])
        except _ParserFound as found:
            return found.parser
    raise ValueError(f"{read} uses no parser")


def command_help(command: str) -> CommandHelp:
    """The usage, description and options of a command, such as "vmoe-serve ray"."""
    if command == "vmoe-export":
        return _click_help()
    module = import_module(ARGPARSE_MODULES[command])
    parser = argparse_parser(module.parse_arguments if hasattr(module, "parse_arguments") else module.main)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    return CommandHelp(usage, parser.description or "", [_argparse_option(action) for action in parser._actions])


def _click_help() -> CommandHelp:
    import click

    from vmoe_export.arguments import export_command

    context = click.Context(export_command, info_name="vmoe-export", max_content_width=10_000, terminal_width=10_000)
    usage = " ".join(export_command.get_usage(context).removeprefix("Usage: ").split())
    records = [parameter.get_help_record(context) for parameter in export_command.get_params(context)]
    options = [Option(*record) for record in records if record and record[1]]  # the text says what CKPT is
    return CommandHelp(usage, inspect.cleandoc(export_command.help or ""), options)


def _argparse_option(action: argparse.Action) -> Option:
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    value = value if isinstance(value, str) else " ".join(value)
    if not action.option_strings:
        return Option(value or action.dest, action.help or "")
    takes_value = action.nargs != 0
    written = ", ".join(action.option_strings) + (f" {value or action.dest.upper()}" if takes_value else "")
    return Option(written, (action.help or "").replace("%%", "%"))


def command_markdown(command: str) -> str:
    """The usage line, the description and a table of options."""
    found = command_help(command)
    return "\n".join(["```text", found.usage, "```", "", _text(found.description), "", *_table(found.options), ""])


def _table(options: Sequence[Option]) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for option in options:
        yield f"| `{option.written}` | {' '.join(_text(option.help).split())} |"


def _text(text: str) -> str:
    """Text in which Markdown finds nothing to mark up."""
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("*", r"\*")
