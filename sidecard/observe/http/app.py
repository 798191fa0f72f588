"""The routes of the HTTP listener: the dashboard, and the data for it, for scrapers and for OpenPipe clients.

=====================  =====================================================================================
``GET /``              the dashboard, and its files below ``/assets/``
``GET /health``        `sidecard_client.protocol.wire.Health` as JSON; 200, or 503 while the daemon drains
``GET /metrics``       all metrics, as Prometheus' text or, if preferred, as OpenMetrics
``GET /v1/summary``    `sidecard.observe.summary.summary`
``GET /v1/history``    `sidecard.observe.history.History.after`; ``?after=NUMBER`` for later steps only
``POST /v1/metrics``   accepts `sidecard.observe.http.posted.PostedCall`, returns ``{"recorded": n, "dropped": n}``
=====================  =====================================================================================

``HEAD`` works like ``GET``; neither changes anything. Errors are JSON, ``{"error": "a sentence"}``.
"""

import re
from collections.abc import Callable
from importlib import resources
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sidecard.observe.exposition import OPENMETRICS, TEXT
from sidecard.observe.history import History, totals
from sidecard.observe.http import posted
from sidecard.observe.http.scrapes import Page, PageGivenUp, Scrapes
from sidecard.observe.http.turns import HttpTurns, client_of
from sidecard.observe.summary import summary
from sidecard_client.protocol import wire

Query = Callable[[wire.AnyRequest], wire.AnyReply]
"""Queries the engine as an operator, in its own thread, without waiting."""

BODY_SECONDS = 5.0
"""A body has at most 64 KiB."""

_CLOSE = {"connection": "close"}

_SCRIPTS = ("dashboard.js", "parts.js", "charts.js", "elements.js", "format.js")
ASSETS = {"style.css": "text/css", "icon.svg": "image/svg+xml"} | dict.fromkeys(_SCRIPTS, "text/javascript")
"""The dashboard's files and their types. No other file is ever read, whatever the path of a request."""

_Reply = TypeVar("_Reply", bound=wire.Reply)


