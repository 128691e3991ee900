"""The program `vmoe`. It imports a command only when the command is called, and reports any error in one line."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

FAILURE, USAGE_ERROR = 1, 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"  # needed because a progress bar hides the cursor

_WORDS: list[str] = []
"""The command line of this run."""
_KINDS = {"float": "a number such as 0.3", "integer": "a whole number"}
"""click's names of number types, and plainer ones."""
ADDRESSES: dict[str, str] = {}
"""The addresses of files that this run copied, by the path of the copy. Messages show the address."""


@dataclass(frozen=True)
class Entry:
    """A command of the program.

    Attributes:
        module: the module that contains the command, as an attribute with the command's name.
        summary: the command's line in `vmoe --help`.
        extra: the extra that installs the command's dependencies: pip install 'vmoe-export[EXTRA]'. Empty if the command
            needs no extra.
    """

    module: str
    summary: str
    extra: str = ""


_ENTRIES = {
    "export": Entry("vmoe_export.command", "Convert a V-MoE checkpoint into a bundle.", "export"),
    "zeroshot": Entry("vmoe_export.zeroshot.command", "Export a CLIP or SigLIP for classes that you name.", "export"),
    "prune": Entry("vmoe_export.pruning.command", "Write a checkpoint with fewer experts.", "export"),
    "run": Entry("vmoe_tools.run.command", "Classify image files.", "images"),
    "bench": Entry("vmoe_tools.bench.command", "Measure accuracy, speed and FLOPs against capacity.", "bench"),
    "inspect": Entry("vmoe_tools.inspect.command", "Describe a bundle, or the routing of images.", "bench"),
    "fewshot": Entry("vmoe_tools.fewshot.command", "Fit a head for your own classes.", "bench"),
    "report": Entry("vmoe_tools.report.command", "Measure against capacity, and write an HTML page.", "bench"),
    "page": Entry("vmoe_tools.page.command", "Write a page that runs a bundle in a browser.", "bench"),
    "serve": Entry("vmoe_serve.command", "Serve over HTTP, in batch jobs, or with Triton.", "serve"),
    "build": Entry("vmoe_tools.build.command", "Build a TensorRT engine for one profile.", "tensorrt"),
}


class LazyCommands(click.Group):
    """A group that imports a command only when it is called.

    The group's help and the completion of command names don't import any command.
    """

    entries: Mapping[str, Entry]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command with this name, and return it. If the name is unknown, return None."""
        entry = self.entries.get(cmd_name)
        command: click.Command | None = getattr(import_module(entry.module), cmd_name) if entry else None
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first word specifies.

        If the word is not a command but resembles one, fail and suggest that command.
        """
        near = get_close_matches(args[0], self.entries, 1)
        if near and near[0] != args[0] and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and summaries of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands whose names begin with `incomplete`, with their summaries."""
        found = [CompletionItem(name, help=e.summary) for name, e in self.entries.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


class _Commands(LazyCommands):
    entries = _ENTRIES

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            return super().get_command(ctx, cmd_name)
        except ImportError as error:
            if error.name == "fcntl":
                raise click.ClickException(f"vmoe {cmd_name} needs file locks, which only Linux and macOS have") from None
            why = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
            extra = self.entries[cmd_name].extra
            raise click.ClickException(f"{why}; pip install 'vmoe-export[{extra}]'") from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as error:
            # click's own handling would lose the number of the signal, and hide that a pipe was closed.
            raise _Stopped from error


class _Stopped(Exception):
    """Raised when a command was stopped. Its `__cause__` is the exception that stopped the command."""


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="vmoe-export", prog_name="vmoe")
def program() -> None:
    """Deploy V-MoE, Google's Vision Mixture of Experts, at the capacity you choose."""


