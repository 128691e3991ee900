"""`vmoe-serve batch`: the real command with a real Ray, killed, stopped and started again; and what it says of mistakes."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from terminal import default_signals

from vmoe_runtime import Engine
from vmoe_runtime.whole_files import write_whole
from vmoe_serve import cli
from vmoe_serve.batch import command
from vmoe_serve.batch.job import Job
from vmoe_serve.batch.output import begin, finish, writing
from vmoe_serve.batch.pictures import open_pictures
from vmoe_serve.batch.progress import Progress
from vmoe_serve.batch.shards import ShardError, Written, read_shard, write_shard
from vmoe_tools.command_line import CommandError

pytestmark = pytest.mark.long

pytest.importorskip("ray", reason="Ray is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

PATIENCE = 180
PICTURES, SHARD_SIZE = 60, 10
OPTIONS = ("--shard-size", str(SHARD_SIZE), "--threads", "1")
SHARDS = [f"shard-{number:05}-of-00006.parquet" for number in range(PICTURES // SHARD_SIZE)]
CHECKS = "vmoe-serve batch: checking the shards that are there already, 6 of 6"
LATE = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")
"""Processes of Ray that notice after a minute that they are alone; the others do in a moment."""


class Command:
    """The command, as its own process."""

    def __init__(self, *words: object, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmoe_serve", "batch", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=default_signals,  # noqa: PLW1509  (this process has no threads that matter to the child)
            env={**os.environ, "RAY_ADDRESS": "", **environment},
        )

    def wait_for(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.001)

    def ended(self) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        out, errors = self.process.communicate(timeout=PATIENCE)
        # A machine that is slow at the moment has time for lines of progress, and replicas outlive their job for longer.
        untimely = r"(?m)^([\d,]+ of [\d,]+ pictures, .* left|vmoe-serve batch: waiting for processes of an earlier run.*)\n"
        return self.process.returncode, out, re.sub(untimely, "", errors)


def children(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def command_lines(processes: Sequence[int]) -> dict[int, bytes]:
    """Of those that run still."""
    lines = {}
    for process in processes:
        with contextlib.suppress(OSError):
            if line := Path(f"/proc/{process}/cmdline").read_bytes():  # of one that has ended it is empty
                lines[process] = line.rstrip(b"\0")
    return lines


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("shard-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, Any]) -> Path:
    """60 pictures, some in a subfolder."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "more").mkdir()
    for number in range(PICTURES):
        place = folder / "more" if number >= 50 else folder
        (place / f"{number:02}.png").write_bytes(png(mnist_images["images"][number]))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, mnist_image_bundle: Path, digits: Path) -> Path:
    """The output of a job that nothing has stopped.

    It joins no cluster that nobody has named: `ray start` leaves the address of its own in a file, which outlives it.
    """
    output = tmp_path_factory.mktemp("output") / "new" / "answers"
    summary = output.parent.parent / "summary.json"
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # names of sockets are short
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        job = Command(mnist_image_bundle, digits, output, *OPTIONS, "--json", summary, environment={"RAY_TMPDIR": folder})
        assert job.ended() == (0, f"60 pictures in 6 shards, in {json.loads(summary.read_text())['seconds']:.1f} s\n", "")
    return output


