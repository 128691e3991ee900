"""A service as its own process: `vmoe-serve ray`, or a program that takes the same options and speaks the same HTTP."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cpu.timing import cpu_seconds, process_fields

from vmoe_runtime.errors import VmoeError

Array = np.ndarray[Any, np.dtype[Any]]

MODEL = "model"
"""The name under which every bundle is served."""
_PATIENCE = 180.0


class ServiceError(VmoeError):
    """A service that doesn't start, answer or end as it should."""


class Service:
    """A running service on loopback; as a context, it ends with it.

    Attributes:
        port: where it listens.
        start_seconds: from its start to its first answer.
    """

    def __init__(self, program: str, bundle: Path, options: Sequence[str]) -> None:
        """Starts "ray" or the program of that path on a bundle, and returns when it answers.

        --port, --host and --name are given to it anyway.

        Raises:
            ServiceError: it can't be started, or ends at once.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        start = time.monotonic()
        command = [sys.executable, "-m", "vmoe_serve", "ray"] if program == "ray" else [program]
        command += [str(bundle), "--host", "127.0.0.1", "--port", str(self.port), "--name", MODEL, *options]
        command += ["--backend", "onnxruntime"] if program == "ray" else []
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (it is open as long as the service runs)
        # The same ONNX Runtime as that of the benchmark's own engine, which answers are held to.
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
        """Ends it by SIGTERM.

        Raises:
            ServiceError: it doesn't end, or not with exit code 0.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise ServiceError(f"the service did not end within {_PATIENCE:g} s of SIGTERM") from None
        if code != 0:
            raise ServiceError(f"the service ended with exit code {code} after SIGTERM: {self._said()}")

    def metric(self, name: str) -> float:
        """The sum of a Prometheus metric over its labels; 0 where the service has none of that name."""
        return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", self._get("/metrics") or "", re.MULTILINE)))

    def memory(self) -> dict[int, int]:
        """Bytes of memory of each process that it consists of now, by id; of memory that several share, its part.

        Pages of files count in full, as programs outside that map the same libraries must make no difference.
        """
        fields = {int(folder.name): process_fields(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
        family, before = {self._process.pid}, 0
        while len(family) > before:
            before = len(family)
            family |= {process for process, found in fields.items() if found and int(found[1]) in family}
        memory = {}
        for process in sorted(family):
            with suppress(OSError, ValueError):  # it has just ended
                told = [Path(f"/proc/{process}/{name}").read_text().split() for name in ("smaps_rollup", "status")]
                fields_of = ((told[0], "Pss_Anon:"), (told[0], "Pss_Shmem:"), (told[1], "RssFile:"))
                memory[process] = sum(int(text[text.index(field) + 1]) for text, field in fields_of) << 10
        return memory

    def counters(self) -> Array:
        """Seconds of CPU time that its processes took so far, the images that it served, and its calls."""
        served = self.metric("vmoe_images_served_total"), self.metric("vmoe_calls_total")
        return np.array([sum(map(cpu_seconds, self.memory())), *served])

    def _get(self, path: str) -> str | None:
        """The body of an answer with status 200, None of any other."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            return body if response.status == 200 else None

    def _wait(self) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise ServiceError(f"the service ended with exit code {self._process.returncode}: {self._said()}")
            with suppress(OSError, http.client.HTTPException):
                if self._get("/healthz") is not None:
                    return
            time.sleep(0.02)
        raise ServiceError(f"the service did not answer within {_PATIENCE:g} s")

    def _said(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1].strip()[:500]
