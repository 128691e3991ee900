"""Measure one benchmark cell, which is a model at one batch size and one number of threads.

The module loads the cell's runs, checks their logits against the float32 engine's logits, times the runs, and formats the
results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from command_line import BenchmarkError, cells, say, table

from cpu.runs import RUNS, Array, Cell
from cpu.timing import time_per_image
from vmoe_runtime import Engine

Point = dict[str, Any]

LOGITS_TOLERANCE = 5e-3
"""Rounding changes logits by 1e-5. If two gates of a token are almost equal, a runtime may route it to another expert,
which changes logits by 1e-3."""
_RELATIVE_TOLERANCES = {"bf16": 0.2, "int8": 0.35, "int4": 0.35}
"""Far above the effect of rounding, which also reroutes a few tokens, and far below the distance of another model."""


def measure(cell: Cell, names: Sequence[str], rounds: int) -> tuple[list[Point], float]:
    """Load the runs in `names`, check that their logits agree with the float32 engine's, and time the runs.

    Returns:
        A list with one mapping per run and setting. Each mapping contains the times in milliseconds per image, and the
            number of token-expert pairs that the float32 engine keeps.
        The share of the CPUs that other processes used, from 0 to 1.

    Raises:
        BenchmarkError: the logits of a run differ from those of the float32 engine by more than the tolerance.
    """
    say(f"{cell}: loading {len(names)} runs")
    images, (logits, kept) = cell.model.images(cell.batch), expected(cell)
    loaded = {name: RUNS[name].load(cell) for name in names}
    keys = [(name, setting) for name in names for setting in settings_of(cell, name)]
    calls = {(name, setting): partial(loaded[name][0], images, setting) for name, setting in keys}
    distances = {(name, setting): distance(call(), logits[setting]) for (name, setting), call in calls.items()}
    for (name, _), found in distances.items():
        check_agreement(name, *found)
    say(f"{cell}: timing {len(calls)} calls, interleaved, {rounds} rounds")
    times, others = time_per_image(calls, rounds, cell.batch)
    points = []
    for (name, setting), found in times.items():
        points.append(
            {
                **{"model": cell.model.name, "batch": cell.batch, "threads": cell.threads},
                **{"run": name, "title": RUNS[name].title, "runtime": loaded[name][1]},
                **{"setting": setting, "kept_pairs": kept[setting]},
                **{**found, "images_per_second": 1e3 / found["ms"]},
                **dict(zip(("logits_difference", "relative_difference"), distances[name, setting], strict=True)),
            }
        )
    return points, others


def settings_of(cell: Cell, run: str) -> list[str | None]:
    """Return the settings at which a run is timed.

    Settings that merge tokens are omitted for peer runtimes, because the peers' graphs can't merge tokens.
    """
    of_kind = cell.profiles[RUNS[run].kind]
    return [name for name, profile in of_kind.items() if run.startswith("engine-") or not (profile and profile.merge)]


def expected(cell: Cell) -> tuple[dict[str | None, Array], dict[str | None, int | None]]:
    """Run the float32 engine at each setting, and return two mappings with the settings as keys.

    The first mapping holds the logits. The second holds the number of token-expert pairs that the engine keeps, or None for
    the dense model.
    """
    images = cell.model.images(cell.batch)
    options: dict[str, Any] = {"backend": "onnxruntime", "threads": cell.threads}
    logits: dict[str | None, Array] = {}
    kept: dict[str | None, int | None] = {}
    for kind, profiles in cell.profiles.items():
        with Engine.load(cell.model.bundle(kind), **options) as engine:
            for setting, profile in profiles.items():
                logits[setting], routes = engine.logits_and_routing(images, profile)
                kept[setting] = sum(int(route.kept.sum()) for route in routes.values()) if routes else None
    return logits, kept


def distance(logits: Array, wanted: Array) -> tuple[float, float]:
    """Measure how far `logits`, float32[N, classes], are from `wanted`.

    Returns:
        The largest absolute difference.
        The norm of the difference, divided by the norm of `wanted`.

    Examples:
        >>> distance(np.array([[3.0, 4.0]]), np.array([[0.0, 5.0]]))
        (3.0, 0.6324555320336759)
    """
    difference = logits - wanted
    return float(np.abs(difference).max()), float(np.linalg.norm(difference) / np.linalg.norm(wanted))


def check_agreement(name: str, largest: float, relative: float) -> None:
    """Check that a run's logits agree with the float32 engine's, up to the rounding of the run's precision.

    Raises:
        BenchmarkError: `largest` or `relative`, which measure the difference, is above its tolerance or NaN.
    """
    value, tolerance = largest, LOGITS_TOLERANCE
    if (precision := RUNS[name].precision) != "fp32":
        value, tolerance = relative, _RELATIVE_TOLERANCES[precision[:4]]
    if not value <= tolerance:
        raise BenchmarkError(
            f"{name} is not the same model: its logits differ by {value:.2g} from those of this engine in float32; "
            f"{tolerance:g} is allowed"
        )


def ratios_of(points: Sequence[Point]) -> list[Point]:
    """Compare this engine's runs with the cell's other runs of the same precision.

    Each comparison is a ratio of median images/s:

    - A V-MoE run of this engine is compared with other V-MoE runs at the same setting. It is also compared with dense runs
      that merge no tokens, and with dense runs that merge as many tokens as the V-MoE run.
    - A dense run of this engine is compared with other dense runs.
    """
    ratios = []
    for own in (p for p in points if p["run"].startswith("engine-")):
        for other in points:
            same_precision = own["run"].rpartition("-")[2] == other["run"].rpartition("-")[2]
            same_setting = own["setting"] == other["setting"] or str(own["setting"]).endswith(f"-{other['setting']}")
            if same_precision and own["run"] != other["run"] and (same_setting or other["setting"] is None):
                ratio = other["ms"] / own["ms"]
                over = other["run"] if other["setting"] in (None, own["setting"]) else f"{other['run']} {other['setting']}"
                ratios.append({"run": own["run"], "over": over, "setting": own["setting"], "ratio": ratio})
    return ratios


def tables(points: Sequence[Point]) -> str:
    """Format a cell's points and ratios in Markdown."""
    head = ["", "setting", "kept pairs", "ms/image", "quartiles", "images/s"]
    head += ["logits differ by", "relative", "runtime"]
    fields = "title setting kept_pairs:, ms:.2f quartiles images_per_second:.1f"
    fields += " logits_difference:.1e relative_difference:.1e runtime"
    rows = [cells(p | {"quartiles": f"{p['lower']:.1f}-{p['upper']:.1f}"}, fields) for p in points]
    ratios = [cells(ratio, "run over setting ratio:.2f") for ratio in ratios_of(points)]
    return "\n".join([*table(head, rows), "", *table(["images/s of", "over", "setting", "ratio"], ratios)])
