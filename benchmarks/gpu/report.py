"""The results as JSON and as Markdown tables, under the card's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpu.report import table

from gpu.shapes import Shape

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        count: how often.
        failures: a sentence for each time that it was not as it must be.
    """

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
    checks = [*report["checks"], *(check for part in report["frameworks"] for check in part["checks"])]
    return [f"{check['name']}: {failure}" for check in checks for failure in check["failures"]]


def missed_bars(report: Report) -> list[str]:
    """A sentence for each row that took longer than its bar, or has none where it should."""
    return [
        f"{row['kernel']} at {Shape(**row['shape'])} took {_us(row['time']['median'])} µs; "
        + ("there is no bar, as torch gave no time" if row["bar"] is None else f"the bar is {_us(row['bar'])} µs")
        for row in report["rows"]
        if row["passes"] is False
    ]


def markdown(report: Report) -> str:
    """All tables."""
    card = report["card"]
    lines = [f"# {card['name']}", "", _summary(report), ""]
    lines += [", ".join(f"{key}: {value}" for key, value in card.items() if key != "name") + f". Seed {report['seed']}.", ""]
    lines += _section("Not as it must be", [f"- {failure}" for failure in failures_of(report)])
    lines += _section("Over the bar", [f"- {sentence}" for sentence in missed_bars(report)])
    lines += _section("Skipped", [f"- {name}: {why}" for name, why in report["skipped"].items()])
    lines += _section("Checks", _checks(report))
    lines += _section("Times", _rates(report), optional=False)
    for bar, title in ((True, "With a bar"), (False, "Without a bar")):
        rows = [row for row in report["rows"] if (row["passes"] is not None) == bar]
        lines += _section(title, _rows(rows))
    lines += _section("Notes", list(dict.fromkeys(f"- {note}" for row in report["rows"] for note in row["notes"])))
    lines += _section("Whole models", _points(point for part in report["frameworks"] for point in part["points"]))
    return "\n".join(lines)


def _section(title: str, lines: Sequence[str], optional: bool = True) -> list[str]:
    if not lines and optional:
        return []
    return [f"## {title}", "", *(lines or ["Not measured."]), ""]


def _summary(report: Report) -> str:
    checked = sum(check["count"] for check in report["checks"])
    judged = [row["passes"] for row in report["rows"] if row["passes"] is not None]
    return (
        f"{checked:,} checks, {len(failures_of(report))} failures. {sum(judged)} of {len(judged)} rows are within their bar."
    )


def _checks(report: Report) -> list[str]:
    checks = [*report["checks"], *(check for part in report["frameworks"] for check in part["checks"])]
    rows = [[check["name"], f"{check['count']:,}", f"{len(check['failures'])}"] for check in checks]
    return table(["", "checked", "wrong"], rows) if rows else []


def _rates(report: Report) -> list[str]:
    rates = report["rates"]
    if rates is None:
        return []
    return [
        f"A copy within the card's memory reads and writes {rates['copy'] / 1e12:.2f} TB/s, of which floors are taken. "
        f"An empty kernel takes {_us(rates['launch'])} µs. Medians of CUDA graphs on "
        "rotating buffers, contenders in turns; what the CPU needs to launch is in none of them."
    ]


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    head = ["kernel", "µs", "quartiles", "launches", "MB", "GB/s", "of copy", "floor µs", "bar µs", "", "torch µs"]
    head += ["index_add µs", "torch.compile µs"]
    lines = []
    for row in rows:
        peers = [row["peers"].get(name) for name in ("torch", "torch, index_add", "torch.compile")]
        lines.append(
            [
                f"{row['kernel']} {Shape(**row['shape'])}",
                _us(row["time"]["median"]),
                f"{_us(row['time']['lower'])}-{_us(row['time']['upper'])}",
                f"{row['launches']}",
                f"{row['bytes'] / 1e6:.3f}",
                f"{row['bytes_per_second'] / 1e9:.0f}",
                f"{row['of_copy']:.0%}",
                _us(row["floor"]),
                "-" if row["bar"] is None else _us(row["bar"]),
                "-" if row["passes"] is None else "pass" if row["passes"] else "MISS",
                *("-" if peer is None else _us(peer["median"]) for peer in peers),
            ]
        )
    return table(head, lines)


def _points(points: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{point['bundle']}, {point['profile']}, {point['framework']} ({point['description']})",
            f"{point['batch']}",
            f"{point['time']['median'] * 1e3:.3f}",
            f"{point['images_per_second']:.0f}",
        ]
        for point in points
    ]
    return table(["", "batch", "ms per call", "images/s"], rows) if rows else []


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.2f}" if seconds >= 1e-7 else f"{seconds * 1e6:.3f}"
