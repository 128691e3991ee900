"""The results as JSON and as Markdown tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]

STEM = "speed"
JSON_NAME, TABLE_NAME, PICTURE_NAME = f"{STEM}.json", f"{STEM}.md", f"{STEM}.png"

_PEAKS = ("fp32", "bf16_vectors", "bf16_tiles", "int8_vectors", "int8_tiles")


def file_stem(cpu: Mapping[str, Any]) -> str:
    """Name of the files that a machine's report is kept in.

    Example:
        >>> file_stem({"name": "Intel(R) Xeon(R) Processor", "family": 6, "model": 143})
        'speed_Intel-R-Xeon-R-Processor-6-143'
    """
    words = [str(cpu[key]) for key in ("name", "family", "model") if key in cpu]
    return "speed_" + re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words)).strip("-")


def write_report(report: Report, folder: Path, stem: str = STEM) -> None:
    """Writes `<stem>.json` and `<stem>.md` into a folder."""
    (folder / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(markdown(report))


def markdown(report: Report) -> str:
    """All tables, one section per subject that was measured."""
    machine = report["machine"]
    lines = ["# Speed", ""]
    if report["void"]:
        lines += ["**VOID:** " + "; ".join(report["void"]) + ".", ""]
    if report["missing"]:
        lines += [f"Left out: {name}, as {reason}." for name, reason in report["missing"].items()] + [""]
    lines += [
        f"{machine['cpu']['name']} (family {machine['cpu'].get('family')}, model {machine['cpu'].get('model')}), "
        f"known as: {machine['known_as'] or 'unknown machine'}. This engine: {report['engine'] or 'not timed'}.",
        "Medians of calls taken in turns. Floors: the FLOPs of the kept pairs and the dense part at the measured peaks, and "
        "the weights' bytes at the measured read rate. Logits are compared with this engine's in float32.",
        "",
        *_section("Peaks, on random data", _peaks(report["floors"])),
        *_section("Images/s over another's", _ratios(report["ratios"])),
    ]
    for (model, batch, threads), points in _by_cell(report["points"]):
        lines += _section(f"{model}, batch {batch}, {threads} threads", _points(points))
    lines += _section("Time over kept pairs: straight lines", _fits(report["fits"]))
    lines += _section("Switching profiles", _switches(report["switches"]))
    lines += _section("Single layers", _layers(report["layers"]))
    lines += _section("Router, routing, dispatch and combine (upper bounds)", _routing(report["routing"]))
    lines += _section("Loading", _loading(report["loading"]))
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


def _peaks(floors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = [name for name in _PEAKS if any(name in found["peaks"] for found in floors.values())]
    rows = [
        [
            threads,
            *(f"{found['peaks'][name] / 1e9:,.0f}" if name in found["peaks"] else "-" for name in names),
            f"{found['read_bytes'] / 1e9:.1f}",
        ]
        for threads, found in floors.items()
    ]
    return table(["threads", *(f"{name.replace('_', ', ')} Gop/s" for name in names), "read GB/s"], rows)


def _points(points: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["", "C x K", "kept pairs", "ms/image", "best, quartiles", "images/s"]
    head += ["FLOP floor", "memory floor", "logits differ by", "relative"]
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
                f"{p['logits_difference']:.1e}",
                f"{p['relative_difference']:.1e}",
            ]
        )
    return table(head, rows)


def _ratios(ratios: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{_cell(r)}: {r['run']} over {r['over']}",
            f"{r['ratio']:.2f}",
            f"{r['flops_ratio']:.2f}",
        ]
        for r in ratios
    ]
    return table(["", "ratio", "of FLOPs"], rows) if rows else []


def _fits(fits: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{f['run']}, {_cell(f)}",
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
            f"{s['run']}, {_cell(s)}, {' / '.join(s['profiles'])}",
            f"{s['cost_ms']:+.3f} +- {s['error_ms']:.3f}",
            f"{s['pairs']}",
        ]
        for s in switches
    ]
    return table(["", "cost of a switch, ms", "pairs of calls"], rows) if rows else []


def _layers(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{k['op']}, {k['arithmetic']}, {_cell(k)}",
            f"{k['rows']:,}",
            f"{k['ms']:.3f}",
            f"{k['ms_median']:.3f}",
            f"{k['flops'] / k['ms'] / 1e6:,.0f}",
            f"{k['peak_share']:.0%}",
            f"{k['weight_bytes'] / k['ms'] / 1e6:.1f}",
            f"{k['read_share']:.0%}",
        ]
        for k in layers
    ]
    head = ["", "rows", "best ms", "median ms", "Gop/s", "of peak", "GB/s of weights", "of read rate"]
    return table(head, rows) if rows else []


def _routing(routing: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            _cell(r),
            ", ".join(f"{name.removeprefix('Vmoe')} {ms:.3f}" for name, ms in r["op_ms"].items()),
            *(_routing_part(r, what) for what in ("bare", "separate", "fused")),
        ]
        for r in routing
    ]
    head = ["ms per layer, share of the model's time in all", "each op", "routing, dispatch, combine"]
    head += ["with router and softmax", "with the routing block instead"]
    return table(head, rows) if rows else []


def _routing_part(cost: Mapping[str, Any], what: str) -> str:
    shares = (f"{name.removeprefix('engine-sparse-')} {share[what]:.1%}" for name, share in cost["shares"].items())
    return f"{cost[f'{what}_ms']:.3f}: {', '.join(shares) or '-'}"


def _loading(loading: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            m["bundle"],
            f"{m['weights'] / 1e6:,.0f}",
            f"{m['seconds']['load']:.2f} + {m['seconds']['answer']:.2f}",
            f"{m['first']['anonymous'] / 1e6:,.0f} + {m['first']['file'] / 1e6:,.0f}",
            f"{m['first_over_weights']:.2f}",
            f"{m['second_over_weights']:.1%}",
        ]
        for m in loading
    ]
    head = ["bundle", "weights MB", "s to load + first answer", "MB held, anonymous + file", "growth / weights"]
    return table([*head, "second engine adds"], rows) if rows else []


def _cell(item: Mapping[str, Any]) -> str:
    setting = "" if item.get("ck") is None else f", C x K {item['ck']:g}"
    return f"{item['model']}, batch {item['batch']}, {item['threads']} threads{setting}"
