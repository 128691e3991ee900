"""Kills and interrupts exports at random moments, and checks the files that they leave.

    python tests/support/export_kills.py --kills 170 --signals 60

The program prints one line for each fault and then a summary as JSON. If there was a fault, the exit code is 1. This process
exports once and then forks for each further export, so that no export is killed while it imports modules.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hostile_runs import Report, run_program
from terminal import default_signals

from vmoe_export import export_bundle
from vmoe_runtime import BundleError
from vmoe_runtime.bundle.reader import Bundle
from vmoe_tools import program

DENSE = Path(__file__).parents[1] / "data" / "golden" / "g4"
OPTIONS = (["--input", "float32"], ["--input", "uint8"])  # two bundles that differ
LINES = {
    signal.SIGINT: "vmoe: interrupted",
    signal.SIGTERM: "vmoe: ended by SIGTERM",
    signal.SIGHUP: "vmoe: ended by SIGHUP",
}


class Exports:
    """Exports that all have the same target folder, and that are killed or interrupted.

    Args:
        folder: an empty folder.
        seed: random seed that determines when exports are killed or get a signal.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.target = folder / "x.vmoe"
        self.report = Report()
        self._random = random.Random(seed)
        self._beside = Path(tempfile.mkdtemp(prefix="export-kills-"))
        self._errors, self._bundle = self._beside / "errors", self._beside / "x.vmoe"
        self._errors.touch()
        # Export once before the first fork, so that the children don't have to import torch again. Use one thread, because
        # other threads don't survive a fork.
        torch.set_num_threads(1)
        export_bundle(DENSE, self.target, validate=False)
        shutil.copytree(self.target, self._bundle)
        self._seconds = 0.0
        self._whole = {None}
        for options in OPTIONS:
            begin = time.monotonic()
            if self._wait(self._start(options, force=True)) != 0:
                raise RuntimeError(f"the export itself fails: {self._errors.read_text()}")
            self._seconds = max(self._seconds, time.monotonic() - begin)
            self._whole.add(Bundle.open(self.target).identity)

    def kill(self, count: int) -> None:
        """Kill `count` exports with SIGKILL at random moments.

        After each kill, the target must be a complete bundle. If there was no target before, it may also be missing.
        """
        for run in range(count):
            force = self._begin_with_bundle(run)
            self._end(run, signal.SIGKILL, force)
            self._check_target(f"kill {run}", force)
        self._sweep("the kills")

    def interrupt(self, count: int) -> None:
        """Send SIGINT, SIGTERM or SIGHUP to `count` exports at random moments.

        An interrupted export must print one line, and leave nothing behind except a complete target. If a second signal
        interrupts the cleanup, the next export completes the cleanup.
        """
        for run in range(count):
            force = self._begin_with_bundle(run)
            number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[run % 3]
            twice = run % 5 == 0
            code = self._end(run, number, force, twice=twice)
            lines = self._errors.read_text().split("\n")
            lines = [line for line in lines if line]
            name = f"signal {run} ({number.name})"
            if code not in (0, 128 + number, -number):
                self._fail(f"{name}: exit code {code}")
            # If two signals are sent, the second may end the process after the message for the first has been printed.
            if lines != ([LINES[number]] if code == 128 + number else []) and not (twice and lines == [LINES[number]]):
                self._fail(f"{name}: exit code {code} and standard error {lines}")
            if (left := self._left()) and not twice:
                self._fail(f"{name}: left {left}")
            self._check_target(name, force)
        self._sweep("the signals")

    def close(self) -> None:
        """Remove this object's two files.

        They are the file for standard error, and the stored bundle. The stored bundle is copied to the target before an
        export that overwrites the target.
        """
        shutil.rmtree(self._beside)

    def _begin_with_bundle(self, run: int) -> bool:
        force = run % 2 == 0
        if not force and self.target.exists():
            shutil.rmtree(self.target)
        elif force and not self.target.exists():
            shutil.copytree(self._bundle, self.target)
        return force

    def _end(self, run: int, number: signal.Signals, force: bool, *, twice: bool = False) -> int:
        pid = self._start(OPTIONS[run // 2 % 2], force=force)
        time.sleep(self._random.uniform(0, 1.1 * self._seconds))
        os.kill(pid, number)
        if twice:
            time.sleep(self._random.uniform(0, 0.002))
            os.kill(pid, number)
        code = self._wait(pid)
        self.report.endings[str(code)] += 1
        return code

    def _start(self, options: list[str], *, force: bool) -> int:
        arguments = [str(DENSE), "-o", str(self.target), "--no-validate", "-q", *options, *["--force"] * force]
        # Empty the file. Otherwise, if this process ends early, the file still contains the previous process's messages.
        self._errors.write_bytes(b"")
        return self._fork(lambda: program.main(["export", *arguments]))

    def _fork(self, run: Callable[[], int]) -> int:
        if pid := os.fork():
            return pid
        code = 1
        try:
            os.dup2(os.open(self._errors, os.O_WRONLY), 2)
            code = run()
        except KeyboardInterrupt:  # the signal arrived after the command had ended
            code = 0
        finally:
            os._exit(code)

    @staticmethod
    def _wait(pid: int) -> int:
        """Wait for a process to end, and return its exit code.

        If a signal ended the process, return the negative signal number.
        """
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _check_target(self, name: str, must_be_there: bool) -> None:
        identity = None
        if os.path.lexists(self.target):
            try:
                bundle = Bundle.open(self.target)
                bundle.verify_weights()
                identity = bundle.identity
            except BundleError as error:
                self._fail(f"{name}: {error}")
                return
        if identity not in self._whole or (must_be_there and identity is None):
            self._fail(f"{name}: the target is {'a strange bundle' if identity else 'away'}")

    def _sweep(self, after: str) -> None:
        """Export again, and check that no files from earlier exports are left afterwards."""
        if self._wait(self._start(OPTIONS[0], force=True)) != 0:
            self._fail(f"the export after {after} fails: {self._errors.read_text()}")
        if left := self._left():
            self._fail(f"the export after {after} leaves {left}")

    def _left(self) -> list[str]:
        """Return the paths, other than the target, that exports left in the folder.

        Empty folders are ignored, because an export may leave one if a signal arrives early.
        """
        return [path.name for path in self.folder.iterdir() if path.name.startswith(".") and any(path.iterdir())]

    def _fail(self, what: str) -> None:
        self.report.failures.append(what)


def run(kills: int, signals: int, seed: int) -> Report:
    """Kill and interrupt exports in a temporary folder.

    This function forks, so the calling process must not have other threads.
    """
    with tempfile.TemporaryDirectory(prefix="export-kills-") as folder:
        exports = Exports(Path(folder), seed)
        try:
            exports.kill(kills)
            exports.interrupt(signals)
        finally:
            exports.close()
        return exports.report


if __name__ == "__main__":
    default_signals()
    run_program(run, kills=170, signals=60, seed=0)
