"""A replica of a job over many pictures, without Ray: which faults are a picture's own, and which stop the job."""

from __future__ import annotations

import pickle
import platform
import resource
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

from vmoe_serve.batch.job import Job  # noqa: E402
from vmoe_serve.batch.output import begin, locked  # noqa: E402
from vmoe_serve.batch.pictures import open_pictures  # noqa: E402
from vmoe_serve.batch.shards import Written  # noqa: E402
from vmoe_serve.batch.worker import Worker, WorkerPlan, manifest_digest  # noqa: E402

PICTURES = 4


class Replica:
    """A replica, and the job of one shard that it has."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        for number in range(PICTURES):
            Image.new("L", (28, 28), number).save(self.input / f"{number}.png")
        self._bundle = bundle

    def start(self) -> None:
        """Lists the input, and loads the engine."""
        pictures = open_pictures(self.input, None)
        job = Job(manifest_digest(self._bundle), pictures.digest, PICTURES, None, "c0.3-k1", "auto", None, 2, PICTURES)
        with locked(self.output):
            begin(self.output, job, force=False, say=print)
        self._shard = zlib.compress(pickle.dumps((job.shards[0], pictures.part(0, PICTURES))))
        self._worker = Worker(WorkerPlan(job, self._bundle, self.input, self.output, batch=2, threads=1))
        assert isinstance(self.written(), Written)
        (self.output / job.shards[0].name).unlink()

    def written(self) -> Written | str:
        (done,) = self._worker(pa.table({"shard": [self._shard]}))["written"].to_pylist()
        found: Written | str = pickle.loads(done)
        return found

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(self.output).to_pylist()
        return found


@pytest.fixture
def replica(tmp_path: Path, mnist_image_bundle: Path) -> Replica:
    made = Replica(mnist_image_bundle, tmp_path)
    made.start()
    return made


@contextmanager
def empty(folder: Path) -> Iterator[None]:
    with absent(folder):
        folder.mkdir()
        yield
        folder.rmdir()


@contextmanager
def absent(folder: Path) -> Iterator[None]:
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    yield
    elsewhere.rename(folder)


@contextmanager
def without_descriptors(_: Path) -> Iterator[None]:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """A file that can be opened, and whose beginning the kernel can't read."""
    picture = folder / "1.png"
    content = picture.read_bytes()
    picture.unlink()
    picture.symlink_to("/proc/self/mem")
    yield
    picture.unlink()
    picture.write_bytes(content)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (empty, "in can't be read on {machine}: it is empty"),
        (absent, "in can't be read on {machine}: No such file or directory"),
        (without_descriptors, ".png can't be read on {machine}: Too many open files"),
        (unreadable, "1.png can't be read on {machine}: Input/output error"),
    ],
)
def test_a_fault_of_the_machine_stops_the_job(fault: Callable[[Path], Any], said: str, replica: Replica) -> None:
    with fault(replica.input):
        why = replica.written()
    assert isinstance(why, str) and why.endswith(said.format(machine=platform.node()))
    assert not list(replica.output.glob("shard-*"))
    done = replica.written()
    assert isinstance(done, Written) and done.errors == 0


def test_a_fault_of_a_picture_is_its_own(replica: Replica) -> None:
    (replica.input / "0.png").unlink()
    (replica.input / "1.png").unlink()
    (replica.input / "1.png").symlink_to("1.png")
    (replica.input / "2.png").write_bytes(b"no picture")
    done = replica.written()
    assert isinstance(done, Written) and done.errors == 3
    errors = [row["error"] for row in replica.rows()]
    assert errors[0] == "the file can't be read: No such file or directory"
    assert errors[1] == "the file can't be read: Too many levels of symbolic links"
    assert "is not a readable image" in errors[2] and errors[3] is None
    assert [len(row["class"] or ()) for row in replica.rows()] == [0, 0, 0, 2]
