"""Makes private copies of files at URLs such as s3://bucket/name, which are read with fsspec."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import unquote

from vmoe_runtime.addresses import is_web, public_address, without_secrets
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_runtime.bundle.manifest_fields import MAX_MANIFEST_BYTES
from vmoe_runtime.bundle.manifest_reader import parse_manifest
from vmoe_runtime.errors import BundleError, VmoeError, shown

T = TypeVar("T")

_BLOCK, _SMALLEST_BLOCK = 16 << 20, 64 << 10  # bytes per request: the initial number, and the minimum after failures
_SMALL_FILE, _SMALL_FILES = 1 << 20, 64  # files of at most 1 MiB are requested in parallel, up to 64 at once
TRIES = 5
"""Number of successive tries without a byte after which a request fails."""
_PAUSE = 0.5  # seconds between the first two tries; each further pause is twice as long
_SILENCE = 30.0  # a try ends if the server sends no byte for this many seconds
_ABSENT, _ABSENT_STATUS = (FileNotFoundError, NotADirectoryError, PermissionError), (401, 403, 404, 410)

Seen = tuple[int, object]
"""Size of a file in bytes, and its ETag or time of modification if the server sends one."""


class RemoteError(VmoeError):
    """Raised if a remote file is missing or can't be copied."""


