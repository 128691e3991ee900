"""Python's web server, which lists folders and doesn't support range requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@contextmanager
def web_server(
    folder: Path, headers: Mapping[str, str] | None = None, silent_after: int | None = None, sent: list[str] | None = None
) -> Iterator[str]:
    """Serve a folder until the block ends, and yield the server's address.

    Args:
        folder: the folder to serve.
        headers: headers to send with each response.
        silent_after: the server stops sending after this number of bytes of each response. If it is -1, the server sends no
            headers either. If it is None, the server sends everything.
        sent: a list to which the path of each file is added when the server begins to send that file.
    """
    ended = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def guess_type(self, path: Any) -> str:
            return "application/octet-stream" if str(path).endswith(".mjs") else super().guess_type(path)  # like nginx

        def send_head(self) -> Any:
            if silent_after == -1:
                ended.wait()
                return None
            return super().send_head()

        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            if sent is not None:
                sent.append(self.path)
            if silent_after is None:
                super().copyfile(source, outputfile)
            else:
                with suppress(OSError):  # the client has gone
                    outputfile.write(source.read(silent_after))
                ended.wait()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        ended.set()
        server.shutdown()
