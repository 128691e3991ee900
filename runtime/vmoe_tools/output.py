"""The output of commands: JSON, other files, and the stream for text.

Each file is written completely or not at all.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import click

from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.errors import VmoeError
from vmoe_tools.program import with_addresses

STANDARD_OUTPUT = "-"
_DRAWINGS = (".pdf", ".png", ".svg")
LINE_SECONDS = 60
"""Seconds between two lines of progress, if no terminal shows a bar."""
WAIT_SECONDS = 20
"""Seconds between two lines that say what a command waits for."""


@contextmanager
def regular_lines(
    line: Callable[[], str], stream: TextIO, *, quiet: bool, seconds: float | None = None
) -> Iterator[Callable[[], None]]:
    """Print a line at regular intervals until the `with` block ends. Skip the line if it hasn't changed.

    Args:
        line: returns the line to print.
        stream: the stream to print to.
        quiet: print nothing.
        seconds: time between two lines; None for `LINE_SECONDS`.

    Yields:
        A function that stops the printing early.
    """
    ended = threading.Event()

    def tell() -> None:
        told = ""
        while not quiet and not ended.wait(seconds or LINE_SECONDS):
            if (text := line()) != told:
                print(told := text, file=stream, flush=True)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(tell)
        try:
            yield ended.set
        finally:
            ended.set()


def check_output_file(target: str | Path | None, used: Iterable[Path | None] = ()) -> None:
    """Refuse a file that can't or must not be written. The check runs before the user waits for the file's content.

    Args:
        target: path of the file; "-" for standard output; None if no file is written.
        used: other files and bundles that the command reads or writes.

    Raises:
        click.UsageError: one of these applies:

            - the folder is missing or read-only
            - the path exists and is not a regular file
            - the file is one of those in `used`
            - the file would be inside a bundle
    """
    if target is None or str(target) == STANDARD_OUTPUT:
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise click.UsageError(f"{path} can't be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise click.UsageError(f"{path} can't be written: {path.parent} is read-only")
    if path.exists() and not path.is_file():
        raise click.UsageError(f"{path} can't be written: it exists and is not a regular file")
    real = _real(path)
    if (real.parent / MANIFEST_NAME).exists():
        raise click.UsageError(f"{path} can't be written: {path.parent} is a bundle; choose another file")
    for other in used:
        if other is not None and _real(other) == real:
            raise click.UsageError(f"{path} can't be written: {other} is used by this command; choose another file")


def check_drawing(target: Path | None, option: str, used: Iterable[Path | None] = ()) -> None:
    """Refuse a drawing that can't be written. The checks include those of `check_output_file`.

    Raises:
        click.UsageError: `check_output_file` refuses the file, or the suffix is not that of a picture format.
        click.ClickException: matplotlib is not installed.
    """
    if target is None:
        return
    if target.suffix.lower() not in _DRAWINGS:
        raise click.UsageError(f"{option}: {target} must end in {', '.join(_DRAWINGS[:-1])} or {_DRAWINGS[-1]}")
    check_output_file(target, used)
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{option} needs {error.name}; pip install 'vmoe-export[bench]'") from None


def people_stream(*targets: str | Path | None) -> TextIO:
    """Return the stream for text: standard error if one of `targets` is standard output, else standard output.

    Raises:
        click.UsageError: several targets are standard output.
    """
    written = [target for target in targets if str(target) == STANDARD_OUTPUT]
    if len(written) > 1:
        raise click.UsageError("only one file can be written to standard output")
    return sys.stderr if written else sys.stdout


def write_json(target: str | None, content: Mapping[str, Any]) -> None:
    """Write the content as JSON.

    Args:
        target: path of the file; "-" for standard output; None to write nothing.
        content: what to write. Arrays become lists. NaN and infinity become null.

    Raises:
        click.ClickException: the file can't be written. An existing file stays unchanged.
    """
    if target is not None:
        write_file(Path(target), json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def class_records(classes: Iterable[tuple[int, float]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the classes and their probabilities as JSON objects.

    Args:
        classes: index and probability of each class.
        names: names of all classes of the model; None if the bundle has none.
    """
    return [
        {"class": names[index] if names else str(index), "index": index, "probability": probability}
        for index, probability in classes
    ]


