"""Check that `vmoe serve batch` writes the engine's result for each picture exactly once.

This must be true even if processes are killed. The command must also report users' mistakes.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_changes import flipped
from command_runs import Vmoe
from damaged_files import copied_bundle
from picture_file import picture_file
from terminal import IMPATIENT, started

from vmoe_export import export_bundle
from vmoe_runtime import Engine

pytestmark = pytest.mark.long

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("moto", reason="moto, an S3 server, is not installed")
import fsspec  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from batch_kills import BUCKET, kill_jobs  # noqa: E402
from ray_cluster import ray_cluster, s3_server  # noqa: E402

from vmoe_serve.batch.addresses import BatchError, Location  # noqa: E402
from vmoe_serve.batch.inputs import InputFile, Part, divide, list_files  # noqa: E402
from vmoe_serve.batch.job import Job, Output, Written  # noqa: E402

PICTURES = 60
OPTIONS = ("--part-size", "10", "--threads", "1")
DENSE = next((Path(__file__).parents[1] / "data" / "bundles").glob("*-dense"))


def start(cluster: Mapping[str, str], *words: object) -> subprocess.Popen[str]:
    return started([sys.executable, "-c", IMPATIENT, "serve", "batch", *words], **cluster)


def run(cluster: Mapping[str, str], *words: object) -> tuple[int, str, str]:
    """Run `vmoe serve batch`, and return its exit code, standard output and standard error.

    Progress lines are removed from standard error.
    """
    code, out, errors, _ = run_with_progress(cluster, *words)
    return code, out, errors


def run_with_progress(cluster: Mapping[str, str], *words: object) -> tuple[int, str, str, list[str]]:
    """Run the command in the same way as `run`, but return one more result.

    This result contains, for each progress line, the number of pictures that were done.
    """
    process = start(cluster, *words)
    out, errors = process.communicate()
    lines = re.findall(r"(?m)^([\d,]+) of [\d,]+ pictures(?:, [\d,.]+ a second, 0:[\d:]+ left)?\n", errors)
    assert "0" not in lines and len(set(lines)) == len(lines)
    told = r"(?m)^([\d,]+ of [\d,]+ pictures|vmoe: waiting for (Ray's own processes|the first answers)).*\n"
    return process.returncode, out, re.sub(told, "", errors), lines


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("part-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "_writer"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with s3_server(BUCKET), ray_cluster() as variables:
        yield variables


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, mnist_images: dict[str, Any]) -> Path:
    """Write 60 pictures, some of them in a subfolder.

    One picture is damaged. Ten pictures are so large that the job takes long enough to show progress.
    """
    folder = tmp_path_factory.mktemp("digits")
    (folder / "more").mkdir()
    for number, pixels in enumerate(mnist_images["images"][:PICTURES]):
        place = folder / "more" if number >= 50 else folder
        larger = np.ones((128, 128) if number // 10 == 4 else (1, 1), np.uint8)
        (place / f"{number:02} a#b%41.png").write_bytes(picture_file(np.kron(pixels, larger)))
    (folder / "07 a#b%41.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, mnist_image_bundle: Path, digits: Path, cluster: dict[str, str]
) -> Path:
    """Run a job without interruptions, and return its output."""
    output = tmp_path_factory.mktemp("output") / "new" / "answers"
    code, out, errors, progress = run_with_progress(cluster, mnist_image_bundle, digits, output, *OPTIONS)
    assert (code, errors) == (0, "vmoe: 1 picture can't be answered; the column 'error' says why\n")
    assert out.startswith("60 pictures in 6 parts; 0 were there already") and progress
    return output


def test_every_picture_is_answered_once_as_the_engine_does(finished: Path, digits: Path, engine: Engine) -> None:
    rows = pq.read_table(finished).to_pylist()
    assert [row["row"] for row in rows] == list(range(PICTURES))
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(digits)) for path in digits.rglob("*.png"))
    assert {row["setting"] for row in rows} == {"c0.3-k1"}
    bad = rows.pop(7)
    assert bad["class"] is None and "is not a readable image" in bad["error"]
    for row in rows:
        expected = engine.classify(digits / row["path"], 5)[0]
        assert list(zip(row["class"], row["probability"], strict=True)) == [(str(index), p) for index, p in expected]
        assert row["index"] == [index for index, _ in expected] and row["error"] is None
    summary = json.loads((finished / "_SUCCESS").read_text())
    assert (summary["pictures"], summary["answered"], summary["errors"], summary["parts"]) == (60, 59, 1, 6)
    assert summary["runtimes"] == [engine.backend_description]


@pytest.mark.slow
def test_parquet_in_and_logits_out_from_two_replicas(
    tmp_path: Path, mnist_image_bundle: Path, mnist_images: dict[str, Any], engine: Engine, cluster: dict[str, str]
) -> None:
    pictures = [picture_file(pixels) for pixels in mnist_images["images"][:25]]
    (tmp_path / "k=1").mkdir()
    flat = [None if number == 3 else b"no picture" if number == 5 else each for number, each in enumerate(pictures[:17])]
    pq.write_table(pa.table({"id": range(17), "image": flat}), tmp_path / "k=1" / "a.parquet", row_group_size=4)
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "k=1" / "b.parquet")
    (tmp_path / "k=2").mkdir()
    nested = [{"bytes": each, "path": "x.png"} for each in pictures[17:]]
    pq.write_table(pa.table({"image": nested}), tmp_path / "k=2" / "c.parquet")
    options = ("--column", "image", "--output-logits", "--profile", "c0.5-k2", "--part-size", "7", "--batch-size", "3")
    places = [("a.parquet", row) for row in range(17)] + [("c.parquet", row) for row in range(8)]
    jobs = [("k=1", 0, 17), ("k=2", 17, 25)]

    def answered(folder: str) -> tuple[int, str, str]:
        words = (mnist_image_bundle, tmp_path / folder, tmp_path / f"out {folder}", *options)
        replicas = "2" if folder == "k=1" else "1"
        return run(cluster, *words, "--replicas", replicas, "--threads", "1", "--strict")

    with ThreadPoolExecutor(len(jobs)) as pool:
        ends = pool.map(answered, [folder for folder, _, _ in jobs])
    for (folder, first, stop), (code, _, errors) in zip(jobs, ends, strict=True):
        assert (code, errors.count("\n")) == ((1, 1) if folder == "k=1" else (0, 0)), errors
        rows = pq.read_table(tmp_path / f"out {folder}").to_pylist()
        assert [(row["path"], row["file_row"]) for row in rows] == places[first:stop]
        for row, picture in zip(rows, pictures[first:stop], strict=True):
            if folder == "k=1" and row["row"] in (3, 5):
                assert row["logits"] is None and row["error"]
            else:
                assert np.array(row["logits"], np.float32).tobytes() == engine(picture, "c0.5-k2")[0].tobytes()


@pytest.mark.slow
def test_a_damaged_parquet_file_is_named_when_it_is_read(
    tmp_path: Path, mnist_image_bundle: Path, cluster: dict[str, str]
) -> None:
    pq.write_table(pa.table({"image": [bytes(1000)]}), tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[40:60] = bytes(20)  # damages compressed pictures
    (tmp_path / "a.parquet").write_bytes(content)
    code, _, errors = run(cluster, mnist_image_bundle, tmp_path / "a.parquet", tmp_path / "out", "--column", "image")
    assert code == 1 and errors.count("\n") == 1
    assert errors.startswith(f"vmoe: the job stopped: {tmp_path}/a.parquet can't be read: "), errors


@pytest.mark.slow
def test_a_job_that_is_killed_on_s3_has_each_row_once(
    tmp_path: Path, mnist_image_bundle: Path, mnist_checkpoint: Path, cluster: dict[str, str]
) -> None:
    other = tmp_path / "other.vmoe"
    export_bundle(mnist_checkpoint, other, capacity=[0.3], k=[1], validate=False)
    report = kill_jobs((mnist_image_bundle, other), cluster, kills=0, s3=1, pictures=200, seed=3)
    assert report.failures == [] and report.endings["finished"] >= 1
    assert sum(count for ending, count in report.endings.items() if ending.startswith("killed")) == 1


@pytest.mark.slow
def test_a_signal_stops_it_and_what_is_written_stays(
    tmp_path: Path, mnist_image_bundle: Path, digits: Path, cluster: dict[str, str]
) -> None:
    process = start(cluster, mnist_image_bundle, digits, tmp_path / "out", "--part-size", "1", "--threads", "1")
    while not parts(tmp_path / "out"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    assert "missing; run the same command again" in errors and errors.endswith("vmoe: ended by SIGTERM\n")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_what_is_done_needs_no_ray(
    finished: Path, mnist_image_bundle: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    before = contents(finished)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    # When a job is resumed, it may have other numbers of replicas, threads and images per call than before.
    words = (mnist_image_bundle, digits, finished, "--part-size", 10, "--replicas", 3, "--batch-size", 2)
    assert vmoe.json("serve", "batch", *words)["kept_parts"] == 6 and contents(finished) == before


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("{bundle}", "{input}"), 2, "OUTPUT"),
    (("absent.vmoe", "{input}", "{new}"), 1, "absent.vmoe is not a bundle"),
    (("{damaged}", "{input}", "{new}"), 1, "changed after export"),
    (("{grouped}", "{input}", "{new}"), 1, "export it with --group image"),
    (("{bundle}", "absent", "{new}"), 1, "absent"),
    (("{bundle}", "abc://absent", "{new}"), 1, "abc://absent can't be opened: Protocol not known: abc"),
    (("{bundle}", "s3://absent?b=1", "{new}"), 1, "s3://absent can't be opened: Unexpected query parameter"),
    (("{bundle}", "{bundle}", "{new}"), 1, "has no files with the endings"),
    (("{bundle}", "{newline}", "{new}"), 1, "has a name with a line break"),
    (("{bundle}", "{parquet}", "{new}"), 1, "--column"),
    (("{bundle}", "{picture}", "{new}", "--column", "image"), 1, "is not a readable Parquet file"),
    (("{bundle}", "{parquet}", "{new}", "--column", "picture"), 1, "has no column 'picture', only id, image"),
    (("{bundle}", "{parquet}", "{new}", "--column", "id"), 1, "column 'id' is int64, and pictures are binary"),
    (("{bundle}", "{twice}", "{new}", "--column", "image"), 1, "has several columns 'image'"),
    (("{bundle}", "{twice}", "{new}", "--column", "path"), 1, "Ray Data has a column 'path' of its own"),
    (("{bundle}", "{none}", "{new}", "--column", "image"), 1, "has no rows"),
    (("{bundle}", "{input}", "{input}/out"), 1, "it is, has or lies in"),
    (("{bundle}", "{input}", "{bundle}/out"), 1, "it is, has or lies in"),
    (("{bundle}", "{input}", "{parquet}"), 1, "a.parquet"),
    (("{bundle}", "{input}", "/dev/null/out"), 1, "/dev/null/out can't be written: Not a directory"),
    (("{bundle}", "{input}", "{foreign}", "--force"), 1, "has 'notes.txt', which no job wrote"),
    (("{bundle}", "{input}", "{new}", "--profile", "c1-k9"), 2, "not 9"),
    (("{dense}", "{input}", "{new}"), 2, "--output-logits"),
    (("{dense}", "{input}", "{new}", "--output-logits", "--profile", "c1-k1"), 2, "nothing to set"),
    (("{bundle}", "{input}", "{new}", "--top", "1", "--output-logits"), 2, "--top"),
    (("{bundle}", "{input}", "{new}", "--part-size", "0"), 2, "--part-size"),
    (("{bundle}", "{input}", "{new}", "--json", "{new}/summary.json"), 2, "there is no folder"),
    (("{bundle}", "{input}", "{done}", "--json", "{done}/summary.json"), 2, "holds only the files of the job"),
    (("{bundle}", "{parquet}", "{new}", "--column", "image", "--json", "{parquet}"), 2, "is used by this command"),
    (("{bundle}", "{input}", "{done}"), 1, "has a job with part size 10 and not 1024;"),
    (("{bundle}", "{input}", "{done}", "--part-size", "10", "--top", "3"), 1, "has a job with top 5 and not 3;"),
    (("{bundle}", "{more}", "{done}", "--part-size", "10"), 1, "has a job with another list of inputs, pictures 60"),
]


@pytest.fixture(scope="module")
def mistaken(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, finished: Path, mnist_image_bundle: Path
) -> dict[str, Path]:
    """Make the inputs for the test cases in which users make mistakes."""
    folder = tmp_path_factory.mktemp("mistakes")
    pq.write_table(pa.table({"id": [1], "image": [b"a"]}), folder / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "none.parquet")
    image = pa.array([b"a"])
    pq.write_table(pa.table([image] * 3, ["image", "image", "path"]), folder / "twice.parquet")
    for name, file in (("foreign", "notes.txt"), ("newline", "a\nb.png")):
        (folder / name).mkdir()
        (folder / name / file).write_text("mine")
    flipped("weights.safetensors")(copied_bundle(mnist_image_bundle, folder / "damaged"))
    made = {
        name: folder / name
        for name in ("a.parquet", "none.parquet", "twice.parquet", "foreign", "newline", "damaged", "new")
    }
    named = {path.stem: path for path in made.values()} | {"parquet": made["a.parquet"], "done": finished}
    bundles = {"bundle": mnist_image_bundle, "dense": DENSE}
    return named | bundles | {"input": digits, "more": digits / "more", "picture": digits / "00 a#b%41.png"}


@pytest.mark.parametrize(("words", "code", "message"), BAD)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], code: int, message: str, mistaken: dict[str, Path], mnist_bundle: Path, vmoe: Vmoe
) -> None:
    before = contents(mistaken["done"])
    given = (word.format(grouped=mnist_bundle, **mistaken) for word in words)
    assert message in vmoe.complaint(code, "serve", "batch", *given)
    assert not mistaken["new"].exists() and contents(mistaken["done"]) == before


@pytest.mark.parametrize(("end", "said"), [("os._exit(1)", True), ("pass", False)])
def test_a_process_that_ray_ends_does_not_end_in_silence(end: str, said: bool) -> None:
    code = f"import os\nfrom vmoe_serve.ray_session import told_if_ended\nwith told_if_ended():\n    {end}"
    errors = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False).stderr
    assert errors.startswith("vmoe: this process was killed, or ended by Ray") if said else errors == ""


JOB = Job("0" * 64, "1" * 64, 2, None, "c0.3-k1", "auto", None, 5, 1)
PARTS = [Part(number, 2, number, (InputFile(f"/{number}.png", f"{number}.png", "", 1),)) for number in range(2)]


def write(output: Output, part: Part, errors: int = 0) -> None:
    output.write(part, pa.table({"row": [part.first]}), Written(part, errors, ("an engine",)))


def test_parts_that_are_cut_off_or_left_by_others_are_not_counted(tmp_path: Path) -> None:
    location = Location.of(str(tmp_path / "out"))
    output = Output(location, JOB)
    output.begin(force=False)
    for part in PARTS:
        write(output, part)
    assert [each.part for each in output.parts(PARTS)] == PARTS
    first, second = (tmp_path / "out" / name for name in parts(tmp_path / "out"))
    second.write_bytes(second.read_bytes()[:-5])
    (tmp_path / "out" / f".{second.name}.{'0' * 16}").write_bytes(b"left by a kill")
    again = Output(location, JOB)
    again.begin(force=False)
    assert [each.part for each in again.parts(PARTS)] == PARTS[:1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_job.json", "_writer", first.name, second.name]

    other = Output(location, replace(JOB, top=3))
    with pytest.raises(BatchError, match="has a job with top 5 and not 3; --force removes its parts"):
        other.begin(force=False)
    other.begin(force=True)
    assert other.parts(PARTS) == [] and parts(tmp_path / "out") == []


def test_input_and_output_may_have_a_scheme_that_only_fsspec_knows() -> None:
    fsspec.filesystem("memory").pipe({f"/in/{name}.png": b"picture" for name in ("a", "b")})
    files = list_files(Location.of("memory://in"), None)
    assert [file.name for file in files] == ["a.png", "b.png"]
    output = Output(Location.of("memory://out"), JOB)
    output.begin(force=False)
    write(output, divide(files, 1)[0])
    output.finish({})
    again = Output(Location.of("memory://out/"), JOB)
    assert [each.part.files for each in again.parts(divide(files, 1))] == [(files[0],)] and again.is_finished()


def test_parts_in_csv_are_read_again_and_have_a_column_for_each_value(tmp_path: Path) -> None:
    output = Output(Location.of(str(tmp_path)), replace(JOB, format="csv"), 2)
    output.begin(force=False)
    table = pa.table({"path": ['a "b".png', "c\n.png"], "class": [["x", "y"], None], "error": [None, "no, not\none"]})
    part = replace(PARTS[0], files=(PARTS[0].files[0],) * 2)
    output.write(part, table, Written(part, 1, ("an engine, of its own",)))
    assert output.parts([part]) == [Written(part, 1, ("an engine, of its own",))]
    (file,) = parts(tmp_path)
    assert (tmp_path / file).read_text().splitlines()[0] == '"path","class_1","class_2","error","runtime"'
    whole = (tmp_path / file).read_bytes()
    for damaged in (whole[:-80], b"", whole.replace(b"error", b"fault")):
        (tmp_path / file).write_bytes(damaged)
        assert output.parts([part]) == []


def test_only_the_process_that_began_last_writes(tmp_path: Path) -> None:
    location = Location.of(str(tmp_path))
    first, second = Output(location, JOB), Output(location, JOB)
    first.begin(force=False)
    second.begin(force=False)
    with pytest.raises(BatchError, match="another run of this command"):
        write(first, PARTS[0])
    write(second, PARTS[0], errors=1)
    assert [each.errors for each in second.parts(PARTS)] == [1]


@pytest.mark.slow
def test_an_output_that_can_no_longer_be_written_is_named(tmp_path: Path) -> None:
    output = Output(Location.of(str(tmp_path / "out")), JOB)
    output.begin(force=False)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    for action in (lambda: write(output, PARTS[0]), lambda: output.finish({})):
        with pytest.raises(BatchError, match=f"{tmp_path}/out can't be written: it is not there"):
            action()