CLUSTER = """
import sys, ray
from vmoe_serve.ray_session import connected_ray
with connected_ray(3):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The variables of a command that joins a cluster which is there already."""
    words = [sys.executable, "-c", CLUSTER]
    environment = {**os.environ, "RAY_ADDRESS": "", "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin and process.stdout
        yield {"RAY_ADDRESS": process.stdout.readline().strip()}
        process.stdin.close()


@pytest.fixture(scope="module")
def engine(mnist_image_bundle: Path) -> Any:
    with Engine.load(mnist_image_bundle, threads=1) as loaded:
        yield loaded


def test_every_picture_is_answered_once_as_the_engine_does(finished: Path, digits: Path, engine: Engine) -> None:
    assert shards(finished) == SHARDS
    found = rows(finished)
    assert [row["row"] for row in found] == list(range(PICTURES))
    assert [row["path"] for row in found] == sorted(str(path.relative_to(digits)) for path in digits.rglob("*.png"))
    for row in found:
        expected = engine.classify(digits / row["path"], 5)[0]
        assert list(zip(row["class"], row["probability"], strict=True)) == [(str(index), p) for index, p in expected]
        assert row["class_index"] == [index for index, _ in expected]
        assert (row["error"], row["setting"]) == (None, "c0.3-k1")
    summary = json.loads((finished / "_SUCCESS").read_text())
    assert {name: summary[name] for name in ("pictures", "answered", "errors", "shards")} == {
        "pictures": 60,
        "answered": 60,
        "errors": 0,
        "shards": 6,
    }
    assert summary["runtimes"] == [engine.backend_description]


def test_parquet_in_and_logits_out_from_two_replicas(
    tmp_path: Path, mnist_image_bundle: Path, mnist_images: dict[str, Any], engine: Engine, cluster: dict[str, str]
) -> None:
    pictures = [png(pixels) for pixels in mnist_images["images"][:25]]
    source = tmp_path / "in"
    source.mkdir()
    flat = [None if number == 3 else b"no picture" if number == 5 else each for number, each in enumerate(pictures[:17])]
    pq.write_table(pa.table({"id": range(17), "image": flat}), source / "a.parquet", row_group_size=4)
    nested = [{"bytes": each, "path": "x.png"} for each in pictures[17:]]
    pq.write_table(pa.table({"image": nested}), source / "b.parquet")
    options = ("--column", "image", "--output-logits", "--profile", "c0.5-k2", "--shard-size", "7", "--batch", "3")
    words = (mnist_image_bundle, source, tmp_path / "out", *options, "--replicas", "2", "--threads", "1", "--strict")
    code, out, errors = Command(*words, environment=cluster).ended()
    assert code == 1 and out.startswith("25 pictures in 4 shards")
    assert errors == "vmoe-serve batch: 2 of 25 pictures can't be answered; the column 'error' says why\n"
    found = rows(tmp_path / "out")
    places = [("a.parquet", row) for row in range(17)] + [("b.parquet", row) for row in range(8)]
    assert [(row["path"], row["file_row"]) for row in found] == places
    bad = {row["row"]: (row["logits"], row["error"]) for row in found if row["error"]}
    assert bad[3] == (None, "there is no picture: the row has none")
    assert bad[5][0] is None and "not a readable image" in bad[5][1]
    for row, picture in zip(found, pictures, strict=True):
        if not row["error"]:
            expected = engine(picture, "c0.5-k2")[0]
            assert np.array(row["logits"], np.float32).tobytes() == expected.tobytes() and row["setting"] == "c0.5-k2"


def test_odd_names_and_unreadable_pictures_stop_nothing(
    tmp_path: Path, mnist_image_bundle: Path, cluster: dict[str, str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good = png(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28))
    (source / "new\nline \x1b[2J.png").write_bytes(good)
    Path(os.fsdecode(os.fsencode(source) + b"/not \xff utf-8.png")).write_bytes(good)
    (source / "link.png").symlink_to(source / "new\nline \x1b[2J.png")
    (source / "nowhere.png").symlink_to(source / "absent")
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "pipe.png")
    (source / "empty.png").write_bytes(b"")
    (source / "cut.png").write_bytes(good[:60])
    (source / ".hidden.png").write_bytes(good)
    words = (mnist_image_bundle, source, tmp_path / "out", *OPTIONS, "--top", "1", "-q")
    assert Command(*words, environment=cluster).ended() == (0, "", "")
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    names = ["cut.png", "empty.png", "link.png", "new\nline \x1b[2J.png", "not \\udcff utf-8.png"]
    assert sorted(found) == sorted([*names, *(f"loop/{name}" for name in names)])
    assert (
        {name for name, row in found.items() if row["class"] is None}
        == {name for name, row in found.items() if row["error"] and "not a readable image" in row["error"]}
        == {"cut.png", "empty.png", "loop/cut.png", "loop/empty.png"}
    )
    assert {len(row["class"]) for row in found.values() if row["class"]} == {1}


def replicas(output: Path) -> list[int]:
    """Those that have begun: they hold the job's description."""
    inode = (output / "_job.json").stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    held = [words for words in locks if words[1] == "FLOCK" and words[5].endswith(f":{inode}")]
    return [int(words[4]) for words in held if words[3] == "READ"]


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "once its description is there": lambda output: (output / "_job.json").exists(),
    "in the first shard": lambda output: bool(replicas(output)),
    "between two shards": lambda output: len(shards(output)) >= 2,
    "in the middle": lambda output: len(shards(output)) >= 4,
    "before it says that it is done": lambda output: len(shards(output)) == 6,
}


