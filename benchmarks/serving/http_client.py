"""A load generator that sends complete HTTP/1.1 requests over keep-alive connections.

`open_loop` sends each request at its due time. `closed_loop` sends a connection's next request as soon as the previous
request is answered. Both functions run the load in a separate process (see `generator`), and parse the answers only after
the load has ended. Times are from `time.monotonic`, which is the same clock in all processes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

HEADER_LENGTH = "inference-header-content-length"
_PATIENCE = 60.0


class Reply(NamedTuple):
    """An HTTP answer. It has a status, a head (status line and headers) in lower case, a body, and an arrival time."""

    status: int
    head: bytes
    body: bytes
    at: float


class Load(NamedTuple):
    """The record of R requests of N images each.

    If a request has no answer, its `done` is nan, its `status` is 0, and its `classes` are -1.

    Attributes:
        start: time when the load began. All times are in seconds, from `time.monotonic`.
        due, sent, done: f64[R], times when each request was due, sent and answered.
        status: i64[R], HTTP status of each answer.
        setting: the setting that served each request. It is "" if the status is not 200, or if the model has no settings.
        classes: i64[R,N], the most probable class of each image.
        cpu: CPU time of the generator's process in seconds.
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
    """Return a whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def infer_body(images: Array, setting: str | None) -> tuple[bytes, int]:
    """Return the body of an `infer` request in the Open Inference Protocol.

    Tensors are binary, both in the request and in the answer.

    Args:
        images: float32 or uint8 [N,H,W,C].
        setting: the setting to use; None lets the service choose.

    Returns:
        The body, and the length of its JSON part for the header `HEADER_LENGTH`.
    """
    datatype, size = "FP32" if images.dtype == np.float32 else "UINT8", {"binary_data_size": images.nbytes}
    tensor = {"name": "image", "datatype": datatype, "shape": list(images.shape), "parameters": size}
    parameters = {"binary_data_output": True} | ({} if setting is None else {"setting": setting})
    text = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return text + images.tobytes(), len(text)


def infer_request(model: str, images: Array, setting: str | None) -> bytes:
    """Return a complete HTTP request for `infer`."""
    body, length = infer_body(images, setting)
    return http_request(f"/v2/models/{model}/infer", body, f"{HEADER_LENGTH}: {length}")


def read_answer(reply: Reply, images: int) -> tuple[str, Array]:
    """Read the answer to an `infer_request` with `images` images.

    Returns:
        The setting that served the request, or "" if the answer contains no setting.
        The outputs, f32[images, ...].

    Raises:
        ValueError: the reply is not an answer to an `infer_request` with this many images.
    """
    length = int(header(reply.head, HEADER_LENGTH) or len(reply.body))
    setting = json.loads(reply.body[:length]).get("parameters", {}).get("setting", "")
    return setting, np.frombuffer(reply.body[length:], "<f4").reshape(images, -1)


def header(head: bytes, name: str) -> str | None:
    """Return the value of the header `name`, or None if there is no such header. `name` must be in lower case."""
    _, found, rest = head.partition(b"\r\n" + name.encode() + b":")
    return rest.partition(b"\r\n")[0].strip().decode("latin-1") if found else None


@dataclass(frozen=True)
class Connection:
    """A connection that carries at most one request at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def ended(self) -> bool:
        """Whether either side has closed the connection."""
        return self.writer.is_closing() or self.reader.at_eof()

    async def ask(self, request: bytes) -> Reply | None:
        """Send a request and return its reply, or None if the connection ends without a reply."""
        if self.ended:
            return None
        self.writer.write(request)
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            if header(head, "transfer-encoding") == "chunked":  # an answer with outputs is never chunked; skip the body
                body = await self.reader.readuntil(b"0\r\n\r\n")
            else:
                body = await self.reader.readexactly(int(header(head, "content-length") or 0))
        except (OSError, EOFError):
            return None
        if header(head, "connection") == "close":
            self.writer.close()
        return Reply(int(head[9:12]), head, body, time.monotonic())

    def hang_up(self) -> None:
        """Close the connection at once and discard unsent data."""
        if not self.writer.is_closing():  # asyncio fails if a transport is closed twice
            self.writer.transport.abort()


