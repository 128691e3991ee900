"""Where a command's results go: JSON and other files that are written whole or not at all, and what people read."""

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
"""Between two lines about a long work, where no terminal shows a bar."""
WAIT_SECONDS = 20
"""Between two lines about what a command waits for."""


@contextmanager
def regular_lines(
    line: Callable[[], str], stream: TextIO, *, quiet: bool, seconds: float | None = None
) -> Iterator[Callable[[], None]]:
    """Prints what a function returns, if it is new, regularly until the block ends, or what it yields is called.

    Args:
        line: returns the line to print.
        stream: where to.
        quiet: print nothing.
        seconds: between two lines; None for `LINE_SECONDS`.
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
    """Refuses a file that can't or mustn't be written, before anybody waits for its content.

    Args:
        target: path of the file; "-" for standard output; None for none.
        used: files and bundles that the command reads or writes besides.

    Raises:
        click.UsageError: its folder isn't there or is read-only; something that is no plain file has its name; it is one of
            the files used, or would lie in a bundle.
    """
    if target is None or str(target) == STANDARD_OUTPUT:
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise click.UsageError(f"{path} can't be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise click.UsageError(f"{path} can't be written: {path.parent} is read-only")
    if path.exists() and not path.is_file():
        raise click.UsageError(f"{path} can't be written: it is there already and no plain file")
    real = _real(path)
    if (real.parent / MANIFEST_NAME).exists():
        raise click.UsageError(f"{path} can't be written: {path.parent} is a bundle; choose another file")
    for other in used:
        if other is not None and _real(other) == real:
            raise click.UsageError(f"{path} can't be written: {other} is used by this command; choose another file")


def check_drawing(target: Path | None, option: str, used: Iterable[Path | None] = ()) -> None:
    """The same for a picture, which needs matplotlib, too.

    Raises:
        click.UsageError: as above, or the suffix names no format.
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
    """Where what people read goes: standard output belongs to the JSON or another file that is written there.

    Raises:
        click.UsageError: several are.
    """
    written = [target for target in targets if str(target) == STANDARD_OUTPUT]
    if len(written) > 1:
        raise click.UsageError("only one file can be written to standard output")
    return sys.stderr if written else sys.stdout


def write_json(target: str | None, content: Mapping[str, Any]) -> None:
    """Writes the content as JSON.

    Args:
        target: path of a file, "-" for standard output, None for nowhere.
        content: what to write; arrays become lists, and what is no finite number null.

    Raises:
        click.ClickException: it can't be written; a file that was there before is unchanged.
    """
    if target is not None:
        write_file(Path(target), json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def class_records(classes: Iterable[tuple[int, float]], names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Classes with their probabilities, as JSON has them.

    Args:
        classes: index and probability of each.
        names: of all classes; None where the bundle has none.
    """
    return [
        {"class": names[index] if names else str(index), "index": index, "probability": probability}
        for index, probability in classes
    ]


def write_file(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, or to standard output if its path is "-"; see `write_large_file`."""
    if str(path) == STANDARD_OUTPUT:
        sys.stdout.write(text)
    else:
        write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """Writes a file whole or not at all; see `write_large_file`."""
    write_large_file(path, lambda file: file.write(content), mode)


def write_large_file(path: Path, write: Callable[[IO[bytes]], object], mode: int | None = None) -> None:
    """Writes a file by way of a temporary one beside it, which is renamed.

    Args:
        path: of the file. A link stays one: the file that it points to is replaced.
        write: writes the content to an open file.
        mode: who may read and write it; None for what a file that was there before has, or a new one gets.

    Raises:
        click.ClickException: it can't be written; a file that was there before is unchanged.
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
    """Folders that a command writes, and may replace.

    Attributes:
        noun: what one is called.
        command: that writes them.
        marker: name of the JSON file in one that names all of its files.
        format: that this file says.
    """

    noun: str
    command: str
    marker: str
    format: str

    def check(self, target: Path, *, force: bool) -> None:
        """Refuses a target that can't become such a folder. One that is empty can.

        Args:
            target: where the folder will be.
            force: it may replace one that the command wrote.

        Raises:
            VmoeError: there is something already, no folder to write in, or a bundle around it.
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
            # Python keeps what it compiled beside a model that Triton has run.
            is_ours = path.is_dir() or path.parent.name == "__pycache__" or str(path.relative_to(target)) in ours
            if not is_ours or path.is_symlink():
                raise VmoeError(f"{target} holds '{path.relative_to(target)}', which this command didn't write, so it stays")

    def write(
        self, target: Path, contents: Mapping[str, bytes | Path], facts: Mapping[str, Any] | None = None, *, force: bool
    ) -> int:
        """Writes a folder, whole or not at all.

        Args:
            target: the folder that it becomes.
            contents: by path inside it: the bytes of a file, or the file to link to.
            facts: what the marker says besides.
            force: it may replace one that the command wrote.

        Returns:
            How many bytes of files were copied, as they can't be linked to.

        Raises:
            VmoeError: the target holds something else, or can't be written.
            FileNotFoundError: a file to link to has gone.
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
        except OSError as error:  # a full disk's names no file, or the one that was read
            raise VmoeError(f"{target} can't be written: {error.strerror or error}") from None
        finally:
            if aside.exists() and not target.exists():
                aside.rename(target)
            for folder in (written, aside):
                shutil.rmtree(folder, ignore_errors=True)
        return copied


def _put(path: Path, content: bytes | Path) -> int:
    """Writes a file or links to it; returns the bytes that were copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
        return 0
    try:
        os.link(content, path)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(content, path)
        return path.stat().st_size
    return 0


def plain(value: Any) -> Any:
    """Dicts, lists, tuples and arrays as JSON has them: arrays are lists, and what is no finite number is None.

    What was copied is named by its address.
    """
    if isinstance(value, str):
        return with_addresses(value)
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if hasattr(value, "tolist"):  # of numpy
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _real(path: Path) -> Path:
    """The absolute path of what links lead to; Path.resolve raises where they lead in a circle."""
    return Path(os.path.realpath(path))