def write_file(path: Path, text: str) -> None:
    """Write a text file completely or not at all; see `write_large_file`. The path "-" is standard output."""
    if str(path) == STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file completely or not at all; see `write_large_file`."""
    write_large_file(path, lambda file: file.write(content), mode)


def write_large_file(path: Path, write: Callable[[IO[bytes]], object], mode: int | None = None) -> None:
    """Write a file completely or not at all: write a temporary file in the same folder, then rename it.

    Args:
        path: path of the file. If it is a link, the file that it points to is replaced, and the link stays.
        write: writes the content to an open file.
        mode: permissions of the file. If None, an existing file keeps its permissions, and a new file gets the default
            permissions.

    Raises:
        click.ClickException: the file can't be written. An existing file stays unchanged.
    """
    real = _real(path)
    part = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=real.parent, prefix=f".{real.name:.40}.", delete=False) as file:
            part = Path(file.name)
            write(file)
        part.chmod(mode or (real.stat().st_mode if real.exists() else 0o666 & ~_umask()))
        part.replace(real)
    except OSError as error:
        raise click.ClickException(f"{path} can't be written: {error.strerror}") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a command writes, and may replace.

    Attributes:
        noun: name of the kind in messages.
        command: the command that writes such folders.
        marker: name of the JSON file in the folder that lists all of the folder's files.
        format: value of the key `format` in the marker file. It shows that the command wrote the folder.
    """

    noun: str
    command: str
    marker: str
    format: str

    def check(self, target: Path, *, force: bool) -> None:
        """Refuse a target if the folder can't be written there. An empty folder is accepted.

        Args:
            target: path of the folder.
            force: whether to accept an existing folder that the command wrote.

        Raises:
            VmoeError: the target exists and must not be replaced, its parent folder is missing or read-only, or it would be
                inside a bundle.
        """
        if target.name in {"", ".."}:
            raise VmoeError(f"'{target}' is not a name for a {self.noun}")
        if not target.absolute().parent.is_dir():
            raise VmoeError(f"{target.absolute().parent} is not a folder; make it first")
        if not os.access(target.absolute().parent, os.W_OK):
            raise VmoeError(f"{target} can't be written: {target.absolute().parent} is read-only")
        bundle = next((folder for folder in _real(target).parents if (folder / MANIFEST_NAME).exists()), None)
        if bundle is not None:
            raise VmoeError(f"{target} can't be written: {bundle} is a bundle; choose another folder")
        if not os.path.lexists(target) or (target.is_dir() and not target.is_symlink() and not any(target.iterdir())):
            return
        if not force:
            raise VmoeError(f"{target} exists; --force replaces it if {self.command} wrote it")
        try:
            marker = json.loads((target / self.marker).read_bytes())
            ours = {self.marker, *marker["files"]} if marker["format"] == self.format and not target.is_symlink() else None
        except (OSError, ValueError, TypeError, KeyError):
            ours = None
        if ours is None:
            raise VmoeError(f"{target} exists and was not written by {self.command}, so it is not replaced")
        for path in sorted(target.rglob("*")):
            # When Triton runs a model, Python adds __pycache__ to the folder of the model repository.
            is_ours = path.is_dir() or path.parent.name == "__pycache__" or str(path.relative_to(target)) in ours
            if not is_ours or path.is_symlink():
                raise VmoeError(f"{target} holds '{path.relative_to(target)}', which {self.command} didn't write")

    def write(
        self, target: Path, contents: Mapping[str, bytes | Path], facts: Mapping[str, Any] | None = None, *, force: bool
    ) -> int:
        """Write a folder completely or not at all.

        Args:
            target: path of the folder.
            contents: for each path inside the folder, the content of the file, or an existing file to link to.
            facts: further keys and values of the marker file.
            force: whether to replace an existing folder that the command wrote.

        Returns:
            The total size in bytes of the files that were copied because they couldn't be linked.

        Raises:
            VmoeError: the target contains something that the command didn't write, or can't be written.
            FileNotFoundError: a file to link to no longer exists.
        """
        marker = {"format": self.format, "files": sorted(contents), **(facts or {})}
        contents = {**contents, self.marker: (json.dumps(marker, indent=1) + "\n").encode()}
        written, aside = (target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}") for _ in range(2))
        try:
            copied = sum(_put(written / path, content) for path, content in contents.items())
            self.check(target, force=force)
            if target.exists():
                target.rename(aside)
            written.rename(target)
        except FileNotFoundError:
            raise
        except OSError as error:  # if the disk is full, the error's file name is None or the source's name
            raise VmoeError(f"{target} can't be written: {error.strerror or error}") from None
        finally:
            if aside.exists() and not target.exists():
                aside.rename(target)
            for folder in (written, aside):
                shutil.rmtree(folder, ignore_errors=True)
        return copied


def _put(path: Path, content: bytes | Path) -> int:
    """Write bytes to a file, or link the path to an existing file. If linking fails, copy the file.

    Returns:
        The number of bytes that were copied because linking failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return 0
    try:
        os.link(content, path)
    except FileNotFoundError:
        raise
    except OSError:  # the target is on another file system, or the file system has no hard links
        shutil.copyfile(content, path)
        return path.stat().st_size
    return 0


def plain(value: Any) -> Any:
    """Convert dicts, lists, tuples and arrays to values for JSON.

    Arrays become lists. NaN and infinity become None. In strings, the path of a copied remote file is replaced by its URL.
    """
    if isinstance(value, str):
        return with_addresses(value)
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if hasattr(value, "tolist"):  # `value` is a numpy array or number
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _real(path: Path) -> Path:
    """Return the absolute path with all links followed. Unlike Path.resolve, it doesn't raise if links form a loop."""
    return Path(os.path.realpath(path))
