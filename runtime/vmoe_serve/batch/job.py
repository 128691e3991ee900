"""What a job is: everything that its output depends on, and how its input is divided."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

from vmoe_runtime import __version__
from vmoe_runtime.errors import VmoeError

FORMAT = "vmoe-batch-job 1"

_HASHED = {"bundle": "another bundle", "input": "another list of inputs"}


class JobError(VmoeError):
    """A job description that can't be read."""


@dataclass(frozen=True)
class Job:
    """What the shards of a job depend on. Replicas, threads and images per call are not part of it.

    Attributes:
        bundle: SHA-256 (hex) of the bundle's manifest, which has those of its other files.
        input: SHA-256 (hex) of the list of inputs: names, sizes, times of change, and rows.
        pictures: how many.
        column: of Parquet files; None for a folder of pictures.
        setting: name of the profile; None for a model that has nothing to set.
        backend: as it was asked for.
        output: name of the model's output that is written; None for classes.
        top: classes per picture; None where none are written.
        shard_size: pictures per shard; the last one may have fewer.
        version: of this package.
    """

    bundle: str
    input: str
    pictures: int
    column: str | None
    setting: str | None
    backend: str
    output: str | None
    top: int | None
    shard_size: int
    version: str = __version__

    @property
    def text(self) -> str:
        """The job as JSON: the same for the same job."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def shards(self) -> list[Shard]:
        """The shards, in the order of the input."""
        starts = range(0, self.pictures, self.shard_size)
        return [
            Shard(number, len(starts), first, min(first + self.shard_size, self.pictures))
            for number, first in enumerate(starts)
        ]

    def differences(self, other: Self) -> str:
        """What is otherwise than in another job, in words; empty for the same job."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(
            _HASHED.get(name) or f"{name.replace('_', ' ')} {ours or 'none'} and not {theirs or 'none'}"
            for name, ours, theirs in pairs
            if ours != theirs
        )

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """The job of a text.

        Raises:
            JobError: it is none.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT:
                raise JobError("another version of vmoe-serve wrote it")
            job = cls(**content)
            if job.text.encode() != (text if isinstance(text, bytes) else text.encode()):
                raise JobError("it was changed")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise JobError("it is damaged") from None
        return job


@dataclass(frozen=True)
class Shard:
    """Neighbouring pictures of the input, whose answers are one file.

    Attributes:
        number: from 0 on.
        count: of all shards.
        first, stop: numbers of the pictures in the input; `stop` is not among them.
    """

    number: int
    count: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"shard-{self.number:05}-of-{self.count:05}.parquet"


def missing(shards: Sequence[Shard], finished: Sequence[Shard]) -> list[Shard]:
    """The shards that are not among the finished ones."""
    done = {shard.number for shard in finished}
    return [shard for shard in shards if shard.number not in done]
