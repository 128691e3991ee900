"""The results as JSON and as Markdown tables, under the card's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpu.report import table

from gpu.floors import BAR

Report = Mapping[str, Any]


def file_stem(card: str) -> str:
    """Such as `gpu_NVIDIA-H100-80GB-HBM3`.

    Example:
        >>> file_stem("NVIDIA H100 80GB HBM3")
        'gpu_NVIDIA-H100-80GB-HBM3'
    """
    return "gpu_" + re.sub(r"[^A-Za-z0-9.]+", "-", card).strip("-")


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes the JSON and the Markdown file; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / file_stem(report["card"]["name"])
    paths = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.md")
    paths[0].write_text(json.dumps(report, indent=1) + "\n")
    paths[1].write_text(markdown(report))
    return paths


def failures_of(report: Report) -> list[str]:
    """A sentence for everything that was not as it must be."""
    checks = [*report["checks"], *(check for part in report["frameworks"] for check in part["checks"])]
    return [f"{check['name']}: {failure}" for check in checks for failure in check["failures"]]


def missed_bars(report: Report) -> list[str]:
    """A sentence for each row that took longer than its bar."""
    return [
        f"{row['kernel']} at {shape_text(row['shape'])} took {_us(row['time']['median'])} µs; "
        f"the bar is {_us(row['bar'])} µs"
        for row in report["rows"]
        if row["passes"] is False
    ]


def shape_text(shape: Mapping[str, Any]) -> str:
    """Such as `64 x 197, E 8, K 2, c 52, D 768, bf16`."""
    hidden = f", D {shape['hidden']}" if shape["hidden"] else ""
    order = "" if shape["bpr"] else ", vanilla"
    gates = "" if shape["gate_type"] in ("fp32", shape["type"]) else f", gates {shape['gate_type']}"
    return (
        f"{shape['groups']} x {shape['tokens']}, E {shape['experts']}, K {shape['choices']}, c {shape['capacity']}"
        f"{hidden}, {shape['type']}{gates}{order}"
    )


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
        rows = [row for row in report["rows"] if (row["bar"] is not None) == bar]
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
    with_bar = [row for row in report["rows"] if row["bar"] is not None]
    met = sum(row["passes"] for row in with_bar)
    return (
        f"{checked:,} checks, {len(failures_of(report))} failures. "
        f"{met} of {len(with_bar)} rows are within {BAR} times their floor and their launches' time."
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
        f"A copy within the card's memory reads and writes {rates['copy'] / 1e12:.2f} TB/s; floors are taken from "
        f"{rates['floor'] / 1e12:.2f} TB/s. An empty kernel takes {_us(rates['launch'])} µs. Medians of CUDA graphs on "
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
                f"{row['kernel']} {shape_text(row['shape'])}",
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
