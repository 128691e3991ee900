"""A proxy that breaks connections while a server's response is being sent."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CuttingProxy:
    """A proxy that forwards connections to a port of this machine, and cuts some of them.

    A connection is cut after the proxy has forwarded a random number of bytes from the server.

    Attributes:
        port: the proxy's own port, to which clients connect.
        cuts: number of connections that are still to be cut.
    """

    def __init__(self, target: int, cuts: int, lengths: range, seed: int) -> None:
        self._target, self.cuts, self._lengths, self._random = target, cuts, lengths, random.Random(seed)
        self._lock, self._listening = threading.Lock(), socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                # Keep the buffer small, so that the proxy can't send much more than the client has read.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
                server = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    left = self._random.choice(self._lengths) if self.cuts else None
                threading.Thread(target=self._pass_on, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, left), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if left is not None and len(data) > left:
                    sink.sendall(data[:left])
                    with self._lock:
                        self.cuts = max(self.cuts - 1, 0)
                    break
                sink.sendall(data)
                left = None if left is None else left - len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def cutting_proxy(target: int, cuts: int, lengths: range = range(300_000), seed: int = 0) -> Iterator[CuttingProxy]:
    """Start a proxy that cuts `cuts` connections, each after a random number of bytes from `lengths`."""
    proxy = CuttingProxy(target, cuts, lengths, seed)
    try:
        yield proxy
    finally:
        proxy.close()
