"""A client that sends requests to a served model over HTTP."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving.http_client import HEADER_LENGTH, infer_body

from vmoe_runtime import Engine

PATIENCE = 180


def free_port() -> int:
    """Return a port that is free on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def unexpected(errors: str) -> str:
    """Return the unexpected lines in a server's standard error.

    A line is expected if it reports that a setting is left out because it is no faster than a more accurate setting.
    """
    return "".join(line for line in errors.splitlines(True) if "is left out: it takes no less time here" not in line)


def exchanged(port: int, *parts: bytes, pause: float = 0) -> bytes:
    """Send bytes to a port, and return all bytes that the server sends until it closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionResetError, ConnectionRefusedError), connected(port) as connection:
        with contextlib.suppress(OSError):  # the server may close the connection before it has received everything
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        while part := connection.recv(1 << 16):
            answer += part
    return answer


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


@contextlib.contextmanager
def nginx(folder: Path, port: int, settings: str) -> Iterator[None]:
    """Run nginx until the block ends. If nginx is not installed, skip the test.

    `settings` is the content of the `http` section in nginx's configuration. It must make nginx listen at `port`.
    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("there is no nginx (Debian package nginx-light)")
    folders = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {folders} {settings} }}"
    )
    command = [program, "-e", folder / "log", "-p", folder, "-c", "nginx.conf", "-g", f"user {getpass.getuser()};"]
    with subprocess.Popen(command) as process:
        while process.poll() is None and not exchanged(port, b"GET / HTTP/1.0\r\n\r\n"):
            time.sleep(0.05)
        try:
            yield
        finally:
            process.terminate()


class HttpClient:
    """A client for a server on this machine.

    Many threads can use the client at the same time, because it opens a connection for each request.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read(), response

    def infer(self, images: Any, setting: str | None = None) -> tuple[int, dict[str, Any], bytes]:
        """Send an `infer` request with binary tensors, as Triton's clients do.

        Return the response's status, JSON and binary data.
        """
        sent, text = infer_body(images, setting)
        header = {HEADER_LENGTH: str(text)}
        status, body, response = self.ask("POST", "/v2/models/mnist/infer", sent, **header)
        if status != 200:
            return status, {"error": body.decode()}, b""
        length = int(response.headers.get(HEADER_LENGTH, len(body)))
        return status, json.loads(body[:length]), body[length:]


def assert_bits_under_load(client: HttpClient, engine: Engine, pixels: Any, *, levels: Sequence[str], requests: int) -> None:
    """Assert that many concurrent clients get the same bits from the server as the engine returns.

    If a client requests a setting, the response must have that setting. Otherwise, its setting must be in `levels`. Every
    fourth request contains NaN and must get status 400.
    """
    images, settings = engine.batch(pixels), (None, "c0.3-k1", "c1.05-k2-vanilla")

    def ask(index: int) -> bool:
        part, asked = images[index : index + 1 + index % 3], settings[index % 3]
        if index % 4 == 0:
            status, answer, _ = client.infer(np.full_like(part, np.nan), asked)
            return status == 400 and "'image' has NaN or infinite values" in answer["error"]
        status, answer, logits = client.infer(part, asked)
        assert status == 200, answer
        setting = answer["parameters"]["setting"]
        assert setting in levels if asked is None else setting == asked
        return logits == engine(part, setting).tobytes()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(requests)))