def open_filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the URL's path in that file system.

    The packages that fsspec uses are configured to give up if a server sends nothing for 30 s. They are also configured not
    to retry, because the caller of this function retries. The user's own fsspec settings take precedence.

    Raises:
        ImportError: fsspec, or the package that it needs for such URLs, is missing.
        Exception: any error that these packages raise.
    """
    import fsspec

    options: dict[str, Any] = {
        "s3": {"config_kwargs": {"connect_timeout": _SILENCE, "read_timeout": _SILENCE, "retries": {"max_attempts": 0}}}
    }
    options["s3a"] = options["s3"]
    if user := re.search(r"(s3a?://)([^/?#:@]+):([^?#@]+)@", address):  # credentials in pyarrow's URL format
        options["s3"] |= {"key": unquote(user[2]), "secret": unquote(user[3])}
        address = address.replace(user[0], user[1])
    with suppress(ModuleNotFoundError):  # if aiohttp is missing, http and gs URLs can't be opened anyway
        from aiohttp import ClientTimeout

        silence = ClientTimeout(sock_connect=_SILENCE, sock_read=_SILENCE)
        options["http"] = options["https"] = {"client_kwargs": {"timeout": silence}}
        options["gs"] = options["gcs"] = {"requests_timeout": silence}
    system, path = fsspec.core.url_to_fs(
        address,
        **{
            scheme: {name: value for name, value in chosen.items() if name not in fsspec.config.conf.get(scheme, {})}
            for scheme, chosen in options.items()
            if re.search(rf"(^|::){scheme}://", address, re.IGNORECASE)
        },
    )
    if "s3" in system.protocol:
        system.retries = 1
    return system, path


class RemoteFiles(AbstractContextManager["RemoteFiles"]):
    """The files at a URL, and private copies of some of them. The copies are deleted when the `with` block ends.

    A file's `suffix` is the rest of its URL after `address`. For example, it is ".index" if the address is a prefix,
    "/manifest.json" if the address is a folder, and "" if the address is the file itself.

    Args:
        address: the URL of a file or a folder, or the common beginning of several URLs.
        tell: called during copies with two numbers of bytes: the number copied so far, and the total number known to be
            needed.

    Attributes:
        address: the URL without secrets.
        path: path of the copy. The last part of the path is the last part of the URL.

    Raises:
        RemoteError: fsspec, or the package that it needs for such URLs, is missing.
    """

    def __init__(self, address: str, tell: Callable[[int, int], object] = lambda done, total: None) -> None:
        self.address, self._tell, self._is_web = public_address(address), tell, is_web(address)
        # The query of a web URL may be a signature. Assume that the signature is also valid for files next to the URL and
        # below it.
        base, mark, query = address.partition("#")[0].partition("?") if self._is_web else (address, "", "")
        self._query, base = mark + query, base.rstrip("/")
        try:
            self._fs, self._root = open_filesystem(base)
        except Exception as error:  # usually a package is missing, and the error says which
            if isinstance(error, ModuleNotFoundError) and error.name == "fsspec":
                needed = f"{self.address} needs fsspec, which is missing; pip install 'vmoe-export[remote]'"
                raise RemoteError(needed) from None
            raise RemoteError(f"{self.address}: {reason_of(error, address)}") from None
        self._fs.invalidate_cache()
        self._done = self._total = 0
        self._heard, self._secret = time.monotonic(), address
        self._folder = tempfile.TemporaryDirectory(prefix="vmoe-", ignore_cleanup_errors=True)
        self.path = Path(os.path.realpath(self._folder.name)) / self._checked(self._unquoted(self._root.rpartition("/")[2]))

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def size(self, suffix: str) -> int | None:
        """Return the size of a file in bytes. Return None if the file doesn't exist.

        Raises:
            RemoteError: the server doesn't answer, or doesn't report the size.
        """
        seen = self._look(self._root + suffix + self._query)
        return None if seen is None else seen[0]

    def names(self) -> list[str]:
        """Return the sorted names of the files and subfolders in the folder at the URL.

        The list is empty if the folder can't be listed.
        """
        try:
            found = self._patiently(self.address, lambda: answer_of(lambda: self._fs.ls(self._root, detail=False)))
        except RemoteError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def copy(self, suffixes: Iterable[str]) -> None:
        """Copy the files with the given `suffixes`.

        Raises:
            RemoteError: a file is missing or can't be read, or the disk has too little space.
        """
        self._copy({suffix: (self._root + suffix + self._query, None) for suffix in suffixes})

    def copy_all(self) -> None:
        """Copy the bundle at the URL.

        If there is no bundle, copy the file at the URL. If the URL is a folder, copy all files in it and in its subfolders.
        """
        if not self.copy_bundle():
            self.copy_below("")

    def copy_bundle(self) -> bool:
        """Copy the manifest and all files that it lists, and return True.

        If there is no valid manifest, copy nothing more and return False.
        """
        manifest = f"/{MANIFEST_NAME}"
        if not 0 < (self.size(manifest) or 0) <= MAX_MANIFEST_BYTES:
            return False
        self.copy([manifest])
        try:
            files = parse_manifest((self.path / MANIFEST_NAME).read_bytes()).files
        except BundleError:  # the manifest may belong to another program; opening the copy later reports the error
            return False
        self.copy(f"/{name}" for name in files)
        return True

    def copy_below(self, suffix: str) -> None:
        """Copy the file with this `suffix`. If it is a folder, copy all files in the folder and its subfolders."""
        if self.size(suffix) is not None:
            self.copy([suffix])
            return
        root = self._root + suffix
        found = self._patiently(f"{self.address}{suffix}", lambda: self._fs.find(root, detail=True))
        # A web server's listing may contain links to other places, and links that only change the order of the listing. Skip
        # both kinds of links.
        below = {
            self._unquoted(name[len(self._root) :]): (name + self._query, None if self._is_web else _seen(info))
            for name, info in sorted(found.items())
            if name.startswith(f"{root}/") and not name.endswith("/") and not (self._is_web and re.search("[?#]", name))
        }
        if not below and not self._done:
            raise RemoteError(f"{self.address}{suffix} is not there, is empty, or may not be read")
        self._copy(below)

    def _copy(self, files: Mapping[str, tuple[str, Seen | None]]) -> None:
        found: dict[str, tuple[str, Seen]] = {}
        for suffix, (remote, listed) in files.items():
            self._checked(self.path.name + suffix)
            seen = listed or self._look(remote)
            if seen is None:
                raise RemoteError(f"{self.address}{suffix} is not there, or may not be read")
            found[suffix] = remote, seen
        needed, free = sum(seen[0] for _, seen in found.values()), shutil.disk_usage(self._folder.name).free
        if free < needed:
            sizes = f"{needed / 1e6:,.1f} MB, and {self.path.parent.parent} has {free / 1e6:,.1f} MB free"
            raise RemoteError(f"{self.address} takes {sizes}; the variable TMPDIR names another folder for copies")
        self._total += needed
        small = [suffix for suffix, (_, seen) in found.items() if seen[0] <= _SMALL_FILE]
        for start in range(0, len(small), _SMALL_FILES):
            self._copy_small({found[suffix]: suffix for suffix in small[start : start + _SMALL_FILES]})
        for suffix, (remote, seen) in found.items():
            if not self._target(suffix).exists():
                self._copy_file(suffix, remote, seen, failures=int(suffix in small))

    def _copy_small(self, files: Mapping[tuple[str, Seen], str]) -> None:
        """Copy several files in parallel. Files that fail or arrive incomplete are later copied by `_copy_file`."""
        contents: Mapping[str, object] = {}
        with suppress(Exception):  # `_copy_file` copies the files that fail, and reports the errors
            contents = self._fs.cat([remote for remote, _ in files], on_error="return")
        for (remote, (size, _)), suffix in files.items():
            content = contents.get(remote)
            if isinstance(content, bytes) and len(content) == size:
                self._target(suffix).write_bytes(content)
                self._advance(size)

    def _copy_file(self, suffix: str, remote: str, seen: Seen, failures: int) -> None:
        """Copy one file.

        If a transfer breaks, resume it where it stopped. Make the requests smaller after each failure. If the server can't
        send parts of a file, start the transfer again from the beginning.
        """
        size, done, block = seen[0], 0, _BLOCK
        with self._target(suffix).open("wb") as out:
            while done < size:
                start = done
                try:
                    for piece in self._pieces(remote, start, block):
                        out.write(piece)
                        done += len(piece)
                        self._advance(len(piece))
                    if done < size:
                        raise EOFError(f"{done} of {size} bytes came")
                except Exception as error:
                    if done and block and isinstance(error, ValueError):  # not a failure: the server can't send parts
                        block = 0
                    else:
                        failures = 1 if done > start and block else failures + 1
                        self._wait(f"{self.address}{suffix}", error, failures)
                        block = block and max(min(block, size) // 4, _SMALLEST_BLOCK)
                    if not block:
                        self._advance(-done)
                        done = out.truncate(out.seek(0))
                if done > size or ((failures or size > block) and self._look(remote, failures) != seen):
                    raise RemoteError(f"{self.address}{suffix} was changed while it was copied; try again")

    def _pieces(self, remote: str, start: int, block: int) -> Iterator[bytes]:
        with self._fs.open(remote, "rb", block_size=block, cache_type="none") as source:
            if start:
                source.seek(start)
            while piece := source.read(block or _BLOCK):
                yield piece

    def _look(self, remote: str, failures: int = 0) -> Seen | None:
        """Return the size and version of a file. Return None if the file doesn't exist.

        `failures` is the number of tries that have already failed.
        """
        name = self.address + remote[len(self._root) :].removesuffix(self._query)
        self._fs.invalidate_cache()
        try:
            info: dict[str, Any] = self._patiently(name, lambda: answer_of(lambda: self._fs.info(remote)), failures)
        except RemoteError as error:
            if error.__cause__ and _is_absent(error.__cause__):
                return None
            raise
        if info["type"] != "file" or (self._is_web and info.get("mimetype") == "text/html"):
            return None
        if not isinstance(info.get("size"), int):
            raise RemoteError(f"{name}: the server doesn't say how large it is, so that it can't be checked")
        return _seen(info)

    def _patiently(self, name: str, call: Callable[[], T], failures: int = 0) -> T:
        """Return the result of `call`. If the call fails, repeat it until it succeeds or `_wait` raises an error."""
        if not failures:
            self._heard = time.monotonic()
        while True:
            try:
                return call()
            except Exception as error:
                failures += 1
                self._wait(name, error, failures)

    def _wait(self, name: str, error: Exception, failures: int) -> None:
        """Wait before the next try. Raise RemoteError if too many tries have failed, or if another try can't help."""
        # Sometimes the real cause is the earlier error in the chain. On any failure of a web server, fsspec reports that the
        # file doesn't exist. After a timeout, s3fs fails with another error while it handles the timeout.
        behind = error.__cause__ or error.__context__
        hides_cause = isinstance(behind, TimeoutError) or (isinstance(error, FileNotFoundError) and self._is_web)
        cause = (hides_cause and behind) or error
        is_silent = time.monotonic() - self._heard >= TRIES * _SILENCE  # a limit in case the package itself retries
        if _is_absent(cause) or failures >= TRIES or is_silent:
            raise RemoteError(f"{name} can't be read: {reason_of(cause, self._secret)}") from cause
        time.sleep(_PAUSE * 2 ** (failures - 1))

    def _advance(self, count: int) -> None:
        self._done, self._heard = self._done + count, time.monotonic()
        self._tell(self._done, self._total)

    def _target(self, suffix: str) -> Path:
        target = Path(f"{self.path}{suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _unquoted(self, name: str) -> str:
        return unquote(name) if self._is_web else name

    def _checked(self, name: str) -> str:
        if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise RemoteError(f"{self.address} has a file {shown(name)}, which is no name for a file here")
        return name


def answer_of(request: Callable[[], T], tries: int = 1) -> T:
    """Make a short request in a thread, and return its result. If the request takes too long, abandon the thread.

    Args:
        request: the function that makes the request.
        tries: number of tries that the package itself makes. In each of them, the server may be silent for 30 s.

    Raises:
        TimeoutError: the request takes longer than 30 s per try.
        Exception: any error that `request` raises.
    """
    answer: Future[T] = Future()

    def ask() -> None:
        try:
            answer.set_result(request())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(tries * _SILENCE)


def _is_absent(error: BaseException) -> bool:
    """Return whether the error means that the file doesn't exist.

    A refused access also counts, because some servers don't reveal which files exist. They refuse access to missing files.
    """
    return isinstance(error, _ABSENT) or getattr(error, "status", None) in _ABSENT_STATUS


def _seen(info: Mapping[str, Any]) -> Seen:
    return info["size"], info.get("ETag") or info.get("etag") or info.get("Last-Modified")


def reason_of(error: BaseException, *addresses: str) -> str:
    """Return the reason for a package's error as one line of at most 300 characters.

    Remove the secrets of `addresses` from the line.
    """
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        said = "it is not there"
    said = re.sub(r".*Detail: \[errno \d+\] ", "", said)  # keep only the system's message at the end
    if isinstance(error, TimeoutError):
        said = f"the server sent nothing for {_SILENCE:g} s"
    return " ".join(without_secrets(said, *addresses).split())[:300]
