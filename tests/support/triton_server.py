"""A real Triton server with a model repository, and a client that sends requests to it.

Server and client run in a separate environment, because they need older versions of numpy and protobuf than the project.
`make triton-server` creates this environment in build/triton/venv. VMOE_TRITON_VENV can specify another environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from http_client import free_port

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(os.environ.get("VMOE_TRITON_VENV", ROOT / "build" / "triton" / "venv")).absolute()
CLIENT = ENVIRONMENT / "bin" / "python"

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGES = ENVIRONMENT / "lib" / f"python{_PYTHON}" / "site-packages"
_SERVER = _PACKAGES / "pytriton" / "tritonserver"
_STUB = _SERVER / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
_SECONDS = 120

MISSING = (
    f"no Triton server for Python {_PYTHON} in {ENVIRONMENT}; make triton-server installs it on x86-64"
    if not (_STUB.exists() and CLIENT.exists())
    else ""
)


Request = tuple[str, np.ndarray, dict[str, Any]]
"""A model's name, images and parameters."""


class ServerError(Exception):
    """Error raised if the server does not become ready. The message contains the server's log."""


class TritonServer:
    """A running server.

    Attributes:
        addresses: the address as HOST:PORT, for each of the protocols "http" and "grpc".
    """

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        self._folder = folder
        self.addresses = addresses

    def answers(self, protocol: str, requests: Sequence[Request], at_once: int | None = None) -> list[dict[str, Any]]:
        """Send requests, and wait for all responses.

        At most `at_once` requests are sent at the same time. By default, all requests are.

        Returns:
            For each request, its outputs by name (arrays or lists of strings), or {"error": message}.
        """
        np.savez(self._folder / "images.npz", **{str(number): images for number, (_, images, _) in enumerate(requests)})
        listed = [
            {"model": model, "images": str(number), "parameters": parameters}
            for number, (model, _, parameters) in enumerate(requests)
        ]
        (self._folder / "requests.json").write_text(json.dumps(listed))
        script = Path(__file__).with_name("triton_client.py")
        run_client(script, protocol, self.addresses[protocol], self._folder, at_once or len(requests))
        found = json.loads((self._folder / "answers.json").read_text())
        with np.load(self._folder / "outputs.npz") as file:
            arrays = dict(file)
        return [
            {name: arrays[value] if isinstance(value, str) and name != "error" else value for name, value in answer.items()}
            for answer in found
        ]

    def statistics(self, model: str) -> dict[str, Any]:
        """Return the statistics that Triton records for a model."""
        with urllib.request.urlopen(f"http://{self.addresses['http']}/v2/models/{model}/stats") as response:
            found: dict[str, Any] = json.load(response)["model_stats"][0]
        return found


def run_client(*command: object) -> str:
    """Run a script with the Python of the client's environment, and return its output.

    Raises:
        CalledProcessError: the script failed.
    """
    words = [str(CLIENT), *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout


@contextmanager
def serve(repository: Path, folder: Path, *, older_numpy: bool = True) -> Iterator[TritonServer]:
    """Start the server, wait until all models are ready, and stop the server at the end of the block.

    Args:
        repository: the model repository.
        folder: an empty folder for the server's and the client's files.
        older_numpy: whether models use the numpy in the server's environment. If false, they use the project's numpy.

    Raises:
        ServerError: the server can't load a model.
    """
    backends = folder / "backends" / "python"
    backends.mkdir(parents=True)
    for file in [_STUB, *(_SERVER / "backends" / "python").glob("*.*")]:
        (backends / file.name).symlink_to(file)
    ports = free_port(), free_port()
    addresses = {"http": f"127.0.0.1:{ports[0]}", "grpc": f"127.0.0.1:{ports[1]}"}
    command = [
        _SERVER / "bin" / "tritonserver", f"--model-repository={repository}", f"--backend-directory={backends.parent}",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", f"--http-port={ports[0]}", f"--grpc-port={ports[1]}",
        "--allow-metrics=false", "--exit-timeout-secs=5",
    ]  # fmt: skip
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=_variables(folder, older_numpy))
    try:
        _wait(process, addresses["http"], log)
        yield TritonServer(folder, addresses)
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _variables(folder: Path, older_numpy: bool) -> dict[str, str]:
    """Return the server's environment variables. The server finds Python through PATH, and ignores PYTHONPATH."""
    python = folder / "python"
    venv.create(python, with_pip=False)
    lines = [ROOT / "runtime", *filter(None, sys.path)]
    if older_numpy:
        lines.insert(0, _PACKAGES)
    (python / "lib" / f"python{_PYTHON}" / "site-packages" / "project.pth").write_text("\n".join(map(str, lines)))
    libraries = [str(sysconfig.get_config_var("LIBDIR")), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "PATH": f"{python / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "PYTHONNOUSERSITE": "1",
    }


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ServerError(log.read_text(errors="replace"))
        try:
            with urllib.request.urlopen(f"http://{address}/v2/health/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ServerError(f"not ready after {_SECONDS} s:\n{log.read_text(errors='replace')}")
