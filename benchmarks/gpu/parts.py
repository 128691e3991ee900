"""The parts of a run, one after the other; what is found is written as it is found, so that a killed run keeps it."""

from __future__ import annotations

import argparse
import datetime
import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu import checks, sanitizer
from gpu.cases import named_cases, random_cases
from gpu.device import Device
from gpu.library import Library
from gpu.report import Check, write_report
from gpu.rows import measure_rates, measure_shape
from gpu.shapes import Shape, bar_shapes, sweep_shapes

_WORK = Path("build") / "gpu"
_RANDOM_CASES = {False: 400, True: 40}
_REPEATS = {False: 30, True: 5}
_LAYERS = {False: sanitizer.LAYERS, True: sanitizer.LAYERS // 4}
_LAUNCH_SHAPES = (
    Shape(1, 197, 8, 1, 8, 96),
    Shape(64, 577, 8, 2, 100, 96, "bf16"),
    Shape(2, 2048, 8, 1, 100, 5, "fp16"),
    Shape(2, 2049, 8, 1, 100, 8),
    Shape(1, 65_536, 64, 4, 2_000, 8, "bf16", "bf16"),
)

Say = Callable[[str], None]


def run(
    given: argparse.Namespace, device: Device, kernels: Library | None, checker: Path | None, say: Say
) -> dict[str, Any]:
    """Does everything that was asked for; returns the report, which is also written after each check and row.

    Args:
        given: the command line.
        device: the card.
        kernels: the kernels, built for it; None where no part needs them.
        checker: the program that compute-sanitizer watches; None likewise.
        say: takes a line on what is being done.
    """
    report: dict[str, Any] = {
        "card": device.facts,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": given.seed,
        "chosen": given.chosen,
        "checks": [],
        "skipped": {},
        "rates": None,
        "rows": [],
        "frameworks": [],
    }
    save = functools.partial(write_report, report, given.output)
    for part in dict.fromkeys(given.parts):
        if part == "frameworks":
            measure_frameworks(report, given, say, save)
        elif part == "timing":
            assert kernels is not None
            measure(report, given, device, kernels, say, save)
        elif part == "exactness":
            assert kernels is not None and checker is not None
            check_exactness(report, given, device, kernels, checker, say, save)
        else:
            assert checker is not None
            check_under_tool(report, given, part, checker, say)
        save()
    return report


def check_exactness(
    report: dict[str, Any],
    given: argparse.Namespace,
    device: Device,
    kernels: Library,
    checker: Path,
    say: Say,
    save: Callable[[], object],
) -> None:
    """All kernels against torch on the CPU, on one stream and many, in graphs; seeds are part of every failure."""
    cases, layers, seed = list(random_cases(given.seed, _RANDOM_CASES[given.quick])), _LAYERS[given.quick], given.seed
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("planted faults", lambda: checks.check_planted(device, kernels, seed)),
        ("named cases", lambda: checks.check_cases(device, kernels, "named cases", named_cases(seed))),
        (f"{len(cases)} random cases", lambda: checks.check_cases(device, kernels, "random cases", cases)),
        ("streams", lambda: checks.check_streams(device, kernels, seed)),
        ("graphs", lambda: checks.check_graphs(device, kernels, seed)),
        ("launches", lambda: checks.check_launches(device, kernels, _LAUNCH_SHAPES)),
        (
            "kernels without torch",
            lambda: sanitizer.run_checker([str(checker), str(layers), str(seed)], "kernels without torch", layers),
        ),
    ]
    for name, step in steps:
        say(f"exactness: {name}, seed {seed}")
        report["checks"].append(guarded(name, step).as_json())
        save()


def guarded(name: str, step: Callable[[], Check]) -> Check:
    """The step's check; where the card gives an error, that is its failure."""
    try:
        return step()
    except checks.DEVICE_ERRORS as error:
        return Check(name, 1, (checks.first_line(error),))


def check_under_tool(report: dict[str, Any], given: argparse.Namespace, tool: str, checker: Path, say: Say) -> None:
    """The kernels under one tool of compute-sanitizer, where it is installed."""
    program = sanitizer.find_sanitizer()
    if program is None:
        report["skipped"][tool] = sanitizer.MISSING
        return
    say(f"{tool}: {_LAYERS[given.quick]} layers, seed {given.seed}")
    found = sanitizer.run_tool(program, tool, checker, _LAYERS[given.quick], given.seed)
    report["checks"] += [check.as_json() for check in found]


def measure(
    report: dict[str, Any],
    given: argparse.Namespace,
    device: Device,
    kernels: Library,
    say: Say,
    save: Callable[[], object],
) -> None:
    """All shapes, or those that were chosen; with --quick, some of them."""
    repeats = _REPEATS[given.quick]
    shapes = [(shape, True) for shape in bar_shapes()] + [(shape, False) for shape in sweep_shapes()]
    shapes = [(shape, bar) for shape, bar in shapes if not given.shapes or any(text in str(shape) for text in given.shapes)]
    if given.quick:
        shapes = shapes[::12]
    what = "an empty kernel and a copy"
    try:
        rates = measure_rates(device, kernels, repeats)
        report["rates"] = asdict(rates)
        for index, (shape, bar) in enumerate(shapes):
            what = str(shape)
            say(f"timing: {index + 1} of {len(shapes)}, {what}")
            for row in measure_shape(device, kernels, shape, rates, repeats, bar=bar):
                report["rows"].append(row)
                save()
    except checks.DEVICE_ERRORS as error:
        report["checks"].append(Check(f"timing, {what}", 1, (checks.first_line(error),)).as_json())


def measure_frameworks(report: dict[str, Any], given: argparse.Namespace, say: Say, save: Callable[[], object]) -> None:
    """ONNX Runtime and TensorRT, where they are installed; only then is anything exported."""
    try:
        from gpu import frameworks
    except ImportError as error:
        report["skipped"]["frameworks"] = f"this Python lacks {error.name}; run it in one that has the project installed"
        return
    missing = frameworks.missing()
    report["skipped"].update(missing)
    names = {frameworks.CUDA, frameworks.ORT_TENSORRT, frameworks.TENSORRT} - missing.keys()
    if not names:
        return
    try:
        bundles = frameworks.prepare_bundles(_WORK, "tiny" if given.quick else "b16", say)
    except ImportError as error:
        report["skipped"]["frameworks"] = f"this Python lacks {error.name}, which an export needs; pip install '.[export]'"
        return
    except frameworks.VmoeError as error:
        report["checks"].append(Check("export", 1, (str(error),)).as_json())
        return
    for part in frameworks.run_frameworks(bundles, _WORK, _REPEATS[given.quick], names, say):
        report["frameworks"].append(part.as_json())
        if part.skipped is not None:
            report["skipped"][part.name] = part.skipped
        save()
