"""What the HTTP listener answers: the dashboard, and what dashboards, scrapers and the blueprint's client ask for.

=====================  =====================================================================================
``GET /``              the dashboard, and its parts below ``/assets/``
``GET /health``        `sidecard_client.protocol.wire.Health` as JSON; 200, or 503 while the daemon drains
``GET /metrics``       all metrics, as Prometheus' text or, where it is asked for, as OpenMetrics
``GET /v1/summary``    `sidecard.observe.summary.Summary`
``GET /v1/history``    `sidecard.observe.history.Curves`; ``?after=NUMBER`` leaves out what the asker has
``POST /v1/metrics``   takes `sidecard.observe.http.posted.PostedCall`, answers ``{"recorded": n, "dropped": n}``
=====================  =====================================================================================

``HEAD`` works wherever ``GET`` does; no ``GET`` changes anything.
What goes wrong is answered as JSON, ``{"error": "a sentence"}``.
"""

import re
from collections.abc import Callable
from importlib import resources
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from sidecard.observe import exposition
from sidecard.observe.history import History, moment
from sidecard.observe.http import posted as http_posted
from sidecard.observe.summary import summary
from sidecard_client.protocol import wire

Ask = Callable[[wire.AnyRequest], wire.AnyReply]
"""Asks the daemon, in its own thread, as an operator; waits for nothing."""

_SCRIPTS = ("dashboard.js", "parts.js", "charts.js", "elements.js", "format.js")
ASSETS = {"style.css": "text/css", "icon.svg": "image/svg+xml"} | dict.fromkeys(_SCRIPTS, "text/javascript")
"""The dashboard's parts and what they are. Nothing else is ever read, whatever a path says."""

_Reply = TypeVar("_Reply", bound=wire.Reply)


class App:
    """Answers requests from what ``ask`` says; ``history`` is what `observe` fills."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
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
            exception_handlers={HTTPException: _refused, Exception: _failed},
        )
        # A redirect would repeat the request's own host, and every path here has one spelling.
        self.asgi.router.redirect_slashes = False

    def observe(self) -> None:
        """Take one step of the history. To be called every `sidecard.observe.history.STEP_SECONDS`."""
        self._history.add(moment(self._get(wire.GetStats(), wire.Stats), self._get(wire.GetReport(), wire.Report)))

    def _get(self, request: wire.AnyRequest, kind: type[_Reply]) -> _Reply:
        reply = self._ask(request)
        if isinstance(reply, kind):
            return reply

        if isinstance(reply, wire.Error) and reply.code == "unavailable":
            raise HTTPException(503, reply.message)

        raise TypeError(f"{type(request).__name__} was answered by {reply!r}")

    async def _dashboard(self, _: Request) -> Response:
        return Response(self._page, media_type="text/html")

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._assets:
            raise HTTPException(404)

        return Response(self._assets[name], media_type=ASSETS[name])

    async def _health(self, _: Request) -> Response:
        health = self._get(wire.GetHealth(), wire.Health)
        # An open breaker is a backend's illness: taking the daemon out of service for it would cure nothing.
        return _json(health, 503 if health.status == "draining" else 200)

    async def _metrics(self, request: Request) -> Response:
        families = self._get(wire.GetMetrics(), wire.Metrics).families
        if prefers_openmetrics(", ".join(request.headers.getlist("accept"))):
            return Response(exposition.openmetrics(families), headers={"content-type": exposition.OPENMETRICS_TYPE})

        return Response(exposition.text(families), headers={"content-type": exposition.TEXT_TYPE})

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
            raise HTTPException(400, "?after= must be the `last` of an earlier answer.")

        return _json(self._history.after(int(after), self._get(wire.GetStats(), wire.Stats).boot_id))

    async def _post(self, request: Request) -> Response:
        # A page from elsewhere can send forms and text without asking first; JSON it cannot.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "Send JSON, and say so: Content-Type: application/json.")

        try:
            call = http_posted.parse(await _body(request))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

        record = http_posted.measurements(call)
        dropped = self._get(record, wire.Recorded).dropped
        return _json({"recorded": len(record.metrics) - dropped, "dropped": dropped})


def prefers_openmetrics(accept: str) -> bool:
    """Tell whether an ``Accept`` header puts OpenMetrics before or beside plain text, naming it.

    Prometheus 2 names both, OpenMetrics first; a browser names neither.
    """
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    # Split and not matched: a header of white space would keep a pattern busy for seconds.
    for preference in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in preference.split(";"))
        if kind in best:
            best[kind] = max(best[kind], _quality(parameters))

    openmetrics, text = best.values()
    return openmetrics > 0 and openmetrics >= text


def _quality(parameters: list[str]) -> float:
    """Return how much a kind is wanted, from 0 to 1; what says it wrongly has said nothing."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q" and re.fullmatch(r"\s*(0(\.[0-9]{0,3})?|1(\.0{0,3})?)", value):
            return float(value)

    return 1.0


async def _body(request: Request) -> bytes:
    """Return a request's body. One that is too large is read to its end and forgotten, so that its sender hears why."""
    body = bytearray()
    received_bytes = 0
    try:
        async for chunk in request.stream():
            received_bytes += len(chunk)
            if received_bytes <= http_posted.MAX_BODY_BYTES:
                body += chunk
    except ClientDisconnect as error:
        raise HTTPException(400, "The body ended early.") from error

    if received_bytes > http_posted.MAX_BODY_BYTES:
        raise HTTPException(413, f"The body has more than {http_posted.MAX_BODY_BYTES} bytes: leave the prompt out.")

    return bytes(body)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error

    sentences = {
        404: "There is nothing here: try /, /health, /metrics, /v1/summary or /v1/history; POST goes to /v1/metrics.",
        405: f"{request.method} is not for this path: see Allow.",
    }
    refusal = _json({"error": sentences.get(error.status_code, error.detail)}, error.status_code)
    refusal.headers.update(error.headers or {})
    return refusal


async def _failed(_: Request, __: Exception) -> Response:
    return _json({"error": "The daemon made a mistake with this request: its log says more."}, 500)
