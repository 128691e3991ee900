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

    def load(self, kind: Any, setting: str | None, *arguments: Any) -> tuple[Notes, dict[str, Any]]:
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

    def saturated(self, setting: str, seconds: float, connections: int | None = None) -> dict[str, Any]:
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

    def described(self) -> dict[str, Any]:
        """The head of every report."""
        given = {name: value for name, value in vars(self.given).items() if not isinstance(value, Path)}
        return {**given, "bundle": self.given.bundle.name, "backend": self.engine.backend_description}


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