class App:
    """Serves requests with replies of ``query``, and metrics with pages of ``scrapes``."""

    def __init__(self, query: Query, scrapes: Scrapes, turns: HttpTurns) -> None:
        self._query = query
        self._scrapes = scrapes
        self._turns = turns
        self._history = History()
        folder = resources.files("sidecard.observe") / "dashboard"
        self._page = (folder / "index.html").read_bytes()
        self._assets = {name: (folder / name).read_bytes() for name in ASSETS}
        self.asgi = Starlette(
            routes=[
                Route("/", self._dashboard),
                Route("/assets/{name}", self._asset),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
                Route("/v1/summary", self._summary),
                Route("/v1/history", self._curves),
                Route("/v1/metrics", self._post, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
        )
        # A redirect would repeat the request's own host, and every path has only one spelling.
        self.asgi.router.redirect_slashes = False

    def record_step(self) -> None:
        """Add a step to the history. Call it every `sidecard.observe.history.STEP_SECONDS`."""
        self._history.add(totals(self._get(wire.GetStats(), wire.Stats), self._get(wire.GetReport(), wire.Report)))

    def _get(self, request: wire.AnyRequest, kind: type[_Reply]) -> _Reply:
        reply = self._query(request)
        if isinstance(reply, kind):
            return reply

        if isinstance(reply, wire.Error) and reply.code == "unavailable":
            raise HTTPException(503, reply.message)

        raise TypeError(f"unexpected reply to {type(request).__name__}: {reply!r}")

    async def _dashboard(self, _: Request) -> Response:
        return Response(self._page, media_type="text/html")

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._assets:
            raise HTTPException(404)

        return Response(self._assets[name], media_type=ASSETS[name])

    async def _health(self, _: Request) -> Response:
        health = self._get(wire.GetHealth(), wire.Health)
        # Not for an open breaker: taking the daemon out of service would not repair the backend.
        return _json(health, 503 if health.status == "draining" else 200)

    async def _metrics(self, request: Request) -> Response:
        form = OPENMETRICS if prefers_openmetrics(", ".join(request.headers.getlist("accept"))) else TEXT
        page = await self._scrapes.page(form, client_of(request.scope).uid)
        return _PageResponse(page, self._scrapes, self._turns, form.content_type)

    async def _summary(self, _: Request) -> Response:
        return _json(
            summary(
                self._get(wire.GetStats(), wire.Stats),
                self._get(wire.GetReport(), wire.Report),
                self._get(wire.GetHealth(), wire.Health),
                self._get(wire.GetBreakers(), wire.Breakers),
            )
        )

    async def _curves(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not re.fullmatch("[0-9]{1,15}", after):
            raise HTTPException(400, "?after= must be the `last` of an earlier response.")

        return _json(self._history.after(int(after), self._get(wire.GetStats(), wire.Stats).boot_id))

    async def _post(self, request: Request) -> Response:
        # A page of another origin can send forms and text without a preflight request, but not JSON.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "Send JSON with the header Content-Type: application/json.")

        try:
            call = posted.parse(await _body(request))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

        record = posted.measurements(call)
        reply = self._get(record, wire.Recorded)
        counts = {"recorded": len(record.metrics) - reply.dropped, "dropped": reply.dropped}
        return _json({**counts, "problem": reply.problem} if reply.problem else counts)


class _PageResponse(Response):
    """Sends a page in turns, a block in each."""

    def __init__(self, page: Page, scrapes: Scrapes, turns: HttpTurns, content_type: str) -> None:
        super().__init__(headers={"content-type": content_type, "content-length": str(page.size_bytes)})
        self._page = page
        self._scrapes = scrapes
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = client_of(scope)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for block in () if scope["method"] == "HEAD" else self._page.blocks():
                if client.transport.is_closing():
                    await _disconnected(receive)
                    return

                await send({"type": "http.response.body", "body": block, "more_body": True})
                await self._turns.next(client.uid)

            await send({"type": "http.response.body", "body": b""})
        except PageGivenUp:
            client.transport.abort()
            await _disconnected(receive)
        finally:
            self._scrapes.sent(self._page)


async def _disconnected(receive: Receive) -> None:
    """Wait until the server has noticed that the connection has ended. A response that ends early before that is logged as an error."""
    # The request's body is received first, even if it is empty.
    while (await receive())["type"] != "http.disconnect":
        pass


def prefers_openmetrics(accept: str) -> bool:
    """Return whether an ``Accept`` header names OpenMetrics and prefers it to plain text, or both equally.

    Prometheus 2 names both, OpenMetrics first; a browser names neither.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    # Split instead of matched: a regular expression would take seconds for a header of white space.
    for preference in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in preference.split(";"))
        if kind in best:
            best[kind] = max(best[kind], _quality(parameters))

    openmetrics, text = best.values()
    return openmetrics > 0 and openmetrics >= text


def _quality(parameters: list[str]) -> float:
    """Return the quality value of a media type, from 0 to 1; an invalid one is ignored."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q" and re.fullmatch(r"\s*(0(\.[0-9]{0,3})?|1(\.0{0,3})?)", value):
            return float(value)

    return 1.0


async def _body(request: Request) -> bytes:
    """Return a request's body. A body that is too large is read and discarded, so that its sender can receive the error."""
    body = bytearray()
    received_bytes = 0
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                received_bytes += len(chunk)
                if received_bytes <= posted.MAX_BODY_BYTES:
                    body += chunk
    except TimeoutError as error:
        raise HTTPException(408, f"The body was not complete within {BODY_SECONDS:g} s.", _CLOSE) from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The body is incomplete.") from error

    if received_bytes > posted.MAX_BODY_BYTES:
        raise HTTPException(413, f"The body has more than {posted.MAX_BODY_BYTES} bytes: omit the prompt.")

    return bytes(body)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error

    sentences = {
        404: "Unknown path: use /, /health, /metrics, /v1/summary or /v1/history, or POST to /v1/metrics.",
        405: f"The method {request.method} is not allowed for this path: see the header Allow.",
    }
    response = _json({"error": sentences.get(error.status_code, error.detail)}, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _internal_error(_: Request, __: Exception) -> Response:
    return _json({"error": "internal error; see the daemon's log"}, 500)
