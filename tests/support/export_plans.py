"""Plans of exports, and large checkpoint files that take almost no space on the disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vmoe_export import ExportOptions, open_checkpoint
from vmoe_export.export_plan import ExportPlan, plan_export


def planned(checkpoint: Path, **options: Any) -> ExportPlan:
    """Return the plan for an export with the given options."""
    with open_checkpoint(checkpoint) as opened:
        return plan_export(opened, ExportOptions(**options))


def sparse_file(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write a safetensors file that contains tensors of the given shapes, filled with zeros.

    The file is sparse, so it takes almost no space on the disk.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)
    return path
