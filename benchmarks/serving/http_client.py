"""The load: whole HTTP/1.1 requests over keep-alive connections, sent when they are due, or each when one was answered.

`open_loop` and `closed_loop` are to be run in a process of their own (`generator`). They keep bytes and times while the load
runs, and read the answers afterwards. Times are those of `time.monotonic`, which all processes share.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import resource
import select
import selectors
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

HEADER_LENGTH = "inference-header-content-length"
_PATIENCE = 60.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Reply:
    """An answer: its status, its head in lower case without the last empty line, and its body."""

    status: int
    head: bytes
    body: bytes


@dataclass(frozen=True)
class Notes:
    """What came of R requests of N images each.

    Attributes:
        start: when the load began, in seconds as all times here.
        due, sent, done: f64[R], seconds; done is nan where no answer came.
        status: i64[R]; 0 where no answer came.
        setting: of those that were answered with 200; "" for the others, and for a model that has none.
        classes: i64[R,N], the likeliest class of each image; -1 where there was no answer.
        cpu: seconds of CPU time that the generator's process took, from the first request to the last answer.
    """

    start: float
    due: Array
    sent: Array
    done: Array
    status: Array
    setting: tuple[str, ...]
    classes: Array
    cpu: float


def http_request(path: str, body: bytes = b"", *headers: str, method: str = "POST") -> bytes:
    """A whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def infer_request(model: str, images: Array, setting: str | None) -> bytes:
    """An `infer` of the Open Inference Protocol, version 2, with tensors in binary both ways.

    Args:
        model: its name.
        images: float32 or uint8 [N,H,W,C].
        setting: what it asks for; None leaves that to the service.
    """
    datatype, size = "FP32" if images.dtype == np.float32 else "UINT8", {"binary_data_size": images.nbytes}
    tensor = {"name": "image", "datatype": datatype, "shape": list(images.shape), "parameters": size}
    parameters = {"binary_data_output": True} | ({} if setting is None else {"setting": setting})
    text = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return http_request(f"/v2/models/{model}/infer", text + images.tobytes(), f"{HEADER_LENGTH}: {len(text)}")


def read_answer(reply: Reply, images: int) -> tuple[str, Array]:
    """The setting that served ("" for none) and f32[images, ...] of the answer to an `infer_request`.

    Raises:
        ValueError: it is no such answer.
    """
    length = int(header(reply.head, HEADER_LENGTH) or len(reply.body))
    setting = json.loads(reply.body[:length]).get("parameters", {}).get("setting", "")
    return setting, np.frombuffer(reply.body[length:], "<f4").reshape(images, -1)


def header(head: bytes, name: str) -> str | None:
    """The value of a header, given its name in lower case; None without it."""
    start = head.find(b"\r\n" + name.encode() + b":")
    return None if start < 0 else head[start + len(name) + 3 :].partition(b"\r\n")[0].strip().decode("latin-1")


class Connection(asyncio.Protocol):
    """One connection, and at most one request at a time on it."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._answered: Callable[[Reply | None], None] | None = None

    def ask(self, request: bytes, answered: Callable[[Reply | None], None]) -> None:
        """Sends a request; `answered` is called with the reply, or with None where the connection ends without one."""
        self._answered = answered
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102  (asyncio's)
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102  (asyncio's)
        self._bytes += data
        end = self._bytes.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._bytes[:end]).lower()
        if header(head, "transfer-encoding") == "chunked":  # nothing that a model answers: no one reads it
            whole = self._bytes.find(b"0\r\n\r\n", end) + 5
        else:
            whole = end + 4 + int(header(head, "content-length") or 0)
        if whole > end and len(self._bytes) >= whole:
            reply = Reply(int(head[9:12]), head, bytes(self._bytes[end + 4 : whole]))
            del self._bytes[:whole]
            if header(head, "connection") == "close":
                self.transport.close()
            self._end(reply)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102  (asyncio's)
        self._end(None)

    def _end(self, reply: Reply | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(reply)


async def connect(port: int) -> Connection:
    """A new connection to this machine."""
    return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]


def generator() -> Executor:
    """A process of its own that runs one load after the other."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def open_loop(port: int, requests: Sequence[bytes], images: int, due: Array) -> Notes:
    """Sends the requests in turn, one at each due time, however many are unanswered; there are always connections enough.

    Args:
        port: of the service.
        requests: of `infer_request`.
        images: of each.
        due: f64[R], seconds from the start, rising.
    """
    return run(_Load(port, requests, images, due).open())