class _Signalled(KeyboardInterrupt):
    """Raised when a signal asks the process to end. It lets the program close its files and remove temporary files."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main(argv: Sequence[str] | None = None, prefix: Sequence[str] = ()) -> int:
    """Run the program.

    Args:
        argv: the arguments without the program's name; None for the arguments of the process.
        prefix: arguments to insert before `argv`.

    Returns:
        The exit code. Unless it is 0, one line on standard error explains the error.

        - 0: success
        - 1: any error not listed here
        - 2: a wrong command line
        - 128 + N: ended by signal N; 130 for Ctrl-C
    """
    words = [*prefix, *(sys.argv[1:] if argv is None else argv)]
    unturned = _unturned_pictures()
    ADDRESSES.clear()
    _WORDS[:] = words
    _end_at_signals()
    warnings.formatwarning = lambda message, *_, **__: f"vmoe: warning: {printable(str(message))}\n"
    try:
        _check_standard_files()
        code = program.main(words, prog_name="vmoe", standalone_mode=False, obj=words)
        # Flush standard output now. If the pipe is closed, a flush at exit would print a traceback.
        sys.stdout.flush()
        if (count := _unturned_pictures() - unturned) > 1:
            complain(f"the EXIF orientation of {count} pictures was ignored; a bundle from vmoe export --exif rotates them")
    except click.exceptions.NoArgsIsHelpError as help_instead:
        help_instead.show()
        return USAGE_ERROR
    except (Exception, KeyboardInterrupt) as raised:
        error = raised.__cause__ if isinstance(raised, _Stopped) and raised.__cause__ else raised
        error = _signal_behind(raised) or error
        explanation = _explain(error)
        if explanation is None:  # a defect
            raise
        sentence, code = explanation
        if code != USAGE_ERROR and ("-v" in words or "--verbose" in words):
            print(_without_secrets(traceback.format_exc()), file=sys.stderr, end="")
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(sentence)
    return code or 0


def _unturned_pictures() -> int:
    images = sys.modules.get("vmoe_runtime.images")  # commands that read no pictures don't import this module
    return images.unturned_pictures() if images else 0


def _signal_behind(error: BaseException | None) -> _Signalled | None:
    """Return the signal that caused an error; None if no signal caused it.

    If a signal arrives while a module is being imported, an ImportError may hide the signal's exception.
    """
    while error is not None and not isinstance(error, _Signalled):
        error = error.__cause__ or error.__context__
    return error


def main_of_export() -> int:
    """Run `vmoe export` as the program `vmoe-export`."""
    return main(prefix=["export"])


def complain(sentence: str) -> None:
    """Print one line on standard error."""
    cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
    print(f"{cursor}vmoe: {printable(_without_secrets(' '.join(sentence.split())))}", file=sys.stderr)


def _without_secrets(text: str) -> str:
    try:
        from vmoe_runtime.addresses import without_secrets  # this import loads numpy, which `vmoe --help` doesn't need
    except ImportError:  # `text` is the message of this ImportError
        return text
    return without_secrets(text, *_WORDS)


def printable(text: str) -> str:
    r"""Make text from a user or a bundle safe for a terminal: put it on one line, and escape control characters.

    Examples:
        >>> print(printable("a cat\x1b[2J \udcff"))
        a cat\x1b[2J \udcff
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in with_addresses(text))


def with_addresses(text: str) -> str:
    """Replace the path of each copied file in a text with the URL that the file was copied from."""
    for copy, address in ADDRESSES.items():
        text = text.replace(copy, address)
    return text


def _explain(error: BaseException) -> tuple[str, int] | None:  # noqa: PLR0911
    """Return a message for the user, and the exit code. If the error is a bug in the program, return None."""
    if isinstance(error, click.Abort) and error.__cause__ is not None:  # click converts a KeyboardInterrupt into an Abort
        error = error.__cause__
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "vmoe"
        said = error.format_message().rstrip(".")
        for kind, words in _KINDS.items():
            said = re.sub(rf"a valid {kind}( range)?$", words, said)
        return f"{said}{' ' if said.endswith('?') else '; '}{path} --help explains the options", USAGE_ERROR
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, _Signalled) and error.number != signal.SIGINT:
        return f"ended by {signal.Signals(error.number).name}", 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}", FAILURE
    if isinstance(error, MemoryError):
        return "there is not enough memory; a smaller batch size or image size takes less", FAILURE
    from vmoe_runtime.errors import UsageError, VmoeError  # this import loads numpy, which `vmoe --help` doesn't need

    if not isinstance(error, VmoeError):
        return None
    return str(error), USAGE_ERROR if isinstance(error, UsageError) else FAILURE


def _end_at_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise an exception. Signals that the process already ignores stay ignored."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise _Signalled(number)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, stop)


def _check_standard_files() -> None:
    """Make sure that output can be written.

    - Open /dev/null for each closed standard file. Otherwise, the next file that is opened would get the number of the
      standard file, and receive the output.
    - If the encoding of standard output lacks a character, escape the character. Python does the same on standard error.

    Raises:
        click.ClickException: standard output is closed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        if number == 2:
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (open until the process ends)
    os.close(number)
    if sys.stdout is None:
        raise click.ClickException("standard output is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
