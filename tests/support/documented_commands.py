"""Whether a command line of the documentation could be typed: its program, its options and its files are there.

Nothing is run: commands and scripts of the project read the line with their own parsers and are stopped then.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import click
from command_reference import ARGPARSE_MODULES, argparse_parser
from documentation import ROOT

from vmoe_export.arguments import export_command
from vmoe_tools.command_line import UsageError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
CMAKE = "".join(path.read_text() for name in ("CMakeLists.txt", "*.cmake") for path in (ROOT / "plugins").rglob(name))
FOREIGN = {"apt-get", "chmod", "curl", "export", "gsutil", "ln", "ls", "pkg-config", "polygraphy", "trtexec", "tritonserver"}
BUILT = {"build/classify/classify", "build/http/vmoe-http", "build/service/service", "vmoe-http"}
PIP_OPTIONS = {"-C", "-e", "-r", "--force-reinstall", "--no-deps", "--target"}
PYTEST_OPTIONS = {"-k", "-n", "-x"}


class WrongCommandError(Exception):
    """A command line that can't be typed, and why."""


class _Read(BaseException):
    """A parser has taken the command line."""


def check(line: str) -> None:
    """Raises WrongCommandError where a part of the line can't be typed."""
    line, inner = _without_substitutions(line)
    for command in inner:
        check(command)
    for words in _commands(line):
        _check_words(words)


def _commands(line: str) -> Iterator[list[str]]:
    """The words of each simple command, without variables before it and redirections behind it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;"):
            words.append(word)
            continue
        if ">" in words:
            words = words[: words.index(">")]
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words:
            yield words
        words = []


def _without_substitutions(line: str) -> tuple[str, list[str]]:
    """A line with a word for each `$(...)`, and what stands in these."""
    inner: list[str] = []
    while (start := line.find("$(")) >= 0:
        depth, end = 1, start + 2
        while depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        inner.append(line[start + 2 : end - 1])
        line = f"{line[:start]}SUBSTITUTED{line[end:]}"
    return line, inner


def _check_words(words: Sequence[str]) -> None:
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program in PROJECT["scripts"]:
        _check_own(program, arguments)
    elif program in _CHECKS:
        _CHECKS[program](arguments)
    elif program not in FOREIGN | BUILT:
        raise WrongCommandError(f"there is no program {program}")


def _check_own(program: str, arguments: Sequence[str]) -> None:
    if program == "vmoe-export":
        _read_by_click(export_command, arguments)
        return
    command = program if program != "vmoe-serve" else " ".join(["vmoe-serve", *arguments[:1]])
    if command not in ARGPARSE_MODULES:
        raise WrongCommandError(f"there is no command {command}")
    read = import_module(ARGPARSE_MODULES[command]).parse_arguments
    try:
        read(list(arguments[1:] if program == "vmoe-serve" else arguments))
    except UsageError as error:
        raise WrongCommandError(str(error)) from None


def _read_by_click(command: click.Command, arguments: Sequence[str] | None) -> None:
    try:
        command.make_context(command.name or "", list(sys.argv[1:] if arguments is None else arguments))
    except click.UsageError as error:
        raise WrongCommandError(error.format_message()) from None


def _check_python(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["-c"]:
        compile(arguments[1], "-c", "exec")
    elif arguments[:2] == ["-m", "pytest"]:
        _check_pytest(arguments[2:])
    elif arguments[:1] == ["-m"]:
        if importlib.util.find_spec(arguments[1]) is None:
            raise WrongCommandError(f"there is no module {arguments[1]}")
        if len(arguments) > 2:
            sys.modules.pop(f"{arguments[1]}.__main__", None)  # runpy warns of one that was imported already
            _read_by_script(lambda: runpy.run_module(arguments[1], run_name="__main__"), arguments[1:])
    else:
        script = ROOT / arguments[0]
        if not script.is_file():
            raise WrongCommandError(f"there is no script {arguments[0]}")
        _read_by_script(lambda: runpy.run_path(str(script), run_name="__main__"), [str(script), *arguments[1:]])


def _read_by_script(run: Callable[[], object], argv: Sequence[str]) -> None:
    """Lets a script read its command line, and ends it there."""
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(parser, *given, **named)
        raise _Read

    def taken(command: click.Command, arguments: Sequence[str] | None = None, **_: Any) -> None:
        _read_by_click(command, arguments)
        raise _Read

    def refused(parser: argparse.ArgumentParser, message: str) -> None:
        raise WrongCommandError(message)

    patches = mock.patch.multiple(argparse.ArgumentParser, parse_args=parsed, error=refused)
    command_line = mock.patch.object(sys, "argv", list(argv))
    with patches, mock.patch.object(click.Command, "main", taken), command_line, _modules_of(Path(argv[0]).parent):
        try:
            run()
        except _Read:
            return
        except SystemExit as ended:
            if ended.code:
                raise WrongCommandError(str(ended)) from None
            return
    raise WrongCommandError(f"{argv[0]} reads no command line")


@contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """A script's folder on the path, and its modules forgotten afterwards."""
    before = set(sys.modules)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def _check_pytest(arguments: Sequence[str]) -> None:
    skip = False
    for word in arguments:
        if word.startswith("-"):
            if word not in PYTEST_OPTIONS:
                raise WrongCommandError(f"pytest's option {word} is not one that the documentation needs")
            skip = True
        elif not skip and not (ROOT / word.partition("::")[0]).exists():
            raise WrongCommandError(f"there is no {word}")
        else:
            skip = False


