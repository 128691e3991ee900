"""The processes under test, which are a service for a bundle, the bare engine, and the load generator."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from command_line import count, positive, say
from cpu.timing import OthersWatch, cpu_seconds, process_fields

from serving.http_client import Array, Load, closed_loop, generator, infer_request
from vmoe_measure.image_source import open_images
from vmoe_runtime import Engine
from vmoe_runtime.errors import VmoeError
from vmoe_runtime.processors import usable_processors
from vmoe_tools.machine import cpu_model

Report = dict[str, Any]

MODEL = "model"
"""The model name of every served bundle."""
_PATIENCE = 180.0
_PROFILES = ("c0.1-k1", "c0.2-k1-pool", "c0.3-k1-pool", "c0.5-k1-pool", "c1.05-k1", "c1.05-k2")
_MOST_BYTES, _MOST_IMAGES = 256 << 20, 2048  # limits on prepared requests
_SETTLING = 0.2  # a saturated measurement ignores this share of its time, at the start


class ServiceError(VmoeError):
    """Error raised if the service does not start, answer or end as it should."""


class Service:
    """A service that runs on this machine's loopback address until its `with` block ends.

    Attributes:
        port: the port on which the service listens.
        start_seconds: time from the service's start to its first answer.
    """

    def __init__(self, program: str, bundle: Path, options: Sequence[str]) -> None:
        """Start a service for a bundle on a free port, and wait until it answers.

        `program` is "ray", for `vmoe serve ray`, or the path of another program.

        Raises:
            ServiceError: the service can't be started, ends early, or does not answer in time.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        start = time.monotonic()
        command = [str(Path(sys.executable).with_name("vmoe")), "serve", "ray"] if program == "ray" else [program]
        command += [str(bundle), "--host", "127.0.0.1", "--port", str(self.port), "--name", MODEL, *options]
        command += ["--backend", "onnxruntime"] if program == "ray" else []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it stays open while the service runs)
        # Use the same ONNX Runtime in the service as in the benchmark's own engine, so that the comparison is fair.
        runtime = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), "")
        environment = {**os.environ, "RAY_ADDRESS": "", "VMOE_ONNXRUNTIME": str(runtime)}
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._errors, env=environment)
        except OSError as error:
            raise ServiceError(f"{program} can't be started: {error.strerror or error}") from None
        try:
            self._wait()
        except BaseException:
            self._process.kill()
            raise
        self.start_seconds = time.monotonic() - start

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        """End the service by SIGTERM.

        Raises:
            ServiceError: the service does not end, or its exit code is not 0.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise ServiceError(f"the service did not end within {_PATIENCE:g} s of SIGTERM") from None
        if code != 0:
            raise ServiceError(f"the service ended with exit code {code} after SIGTERM: {self._last_line()}")

    def metric(self, name: str) -> float:
        """Return the sum of a Prometheus metric over all its labels, or 0 if the service does not report the metric."""
        return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", self._get("/metrics") or "", re.MULTILINE)))

    def memory(self) -> dict[int, int]:
        """Return how many bytes of memory each process of the service uses, by process id.

        Memory that processes share is divided equally among them.
        """
        fields = {int(folder.name): process_fields(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
        family, before = {self._process.pid}, 0
        while len(family) > before:
            before = len(family)
            family |= {process for process, found in fields.items() if found and int(found[1]) in family}
        memory = {}
        for process in sorted(family):
            with suppress(OSError, TypeError):  # the process has just ended
                text = Path(f"/proc/{process}/smaps_rollup").read_text()
                memory[process] = int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) << 10  # type: ignore[index]
        return memory

    def counters(self) -> Array:
        """Return the service's totals since its start: CPU seconds of its processes, images served, and engine calls."""
        served = self.metric("vmoe_images_served_total"), self.metric("vmoe_calls_total")
        return np.array([sum(map(cpu_seconds, self.memory())), *served])

    def _get(self, path: str) -> str | None:
        """Return the body of the answer to a GET request, or None if its status is not 200."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            return body if response.status == 200 else None

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise ServiceError(f"the service ended with exit code {self._process.returncode}: {self._last_line()}")
            with suppress(OSError, http.client.HTTPException):
                if self._get("/healthz") is not None:
                    return
            time.sleep(0.02)
        raise ServiceError(f"the service did not answer within {_PATIENCE:g} s")

    def _last_line(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1].strip()[:500]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add options for the bundle, its service, the images and the output folder."""
    add = parser.add_argument
    add("bundle", type=Path)
    add("--service", default="ray", metavar="ray|PATH")
    add("--service-options", default="", metavar="TEXT", help="more options for the service, such as '--connections 512'")
    add("--images", type=Path, required=True, metavar="NPZ|DIR")
    add("--profile", action="append", dest="profiles", metavar="P", help="the least accurate first; repeats")
    add("--slo-ms", type=positive, default=50.0, metavar="MS")
    add(
        "--images-per-request",
        type=count,
        default=1,
        metavar="N",
        help="more than 1 is for models so small that HTTP dominates",
    )
    add("--threads", type=count, default=2)
    add("--batch-size", type=count, default=16, metavar="N", help="largest number of images per call")
    add("--max-waiting", type=count, default=256, metavar="N")
    add("--max-body", type=count, default=16, metavar="MB")
    add("-o", "--out", type=Path, metavar="DIR", help="write the results there, and the picture of traces")


