"""A server that, like gunicorn, forks its workers before they load the bundle.

    python tests/runtime/prefork_server.py BUNDLE BACKEND BEFORE

BEFORE specifies what the parent does before it forks: "nothing", "import" (imports the backend) or "engine" (loads an
engine). Each worker classifies one image and sends the result over its socket. The server then prints a line of JSON. On
SIGTERM, the server ends and prints a line with the workers' exit codes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
from typing import NoReturn

import numpy as np

from vmoe_runtime import BackendError, Engine

WORKERS = 4
IMAGE = -np.ones((1, 12, 12, 3), np.float32)
PATIENCE = 60  # seconds to wait for an answer; if none comes, a worker hangs, and the test fails
ENDING = 15  # seconds until all workers must have ended; measured: 0.1 on an idle machine, 1.1 on an overloaded one


def work(listener: socket.socket, bundle: str, backend: str, inherited: Engine | None) -> NoReturn:
    """Run a worker. This function never returns."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    refusal = ""
    if inherited is not None:
        try:
            inherited(IMAGE)
        except BackendError as error:
            refusal = str(error)
    engine = Engine.load(bundle, backend=backend, threads=2)
    while True:
        connection, _ = listener.accept()
        with connection:
            answer = {"logits": engine(IMAGE)[0].tolist(), "refusal": refusal, "process": os.getpid()}
            connection.sendall(json.dumps(answer).encode())


def ask(listener: socket.socket) -> dict[str, object]:
    with socket.create_connection(listener.getsockname(), PATIENCE) as connection, connection.makefile("rb") as file:
        return json.loads(file.read())


def main(bundle: str, backend: str, before: str) -> None:
    inherited = None
    if before == "import":
        importlib.import_module(f"vmoe_runtime.backends.{backend}_cpu")
    elif before == "engine":
        inherited = Engine.load(bundle, backend=backend, threads=2)
        inherited(IMAGE)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(WORKERS)]
    workers = []
    for listener in listeners:
        workers.append(os.fork())
        if workers[-1] == 0:
            work(listener, bundle, backend, inherited)
    try:
        print(json.dumps([ask(listener) for listener in listeners]), flush=True)
        signal.sigwait({signal.SIGTERM})
        print(json.dumps(end(workers)), flush=True)
    finally:
        for worker in workers:  # the workers that have not ended yet
            os.kill(worker, signal.SIGKILL)


def end(workers: list[int]) -> list[int]:
    """Send SIGTERM to all workers, remove them from the list, and return their exit codes."""
    start = time.monotonic()
    for worker in workers:
        os.kill(worker, signal.SIGTERM)
    codes = []
    while workers and time.monotonic() - start < ENDING:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            codes.append(os.waitstatus_to_exitcode(status))
            workers.remove(ended)
        time.sleep(0.01)
    return codes


if __name__ == "__main__":
    # sigwait, with which the parent waits for SIGTERM, requires that this signal is blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main(*sys.argv[1:])