def test_a_job_that_is_killed_again_and_again_writes_every_shard_once(
    tmp_path: Path, mnist_image_bundle: Path, digits: Path, finished: Path, cluster: dict[str, str]
) -> None:
    output = tmp_path / "out"
    kept: dict[str, int] = {}
    started: list[int] = []
    for moment, reached in MOMENTS.items():
        # Once with a Ray of its own, whose processes end as well.
        environment = {} if moment == "in the middle" else cluster
        job = Command(mnist_image_bundle, digits, output, *OPTIONS, environment=environment)
        job.wait_for(lambda reached=reached: reached(output))
        started += children(job.process.pid)
        job.process.kill()
        code, out, errors = job.ended()
        assert (code, out) == (-signal.SIGKILL, ""), moment
        assert re.fullmatch(rf"({CHECKS[:-6]}[0-6] of 6\n)?", errors), moment
        assert not (output / "_SUCCESS").exists(), moment
        kept |= {path.name: path.stat().st_ino for path in output.glob("shard-*")}
        (output / ".shard-00005-of-00006.parquet.0a1b2c3d.part").write_bytes(b"left by a kill")
    code, out, errors = Command(mnist_image_bundle, digits, output, *OPTIONS).ended()
    assert (code, out, errors) == (0, "60 pictures in 6 shards, which were there already\n", f"{CHECKS}\n")
    assert contents(output) == contents(finished)
    assert kept == {path.name: path.stat().st_ino for path in output.glob("shard-*")}
    wait_until(lambda: all(name.startswith(LATE) for name in command_lines(started).values()))
    for process in command_lines(started):
        os.kill(process, signal.SIGKILL)


