"""What is measured: an engine, the same bundle behind HTTP, the images that are sent, and the process that sends them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from command_line import count, positive, say
from cpu.timing import OthersWatch

from serving.http_client import Array, Notes, closed_loop, generator, infer_request
from serving.service import MODEL, Service, ServiceError
from vmoe_measure.image_source import open_images
from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError
from vmoe_tools.machine import cpu_model, usable_cores

Report = dict[str, Any]

_SETTINGS = ("c0.1-k1", "c0.2-k1-pool", "c0.3-k1-pool", "c0.5-k1-pool", "c1.05-k1", "c1.05-k2")
_MOST_BYTES = 256 << 20  # of images that are kept ready as requests
_SETTLING = 0.2  # of a saturated span is left out at its start


def add_options(parser: argparse.ArgumentParser) -> None:
    """The bundle and its service, the images and where figures go."""
    add = parser.add_argument
    add("bundle", type=Path)
    add("--service", default="ray", metavar="ray|PATH")
    add("--service-options", default="", metavar="TEXT", help="more options for it, such as '--connections 512'")
    add("--images", type=Path, required=True, metavar="NPZ|DIR")
    add("--settings", nargs="+", default=list(_SETTINGS), metavar="P", help="the least accurate first")
    add("--slo-ms", type=positive, default=50.0, metavar="MS")
    add("--images-per-request", type=count, default=1, metavar="N", help="for models so small that HTTP is most of it")
    add("--threads", type=count, default=2)
    add("--max-batch", type=count, default=16, metavar="N")
    add("--max-waiting", type=count, default=256, metavar="N")
    add("--max-body", type=count, default=16, metavar="MB")
    add("-o", "--out", type=Path, metavar="DIR", help="write the figures there, and the picture of traces")


@dataclass(frozen=True)
class Subject:
    """What is measured, and the options that asked for it.

    Attributes:
        engine: of the benchmark's own process; it idles while the service is measured.
        images, labels: dtype[P*N,H,W,C] for P requests of N images each, as the engine takes them; i64[P,N], or None.
        generator: the process that loads the service.
    """

    given: argparse.Namespace
    engine: Engine
    images: Array
    labels: Array | None
    service: Service
    generator: Executor

    def load(self, kind: Any, setting: str | None, *arguments: Any) -> tuple[Notes, Report]:
        """Lets the generator send all images at a setting, by `open_loop` or `closed_loop`.

        Returns:
            What came, and of it: `accuracy`, the share of right classes among the answered ones, None where it isn't known
            what images show; `images_per_call`, the mean of the service's calls, None without any; `service_seconds` and
            `generator_seconds` of CPU time.
        """
        each, service = self.given.images_per_request, self.service
        requests = [infer_request(MODEL, self.images[i : i + each], setting) for i in range(0, len(self.images), each)]
        before = service.counters()
        notes: Notes = self.generator.submit(kind, service.port, requests, each, *arguments).result()
        seconds, images, calls = map(float, service.counters() - before)
        answered, accuracy = notes.status == 200, None
        if self.labels is not None and answered.any():
            labels = self.labels[np.arange(len(notes.status)) % len(self.labels)]
            accuracy = float(np.mean(notes.classes[answered] == labels[answered]))
        found = {"accuracy": accuracy, "images_per_call": images / calls if calls else None}
        return notes, found | {"service_seconds": seconds, "generator_seconds": notes.cpu}

    def saturated(self, setting: str, seconds: float, connections: int | None = None) -> Report:
        """What the service answers to so many connections (by default two full calls' worth) that ask without a pause.

        `service_cpu` and `generator_cpu` are in cores, `generator_ms` is CPU time per request.

        Raises:
            ServiceError: nothing was answered.
        """
        each = self.given.images_per_request
        connections = connections or 2 * max(self.given.max_batch // each, 1)
        notes, found = self.load(closed_loop, setting, connections, seconds)
        answered = notes.status == 200
        if not answered.any():
            raise ServiceError(f"the service answered none of {len(notes.status)} requests for {setting}")
        start, end = notes.start + _SETTLING * seconds, notes.start + seconds
        inside = notes.done[answered & (notes.done >= start) & (notes.done < end)]
        return found | {
            "setting": setting,
            "images_per_second": each * rate(inside, end - start),
            "p50_ms": float(np.median((notes.done - notes.sent)[answered]) * 1e3),
            "service_cpu": found["service_seconds"] / seconds,
            "generator_cpu": notes.cpu / seconds,
            "generator_ms": notes.cpu / len(notes.status) * 1e3,
        }


def rate(done: Array, seconds: float) -> float:
    """Answers a second, of when they came.

    They come a call at a time. A window that cuts a long call in two would count it as none or as one; the slope of their
    number over time doesn't.

    Args:
        done: f64[R], seconds, in any order.
        seconds: of the window that they lie in.

    Example:
        >>> rate(np.repeat([0.5, 1.0, 1.5, 2.0], 8), 2.2)
        16.0
    """
    if len(done) < 2 or np.ptp(done) < seconds / 2:
        return len(done) / seconds
    return round(float(np.polyfit(np.sort(done) - done.min(), np.arange(len(done)), 1)[0]), 9)


def measure(
    given: argparse.Namespace, name: str, take: Callable[[Subject], Report], markdown: Callable[[Report], str]
) -> Report | None:
    """Loads the engine, starts service and generator, and ends them; prints what `take` gives, and writes NAME.json with -o.

    Returns:
        The report; None where something can't be measured, which is one sentence on standard error.
    """
    try:
        with Engine.load(given.bundle, backend="onnxruntime", threads=given.threads) as engine:
            images, labels = _images(engine, given)
            options = _service_options(engine, given)
            with Service(given.service, given.bundle, options) as service, generator() as process:
                children = [*service.memory(), process.submit(os.getpid).result()]
                with OthersWatch(children) as others:
                    report = take(Subject(given, engine, images, labels, service, process))
            runtime = engine.backend_description
    except (VmoeError, OSError, HTTPException, BrokenProcessPool) as error:
        say(f"error: {error or type(error).__name__}")
        return None
    print(
        f"{given.bundle.name} on {given.service}, {runtime}, {given.threads} threads, calls of at most {given.max_batch} "
        f"images, target {given.slo_ms:g} ms; {cpu_model()}, {usable_cores()} cores, of which other processes took "
        f"{others.share:.0%}.\n\n{markdown(report)}"
    )
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{name}.json").write_text(json.dumps(vars(given) | report, indent=1, default=str) + "\n")
    return report


def _service_options(engine: Engine, given: argparse.Namespace) -> list[str]:
    for setting in given.settings:
        engine.setting(setting)
    options = ["--profile", *given.settings, *given.service_options.split()]
    for name in ("slo_ms", "threads", "max_batch", "max_waiting", "max_body"):
        options += [f"--{name.replace('_', '-')}", f"{getattr(given, name):g}"]
    return options


def _images(engine: Engine, given: argparse.Namespace) -> tuple[Array, Array | None]:
    """As many whole requests' worth as there are and as fit into memory, and their labels."""
    manifest, each = engine.manifest, given.images_per_request
    source = open_images(given.images, manifest.class_names, manifest.outputs)
    fits = min(len(source), _MOST_BYTES // (4 * int(np.prod(manifest.input.size))), 2048)
    count = max(fits // each, 1) * each
    labels = None if source.labels is None else source.labels[:count].reshape(-1, each)
    return engine.batch(source.first_batch(count, manifest.input)), labels
