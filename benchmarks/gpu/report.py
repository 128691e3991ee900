"""Report results in Markdown.

Each result is printed and written to the report file at once. If the run is stopped or killed, the results so far remain in
the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import cells, table
from on_gpu.check import Check

PASSED, FAILED, NOT_RUN = 0, 1, 4
_HEAD = ("kernel", "µs", "quartiles", "launches", "MB", "of copy", "floor µs", "torch µs")
_CELLS = "name µs:.2f quartiles launches MB:.3f of_copy:.0% floor_µs:.3f torch_µs:.2f"


def file_name(gpu: str, chosen: Sequence[str]) -> str:
    """Return the file name of a run, from its GPU and the chosen parts and shapes.

    Examples:
        >>> file_name("NVIDIA H100 80GB HBM3", ["timing", "64 x 197, E 8"])
        'gpu_NVIDIA-H100-80GB-HBM3_timing_64-x-197-E-8.md'
    """
    return "_".join(["gpu", *(re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") for name in (gpu, *chosen))]) + ".md"


class Report:
    """The results so far, and the file to which they are written.

    Attributes:
        checked: number of checks.
        failures, skipped: messages about checks that failed, and about parts that were not run.
        rows: one row for each timed kernel, as yielded by `gpu.timing.measure_shape`.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.path, self.checked = path, 0
        self.failures, self.skipped = list[str](), list[str]()
        self.rows = list[Mapping[str, Any]]()

    def write(self, *lines: str) -> None:
        """Print lines and write them to the file."""
        print(*lines, sep="\n", flush=True)
        with self.path.open("a") as file:
            print(*lines, sep="\n", file=file)

    def check(self, check: Check) -> None:
        """Report the result of a check."""
        self.checked += check.count
        self.failures += [f"{check.name}: {failure}" for failure in check.failures]
        found = f"- {check.name}: {check.count:,} checked, {len(check.failures)} wrong"
        self.write(found, *(f"    - {failure}" for failure in check.failures))

    def skip(self, name: str, why: str) -> None:
        """Report that a part of the benchmark can't run on this machine, and why."""
        self.skipped.append(f"{name}: {why}")
        self.write(f"- skipped: {name}: {why}")

    def row(self, row: Mapping[str, Any]) -> None:
        """Report the time of a kernel as a table row. Consecutive rows form one table."""
        name, (lower, median, upper) = f"{row['kernel']} {row['shape']}", (seconds * 1e6 for seconds in row["time"])
        torch = row["torch"] and row["torch"].median * 1e6
        shown = {"name": name, "µs": median, "quartiles": f"{lower:.2f}-{upper:.2f}", "MB": row["bytes"] / 1e6}
        shown |= {"floor_µs": row["floor"] * 1e6, "torch_µs": torch}
        self.write(*table(_HEAD, [cells({**row, **shown}, _CELLS)])[2 if self.rows else 0 :])
        self.rows.append(row)

    def end(self) -> int:
        """Report the summary and return the exit code.

        If there are both failures and skipped parts, return the code for failures.
        """
        messages = {"skipped": self.skipped, "wrong": self.failures}
        self.write("\n## Summary\n", *(f"- {what}: {message}" for what, found in messages.items() for message in found))
        self.write(f"\n{self.checked:,} checks, {len(self.failures)} failures, {len(self.rows)} kernels timed.")
        return FAILED if self.failures else NOT_RUN if self.skipped else PASSED
