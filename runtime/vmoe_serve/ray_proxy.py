"""What Ray Serve's HTTP proxy says by itself, in the form that a replica's answers have."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_GONE = "no replica has answered this request: one has ended, or the server is starting or shutting down; send it again"

SERVING = "VMOE_SERVING"
"""Variable with the path of a file that is there until the proxy will be killed; it says what the start is at."""


class JsonRefusals:
    """An ASGI application whose refusals are JSON: what its proxy refuses, or fails at, as plain text becomes status 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An application of the ASGI."""
        started = refused = False

        async def send_json(message: Message) -> None:
            nonlocal started, refused
            if message["type"] == "http.response.start":
                refused = message["status"] >= 400 and "json" not in Headers(raw=message["headers"]).get("content-type", "")
            if not refused:
                started = True
                await send(message)

        await self._app(scope, receive, send_json)
        if not started:  # also where a replica is lost, which leaves the proxy without a word
            # Clients that ask again at once would keep the proxy from its work, and be cut off when it ends.
            await asyncio.sleep(1)
            if not Path(os.environ.get(SERVING, "/")).exists():
                await asyncio.Event().wait()  # a refusal is two writes: none is begun that may end between them
            await JSONResponse({"error": _GONE}, 503, {"retry-after": "1"})(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Ray's variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(JsonRefusals)]
