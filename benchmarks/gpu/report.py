"""The results as JSON and as Markdown tables, under the card's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command_line import cells, table

from gpu.shapes import Shape

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at so often, and a sentence for each time that it was not as it must be."""

    name: str
    count: int
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def file_stem(card: str, chosen: Sequence[str]) -> str:
    """The name of a run's files: its card's, and what was chosen of all that there is.

    Example:
        >>> file_stem("NVIDIA H100 80GB HBM3", ["timing", "64 x 197, E 8"])
        'gpu_NVIDIA-H100-80GB-HBM3_timing_64-x-197-E-8'
    """
    return "_".join(["gpu", *(re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") for name in (card, *chosen))])


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes the JSON and the Markdown file; returns their paths. A run that is killed leaves each old or new, and whole."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = file_stem(report["card"]["name"], report["chosen"])
    paths = folder / f"{stem}.json", folder / f"{stem}.md"
    for path, text in zip(paths, (json.dumps(report, indent=1) + "\n", markdown(report)), strict=True):
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.write_text(text)
        unfinished.replace(path)
    return paths


def failures_of(report: Report) -> list[str]:
    """A sentence for everything that was not as it must be."""
    return [f"{check['name']}: {failure}" for check in report["checks"] for failure in check["failures"]]


def missed_bars(report: Report) -> list[str]:
    """A sentence for each row that took longer than its bar, or has none where it should."""
    return [
        f"{row['kernel']} at {Shape(**row['shape'])} took {_us(row['time'])} µs; "
        + ("there is no bar, as torch gave no time" if row["bar"] is None else f"the bar is {row['bar'] * 1e6:.2f} µs")
        for row in report["rows"]
        if row["passes"] is False
    ]


def summary(report: Report) -> str:
    """How much was checked and is within its bar, in two sentences."""
    checked, judged = sum(c["count"] for c in report["checks"]), [r for r in report["rows"] if r["passes"] is not None]
    passed = sum(row["passes"] for row in judged)
    return f"{checked:,} checks, {len(failures_of(report))} failures. {passed} of {len(judged)} rows are within their bar."


def markdown(report: Report) -> str:
    """All tables."""
    card, checks = report["card"], [check | {"wrong": len(check["failures"])} for check in report["checks"]]
    facts = ", ".join(f"{key}: {value}" for key, value in card.items() if key != "name")
    lines = [f"# {card['name']}", "", summary(report), "", f"{facts}. Seed {report['seed']}.", ""]
    rates = report["rates"] and [
        f"A copy within the card's memory reads and writes {rates['copy'] / 1e12:.2f} TB/s, of which floors are taken. An "
        f"empty kernel takes {rates['launch'] * 1e6:.2f} µs. Medians of CUDA graphs on rotating buffers, interleaved; what "
        "the CPU needs to launch is in none of them."
        for rates in [report["rates"]]
    ]
    sections: dict[str, Sequence[str]] = {
        "Not as it must be": [f"- {failure}" for failure in failures_of(report)],
        "Over the bar": [f"- {sentence}" for sentence in missed_bars(report)],
        "Skipped": [f"- {name}: {why}" for name, why in report["skipped"].items()],
        "Checks": table(["", "checked", "wrong"], [cells(check, "name count:, wrong") for check in checks]),
        "Times": rates or ["Not measured."],
        "With a bar": _rows([row for row in report["rows"] if row["passes"] is not None]),
        "Without a bar": _rows([row for row in report["rows"] if row["passes"] is None]),
        "Notes": list(dict.fromkeys(f"- {note}" for row in report["rows"] for note in row["notes"])),
        "Whole models": table(
            ["", "batch", "ms per call", "images/s"],
            [cells(point, "name batch ms:.3f images_per_second:.0f") for point in report["points"]],
        ),
    }
    for title, body in sections.items():
        lines += [f"## {title}", "", *body, ""] if body else []
    return "\n".join(lines)


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["kernel", "µs", "quartiles", "launches", "MB", "of copy", "floor µs", "bar µs", "", "torch µs"]
    words = {None: "-", True: "pass", False: "MISS"}
    body = [
        [
            *(f"{row['kernel']} {Shape(**row['shape'])}", _us(row["time"])),
            f"{row['time']['lower'] * 1e6:.2f}-{row['time']['upper'] * 1e6:.2f}",
            *cells(row, "launches"),
            *(f"{row['bytes'] / 1e6:.3f}", f"{row['of_copy']:.0%}", f"{row['floor'] * 1e6:.3f}"),
            "-" if row["bar"] is None else f"{row['bar'] * 1e6:.2f}",
            *(words[row["passes"]], "-" if row["torch"] is None else _us(row["torch"])),
        ]
        for row in rows
    ]
    return table(head, body)


def _us(time: Mapping[str, float]) -> str:
    return f"{time['median'] * 1e6:.2f}"
