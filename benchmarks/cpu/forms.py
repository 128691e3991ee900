"""Which way to write the dense peer's graph is the fastest: all forms, in ONNX Runtime and OpenVINO, timed in turns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from cpu.cells import make_cell
from cpu.contenders import Cell, dense_graph
from cpu.models import prepare
from cpu.peer_graphs import FORMS
from cpu.report import table
from cpu.runtimes import OpenVinoModel, ort_session
from cpu.timing import time_in_turns


def time_forms(given: argparse.Namespace, say: Callable[[str], None]) -> str:
    """Times the forms for every model, batch and thread count asked for.

    Returns:
        A Markdown table for each, milliseconds per image.
    """
    work = given.output / "work"
    lines = []
    for name in given.model:
        model = prepare(name, work)
        for threads in given.threads:
            for batch in given.batch:
                say(f"{name}, batch {batch}, {threads} threads: {len(FORMS)} forms")
                calls = _calls(make_cell(model, batch, threads, [], work))
                times = time_in_turns(calls, given.repeats)
                runtimes = list(dict.fromkeys(runtime for _, runtime in calls))
                lines += ["", f"{name}, batch {batch}, {threads} threads", ""]
                rows = [[form.name, *(f"{times[form.name, r].median / batch:.1f}" for r in runtimes)] for form in FORMS]
                lines += table(["attention-gelu", *runtimes], rows)
    return "\n".join(lines)


def _calls(cell: Cell) -> dict[tuple[str, str], Callable[[], object]]:
    """A call for each form and runtime."""
    images = cell.model.images(cell.batch)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for form in FORMS:
        graph = dense_graph(cell, form)
        session = ort_session(graph, cell.threads)
        calls[form.name, "ORT fp32"] = partial(session.run, ["logits"], {"image": images})
        for precision in ("f32", "bf16"):
            compiled = OpenVinoModel(graph, cell.threads, precision)
            calls[form.name, f"OpenVINO {precision}"] = partial(compiled, {"image": images})
    return calls