def closed_loop(port: int, requests: Sequence[bytes], images: int, connections: int, seconds: float) -> Notes:
    """Sends the requests in turn, on each of so many connections the next one when an answer has come."""
    return run(_Load(port, requests, images, np.zeros(0)).closed(connections, seconds))


def run(load: Coroutine[Any, Any, _Result]) -> _Result:
    """What a coroutine returns, run by a loop whose waits are exact; no garbage is collected meanwhile."""
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_ExactSelector())) as runner:
            return runner.run(load)
    finally:
        gc.enable()


class _ExactSelector(selectors.EpollSelector):
    """Waits to the microsecond; epoll's own wait is rounded up to milliseconds, by which every request would be late."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


class _Load:
    def __init__(self, port: int, requests: Sequence[bytes], images: int, due: Array) -> None:
        self._port, self._requests, self._images, self._due = port, requests, images, due
        self._sent, self._done = [np.nan] * len(due), [np.nan] * len(due)
        self._replies: list[Reply | None] = [None] * len(due)
        self._left = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: list[Connection] = []
        self._idle: list[Connection] = []

    async def open(self) -> Notes:
        cpu, start = _cpu_seconds(), time.monotonic() + 0.05
        due = start + self._due
        for index, moment in enumerate(due):
            if (wait := moment - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._left += 1
            while self._idle and self._idle[-1].transport.is_closing():
                self._idle.pop()
            if self._idle:
                self._send(index, self._idle.pop())
            else:
                self._tasks.add(task := asyncio.create_task(self._send_anew(index)))
                task.add_done_callback(self._tasks.discard)
            if index % 64 == 0:
                await asyncio.sleep(0)  # where it is late, answers are still read
        return await self._notes(start, due, cpu)

    async def closed(self, connections: int, seconds: float) -> Notes:
        self._connections = [await connect(self._port) for _ in range(connections)]
        cpu, start = _cpu_seconds(), time.monotonic()
        end = start + seconds

        def go_on(connection: Connection) -> None:
            if time.monotonic() < end and not connection.transport.is_closing():
                self._sent.append(np.nan)
                self._done.append(np.nan)
                self._replies.append(None)
                self._left += 1
                self._send(len(self._sent) - 1, connection, go_on)

        for connection in self._connections:
            go_on(connection)
        await asyncio.sleep(seconds)
        return await self._notes(start, None, cpu)

    async def _send_anew(self, index: int) -> None:
        try:
            self._connections.append(await connect(self._port))
        except OSError:  # it counts as a request without an answer
            self._left -= 1
        else:
            self._send(index, self._connections[-1])

    def _send(self, index: int, connection: Connection, then: Callable[[Connection], None] | None = None) -> None:
        def answered(reply: Reply | None) -> None:
            self._left -= 1
            if reply is not None:
                self._done[index] = time.monotonic()
                self._replies[index] = reply
                (then or self._idle.append)(connection)

        self._sent[index] = time.monotonic()
        connection.ask(self._requests[index % len(self._requests)], answered)

    async def _notes(self, start: float, due: Array | None, cpu: float) -> Notes:
        """When all is answered, or there is no hope."""
        end = time.monotonic() + _PATIENCE
        while self._left and time.monotonic() < end:
            await asyncio.sleep(0.01)
        cpu = _cpu_seconds() - cpu
        for connection in self._connections:
            if not connection.transport.is_closing():
                connection.transport.abort()
        due = np.array(self._sent) if due is None else due
        settings, classes = [""] * len(due), np.full((len(due), self._images), -1)
        for index, reply in enumerate(self._replies):
            if reply is not None and reply.status == 200:
                settings[index], logits = read_answer(reply, self._images)
                classes[index] = logits.argmax(1)
        status = np.array([0 if reply is None else reply.status for reply in self._replies])
        return Notes(start, due, np.array(self._sent), np.array(self._done), status, tuple(settings), classes, cpu)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
