"""Which way to write the dense peer's graph is the fastest: all forms in every runtime and precision, timed in turns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from cpu.cell import Cell, make_cell
from cpu.models import prepare
from cpu.peer_graphs import FORMS
from cpu.peer_int8 import missing_nncf, quantize_for_openvino, quantize_for_ort
from cpu.peer_runs import dense_graph
from cpu.report import table
from cpu.runtimes import OpenVinoModel, OrtModel
from cpu.timing import time_in_turns


def time_forms(given: argparse.Namespace, say: Callable[[str], None]) -> str:
    """Times the forms for every model, batch and thread count asked for.

    Returns:
        A Markdown table for each, milliseconds per image.
    """
    work = given.output / "work"
    lines = []
    for name in given.models:
        model = prepare(name, work)
        for threads in given.threads:
            for batch in given.batch:
                say(f"{name}, batch {batch}, {threads} threads: {len(FORMS)} forms")
                calls = _calls(make_cell(model, batch, threads, [], work))
                times = time_in_turns(calls, given.rounds)
                runtimes = list(dict.fromkeys(runtime for _, runtime in calls))
                lines += ["", f"{name}, batch {batch}, {threads} threads", ""]
                rows = [[form.name, *(f"{times[form.name, r].median / batch:.1f}" for r in runtimes)] for form in FORMS]
                lines += table(["attention-gelu", *runtimes], rows)
    return "\n".join(lines)


def _calls(cell: Cell) -> dict[tuple[str, str], Callable[[], object]]:
    """A call for each form and runtime."""
    feeds = {"image": cell.model.images(cell.batch)}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for form in FORMS:
        graph = dense_graph(cell, form)
        models: dict[str, OrtModel | OpenVinoModel] = {
            "ORT fp32": OrtModel(graph, cell.threads, "fp32"),
            "ORT int8": OrtModel(quantize_for_ort(graph), cell.threads, "int8"),
            "OpenVINO fp32": OpenVinoModel(graph, cell.threads, "f32"),
            "OpenVINO bf16": OpenVinoModel(graph, cell.threads, "bf16"),
        }
        if missing_nncf() is None:
            models["OpenVINO int8"] = OpenVinoModel(quantize_for_openvino(graph), cell.threads, "bf16")
        calls |= {(form.name, runtime): partial(model, feeds) for runtime, model in models.items()}
    return calls
