"""Machines whose peers were timed before: on one of them, a peer that is much slower voids a run.

A slow peer would make this engine look better than it is. The table says what each peer takes, in milliseconds per image.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "results" / "known_machines.json"

_TOLERANCE = 1.10


def this_cpu() -> dict[str, Any]:
    """What tells a kind of CPU: vendor, family and model numbers, and its name, as far as the system says."""
    fields: dict[str, str] = {}
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    numbers = {name: int(fields[key]) for name, key in (("family", "cpu family"), ("model", "model")) if key in fields}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return {"vendor": fields.get("vendor_id", ""), **numbers, "name": name}


def peer_key(model: str, batch: int, threads: int, run: str, ck: float | None) -> str:
    """Such as `b16 batch 1 threads 2 per-expert-ort-fp32 ck 0.3`."""
    return f"{model} batch {batch} threads {threads} {run}" + ("" if ck is None else f" ck {ck:g}")


def find_machine(table: list[dict[str, Any]], cpu: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry whose `cpu` agrees with this one in every field that the entry gives; the one that gives most.

    Example:
        >>> table = [{"cpu": {"family": 25}}, {"cpu": {"family": 25, "model": 17}}]
        >>> find_machine(table, {"family": 25, "model": 17})
        {'cpu': {'family': 25, 'model': 17}}
        >>> find_machine(table, {"family": 26, "model": 17}) is None
        True
    """
    fitting = [entry for entry in table if entry["cpu"].items() <= cpu.items()]
    return max(fitting, key=lambda entry: len(entry["cpu"]), default=None)


def slow_peers(machine: Mapping[str, Any] | None, measured: Mapping[str, float]) -> list[str]:
    """A sentence for each peer that took over 10 % longer than is known; none on an unknown machine.

    Args:
        machine: an entry of the table.
        measured: milliseconds per image by `peer_key`.
    """
    known = machine["peers_ms"] if machine else {}
    return [
        f"{key} took {ms:.1f} ms an image, over 10 % more than the {known[key]:.1f} ms known of this kind of machine"
        for key, ms in measured.items()
        if key in known and ms > _TOLERANCE * known[key]
    ]


def load_table(path: Path = TABLE) -> list[dict[str, Any]]:
    """The known machines; an empty list where there is no table."""
    machines: list[dict[str, Any]] = json.loads(path.read_text())["machines"] if path.exists() else []
    return machines


def record_peers(cpu: Mapping[str, Any], measured: Mapping[str, float], path: Path = TABLE) -> None:
    """Adds what the peers took on this machine; where a figure is known, the faster one stays."""
    table = load_table(path)
    machine = find_machine(table, cpu)
    if machine is None:
        machine = {"name": cpu["name"], "cpu": dict(cpu), "peers_ms": {}}
        table.append(machine)
    known = machine["peers_ms"]
    known.update({key: round(min(ms, known.get(key, ms)), 2) for key, ms in measured.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machines": table}, indent=1) + "\n")


def peers_of(points: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds per image of the peers among a report's points, by `peer_key`."""
    return {
        peer_key(p["model"], p["batch"], p["threads"], p["run"], p["ck"]): p["ms"] / p["batch"] for p in points if p["peer"]
    }