@dataclass(frozen=True)
class Subject:
    """The engine and the service under test, with the options of the command line.

    Attributes:
        engine: an engine in the benchmark's own process. It is idle while the service is measured.
        images: dtype[P*N,H,W,C] in the engine's input type, for P requests of N images each.
        labels: i64[P,N], or None if the images have no labels.
        generator: the process that sends requests to the service.
    """

    options: argparse.Namespace
    engine: Engine
    images: Array
    labels: Array | None
    service: Service
    generator: Executor

    def load(self, kind: Any, setting: str | None, *arguments: Any) -> tuple[Load, Report]:
        """Let the generator send all images to the service at a setting.

        Args:
            kind: `open_loop` or `closed_loop`.
            setting: the setting to use; None lets the service choose.
            *arguments: the remaining arguments of `kind`.

        Returns:
            The load, and a report with these entries:

            - `accuracy`: share of the answered images that were classified correctly. It is None if there are no labels or
              no answers.
            - `images_per_call`: mean number of images per engine call of the service. It is None if there were no calls.
            - `service_seconds`, `generator_seconds`: CPU time of the service and of the generator.
        """
        each, service = self.options.images_per_request, self.service
        requests = [infer_request(MODEL, self.images[i : i + each], setting) for i in range(0, len(self.images), each)]
        before = service.counters()
        notes: Load = self.generator.submit(kind, service.port, requests, each, *arguments).result()
        seconds, images, calls = map(float, service.counters() - before)
        answered, accuracy = notes.status == 200, None
        if self.labels is not None and answered.any():
            labels = self.labels[np.arange(len(notes.status)) % len(self.labels)]
            accuracy = float(np.mean(notes.classes[answered] == labels[answered]))
        return notes, {
            "accuracy": accuracy,
            "images_per_call": images / calls if calls else None,
            "service_seconds": seconds,
            "generator_seconds": notes.cpu,
        }

    def saturated(self, setting: str, seconds: float, connections: int | None = None) -> Report:
        """Measure the service under the load of several connections.

        Each connection sends its next request as soon as the previous one is answered. By default, there are enough
        connections to fill two calls. In the report, `service_cpu` and `generator_cpu` are numbers of busy cores, and
        `generator_ms` is the generator's CPU time per request.

        Raises:
            ServiceError: the service answered no request.
        """
        each = self.options.images_per_request
        connections = connections or 2 * max(self.options.batch_size // each, 1)
        notes, outcome = self.load(closed_loop, setting, connections, seconds)
        answered = notes.status == 200
        if not answered.any():
            raise ServiceError(f"the service answered none of {len(notes.status)} requests for {setting}")
        start, end = notes.start + _SETTLING * seconds, notes.start + seconds
        inside = notes.done[answered & (notes.done >= start) & (notes.done < end)]
        return outcome | {
            "setting": setting,
            "images_per_second": each * rate(inside, end - start),
            "p50_ms": float(np.median((notes.done - notes.sent)[answered]) * 1e3),
            "service_cpu": outcome["service_seconds"] / seconds,
            "generator_cpu": notes.cpu / seconds,
            "generator_ms": notes.cpu / len(notes.status) * 1e3,
        }


def rate(done: Array, seconds: float) -> float:
    """Return the number of answers per second, computed from the answers' arrival times.

    All answers of one engine call arrive together, and the end of the measured window may cut off a long call. Dividing the
    number of answers by the window's length would therefore be inexact. Instead, the rate is the slope of the line that fits
    the number of answers over time.

    Args:
        done: f64[R], arrival times in seconds, in any order.
        seconds: length of the window that contains these times.

    Examples:
        >>> rate(np.repeat([0.5, 1.0, 1.5, 2.0], 8), 2.2)
        16.0
    """
    if len(done) < 2 or np.ptp(done) < seconds / 2:
        return len(done) / seconds
    return round(float(np.polyfit(np.sort(done) - done.min(), np.arange(len(done)), 1)[0]), 9)


def measure(
    options: argparse.Namespace, name: str, take: Callable[[Subject], Report], markdown: Callable[[Report], str]
) -> Report | None:
    """Start the engine, the service and the generator, and call `take` with them.

    Print the report that `take` returns. With the option -o, also write it to NAME.json.

    Returns:
        The report, or None if something can't be measured. If it is None, a line on standard error gives the reason.
    """
    options.profiles = options.profiles or list(_PROFILES)
    try:
        with Engine.load(options.bundle, backend="onnxruntime", threads=options.threads) as engine:
            images, labels = _images(engine, options)
            words = [word for profile in options.profiles for word in ("--profile", profile)]
            for option in ("slo_ms", "threads", "batch_size", "max_waiting", "max_body"):
                words += [f"--{option.replace('_', '-')}", f"{getattr(options, option):g}"]
            words += options.service_options.split()
            with Service(options.service, options.bundle, words) as service, generator() as process:
                children = [*service.memory(), process.submit(os.getpid).result()]
                with OthersWatch(children) as others:
                    report = take(Subject(options, engine, images, labels, service, process))
            runtime = engine.backend_description
    except (VmoeError, OSError, http.client.HTTPException, BrokenProcessPool) as error:
        say(f"error: {error or type(error).__name__}")
        return None
    print(
        f"{options.bundle.name} on {options.service}, {runtime}, {options.threads} threads, at most {options.batch_size} "
        f"images per call, target {options.slo_ms:g} ms; {cpu_model()}, {usable_processors()} cores, of which other "
        f"processes used {others.share:.0%}.\n\n{markdown(report)}"
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(json.dumps(vars(options) | report, indent=1, default=str) + "\n")
    return report


def _images(engine: Engine, options: argparse.Namespace) -> tuple[Array, Array | None]:
    """Return the images to send, and their labels or None.

    The images fill whole requests. There are as many as fit into memory, up to a fixed limit.
    """
    manifest, each = engine.manifest, options.images_per_request
    source = open_images(options.images, manifest.class_names, manifest.outputs)
    fits = min(len(source), _MOST_BYTES // (4 * int(np.prod(manifest.input.size))), _MOST_IMAGES)
    images = max(fits // each, 1) * each
    labels = None if source.labels is None else source.labels[:images].reshape(-1, each)
    return engine.batch(source.first_batch(images, manifest.input)), labels
