"""The part of docs/speed.md that describes one machine.

This part is a table of milliseconds per image for B/16 models, by precision and batch size.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line import table

from cpu.cells import Point
from cpu.timing import memory_rate
from vmoe_runtime.op_library import cpu_path, usable_library
from vmoe_tools.machine import cpu_model

SETTING = "c0.3-k1-pool"
PRECISIONS = ("fp32", "bf16", "int8", "int4")
ROWS: tuple[tuple[str, str, str | None], ...] = (
    ("**V-MoE, this engine**", "engine-sparse", SETTING),
    ("**V-MoE, 8 tokens merged in each block**", "engine-sparse", f"{SETTING}-r8"),
    ("**V-MoE, 13 tokens merged in each block**", "engine-sparse", f"{SETTING}-r13"),
    ("**dense, this engine**", "engine-dense", None),
    ("**dense, 8 tokens merged in each block**", "engine-dense", "r8"),
    ("**dense, 13 tokens merged in each block**", "engine-dense", "r13"),
    ("dense, OpenVINO (int8: NNCF, other ops in bfloat16)", "dense-openvino", None),
    ("dense, ONNX Runtime (int8: `quantize_dynamic`)", "dense-ort", None),
)
"""Title, run and setting of each row of the table."""


def described(threads: int, others: float) -> dict[str, Any]:
    """Return a JSON description of the machine and the run.

    `others` is the share of the CPUs that other processes used, from 0 to 1.
    """
    library, _ = usable_library()
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu_model(),
        "instructions": library and cpu_path(library),
        "cpus": threads,
        "memory_gb_per_s": round(memory_rate(threads) / 1e6, 1),
        "others_share": round(others, 3),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit or None,
    }


def machine_table(points: Sequence[Point], about: dict[str, Any]) -> str:
    """Format the results in Markdown.

    The text consists of a line about the machine, the table, and a line of JSON with all values.
    """
    times = {(point["run"], point["setting"], point["batch"]): point["ms"] for point in points}
    batches = sorted({point["batch"] for point in points})
    columns = [(precision, batch) for precision in PRECISIONS for batch in batches]
    found = [
        (title, [times.get((f"{run}-{precision}", setting, batch)) for precision, batch in columns])
        for title, run, setting in ROWS
    ]
    rows = [[title, *("-" if ms is None else f"{ms:.3g}" for ms in row)] for title, row in found]
    head = ["", *(f"{precision}, batch {batch}" for precision, batch in columns)]
    by_run = [{"run": run, "setting": setting, "batch": batch, "ms": ms} for (run, setting, batch), ms in times.items()]
    about_line = (
        f"On {about['cpus']} CPUs of {about['cpu']} ({about['instructions']}), which read {about['memory_gb_per_s']} GB/s "
        f"from memory; other processes took {about['others_share']:.1%}; {about['date']}, commit {about['commit']}:"
    )
    return "\n".join([about_line, "", *table(head, rows), "", json.dumps({**about, "times": by_run})])
