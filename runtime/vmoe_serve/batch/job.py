"""A batch job and its output folder.

An output folder belongs to one job and has one writer at a time. Each part is written once.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from vmoe_remote.remote_files import reason_of
from vmoe_runtime import VmoeError, __version__
from vmoe_runtime.bundle.manifest import MANIFEST_NAME
from vmoe_serve.batch.addresses import BatchError, Location
from vmoe_serve.batch.inputs import READERS, Part
from vmoe_serve.batch.part_files import PART_FORMATS

JOB_NAME, SUCCESS_NAME, WRITER_NAME = "_job.json", "_SUCCESS", "_writer"

_SUFFIX = "|".join(PART_FORMATS)
_OURS = re.compile(rf"\.?(_job\.json|_SUCCESS|_writer|part-\d+-of-\d+-[0-9a-f]{{8}}\.({_SUFFIX}))(\.[0-9a-f]{{16}})?")
_PART = re.compile(rf"part-\d+-of-\d+-([0-9a-f]{{8}})\.(?:{_SUFFIX})")
_HASHED = {"bundle": "another bundle", "input": "another list of inputs"}


@dataclass(frozen=True)
class Job:
    """Everything that a job's results depend on. Replicas, threads and images per call do not change the results.

    Attributes:
        bundle: SHA-256 (hex) of the bundle's manifest, which contains the SHA-256s of the bundle's other files.
        input: SHA-256 (hex) of the list of input files: names, sizes, modification times and numbers of rows.
        pictures: number of pictures.
        column: name of the Parquet column that contains the pictures; None for a folder of pictures.
        setting: name of the profile; None for a model without settings.
        backend: the backend that was requested.
        output: name of the model output to write; None to write classes.
        top: number of classes per picture; None if no classes are written.
        part_size: minimum number of pictures per part.
        format: format of the parts, one of `PART_FORMATS`.
        version: version of this package.
    """

    bundle: str
    input: str
    pictures: int
    column: str | None
    setting: str | None
    backend: str
    output: str | None
    top: int | None
    part_size: int
    format: str = "parquet"
    version: str = __version__

    @property
    def text(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def answer_fields(self) -> list[pa.Field]:
        """The columns that contain the result for a picture."""
        if not self.top:
            return [pa.field(str(self.output), pa.list_(pa.float32()))]
        kinds = {"class": pa.string(), "index": pa.int32(), "probability": pa.float64()}
        return [pa.field(name, pa.list_(kind)) for name, kind in kinds.items()]

    def differences(self, other: Mapping[str, Any]) -> str:
        """Return a description of the fields that differ between this job and `other`, the JSON of another job.

        The description is empty if the jobs are the same.
        """
        pairs = [(name, other.get(name), value) for name, value in asdict(self).items()]
        return ", ".join(
            _HASHED.get(name) or f"{name.replace('_', ' ')} {theirs or 'none'} and not {ours or 'none'}"
            for name, theirs, ours in pairs
            if ours != theirs
        )


@dataclass(frozen=True)
class Written:
    """A part that has been written.

    Attributes:
        part: the part.
        errors: number of pictures that have an error instead of a result.
        runtimes: descriptions of the runtimes that ran the model.
    """

    part: Part
    errors: int
    runtimes: tuple[str, ...]


class Output:
    """The output folder of a job.

    Every file is written under a temporary name and then moved to its final name. So a file is either complete or missing.
    No picture is counted twice: the file name of each part contains a digest of the job, and only the process that started
    last may write.
    """

    def __init__(self, location: Location, job: Job, values: int = 0) -> None:
        """Create an object for the folder at `location`.

        Args:
            location: the folder.
            job: the job that writes to the folder.
            values: number of values in each list column of the results. Only CSV needs it.
        """
        self._location, self._fs, self._job, self._values = location, location.filesystem, job, values
        self._format = PART_FORMATS[job.format]
        self._token = secrets.token_hex(8)

    def begin(self, *, force: bool) -> None:
        """Claim the folder for this process and its job. The job may be new or resumed.

        Args:
            force: whether to remove the parts of another job. If False, another job in the folder is an error.

        Raises:
            BatchError: the folder can't be written, it contains files that no job wrote, or it contains another job and
                `force` is False.
        """
        with self._writing():
            _ = self._location.kind  # raises an error if the server does not respond
            if isinstance(self._fs, fs.LocalFileSystem | fs.PyFileSystem):  # pyarrow's object stores have no folders
                self._fs.create_dir(self._location.path, recursive=True)
            names = self._names()
            self._check_job(names, force=force)
            self._put(WRITER_NAME, self._token.encode())
            self._put(JOB_NAME, self._job.text.encode())
            self._remove(name for name in names if self._is_left_over(name))

    def parts(self, parts: Sequence[Part]) -> list[Written]:
        """Return those of the given parts that have already been written completely."""
        names = set(self._names())
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._written, [part for part in parts if self._name(part) in names])
        return [each for each in found if each is not None]

    def is_finished(self) -> bool:
        """Return whether the folder contains the mark of a finished job."""
        return SUCCESS_NAME in self._names()

    def unfinish(self) -> None:
        """Remove the mark that the job is finished."""
        self._remove([SUCCESS_NAME] if self.is_finished() else [])

    def write(self, part: Part, table: pa.Table, written: Written) -> None:
        """Write the results of a part.

        Raises:
            BatchError: another process now writes to the folder, or the folder can't be written.
        """
        sink = pa.BufferOutputStream()
        self._format.write(sink, table, written.errors, written.runtimes, self._values)
        with self._writing():
            self._check_writer()
            self._put(self._name(part), sink.getvalue())

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Remove leftover files and mark the job as finished.

        Raises:
            BatchError: another process now writes to the folder, or the folder can't be written.
        """
        with self._writing():
            self._check_writer()
            self._remove(name for name in self._names() if self._is_left_over(name))
            self._put(SUCCESS_NAME, (json.dumps(summary, indent=1) + "\n").encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except VmoeError:
            raise
        except Exception as error:  # fsspec's packages raise errors of their own
            raise BatchError(f"{self._location.text} can't be written: {reason_of(error, self._location.text)}") from None

    def _check_job(self, names: Sequence[str], *, force: bool) -> None:
        if foreign := [name for name in names if not _OURS.fullmatch(name)]:
            raise BatchError(f"{self._location.text} has '{foreign[0]}', which no job wrote; choose another folder")
        if JOB_NAME not in names:
            return
        try:
            other = json.loads(self._read(JOB_NAME))
            differences = self._job.differences(other)
        except (ValueError, AttributeError):
            differences = f"a {JOB_NAME} that is damaged"
        if differences and not force:
            raise BatchError(f"{self._location.text} has a job with {differences}; --force removes its parts")

    def _check_writer(self) -> None:
        if self._read(WRITER_NAME) != self._token.encode():
            raise BatchError(f"another run of this command now writes to {self._location.text}, so this one stops")

    def _written(self, part: Part) -> Written | None:
        """Read a written part from its file. If the file is damaged, return None, so that the part is written again."""
        try:
            rows, errors, runtimes = self._format.read(f"{self._location.path}/{self._name(part)}", self._fs)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
            return None
        return Written(part, errors, runtimes) if rows == part.rows else None

    def _name(self, part: Part) -> str:
        return f"part-{part.number:05}-of-{part.count:05}-{self._job.digest[:8]}.{self._job.format}"

    def _is_left_over(self, name: str) -> bool:
        """Return whether a file is a temporary file or a part of another job."""
        match = _PART.fullmatch(name)
        return name.startswith(".") or (match is not None and match[1] != self._job.digest[:8])

    def _names(self) -> list[str]:
        infos = self._fs.get_file_info(fs.FileSelector(self._location.path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def _read(self, name: str) -> bytes:
        with self._fs.open_input_stream(f"{self._location.path}/{name}") as file:
            content: bytes = file.read()
        return content

    def _put(self, name: str, content: Any) -> None:
        temporary = f"{self._location.path}/.{name}.{self._token}"
        with self._fs.open_output_stream(temporary) as file:
            file.write(content)
        self._fs.move(temporary, f"{self._location.path}/{name}")

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._fs.delete_file(f"{self._location.path}/{name}")


def manifest_digest(bundle: Path) -> str:
    """Return the SHA-256 (hex) of a bundle's manifest."""
    return hashlib.sha256((bundle / MANIFEST_NAME).read_bytes()).hexdigest()