def _check_make(arguments: Sequence[str]) -> None:
    for word in arguments:
        name, assigned, _ = word.partition("=")
        if assigned and f"$({name})" not in MAKEFILE:
            raise WrongCommandError(f"the Makefile has no variable {name}")
        if not assigned and not re.search(rf"^{re.escape(word)}:", MAKEFILE, re.MULTILINE):
            raise WrongCommandError(f"the Makefile has no target {word}")


def _check_pip(arguments: Sequence[str]) -> None:
    for option, word in zip(["", *arguments], arguments, strict=False):
        extras = re.fullmatch(r"(?:\.|vmoe-export)\[(.*)\]", word)
        if extras and (unknown := set(extras[1].split(",")) - set(PROJECT["optional-dependencies"])):
            raise WrongCommandError(f"there is no extra {unknown}")
        if option == "-r" and not (ROOT / word).is_file():
            raise WrongCommandError(f"there is no {word}")
        if word.startswith("-") and word not in PIP_OPTIONS:
            raise WrongCommandError(f"pip's option {word} is not one that the documentation needs")


def _check_cmake(arguments: Sequence[str]) -> None:
    for option, word in zip(["", *arguments], arguments, strict=False):
        if option == "-S" and not (ROOT / word / "CMakeLists.txt").is_file():
            raise WrongCommandError(f"there is nothing for CMake in {word}")
        if (name := re.match(r"-D((?:VMOE|TENSORRT)_\w+)=", word)) and name[1] not in CMAKE:
            raise WrongCommandError(f"CMake's files have no option {name[1]}")


_CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "cmake": _check_cmake,
    "make": _check_make,
    "pip": _check_pip,
    "pytest": _check_pytest,
    "python": _check_python,
    "python3": _check_python,
}


@cache
def own_options() -> frozenset[str]:
    """Every option of the project's commands."""
    options = {word for parameter in export_command.params for word in (*parameter.opts, *parameter.secondary_opts)}
    for name in ARGPARSE_MODULES.values():
        module = import_module(name)
        parser = argparse_parser(getattr(module, "parse_arguments", None) or module.main)
        options |= {word for action in parser._actions for word in action.option_strings}
    return frozenset(options | {"--help", "-h"})
