"""What an application observes, and what the server receives, does not depend on whether its calls are shared.

Each generated exchange is played four times: to an application without sidecard, to the caller that makes the shared call (the
*holder*), to one that joins while the call is in flight (the *follower*), and to one that comes later (the *hit*).
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from sidecard_client import AsyncClient, Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon, ask, poll
from tests.exchange_readers import HOW, SECONDS, App, Observed, run_blocking
from tests.exchange_server import ExchangeServer
from tests.exchanges import Api, Exchange, decoded, exchanges
from tests.thoroughness import cases

RAW = [f"{library}:{how}" for library in ("httpx", "httpx2") for how in HOW]
SDKS: dict[str, Api] = {"openai": "chat", "anthropic": "messages", "ollama": "ollama"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("patient_clients")]

ENCODINGS = {"httpx2": ["gzip", "deflate"], "httpx": ["gzip", "deflate", "zstd"]}
"""What the libraries accept here."""

NOT_REPLAYED = ("connection", "keep-alive", "set-cookie", "transfer-encoding", "date", "retry-after")
"""Headers of one connection, one moment, or one client, which other callers do not get; nor those of rate limits."""

OF_LENGTH = ("content-encoding", "content-length")
"""Headers that other callers do not get if they get the answer decoded."""

NUMBERS = itertools.count(1)


class Stage:
    """The server, the daemon, and the applications: alone, and two with clients of their own."""

    def __init__(self, kind: str, daemon: Daemon, stack: ExitStack) -> None:
        self.daemon = daemon
        self.server = ExchangeServer()
        stack.callback(self.server.close)
        self._portal: BlockingPortal | None = None
        self._pool = stack.enter_context(ThreadPoolExecutor(4))
        if kind == "async":
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))

        self.alone = self._app(stack, None)
        self.first, self.second = (self._app(stack, self._sidecard(stack)) for _ in range(2))

    def _sidecard(self, stack: ExitStack) -> Any:
        if self._portal is None:
            return stack.enter_context(Client(self.daemon.socket))

        sidecard = self._portal.call(partial(AsyncClient, self.daemon.socket))
        return stack.enter_context(self._portal.wrap_async_context_manager(sidecard))

    def _app(self, stack: ExitStack, sidecard: Any) -> App:
        def transport(_library: Any) -> Any:
            return SidecardTransport(sidecard=sidecard)

        asynchronous = self._portal is not None
        make = partial(App, self.server.url, asynchronous=asynchronous, transport=transport if sidecard else None)
        if self._portal is None:
            app = make()
            stack.callback(lambda: run_blocking(app.close()))  # type: ignore[arg-type]  # nothing is read
            return app

        portal = self._portal
        app = portal.call(make)
        stack.callback(lambda: portal.call(app.close))
        return app

    def start(self, app: App, exchange: Exchange, reader: str, number: int) -> "Future[Observed]":
        """Start a call beside the test."""
        app.forget()
        if self._portal is None:
            return self._pool.submit(lambda: run_blocking(app.read(exchange, reader, number)))

        return self._portal.start_task_soon(app.read, exchange, reader, number)

    def begun(self) -> int:
        """Return how many calls the daemon knows."""
        begins = ask(self.daemon.socket, {"op": "stats"})["begins"]
        assert isinstance(begins, int)
        return begins


@pytest.fixture(scope="module", params=["sync", "async"])
def stage(request: pytest.FixtureRequest, module_daemon: Callable[..., Daemon]) -> Iterator[Stage]:
    """Applications of one kind."""
    with ExitStack() as stack:
        yield Stage(request.param, module_daemon(), stack)


@settings(
    max_examples=cases(60), derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(RAW), st.floats(0, 1), st.booleans())
def test_libraries_observe_the_same(
    stage: Stage, data: st.DataObject, reader: str, gate: float, together: bool
) -> None:
    """Apps on httpx and httpx2 observe the same with and without sidecard, however they read."""
    # An answer whose caller left at the last event lacks the end of its encoding, without which it decodes alike.
    encodings: list[str] = [] if reader.endswith(":leave") else ENCODINGS[reader.partition(":")[0]]
    exchange = data.draw(exchanges(["chat", "messages", "ollama", "other"], encodings))
    # A follower's stream breaks after an error of the server, and a reader of lines keeps the last one to itself.
    assume(not (exchange.answer.broken and reader.endswith(":lines")))
    _play(stage, exchange, reader, gate, together=together)


@settings(
    max_examples=cases(60), derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(sorted(SDKS)), st.floats(0, 1), st.booleans())
def test_sdks_observe_the_same(stage: Stage, data: st.DataObject, reader: str, gate: float, together: bool) -> None:
    """The SDKs of OpenAI, Anthropic and Ollama return equal objects and raise equal exceptions."""
    exchange = data.draw(exchanges([SDKS[reader]], ENCODINGS["httpx2"], reads_past_done=reader != "openai"))
    _play(stage, exchange, reader, gate, together=together)


def _play(stage: Stage, exchange: Exchange, reader: str, gate_at: float, *, together: bool) -> None:
    """Play an exchange to all four; the first request waits at a gate until the follower has joined."""
    number = next(NUMBERS)
    server, script = stage.server, exchange.script()
    # If the holder leaves, the others read to the end.
    others = reader.replace(":leave", ":raw")
    alone: dict[str, Observed] = {}
    server.play(script)
    for name in {reader, others}:
        alone[name] = stage.start(stage.alone, exchange, name, number).result(SECONDS)

    sent_alone = server.received[0]
    server.play(script)
    gate = server.hold_first(min(1, round(gate_at)) if others != reader else round(gate_at * len(script.pieces)))
    calls: list[Future[Observed]] = []
    try:
        begun = stage.begun()
        calls.append(stage.start(stage.first, exchange, reader, number))
        poll(lambda: server.count == 1 or calls[0].done(), "the holder sends no request")
        follower = stage.first if together else stage.second
        calls.append(stage.start(follower, exchange, others, number))
        poll(lambda: stage.begun() > begun + 1 or server.count > 1 or calls[1].done(), "the follower does not join")
    finally:
        gate.set()

    roles = {"holder": calls[0].result(SECONDS), "follower": calls[1].result(SECONDS)}
    roles["hit"] = stage.start(stage.second, exchange, others, number).result(SECONDS)
    event(f"follower: {roles['follower'].get('source')}")
    event(f"hit: {roles['hit'].get('source')}")
    for role, observed in roles.items():
        name = reader if role == "holder" else others
        assert _difference(exchange, name, alone[name], observed) == {}, role

    for received in server.received:
        assert received.comparable == sent_alone.comparable

    if exchange.stored:
        assert server.count == 1, {role: observed.get("source") for role, observed in roles.items()}


def _difference(exchange: Exchange, reader: str, alone: Observed, observed: Observed) -> dict[str, tuple[Any, Any]]:
    """Return what an application observes otherwise than alone, and may not."""
    left, right = dict(alone), dict(observed)
    left.pop("source", None)
    source = right.pop("source", None)
    is_rejected = source == "rejected" or "sidecard_breaker_open" in observed.get("message", "")
    if is_rejected and exchange.closes_backend:
        # The daemon answers for a backend that has asked for patience.
        left, right = ({name: seen.get(name) for name in ("status", "error", "elapsed")} for seen in (left, right))

    if source in {"shared", "cache"} or not ("status" in alone and "status" in observed):
        _allow(exchange, reader, left, right)

    return {name: (left.get(name), right.get(name)) for name in left | right if left.get(name) != right.get(name)}


def _allow(exchange: Exchange, reader: str, alone: Observed, observed: Observed) -> None:
    """Make what may differ in the answer of another caller's call equal."""
    if exchange.answer.broken or exchange.cut is not None:
        # Another caller's stream that breaks is a read error, whatever broke it.
        if reader.endswith(":hook") and observed.get("error") == "ReadError":
            alone.clear()
            observed.clear()

        if observed.get("error") == "ReadError" or alone.get("error") in {"RemoteProtocolError", "ReadError"}:
            for name, seen in itertools.product(("error", "message", "elapsed"), (alone, observed)):
                seen.pop(name, None)

        alone.pop("downloaded", None)
        observed.pop("downloaded", None)

    if "headers" not in alone or "headers" not in observed:
        return

    is_decoded = _encoding_of(alone["headers"]) and not _encoding_of(observed["headers"])
    if is_decoded:
        alone.pop("downloaded", None)
        observed.pop("downloaded", None)
        if reader.endswith(":raw"):
            alone["read"] = decoded(exchange.encoding, alone["read"])

    for seen in (alone, observed):
        seen["headers"] = [
            (name, value)
            for name, value in seen["headers"]
            if name.decode().lower() not in {*NOT_REPLAYED, *(OF_LENGTH if is_decoded else ())}
            and "ratelimit" not in name.decode().lower()
        ]


def _encoding_of(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-encoding" for name, _ in headers)
