"""What a run finds, in Markdown: printed and written as it is found, so that a run that is stopped or killed keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import cells, table
from on_gpu.check import Check

PASSED, FAILED, BAR_MISSED, NOT_RUN = 0, 1, 3, 4
_HEAD = ("kernel", "µs", "quartiles", "launches", "MB", "of copy", "floor µs", "bar µs", "", "torch µs")
_CELLS = "name µs:.2f quartiles launches MB:.3f of_copy:.0% floor_µs:.3f bar_µs:.2f verdict torch_µs:.2f"


def file_name(gpu: str, chosen: Sequence[str]) -> str:
    """The name of a run's file: its GPU's, and what was chosen of all that there is.

    Example:
        >>> file_name("NVIDIA H100 80GB HBM3", ["timing", "64 x 197, E 8"])
        'gpu_NVIDIA-H100-80GB-HBM3_timing_64-x-197-E-8.md'
    """
    return "_".join(["gpu", *(re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") for name in (gpu, *chosen))]) + ".md"


class Report:
    """The results so far, and the file that they are written to.

    Attributes:
        checked: how many things were looked at.
        failures, missed, skipped: sentences on what was wrong, over its bar, and not run.
        rows: kernels that were timed, see `gpu.timing`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.path, self.checked = path, 0
        self.failures, self.missed, self.skipped = list[str](), list[str](), list[str]()
        self.rows = list[Mapping[str, Any]]()

    def write(self, *lines: str) -> None:
        """Prints lines, and writes them to the file."""
        print(*lines, sep="\n", flush=True)
        with self.path.open("a") as file:
            print(*lines, sep="\n", file=file)

    def check(self, check: Check) -> None:
        """Tells what became of a check."""
        self.checked += check.count
        self.failures += [f"{check.name}: {failure}" for failure in check.failures]
        found = f"- {check.name}: {check.count:,} checked, {len(check.failures)} wrong"
        self.write(found, *(f"    - {failure}" for failure in check.failures))

    def skip(self, name: str, why: str) -> None:
        """Tells what can't run here."""
        self.skipped.append(f"{name}: {why}")
        self.write(f"- skipped: {name}: {why}")

    def row(self, row: Mapping[str, Any]) -> None:
        """Tells how long a kernel took; rows that follow one another are a table."""
        name, (lower, median, upper) = f"{row['kernel']} {row['shape']}", (seconds * 1e6 for seconds in row["time"])
        bar, torch = (row["bar"] and row["bar"] * 1e6), (row["torch"] and row["torch"].median * 1e6)
        shown = {"name": name, "µs": median, "quartiles": f"{lower:.2f}-{upper:.2f}", "MB": row["bytes"] / 1e6}
        shown |= {"floor_µs": row["floor"] * 1e6, "bar_µs": bar, "torch_µs": torch}
        verdict = {None: "-", True: "pass", False: "MISS"}[row["passes"]]
        self.write(*table(_HEAD, [cells({**row, **shown, "verdict": verdict}, _CELLS)])[2 if self.rows else 0 :])
        self.rows.append(row)
        if row["passes"] is False:
            why = "there is no bar, as torch gave no time" if bar is None else f"the bar is {bar:.2f} µs"
            self.missed.append(f"{row['kernel']} at {row['shape']} took {median:.2f} µs; {why}")

    def end(self) -> int:
        """Tells what it amounts to; returns the exit code: faults weigh more than a bar, and that more than a gap."""
        passed = [row["passes"] for row in self.rows if row["passes"] is not None]
        sentences = {"skipped": self.skipped, "over the bar": self.missed, "wrong": self.failures}
        self.write("\n## All in all\n", *(f"- {what}: {said}" for what, found in sentences.items() for said in found))
        counts = f"{self.checked:,} checks, {len(self.failures)} failures."
        self.write(f"\n{counts} {sum(passed)} of {len(passed)} rows are within their bar.")
        if self.failures:
            return FAILED
        return BAR_MISSED if self.missed else NOT_RUN if self.skipped else PASSED