async def connect(port: int) -> Connection:
    """Open a new connection to `port` on this machine."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port))


def generator() -> Executor:
    """Return an executor that runs one load after another in a separate process, without garbage collection."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=gc.disable)


def open_loop(port: int, requests: Sequence[bytes], images: int, due: Array) -> Load:
    """Send one request at each time in `due`, even if earlier requests are unanswered.

    `due` is f64[R], in seconds from the start. The requests, which contain `images` images each, are used in turn.
    """
    return asyncio.run(_Generator(port, requests, images).open(due))


def closed_loop(port: int, requests: Sequence[bytes], images: int, connections: int, seconds: float) -> Load:
    """Send requests over several connections. Each connection sends the next request when the previous one is answered.

    The requests, which contain `images` images each, are used in turn. The load ends after `seconds`.
    """
    return asyncio.run(_Generator(port, requests, images).closed(connections, seconds))


class _Generator:
    """A sender of requests that records each request's reply and the time when the request was sent."""

    def __init__(self, port: int, requests: Sequence[bytes], images: int) -> None:
        self._port, self._requests, self._images = port, requests, images
        self._sent, self._replies = list[float](), list[Reply | None]()
        self._connections, self._cpu = list[Connection](), time.process_time()

    async def open(self, offsets: Array) -> Load:
        start = time.monotonic() + 0.05
        due, idle, tasks = start + offsets, list[Connection](), list[asyncio.Task[None]]()

        async def client(index: int) -> None:
            while idle and idle[-1].ended:
                idle.pop()
            try:
                connection = idle.pop() if idle else await self._connect()
            except OSError:  # counts as an unanswered request
                return
            if await self._ask(index, connection):
                idle.append(connection)

        for moment in due:
            await asyncio.sleep(max(moment - time.monotonic(), 0))
            tasks.append(asyncio.create_task(client(self._next())))
        await asyncio.wait(tasks, timeout=_PATIENCE)
        return self._load(start, due)

    async def closed(self, connections: int, seconds: float) -> Load:
        opened = [await self._connect() for _ in range(connections)]
        start = time.monotonic()

        async def client(connection: Connection) -> None:
            while time.monotonic() < start + seconds and not connection.ended:
                await self._ask(self._next(), connection)

        await asyncio.wait([asyncio.create_task(client(connection)) for connection in opened], timeout=seconds + _PATIENCE)
        return self._load(start, None)

    def _next(self) -> int:
        self._sent.append(np.nan)
        self._replies.append(None)
        return len(self._sent) - 1

    async def _connect(self) -> Connection:
        self._connections.append(await connect(self._port))
        return self._connections[-1]

    async def _ask(self, index: int, connection: Connection) -> bool:
        self._sent[index] = time.monotonic()
        self._replies[index] = await connection.ask(self._requests[index % len(self._requests)])
        return self._replies[index] is not None

    def _load(self, start: float, due: Array | None) -> Load:
        cpu, sent, replies = time.process_time() - self._cpu, np.array(self._sent), list(self._replies)
        for connection in self._connections:
            connection.hang_up()
        settings, classes = [""] * len(sent), np.full((len(sent), self._images), -1)
        for index, reply in enumerate(replies):
            if reply is not None and reply.status == 200:
                settings[index], logits = read_answer(reply, self._images)
                classes[index] = logits.argmax(1)
        status = np.array([reply.status if reply else 0 for reply in replies])
        done = np.array([reply.at if reply else np.nan for reply in replies])
        return Load(start, sent if due is None else due, sent, done, status, tuple(settings), classes, cpu)
