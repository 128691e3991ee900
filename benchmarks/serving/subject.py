"""What is measured: an engine, the same bundle behind HTTP, the images that are sent, and the process that sends them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.http_client import Notes, closed_loop, generator, infer_request
from serving.service import MODEL, Service, ServiceError
from vmoe_bench.machine import cpu_model, usable_cores
from vmoe_runtime import Engine
from vmoe_runtime.image_source import open_images

Array = np.ndarray[Any, np.dtype[Any]]

_MOST_BYTES = 256 << 20  # of images that are kept ready as requests
_SETTLING = 0.2  # of a saturated span is left out at its start


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

    def requests(self, setting: str | None) -> list[bytes]:
        """One for each N images, all at one setting."""
        each = self.given.images_per_request
        parts = range(0, len(self.images), each)
        return [infer_request(MODEL, self.images[start : start + each], setting) for start in parts]

    def right(self, notes: Notes) -> float | None:
        """The share of right classes among the answered ones; None where it isn't known what images show."""
        if self.labels is None:
            return None
        labels = self.labels[np.arange(len(notes.status)) % len(self.labels)]
        answered = notes.status == 200
        return float(np.mean(notes.classes[answered] == labels[answered])) if answered.any() else None

    def calls(self) -> tuple[float, float] | None:
        """Images and calls of the service so far; None where it doesn't tell."""
        calls = self.service.metric("vmoe_calls_total")
        return None if calls is None else (self.service.metric("vmoe_images_served_total") or 0.0, calls)

    def saturated(self, setting: str, seconds: float, connections: int | None = None) -> dict[str, Any]:
        """What the service answers to so many connections (by default two full calls' worth) that ask without a pause.

        `service_cpu` and `generator_cpu` are in cores, `generator_ms` is CPU time per request.

        Raises:
            ServiceError: nothing was answered.
        """
        each = self.given.images_per_request
        connections = connections or 2 * max(self.given.max_batch // each, 1)
        before, cpu = self.calls(), self.service.cpu_seconds()
        requests = self.requests(setting)
        notes = self.generator.submit(closed_loop, self.service.port, requests, each, connections, seconds).result()
        answered = notes.status == 200
        if not answered.any():
            raise ServiceError(f"the service answered none of {len(notes.status)} requests for {setting}")
        start, end = notes.start + _SETTLING * seconds, notes.start + seconds
        inside = notes.done[answered & (notes.done >= start) & (notes.done < end)]
        return {
            "setting": setting,
            "images_per_second": each * rate(inside, end - start),
            "accuracy": self.right(notes),
            "images_per_call": images_per_call(before, self.calls()),
            "p50_ms": float(np.median((notes.done - notes.sent)[answered]) * 1e3),
            "service_cpu": (self.service.cpu_seconds() - cpu) / seconds,
            "generator_cpu": notes.cpu / seconds,
            "generator_ms": notes.cpu / len(notes.status) * 1e3,
        }

    def described(self) -> dict[str, Any]:
        """The head of every report."""
        given = {name: value for name, value in vars(self.given).items() if not isinstance(value, Path)}
        machine = {"cpu": cpu_model(), "cores": usable_cores()}
        return {**given, "bundle": self.given.bundle.name, "backend": self.engine.backend_description, "machine": machine}


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


@contextmanager
def subject(given: argparse.Namespace) -> Iterator[Subject]:
    """Loads the engine, starts the service and the generator, and ends them.

    Raises:
        VmoeError: one of them can't be had, or the service doesn't end as it should.
    """
    with Engine.load(given.bundle, backend="onnxruntime", threads=given.threads) as engine:
        manifest, each = engine.manifest, given.images_per_request
        source = open_images(given.images, manifest.class_names, manifest.outputs)
        fits = min(len(source), _MOST_BYTES // (4 * int(np.prod(manifest.input.size))), 2048)
        count = max(fits // each, 1) * each
        images = engine.batch(source.first_batch(count, manifest.input))
        labels = None if source.labels is None else source.labels[:count].reshape(-1, each)
        for name in given.settings:
            engine.setting(name)
        options = ["--profile", *given.settings, *given.service_options.split()]
        for name in ("slo_ms", "threads", "max_batch", "max_waiting", "max_body"):
            options += [f"--{name.replace('_', '-')}", f"{getattr(given, name):g}"]
        with Service(given.service, given.bundle, options) as service, generator() as process:
            yield Subject(given, engine, images, labels, service, process)


def images_per_call(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    """The mean between two times; None where it isn't known."""
    if before is None or after is None or after[1] == before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
