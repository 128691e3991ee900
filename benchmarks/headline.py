"""Plot published accuracy against measured milliseconds per image, for dense ViTs and 32-expert V-MoEs.

    python benchmarks/headline.py [--sizes S/32 B/16 ...] [--batch 8] [--threads 2] [--precision bf16] [-o FILE.svg]

The program times every setting of cpu/published.json, prints a table and the time saved at equal accuracy, and draws the
picture. As soon as a point is measured, it is stored in the file that `--json` specifies. By default, this file is next to
the picture. Stored points are not measured again.

The accuracies come from the paper. They apply to models trained on JFT-300M. The paper reports the cost of these models as
TPUv3-core-days, FLOPs and time on TPUs. Here, the cost is the time on this CPU. The timed models have the same shapes,
random weights from N(0, 0.02), and balanced routers. The values of the weights affect the time only through the number of
token-expert pairs that get a slot, which the table shows.

A dense model is timed in this engine, OpenVINO and ONNX Runtime, and the fastest time is used. If a runtime takes over 1.5 x
the fastest time, it is skipped for later models. ONNX Runtime has no bfloat16 on CPUs, so it runs in float32. The accuracy
lost through int8 is not shown. Each model is created, timed on its own, and deleted before the next one is created. This is
necessary because the largest model takes 45 GB of disk and 16 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from command_line import cells, count, missing, say, table
from cpu.fronts import draw, name_of, words
from cpu.int8_peers import NNCF_PACKAGES
from cpu.models import Model, prepare
from cpu.runs import RUNS, Cell
from cpu.timing import MAX_OTHERS_SHARE, time_per_image

from vmoe_runtime import Engine
from vmoe_tools.machine import cpu_model

Point = dict[str, Any]

PUBLISHED = Path(__file__).parent / "cpu" / "published.json"
_DENSE = {
    "bf16": ["engine-dense-bf16", "dense-openvino-bf16", "dense-ort-fp32"],
    "int8": ["engine-dense-int8", "dense-openvino-int8", "dense-ort-int8"],
}
_EXPERTS, _TOO_SLOW = 32, 1.5
_KEY = itemgetter("size", "layers", "pixels", "k", "capacity", "precision", "batch", "threads")
_FIELDS = "name pixels ms:.1f lower:.1f upper:.1f title kept:.1% others:.0%"


def timed(call: Callable[[], object], given: argparse.Namespace) -> Point:
    """Time a call, and return its milliseconds per image and the share of the CPUs that other processes used.

    The milliseconds are given as the median and the quartiles.
    """
    times, others = time_per_image({0: call}, given.rounds, given.batch)
    return {**times[0], "others": others}


def measure_dense(model: Model, given: argparse.Namespace, runs: list[str]) -> Point:
    """Time the dense model in each of `runs`, and return the point of the fastest run.

    Runs that are much slower than the fastest are removed from `runs`.
    """
    cell, images, found = Cell(model, given.batch, given.threads, {}), model.images(given.batch), dict[str, Point]()
    for name in runs:
        call, runtime = RUNS[name].load(cell)
        found[name] = {"title": f"{RUNS[name].title}; {runtime}", "kept": None, **timed(partial(call, images, None), given)}
        say(f"  {RUNS[name].title}: {found[name]['ms']:.1f} ms per image")
    best = min(found.values(), key=lambda point: point["ms"])
    runs[:] = [name for name in runs if found[name]["ms"] <= _TOO_SLOW * best["ms"]]
    return best


def measure_sparse(model: Model, settings: Sequence[Point], given: argparse.Namespace) -> Iterator[Point]:
    """Yield the time at each setting. All settings are measured on the same loaded engine."""
    images, bundle = model.images(given.batch), model.bundle("sparse", given.precision)
    with Engine.load(bundle, backend="onnxruntime", threads=given.threads, verify=False) as engine:
        for setting in settings:
            routing = {"capacity": setting["capacity"], "k": setting["k"]}
            kept = float(np.mean([route.kept.mean() for route in engine.routing(images, **routing).values()]))
            title = f"V-MoE, this engine, {given.precision}; {engine.backend_description}"
            yield {"title": title, "kept": kept, **timed(partial(engine, images, **routing), given)}


def wanted(published: Point, given: argparse.Namespace) -> list[Point]:
    """Return the points to measure.

    Each setting occurs once per image resolution, with the accuracies published for that resolution.
    """
    metrics, points = published["metrics"], list[Point]()
    run = {"precision": given.precision, "batch": given.batch, "threads": given.threads}
    for setting in published["settings"]:
        resolutions = {about["pixels"] for metric, about in metrics.items() if metric in setting}
        for pixels in sorted(resolutions or {min(about["pixels"] for about in metrics.values())}):
            known = {metric: setting.get(metric) for metric, about in metrics.items() if about["pixels"] == pixels}
            blank = dict.fromkeys(("layers", "k", "capacity"))
            points.append(blank | setting | dict.fromkeys(metrics) | known | run | {"pixels": pixels})
    return [point for point in points if given.sizes is None or point["size"] in given.sizes]


def measure(todo: Sequence[Point], given: argparse.Namespace, store: Callable[[Point], None]) -> None:
    """Measure and store the points. If a model can't be created or loaded, print a message and skip it."""
    runs = [name for name in _DENSE[given.precision] if name != "dense-openvino-int8" or not missing(*NNCF_PACKAGES)]
    work = given.output.parent / "headline-work"
    ordered = sorted(todo, key=lambda point: (point["layers"] is not None, point["pixels"]))
    for (size, layers, pixels), group in groupby(ordered, key=itemgetter("size", "layers", "pixels")):
        settings = list(group)
        say(f"{name_of(settings[0])}, {pixels} pixels")
        try:
            shutil.rmtree(work, ignore_errors=True)
            model = prepare(size.replace("/", "").lower(), work, _EXPERTS, layers or "Every 2", pixels)
            results = measure_sparse(model, settings, given) if layers else [measure_dense(model, given, runs)]
            for setting, result in zip(settings, results, strict=True):
                store(setting | result)
        except (OSError, MemoryError, RuntimeError) as error:
            say(f"  not run: {error}")
        finally:
            shutil.rmtree(work, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 if other processes used too large a share of the CPUs."""
    parser = argparse.ArgumentParser(description="Plot published accuracy over measured time, dense and sparse.")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE", help="such as S/32 (default: all)")
    parser.add_argument("--batch", type=count, default=8)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--precision", choices=_DENSE, default="bf16")
    parser.add_argument("--rounds", type=count, default=7, help="timed calls (default: 7)")
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="accuracies and settings, as JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="measured points (default: next to the picture)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build", "headline.svg"), help="the picture, .svg or .png")
    given = parser.parse_args(arguments)
    published, stored = json.loads(given.published.read_text()), given.json or given.output.with_suffix(".json")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    have = {_KEY(point): point for point in (json.loads(stored.read_text()) if stored.exists() else ())}

    def store(point: Point) -> None:
        have[_KEY(point)] = point
        stored.write_text(json.dumps(list(have.values()), indent=1) + "\n")

    points, metrics = wanted(published, given), published["metrics"]
    measure([point for point in points if _KEY(point) not in have], given, store)
    done = [have[_KEY(point)] | point for point in points if _KEY(point) in have]  # current accuracies, stored times
    both = {(metric, bool(p["layers"])) for p in done for metric in metrics if p[metric] is not None}
    compared = {metric: about for metric, about in metrics.items() if {(metric, False), (metric, True)} <= both} or metrics
    head = ["", "pixels", "ms/image", "lower", "upper", "fastest in", "kept pairs", "others", *metrics, "source"]
    rows = [cells(point | {"name": name_of(point)}, f"{_FIELDS} {' '.join(metrics)} source") for point in done]
    print(f"{cpu_model()}, {given.threads} threads, batch {given.batch}. Accuracies: {published['paper']}.\n")
    print(*table(head, rows), sep="\n")
    print(*(f"\nNot run: {name_of(point)}, {point['pixels']} pixels." for point in points if _KEY(point) not in have))
    for metric, about in compared.items():
        print("", f"{about['title']}, {about['pixels']} pixels:", *words(done, metric), sep="\n")
    draw(done, compared, given.output)
    say(f"{given.output} is written")
    return int(any(point["others"] > MAX_OTHERS_SHARE for point in done))


if __name__ == "__main__":
    sys.exit(main())
