"""The load: whole HTTP/1.1 requests over keep-alive connections, sent when they are due, or each when one was answered.

`open_loop` and `closed_loop` run in a process of their own (`generator`) and read answers when the load is over. Times are
those of `time.monotonic`, which all processes share.
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
from collections.abc import Coroutine, Sequence
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
    """An answer: its status, its head in lower case without the last empty line, its body, and when it came."""

    status: int
    head: bytes
    body: bytes
    at: float


@dataclass(frozen=True)
class Notes:
    """What came of R requests of N images each, where no answer came with a `done` of nan, a status of 0 and a class of -1.

    Attributes:
        start: when the load began, in seconds as all times here.
        due, sent, done: f64[R], seconds.
        status: i64[R].
        setting: of those that were answered with 200; "" for the others, and for a model that has none.
        classes: i64[R,N], the likeliest class of each image.
        cpu: seconds of CPU time that the generator's process took.
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
    """An `infer` of the Open Inference Protocol for float32 or uint8 [N,H,W,C], with tensors in binary both ways.

    Without a setting the service chooses.
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
        self._answer: asyncio.Future[Reply | None] | None = None

    async def ask(self, request: bytes) -> Reply | None:
        """Sends a request and waits for the reply; None where the connection ends without one."""
        if self.transport.is_closing():
            return None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

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
            reply = Reply(int(head[9:12]), head, bytes(self._bytes[end + 4 : whole]), time.monotonic())
            del self._bytes[:whole]
            if header(head, "connection") == "close":
                self.transport.close()
            self._end(reply)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102  (asyncio's)
        self._end(None)

    def _end(self, reply: Reply | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)


async def connect(port: int) -> Connection:
    """A new connection to this machine."""
    return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]


def generator() -> Executor:
    """A process of its own that runs one load after the other."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def open_loop(port: int, requests: Sequence[bytes], images: int, due: Array) -> Notes:
    """Sends requests of so many images in turn, one at each due time f64[R], however many are unanswered."""
    return run(_Load(port, requests, images).open(due))


def closed_loop(port: int, requests: Sequence[bytes], images: int, connections: int, seconds: float) -> Notes:
    """Sends the requests in turn, on each of so many connections the next one when an answer has come."""
    return run(_Load(port, requests, images).closed(connections, seconds))


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
    def __init__(self, port: int, requests: Sequence[bytes], images: int) -> None:
        self._port, self._requests, self._images = port, requests, images
        self._sent: list[float] = []
        self._replies: list[Reply | None] = []
        self._connections: list[Connection] = []

    async def open(self, offsets: Array) -> Notes:
        cpu, start = _cpu_seconds(), time.monotonic() + 0.05
        due, idle, tasks = start + offsets, list[Connection](), list[asyncio.Task[None]]()

        async def client(index: int) -> None:
            while idle and idle[-1].transport.is_closing():
                idle.pop()
            connection = idle.pop() if idle else await self._connect()
            if connection is not None and await self._ask(index, connection):
                idle.append(connection)

        for moment in due:
            await asyncio.sleep(max(moment - time.monotonic(), 0))
            tasks.append(asyncio.create_task(client(self._next())))
        await asyncio.wait(tasks, timeout=_PATIENCE)
        return self._notes(start, due, cpu)

    async def closed(self, connections: int, seconds: float) -> Notes:
        self._connections = [await connect(self._port) for _ in range(connections)]
        cpu, start = _cpu_seconds(), time.monotonic()

        async def client(connection: Connection) -> None:
            while time.monotonic() < start + seconds and not connection.transport.is_closing():
                if not await self._ask(self._next(), connection):
                    return

        tasks = [asyncio.create_task(client(connection)) for connection in self._connections]
        await asyncio.wait(tasks, timeout=seconds + _PATIENCE)
        return self._notes(start, None, cpu)

    def _next(self) -> int:
        self._sent.append(np.nan)
        self._replies.append(None)
        return len(self._sent) - 1

    async def _connect(self) -> Connection | None:
        try:
            self._connections.append(await connect(self._port))
        except OSError:  # it counts as a request without an answer
            return None
        return self._connections[-1]

    async def _ask(self, index: int, connection: Connection) -> Reply | None:
        self._sent[index] = time.monotonic()
        self._replies[index] = await connection.ask(self._requests[index % len(self._requests)])
        return self._replies[index]

    def _notes(self, start: float, due: Array | None, cpu: float) -> Notes:
        cpu = _cpu_seconds() - cpu
        for connection in self._connections:
            connection.transport.abort()
        sent = np.array(self._sent)
        settings, classes = [""] * len(sent), np.full((len(sent), self._images), -1)
        for index, reply in enumerate(self._replies):
            if reply is not None and reply.status == 200:
                settings[index], logits = read_answer(reply, self._images)
                classes[index] = logits.argmax(1)
        status = np.array([reply.status if reply else 0 for reply in self._replies])
        done = np.array([reply.at if reply else np.nan for reply in self._replies])
        return Notes(start, sent if due is None else due, sent, done, status, tuple(settings), classes, cpu)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