def test_damaged_shards_are_written_again_also_where_a_replica_dies_and_errors_where_that_is_asked_for(
    tmp_path: Path,
    mnist_image_bundle: Path,
    digits: Path,
    finished: Path,
    cluster: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    job = Job.read((output / "_job.json").read_bytes())
    part = open_pictures(digits, None).part(5 * SHARD_SIZE, 6 * SHARD_SIZE)
    write_shard(output, job, job.shards[5], part, ["the file can't be read: Stale file handle"] * SHARD_SIZE, "an engine")
    with_errors = (output / SHARDS[5]).read_bytes()
    assert cli.main(["batch", str(mnist_image_bundle), str(digits), str(output), *OPTIONS]) == 0
    assert "10 of 60 pictures can't be answered" in capsys.readouterr().err
    assert (output / SHARDS[5]).read_bytes() == with_errors

    whole = (output / SHARDS[1]).read_bytes()
    (output / SHARDS[1]).write_bytes(whole[: len(whole) // 2])
    changed = bytearray((output / SHARDS[2]).read_bytes())
    changed[changed.index(b"c0.3-k1")] ^= 1
    (output / SHARDS[2]).write_bytes(changed)
    (output / SHARDS[4]).write_bytes((output / SHARDS[3]).read_bytes())
    kept = (output / SHARDS[0]).stat().st_ino
    again = Command(mnist_image_bundle, digits, output, *OPTIONS, "--redo-errors", environment=cluster)
    again.wait_for(lambda: bool(replicas(output)))
    (replica,) = replicas(output)
    os.kill(replica, signal.SIGKILL)
    code, out, errors = again.ended()
    assert code == 0 and out.endswith("; 2 shards were there already\n")
    first, *lines = errors.splitlines()
    assert first == CHECKS
    assert [line.split(" ")[2] for line in lines] == [SHARDS[1], SHARDS[2], SHARDS[4]]
    assert "can't be read" in lines[0] and "can't be read" in lines[1] and "has other rows" in lines[2]
    assert contents(output) == contents(finished) and (output / SHARDS[0]).stat().st_ino == kept


def test_a_shard_whose_metadata_is_damaged_is_not_whole(tmp_path: Path, digits: Path, finished: Path) -> None:
    job = Job.read((finished / "_job.json").read_bytes())
    table = pq.read_table(finished / SHARDS[0])
    metadata = {**table.schema.metadata, b"vmoe.runtime": b"\xff"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / SHARDS[0])
    part = open_pictures(digits, None).part(0, SHARD_SIZE)
    with pytest.raises(ShardError, match=rf"{SHARDS[0]} can't be read \(.*utf-8"):
        read_shard(tmp_path, job, job.shards[0], part)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_in_a_sentence(
    number: signal.Signals, code: int, tmp_path: Path, mnist_image_bundle: Path, digits: Path, cluster: dict[str, str]
) -> None:
    output = tmp_path / "out"
    environment = {} if number == signal.SIGINT else cluster
    # A picture a shard, so that it is stopped long before its end.
    job = Command(mnist_image_bundle, digits, output, "--shard-size", "1", "--threads", "1", environment=environment)
    job.wait_for(lambda: len(shards(output)) >= 2)
    job.process.send_signal(number)
    ended, out, errors = job.ended()
    said = r"vmoe-serve batch: stopped; finished shards stay, and the same command goes on from there: "
    missing = re.fullmatch(rf"{said}(\d+) are missing, (shard-000\d\d-of-00060.parquet) is the first\n", errors)
    assert (ended, out) == (code, "") and missing is not None, errors
    # One may have been finished at the very end.
    left = sorted({f"shard-{number:05}-of-00060.parquet" for number in range(PICTURES)} - set(shards(output)))
    assert len(left) <= int(missing[1]) <= len(left) + 2 and missing[2] <= left[0]
    assert 2 <= len(shards(output)) < PICTURES and not (output / "_SUCCESS").exists()


def test_where_it_stops_it_counts_the_shards_that_are_there(
    finished: Path,
    tmp_path: Path,
    mnist_image_bundle: Path,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"

    def write(*_: object) -> Iterator[Written]:
        # Ray ends before it hands on what its replicas have written.
        for name in SHARDS[:2]:
            shutil.copy2(finished / name, output)
        stop = signal.getsignal(signal.SIGTERM)
        assert callable(stop), stop
        stop(signal.SIGTERM, None)
        yield from ()

    monkeypatch.setattr(command, "connected_ray", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(command, "write_shards", write)
    assert cli.main(["batch", str(mnist_image_bundle), str(digits), str(output), *OPTIONS]) == 143
    assert f"4 are missing, {SHARDS[2]} is the first" in capsys.readouterr().err


def test_what_is_done_needs_no_ray(
    finished: Path,
    mnist_image_bundle: Path,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(finished)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    # Replicas, threads and images per call are no part of a job.
    options = ("--shard-size", "10", "--replicas", "3", "--batch", "2", "--json", "-")
    assert cli.main(["batch", str(mnist_image_bundle), str(digits), str(finished), *options]) == 0
    out, errors = capsys.readouterr()
    assert json.loads(out)["kept_shards"] == 6
    checking, summary = errors.splitlines()
    assert checking == CHECKS
    assert summary == "60 pictures in 6 shards, which were there already" and contents(finished) == before


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("{bundle}", "{input}"), 2, "OUTPUT"),
    (("absent.vmoe", "{input}", "{new}"), 1, "absent.vmoe is not a bundle"),
    (("{damaged}", "{input}", "{new}"), 1, "changed after export"),
    (("{grouped}", "{input}", "{new}"), 1, "export it with --group image"),
    (("{bundle}", "absent", "{new}"), 1, "absent is not there"),
    (("{bundle}", "{bundle}", "{new}"), 1, "has no pictures"),
    (("{bundle}", "{parquet}", "{new}"), 1, "--column names a column of a Parquet file"),
    (("{bundle}", "{input}", "{new}", "--column", "image"), 1, "has no Parquet files"),
    (("{bundle}", "{picture}", "{new}", "--column", "image"), 1, "is not a readable Parquet file"),
    (("{bundle}", "{parquet}", "{new}", "--column", "picture"), 1, "has no column 'picture' (id, image)"),
    (("{bundle}", "{parquet}", "{new}", "--column", "id"), 1, "column 'id' is int64, and pictures are binary"),
    (("{bundle}", "{none}", "{new}", "--column", "image"), 1, "has no rows"),
    (("{bundle}", "{input}", "{picture}"), 1, "it is, has or lies in the input"),
    (("{bundle}", "{input}", "{input}"), 1, "it is, has or lies in the input"),
    (("{bundle}", "{input}", "{bundle}/out"), 1, "it is, has or lies in the bundle"),
    (("{bundle}", "{input}", "{parquet}"), 1, "File exists"),
    (("{bundle}", "{input}", "/proc/out"), 1, "/proc/out: "),
    (("{bundle}", "{input}", "{foreign}"), 1, "has 'notes.txt', which no job wrote"),
    (("{bundle}", "{input}", "{foreign}", "--force"), 1, "has 'notes.txt', which no job wrote"),
    (("{bundle}", "{input}", "{new}", "--profile", "fastest"), 2, "fastest"),
    (("{bundle}", "{input}", "{new}", "--profile", "c1-k9"), 2, "not 9"),
    (("{dense}", "{input}", "{new}"), 1, "puts out features, no classes: --output-logits"),
    (("{dense}", "{input}", "{new}", "--output-logits", "--profile", "c1-k1"), 2, "nothing to set"),
    (("{bundle}", "{input}", "{new}", "--top", "0"), 2, "--top"),
    (("{bundle}", "{input}", "{new}", "--top", "1", "--output-logits"), 2, "--top counts the classes"),
    (("{bundle}", "{input}", "{new}", "--shard-size", "0"), 2, "--shard-size"),
    (("{bundle}", "{input}", "{new}", "--replicas", "-1"), 2, "--replicas"),
    (("{bundle}", "{input}", "{new}", "--batch", "x"), 2, "--batch"),
    (("{bundle}", "{input}", "{new}", "--backend", "tpu"), 2, "--backend"),
    (("{bundle}", "{input}", "{new}", "--json", "{new}/summary.json"), 1, "there is no folder"),
    (("{bundle}", "{input}", "{done}", "--json", "{done}/summary.json"), 1, "is for shards alone"),
    (("{bundle}", "{input}", "{done}"), 1, "has a job with shard size 10 and not 1024;"),
]


@pytest.fixture(scope="module")
def mistaken(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, finished: Path, mnist_image_bundle: Path
) -> dict[str, Path]:
    """What mistakes are made with."""
    folder = tmp_path_factory.mktemp("mistakes")
    pq.write_table(pa.table({"id": [1], "image": [b"a"]}), folder / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "none.parquet")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "notes.txt").write_text("mine")
    damaged = folder / "damaged.vmoe"
    damaged.mkdir()
    for path in mnist_image_bundle.iterdir():
        content = bytearray(path.read_bytes())
        if path.suffix == ".safetensors":
            content[-1] ^= 1
        (damaged / path.name).write_bytes(content)
    return {
        "bundle": mnist_image_bundle,
        "damaged": damaged,
        "dense": Path(__file__).parents[1] / "data" / "bundles" / "v3-dense",
        "input": digits,
        "picture": digits / "00.png",
        "parquet": folder / "a.parquet",
        "none": folder / "none.parquet",
        "foreign": folder / "foreign",
        "new": folder / "new",
        "done": finished,
    }


@pytest.mark.parametrize(("words", "code", "said"), BAD)
def test_a_mistake_is_one_sentence(
    words: tuple[str, ...],
    code: int,
    said: str,
    mistaken: dict[str, Path],
    mnist_bundle: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(mistaken["done"])
    assert cli.main(["batch", *(word.format(grouped=mnist_bundle, **mistaken) for word in words)]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and said in captured.err
    assert not mistaken["new"].exists() and contents(mistaken["done"]) == before


def test_another_job_is_refused_and_says_what_differs(
    finished: Path, mnist_image_bundle: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(source: Path, *options: str) -> str:
        assert cli.main(["batch", str(mnist_image_bundle), str(source), str(finished), *OPTIONS, *options]) == 1
        return capsys.readouterr().err

    fewer = tmp_path / "fewer"
    fewer.mkdir()
    (fewer / "a.png").write_bytes((digits / "00.png").read_bytes())
    before = contents(finished)
    assert "has a job with setting c0.3-k1 and not c1.05-k1;" in refused(digits, "--profile", "c1.05-k1")
    assert "has a job with top 5 and not 3;" in refused(digits, "--top", "3")
    assert "has a job with another list of inputs, pictures 60 and not 1;" in refused(fewer)
    (digits / "00.png").touch()
    assert "has a job with another list of inputs;" in refused(digits)
    assert contents(finished) == before


def test_force_removes_the_shards_of_another_job(tmp_path: Path, finished: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    other = replace(Job.read((output / "_job.json").read_bytes()), top=3)
    with pytest.raises(CommandError, match="has a job with top 5 and not 3; --force removes its shards"):
        begin(output, other, force=False, say=unexpected)
    assert contents(output) == contents(finished)
    assert begin(output, other, force=True, say=unexpected) == 0
    assert contents(output) == {".lock": b"", "_job.json": other.text.encode()}
    (output / "_job.json").write_text(other.text[:50])
    with pytest.raises(CommandError, match=r"has a _job\.json that can't be used: it is damaged; --force"):
        begin(output, other, force=False, say=unexpected)
    (output / "_job.json").unlink()
    (output / SHARDS[0]).write_bytes(b"")
    with pytest.raises(CommandError, match=r"has shards, and no _job\.json that says whose; --force"):
        begin(output, other, force=False, say=unexpected)


def unexpected(sentence: str) -> None:
    raise AssertionError(sentence)


@pytest.mark.parametrize(("size", "kept"), [(SHARD_SIZE, 6), (20, 0)])
def test_the_next_run_waits_for_replicas_of_a_killed_one(size: int, kept: int, tmp_path: Path, finished: Path) -> None:
    """Also where it has another number of shards; what they finish meanwhile is a shard of the old job."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    job = Job.read((output / "_job.json").read_bytes())
    part = output / f".{SHARDS[5]}.0a1b2c3d.part"
    (output / SHARDS[5]).rename(part)
    (output / f".{SHARDS[0]}.0a1b2c3d.part").write_bytes(b"left by a kill")
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with writing(output, job):
            next_run = pool.submit(begin, output, replace(job, shard_size=size), force=True, say=said.append)
            wait_until(lambda: bool(said) or next_run.done())
            assert said == ["waiting for processes of an earlier run, 60 s at the most"] and not next_run.done()
            part.rename(output / SHARDS[5])
        assert next_run.result(PATIENCE) == kept == len(shards(output))
    assert not list(output.glob("*.part"))
    with pytest.raises(CommandError, match="has another job by now"), writing(output, replace(job, top=3)):
        pass


def test_a_replica_that_comes_late_does_not_write_to_the_next_job(tmp_path: Path, finished: Path) -> None:
    """It has opened the description of its own job, and gets the lock when that was replaced."""
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    job = Job.read((output / "_job.json").read_bytes())

    def write() -> None:
        with writing(output, job):
            pass

    with ThreadPoolExecutor(1) as pool, (output / "_job.json").open("r+b") as description:
        fcntl.flock(description, fcntl.LOCK_EX)
        replica = pool.submit(write)
        inode = os.fstat(description.fileno()).st_ino
        wait_until(lambda: re.search(rf"-> .*:{inode} ", Path("/proc/locks").read_text()) is not None)
        write_whole(output / "_job.json", lambda file: file.write(replace(job, top=3).text))
        fcntl.flock(description, fcntl.LOCK_UN)
        with pytest.raises(CommandError, match="has another job by now"):
            replica.result(PATIENCE)


@pytest.mark.parametrize("name", [".movie.part", ".movie.0a1b2c3d.part", f".{SHARDS[0]}.part"])
def test_files_of_others_stay(name: str, tmp_path: Path, finished: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / name).write_bytes(b"mine")
    before = contents(output)
    job = Job.read((output / "_job.json").read_bytes())
    with pytest.raises(CommandError, match=f"has '{re.escape(name)}', which no job wrote"):
        begin(output, job, force=True, say=unexpected)
    assert contents(output) == before


def test_what_nfs_keeps_of_open_files_is_left_alone(tmp_path: Path, finished: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / ".nfs000000000a0b0c0d00000001").write_bytes(b"")
    before = contents(output)
    job = Job.read((output / "_job.json").read_bytes())
    assert begin(output, job, force=False, say=unexpected) == 6 and contents(output) == before


def test_shards_of_another_job_are_not_called_a_success(tmp_path: Path, finished: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "_SUCCESS").unlink()
    shutil.copy(output / SHARDS[0], output / "shard-00000-of-00003.parquet")
    job = Job.read((output / "_job.json").read_bytes())
    said = "has 'shard-00000-of-00003.parquet', which is no shard of this job; "
    with pytest.raises(CommandError, match=f"{said}--force removes"):
        begin(output, job, force=False, say=unexpected)
    with pytest.raises(CommandError, match=f"{said}remove it"):
        finish(output, job, {})
    assert len(shards(output)) == 7 and not (output / "_SUCCESS").exists()
    assert begin(output, job, force=True, say=unexpected) == 0 and not shards(output)


def test_progress_is_one_line_on_a_terminal_and_none_where_it_is_quiet() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for quiet in (False, True):
        screen = Terminal()
        progress = Progress(screen, total=100, done=40, quiet=quiet)
        progress.advance(10)
        progress.end()
        line = r"\r\x1b\[K50 of 100 pictures, [0-9.,]+ a second, 0:00 left\r\x1b\[K"
        assert re.fullmatch("" if quiet else line, screen.getvalue())


def test_two_jobs_at_once_on_one_output(
    finished: Path, mnist_image_bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (finished / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["batch", str(mnist_image_bundle), str(digits), str(finished), *OPTIONS]) == 1
    assert "another job writes to" in capsys.readouterr().err
