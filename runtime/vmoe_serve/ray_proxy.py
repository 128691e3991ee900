"""JSON in place of the plain text that Ray Serve's HTTP proxy sends when it refuses a request itself."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_GONE = "no replica answered: one has stopped, or the server is starting or shutting down; send the request again"

SERVING = "VMOE_SERVING"
"""Variable with the path of a file that says what the start waits for, and is empty once the proxy will be killed."""


class JsonRefusals:
    """An ASGI application whose refusals are JSON: plain-text errors of the proxy become status 503."""

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
        if not started:  # also if a replica is lost, and the proxy sends nothing
            # Clients that retry at once would keep the proxy busy, and be cut off when it stops.
            await asyncio.sleep(1)
            if not Path(os.environ.get(SERVING, __file__)).stat().st_size:
                await asyncio.Event().wait()  # a refusal is two writes, which must not be cut in between
            await JSONResponse({"error": _GONE}, 503, {"retry-after": "1"})(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Ray's variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(JsonRefusals)]
