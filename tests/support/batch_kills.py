"""Kills batch jobs at random moments, some of them on S3, and checks their output.

    python tests/support/batch_kills.py --kills 20 --s3 10

The program prints one line for each failure and then a summary as JSON. If there was a failure, the exit code is 1.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hostile_runs import Report, run_program
from picture_file import picture_file
from pyarrow import fs
from ray_cluster import ray_cluster, s3_server

from vmoe_export import export_bundle

MNIST = Path(__file__).parents[2] / "samples" / "mnist" / "vmoe_mnist"
BUCKET = "pictures"
OWN_RAY_EVERY = 5
"""Once in this many runs, the command starts a Ray of its own. A killed command leaves its Ray running."""


class Jobs:
    """Batch jobs on one file system. They run one after another and can be killed."""

    def __init__(
        self,
        report: Report,
        bundles: tuple[Path, Path],
        root: str,
        cluster: Mapping[str, str],
        pictures: int,
        seed: int,
    ) -> None:
        """Write the input pictures of the jobs.

        Args:
                report: an object that counts kills and failures.
                bundles: the bundle that the jobs use, and another bundle. Once a job has started, it must refuse the other
                bundle.
                root: a folder or a URI that contains the pictures and the outputs.
                cluster: environment variables with which a command joins a Ray cluster.
                pictures: number of pictures.
                seed: random seed that determines when jobs are killed.
        """
        self._bundles, self._root, self._cluster, self._pictures = bundles, root, cluster, pictures
        self._random, self._report = random.Random(seed), report
        self._filesystem, self._path = (
            fs.FileSystem.from_uri(root) if "://" in root else (fs.LocalFileSystem(), str(Path(root).resolve()))
        )
        self._filesystem.create_dir(f"{self._path}/in")
        for number in range(pictures):
            with self._filesystem.open_output_stream(f"{self._path}/in/{number:05}.png") as stream:
                stream.write(picture_file(np.full((28, 28), number % 251, np.uint8)))
        self._number, self._runs = 0, 0
        self._seconds = 20.0  # estimated duration of a job; increased if a killed job has written nothing

    @property
    def output(self) -> str:
        """The current job's output, as a path on the file system."""
        return f"{self._path}/out{self._number}"

    def kill(self) -> None:
        """Start the current job, kill it at a random moment, and check that its output so far has no duplicate rows."""
        process, start = self._start(), time.monotonic()
        try:
            process.wait(self._random.uniform(0.0, self._seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            rows = self._rows()
            self._report.endings[
                f"killed with {'no' if not rows else 'all' if len(rows) == self._pictures else 'some'} rows"
            ] += 1
            if not rows:
                self._seconds *= 1.5
            if len(rows) != len(set(rows)):
                self._report.failures.append(f"{self.output}: rows are there twice after a kill")
            return
        # The job had ended before it could be killed, so kill the next job instead.
        self._seconds = time.monotonic() - start
        self.finish()
        self.kill()

    def finish(self) -> None:
        """Run the current job to its end, check its whole output, and switch to a new job.

        Also check that a command that continues the finished job is refused if it specifies another setting or another
        bundle.
        """
        self._check(self._start(), 0, "")
        if sorted(self._rows()) != list(range(self._pictures)):
            self._report.failures.append(f"{self.output}: {len(self._rows())} rows, {len(set(self._rows()))} of them once")
        before = self._contents()
        if f"{self.output}/_SUCCESS" not in before:
            self._report.failures.append(f"{self.output}: nothing says that the job is done")
        self._check(self._start(), 0, "")
        self._check(self._start("--profile", "c1.05-k2"), 1, "has a job with setting")
        self._check(self._start(bundle=self._bundles[1]), 1, "has a job with another bundle")
        if self._contents() != before:
            self._report.failures.append(f"{self.output}: a run of a finished job changed something")
        self._report.endings["finished"] += 1
        self._number += 1

    def _start(self, *options: str, bundle: Path | None = None) -> subprocess.Popen[str]:
        self._runs += 1
        own = self._runs % OWN_RAY_EVERY == 0
        uri = self._root.rstrip("/")
        words = [bundle or self._bundles[0], f"{uri}/in", f"{uri}/out{self._number}"]
        command = [sys.executable, "-m", "vmoe_tools", "serve", "batch", *words, "--part-size", "100", "--threads", "1"]
        return subprocess.Popen(
            [*map(str, command), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_ADDRESS": "", **({} if own else self._cluster)},
        )

    def _check(self, process: subprocess.Popen[str], code: int, said: str) -> None:
        _, errors = process.communicate()
        if process.returncode != code or said not in errors:
            self._report.failures.append(f"{self.output}: exit code {process.returncode}, {' '.join(errors.split())[-300:]}")

    def _rows(self) -> list[int]:
        infos = self._filesystem.get_file_info(fs.FileSelector(self.output, allow_not_found=True))
        if not any(info.base_name.startswith("part-") for info in infos):
            return []
        rows: list[int] = pq.read_table(self.output, filesystem=self._filesystem, columns=["row"])["row"].to_pylist()
        return rows

    def _contents(self) -> dict[str, bytes]:
        infos = self._filesystem.get_file_info(fs.FileSelector(self.output))
        files = [info.path for info in infos if not info.path.endswith("_writer")]
        return {path: self._filesystem.open_input_stream(path).read() for path in files}


def kill_jobs(
    bundles: tuple[Path, Path], cluster: Mapping[str, str], kills: int, s3: int, pictures: int, seed: int
) -> Report:
    """Kill jobs on a disk and on S3.

    Args:
        bundles: the bundle that the jobs use, and another bundle. Once a job has started, it must refuse the other bundle.
        cluster: the variables from `ray_cluster`, which must have started inside an `s3_server` with the bucket `BUCKET`.
        kills, s3: how many jobs to kill on the disk and on S3.
        pictures: pictures per job.
        seed: random seed that determines when jobs are killed.
    """
    report = Report()
    with tempfile.TemporaryDirectory(prefix="batch-kills-") as folder:
        for root, count in ((folder, kills), (f"s3://{BUCKET}/jobs", s3)):
            if count:
                jobs = Jobs(report, bundles, root, cluster, pictures, seed)
                for _ in range(count):
                    jobs.kill()
                jobs.finish()
    return report


def run(kills: int, s3: int, pictures: int, seed: int) -> Report:
    """Run `kill_jobs` with a new cluster and a new S3 server."""
    with tempfile.TemporaryDirectory(prefix="batch-kills-") as folder:
        bundles = Path(folder) / "a.vmoe", Path(folder) / "b.vmoe"
        for bundle, ratios in zip(bundles, ([0.3, 1.05], [0.3]), strict=True):
            export_bundle(MNIST, bundle, capacity=ratios, k=[1, 2], validate=False)
        with s3_server(BUCKET), ray_cluster() as cluster:
            return kill_jobs(bundles, cluster, kills, s3, pictures, seed)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run_program(run, kills=20, s3=10, pictures=3000, seed=0)
