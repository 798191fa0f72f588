"""Bound the requests in progress, so that those for `/health` always find room, and start each in a turn."""

from collections import Counter
from typing import Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from sidecard.observe.http.turns import HttpTurns, client_of

MAX_REQUESTS: Final = 64
"""Requests in progress besides those for `/health`; further ones get a 503. A browser has six, a scraper one."""

MAX_REQUESTS_PER_CLIENT: Final = 48
"""So many of them from one address, or one uid."""

HEALTH: Final = "/health"


class RequestLimits:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, turns: HttpTurns) -> None:
        self._app = app
        self._turns = turns
        self._in_progress = Counter[str]()
        """Requests by client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of ASGI."""
        client = client_of(scope)
        if scope["path"] == HEALTH:
            # Before the requests that wait: whoever checks the daemon's health must not wait for those who attack it.
            await self._turns.next(client.uid, first=True)
            await self._app(scope, receive, send)
            return

        in_progress = self._in_progress
        if in_progress[client.address] >= MAX_REQUESTS_PER_CLIENT or in_progress.total() >= MAX_REQUESTS:
            await self._turns.next(client.uid)
            await _reject(send)
            return

        in_progress[client.address] += 1
        try:
            await self._turns.next(client.uid)
            await self._app(scope, receive, send)
        finally:
            in_progress[client.address] -= 1
            if not in_progress[client.address]:
                del in_progress[client.address]


async def _reject(send: Send) -> None:
    sentence = (
        f"{MAX_REQUESTS} requests are in progress, {MAX_REQUESTS_PER_CLIENT} at most from one client: try again later."
    )
    body = msgspec.json.encode({"error": sentence})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
