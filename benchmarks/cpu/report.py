"""The results as JSON and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]

JSON_NAME, TABLE_NAME, PICTURE_NAME = "speed.json", "speed.md", "speed.png"


def write_report(report: Report, folder: Path) -> None:
    """Writes `speed.json` and `speed.md` into a folder."""
    (folder / JSON_NAME).write_text(json.dumps(report, indent=1) + "\n")
    (folder / TABLE_NAME).write_text(markdown(report))


def markdown(report: Report) -> str:
    """All tables, one section per subject that was measured."""
    machine = report["machine"]
    lines = ["# Speed", ""]
    if report["void"]:
        lines += ["**VOID:** " + "; ".join(report["void"]) + ".", ""]
    lines += [
        f"{machine['cpu']['name']} (family {machine['cpu'].get('family')}, model {machine['cpu'].get('model')}), "
        f"known as: {machine['known_as'] or 'unknown machine'}. Op library: {report['op_library'] or 'none'}.",
        "Medians of calls taken in turns. Floors: the FLOPs of the kept pairs and the dense part at the measured peak, and "
        "the weights' bytes at the measured read rate. Gain: over the dense ViT in ONNX Runtime fp32, split into the ratio "
        "of FLOPs and the rest.",
        "",
        *_section("Peaks", _peaks(report["floors"])),
    ]
    for (model, batch, threads), points in _by_cell(report["points"]):
        lines += _section(f"{model}, batch {batch}, {threads} threads", _points(points))
    lines += _section("This engine's images/s over its rivals'", _ratios(report["ratios"]))
    lines += _section("Time over kept pairs: straight lines", _fits(report["fits"]))
    lines += _section("Switching profiles", _switches(report["switches"]))
    lines += _section("Expert kernel alone (VmoeExpertMlp)", _kernels(report["kernels"]))
    lines += _section("Routing, dispatch and combine (separate ops, an upper bound)", _routing(report["routing"]))
    lines += _section("Memory after load", _memory(report["memory"]))
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(lines or ["Not measured."]), ""]


def _by_cell(points: Sequence[dict[str, Any]]) -> list[tuple[tuple[Any, ...], list[dict[str, Any]]]]:
    groups = groupby(points, key=lambda p: (p["model"], p["batch"], p["threads"]))
    return [(cell, list(members)) for cell, members in groups]


def _peaks(floors: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    rows = [
        [
            threads,
            f"{(peaks['fp32_flops'] or 0) / 1e9:.0f}",
            f"{peaks['bf16_flops'] / 1e9:.0f}" if peaks["bf16_flops"] else "-",
            f"{(peaks['read_bytes'] or 0) / 1e9:.1f}",
        ]
        for threads, peaks in floors.items()
    ]
    return table(["threads", "fp32 GFLOP/s", "bf16 GFLOP/s", "read GB/s"], rows)


def _points(points: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["contender", "C x K", "kept pairs", "ms/image", "best, quartiles", "images/s"]
    head += ["FLOP floor", "memory floor", "gain", "from sparsity", "from kernel", "logits differ by"]
    rows = []
    for p in points:
        per_image = 1 / p["batch"]
        low, high = p["ms_quartiles"]
        kept = "-" if p["kept_pairs"] is None else f"{p['kept_pairs']:,} of {p['asked_pairs']:,}"
        rows.append(
            [
                p["title"],
                "-" if p["ck"] is None else f"{p['ck']:g}",
                kept,
                f"{p['ms'] * per_image:.2f}",
                f"{p['ms_best'] * per_image:.1f}, {low * per_image:.1f}-{high * per_image:.1f}",
                f"{p['images_per_second']:.1f}",
                f"{p['flop_floor_ms'] * per_image:.2f}",
                f"{p['memory_floor_ms'] * per_image:.2f}",
                f"{p['gain_over_dense']:.2f}",
                f"{p['from_sparsity']:.2f}",
                f"{p['from_kernel']:.2f}",
                f"{p['logits_difference']:.1e}",
            ]
        )
    return table(head, rows)


def _ratios(ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{r['contender']}, {_cell(r)}, C x K {r['ck']:g}",
            f"{r['over_dense_ort']:.2f}",
            f"{r['over_careful_ort']:.2f}" if r["over_careful_ort"] else "-",
        ]
        for r in ratios
    ]
    return table(["", "dense ViT, ORT", "careful user's export, ORT"], rows) if rows else []


def _fits(fits: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{f['contender']}, {_cell(f)}",
            f"{f['intercept_ms']:.2f}",
            f"{f['ms_per_1000_pairs']:.3f}",
            f"{f['r_squared']:.4f}",
        ]
        for f in fits
    ]
    return table(["", "intercept ms", "ms per 1,000 pairs", "R^2"], rows) if rows else []


def _switches(switches: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{s['contender']}, {_cell(s)}, {' / '.join(s['profiles'])}",
            f"{s['cost_ms']:+.3f} +- {s['error_ms']:.3f}",
            f"{s['pairs']}",
        ]
        for s in switches
    ]
    return table(["", "cost of a switch, ms", "pairs of calls"], rows) if rows else []


def _kernels(kernels: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{k['precision']}, {_cell(k)}, C x K {k['ck']:g}",
            f"{k['places']:,}",
            f"{k['ms']:.2f}",
            f"{k['flops'] / 1e9:.0f}",
            f"{k['flops_share']:.0%}",
            f"{k['read_bytes'] / 1e9:.1f}",
            f"{k['read_share']:.0%}",
        ]
        for k in kernels
    ]
    head = ["", "places", "best ms", "GFLOP/s", "of peak", "GB/s of weights", "of read rate"]
    return table(head, rows) if rows else []


def _routing(routing: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{_cell(r)}, C x K {r['ck']:g}",
            ", ".join(f"{name.removeprefix('Vmoe')} {ms:.3f}" for name, ms in r["op_ms"].items()),
            f"{r['routing_ms']:.3f}",
            f"{r['share_of_model']:.1%}" if r["share_of_model"] is not None else "-",
        ]
        for r in routing
    ]
    return (
        table(["", "ms per layer of each op", "all but the experts", "of the model's time, all MoE layers"], rows)
        if rows
        else []
    )


def _memory(memory: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            m["bundle"],
            f"{m['weights'] / 1e6:,.0f}",
            f"{m['first']['anonymous'] / 1e6:,.0f} + {m['first']['file'] / 1e6:,.0f}",
            f"{m['first_over_weights']:.2f}",
            f"{m['second_over_weights']:.1%}",
        ]
        for m in memory
    ]
    head = ["bundle", "weights MB", "resident MB, anonymous + file", "engine / weights", "second engine adds"]
    return table(head, rows) if rows else []


def _cell(item: Mapping[str, Any]) -> str:
    return f"{item['model']}, batch {item['batch']}, {item['threads']} threads"
