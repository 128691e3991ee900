"""What the commands share: how a command line is read, where JSON goes, and how a mistake becomes one sentence."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO, TypeVar

from vmoe_runtime import __version__
from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.errors import RoutingError, VmoeError
from vmoe_runtime.whole_files import real_path, write_whole
from vmoe_tools.interrupts import interrupt_held_back

Arguments = TypeVar("Arguments")

FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130
MOST_THREADS = 1024
STANDARD_OUTPUT = "-"


class CommandError(VmoeError):
    """Something that was asked for on a command line can't be done."""


class UsageError(CommandError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """Takes positional arguments anywhere among the options, and reports a mistake in one sentence."""

    def __init__(self, program: str, positionals: str, description: str) -> None:
        # An abbreviation that works today would be ambiguous once there is another option.
        usage = f"{program} {positionals} [options]"
        super().__init__(prog=program, usage=usage, description=description, allow_abbrev=False)
        self._several: dict[str, Callable[[str], bool]] = {}
        self.add_argument("--version", action="version", version=f"{program}, version {__version__}")

    def add_several(self, option: str, fits: Callable[[str], bool], **settings: Any) -> None:
        """Adds an option that takes one or more values and repeats.

        Args:
            option: such as "--profile".
            fits: whether a word that follows the first value is one more, and not a positional argument.
            settings: as for `add_argument`.
        """
        self._several[option] = fits
        self.add_argument(option, action="append", default=[], **settings)

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Reads the command line; None stands for that of the process.

        Raises:
            UsageError: it makes no sense.
            SystemExit: help or the version was asked for, and was printed.
        """
        return self.parse_intermixed_args(self._with_one_value_each(sys.argv[1:] if argv is None else argv))

    def add_backend(self) -> None:
        """Adds --backend, the name of one; "auto" where it isn't given."""
        text = f"auto, {', '.join(BACKENDS)} (default: auto, the fastest that is installed)"
        self.add_argument("--backend", metavar="B", choices=["auto", *BACKENDS], default="auto", help=text)

    def add_threads(self, more: str = "") -> None:
        """Adds --threads, with more to be said of them."""
        text = f"threads per call (default: the runtime's own choice){more}"
        self.add_argument("--threads", metavar="N", type=whole_number(MOST_THREADS), help=text)

    def add_json(self, what: str, other: str) -> None:
        """Adds --json, which writes `what`, and `other` to standard error then."""
        text = f"write {what} as JSON as well; - for standard output, and {other} to standard error then"
        self.add_argument("--json", metavar="FILE", help=text)

    def add_volume(self, quiet: str, verbose: str = "print a traceback with an error") -> None:
        """Adds -v and -q, which exclude each other."""
        volume = self.add_mutually_exclusive_group()
        volume.add_argument("-v", "--verbose", action="store_true", help=verbose)
        volume.add_argument("-q", "--quiet", action="store_true", help=quiet)

    def error(self, message: str) -> NoReturn:  # noqa: D102  (argparse calls it)
        raise UsageError(f"{message}; the usage is {self.usage}, and {self.prog} --help explains it")

    def _with_one_value_each(self, words: Sequence[str]) -> list[str]:
        """`--profile a b` as `--profile a --profile b`: argparse would also take a positional argument that follows."""
        expanded: list[str] = []
        option, has_value = None, False
        for position, word in enumerate(words):
            if word == "--":  # what follows are paths, which argparse would take for options where it mixes both
                return [*expanded, *(f"./{path}" if path.startswith("-") else path for path in words[position + 1 :])]
            if word.startswith("-") and word != "-":
                name, has_value = word.partition("=")[0], "=" in word
                option = name if name in self._several else None
            elif option is not None and has_value:
                if self._several[option](word):
                    expanded.append(option)
                else:
                    option = None
            has_value = has_value or not word.startswith("-")
            expanded.append(word)
        return expanded


def arguments_of(kind: type[Arguments], parsed: argparse.Namespace, **others: Any) -> Arguments:
    """What was read as a dataclass: each field has the value of that name, and those of `others` what is given here."""
    read = {each.name: getattr(parsed, each.name) for each in fields(kind) if each.name not in others}  # type: ignore[arg-type]
    return kind(**read, **others)


def whole_number(most: int) -> Callable[[str], int]:
    """Reads a number from 1 to `most`, for argparse."""

    def parse(text: str) -> int:
        if is_whole_number(text) and 1 <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not '{text}'")

    return parse


def is_whole_number(text: str) -> bool:
    """Whether a word is a number of at most nine digits; int() also takes "1_6", " 16" and the digits of every script."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def printable(text: str) -> str:
    r"""Text of a user or a bundle for a terminal: on one line, and without what steers one.

    Example:
        >>> print(printable("a cat\x1b[2J \udcff"))
        a cat\x1b[2J \udcff
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_command(
    program: str,
    run: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None,
    *,
    no_memory: str = "there is not enough memory",
    interrupted: str = "interrupted",
) -> int:
    """Runs a command and turns whatever goes wrong into one sentence on stderr.

    Args:
        program: its name.
        run: the command; takes the arguments, and returns an exit code or None for 0.
        argv: the arguments without the program's name; None for those of the process.
        no_memory, interrupted: what to say then.

    Returns:
        The exit code: that of `run`, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        check_standard_files()
        code = run(words) or 0
        # Flushed here and not at exit, where a reader that has gone would cost a traceback.
        sys.stdout.flush()
    except (VmoeError, OSError, MemoryError, KeyboardInterrupt) as error:
        sentence, code = _explain(error, no_memory, interrupted)
        if code != USAGE_ERROR and ("-v" in words or "--verbose" in words):
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(program, sentence)
    return code


def complain(program: str, sentence: str) -> None:
    """Prints one line on stderr."""
    print(f"{program}: {printable(' '.join(sentence.split()))}", file=sys.stderr)


def _explain(error: BaseException, no_memory: str, interrupted: str) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}", FAILURE
    if isinstance(error, MemoryError):
        return no_memory, FAILURE
    if isinstance(error, KeyboardInterrupt):
        return interrupted, INTERRUPTED
    return str(error), USAGE_ERROR if isinstance(error, UsageError | RoutingError) else FAILURE


def load_extra(module: str, sentence: str) -> ModuleType:
    """Imports a module that needs a package which not every installation has.

    Args:
        module: its name.
        sentence: what to say where it can't be imported, with {} for why.

    Raises:
        CommandError: it can't be.
    """
    try:
        # Some packages turn an exception on the way into one of their own.
        with interrupt_held_back():
            return import_module(module)
    except ImportError as error:
        raise CommandError(sentence.format(error)) from None


def check_standard_files() -> None:
    """Makes sure that whatever is printed has somewhere to go.

    Closed standard files are given to /dev/null: the next file opened would get their numbers, and what is printed.
    Characters that the encoding of standard output lacks are escaped, as on standard error.

    Raises:
        CommandError: standard output is closed.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        if number == 2:
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (for the rest of the process)
    os.close(number)
    if sys.stdout is None:
        raise CommandError("standard output is closed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def check_output_file(target: str | None, used: Iterable[Path | None] = ()) -> None:
    """Refuses a file that can't or mustn't be written, before anybody waits for what is to stand in it.

    Args:
        target: what --json says; None for nothing.
        used: files and bundles that the command reads or writes besides.

    Raises:
        CommandError: its folder isn't there; something that is no plain file has its name; it is one of the files used, or
            would lie in one of the bundles.
    """
    if target is None or target == STANDARD_OUTPUT:
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise CommandError(f"{path} can't be written: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise CommandError(f"{path} can't be written: it is there already and no plain file")
    real = real_path(path)
    taken = {real, real.parent} if (real.parent / MANIFEST_NAME).exists() else {real}
    for other in used:
        if other is not None and real_path(other) in taken:
            raise CommandError(f"{path} can't be written: {other} is used by this command; choose another file for --json")


def people_stream(target: str | None) -> TextIO:
    """Where what people read goes: standard output belongs to the JSON where that was asked for."""
    return sys.stderr if target == STANDARD_OUTPUT else sys.stdout


def write_json(target: str | None, content: Mapping[str, Any]) -> None:
    """Writes the content as JSON: a file by way of a temporary one beside it, which is then renamed.

    Args:
        target: what --json says; None for nowhere.
        content: what to write, without NaN and infinities.

    Raises:
        CommandError: it can't be written; a file that was there before is unchanged.
    """
    if target is None:
        return
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if target == STANDARD_OUTPUT:
        sys.stdout.write(text)
        return
    write_file(Path(target), lambda file: file.write(text))


def write_file(path: Path, write: Callable[[TextIO], object]) -> None:
    """Writes a text file that a command was asked for, whole or not at all.

    Raises:
        CommandError: it can't be written; a file that was there before is unchanged.
    """
    try:
        write_whole(path, write)
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}") from None
