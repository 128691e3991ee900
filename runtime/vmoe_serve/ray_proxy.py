"""Replaces the plain-text errors of Ray Serve's HTTP proxy with JSON."""

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
"""Environment variable with the path of a file. During the start, the file says what the command waits for; it is empty once
the proxy is about to be killed."""


class JsonRefusals:
    """An ASGI application that wraps another application and replaces its plain-text errors.

    Instead of a plain-text error, it sends JSON with status 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. ASGI defines the parameters."""
        started = refused = False

        async def send_json(message: Message) -> None:
            nonlocal started, refused
            if message["type"] == "http.response.start":
                refused = message["status"] >= 400 and "json" not in Headers(raw=message["headers"]).get("content-type", "")
            if not refused:
                started = True
                await send(message)

        await self._app(scope, receive, send_json)
        if not started:  # the proxy refused the request, or lost the replica before it replied
            # Delay the refusal. If clients could retry at once, they would keep the proxy busy. Their connections would be
            # cut when the proxy stops.
            await asyncio.sleep(1)
            if not Path(os.environ.get(SERVING, __file__)).stat().st_size:
                # Send nothing, because the proxy is about to be killed. It could be killed between the two writes of a
                # refusal.
                await asyncio.Event().wait()
            await JSONResponse({"error": _GONE}, 503, {"retry-after": "1"})(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return the proxy's middlewares. The variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH tells Ray to call it."""
    return [Middleware(JsonRefusals)]
