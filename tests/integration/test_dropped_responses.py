"""Responses that an app drops: what is behind them is closed, although nobody closes them."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from weakref import ref

import anyio
import httpx
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon, poll, until
from tests.integration.test_transports import DONE, event

URL = "http://upstream.example/v1/chat/completions"
EVENTS = [event("a"), event("b"), event("", "stop"), DONE]
READ_PIECES = pytest.mark.parametrize("pieces", [0, 1])


@pytest.fixture(scope="module")
def shared(module_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon of all tests of this module."""
    return module_daemon()


@pytest.fixture
def socket(shared: Daemon) -> str:
    """The path of the daemon, which has no answers."""
    shared.purge()
    return shared.socket


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that notes whether it was closed."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    def close(self) -> None:
        """Note it."""
        self.closed = True

    async def aclose(self) -> None:
        """Note it."""
        self.closed = True


class Upstream(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers by one body; ``before`` is called first."""

    def __init__(self, status: int, kind: str, body: Body, before: Callable[[], object] = str) -> None:
        self._status = status
        self._kind = kind
        self._body = body
        self._before = before

    def handle_request(self, _: httpx.Request) -> httpx.Response:
        """Answer."""
        self._before()
        return httpx.Response(self._status, headers={"content-type": self._kind}, stream=self._body)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer."""
        return self.handle_request(request)


def chat(http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
    """Return a request for a chat's stream."""
    return http.build_request(
        "POST", URL, json={"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    )


@READ_PIECES
def test_an_unread_response_that_is_dropped_ends_its_call(socket: str, pieces: int) -> None:
    """Nothing that the client holds refers to it, so the garbage collector finds it."""
    body = Body(*EVENTS)
    with (
        Client(socket) as sidecard,
        httpx.Client(transport=SidecardTransport(Upstream(200, "text/event-stream", body), sidecard)) as http,
    ):
        response = http.send(chat(http), stream=True)
        read = response.iter_raw()
        assert [next(read) for _ in range(pieces)] == EVENTS[:pieces]
        assert not body.closed
        del response, read
        gc.collect()
        poll(lambda: body.closed, "the upstream's response was not closed")


@READ_PIECES
@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio's, of what the app has dropped
async def test_an_unread_asynchronous_response_that_is_dropped_ends_its_call(socket: str, pieces: int) -> None:
    """As above."""
    body = Body(*EVENTS)
    async with AsyncClient(socket) as sidecard:
        transport = SidecardTransport(Upstream(200, "text/event-stream", body), sidecard)
        async with httpx.AsyncClient(transport=transport) as http:
            response = await http.send(chat(http), stream=True)
            read = response.aiter_raw()
            assert [await anext(read) for _ in range(pieces)] == EVENTS[:pieces]
            assert not body.closed

            del response, read

            def is_closed() -> bool:
                gc.collect()
                return body.closed

            await until(is_closed)


@pytest.mark.anyio
async def test_a_refused_response_is_closed_if_its_reader_is_canceled(shared: Daemon) -> None:
    """The daemon has not replied to the report of the refusal yet, and nobody gets the response any more."""
    body = Body(b'{"error": {"message": "no"}}')
    stop = partial(os.kill, shared.pid, signal.SIGSTOP)
    async with AsyncClient(shared.socket) as sidecard:
        transport = SidecardTransport(Upstream(400, "application/json", body, stop), sidecard)
        async with httpx.AsyncClient(transport=transport) as http:
            try:
                with anyio.move_on_after(0.3) as scope:
                    await http.send(chat(http))

                assert scope.cancelled_caught
            finally:
                os.kill(shared.pid, signal.SIGCONT)

            await until(lambda: body.closed)


def unreachable() -> None:
    """Fail as an upstream that cannot be reached."""
    raise httpx.ConnectError("no route")


def test_an_exception_of_the_upstream_is_released_at_once(socket: str) -> None:
    """As the library's own: it is part of no cycle, so what its frames refer to does not wait for the garbage collector."""
    upstream = Upstream(200, "application/json", Body(), unreachable)
    with Client(socket) as sidecard, httpx.Client(transport=SidecardTransport(upstream, sidecard)) as http:
        gc.disable()
        try:
            seen = None
            try:
                http.send(chat(http))
            except httpx.ConnectError as error:
                seen = ref(error)

            assert seen is not None
            assert seen() is None
        finally:
            gc.enable()


@pytest.mark.anyio
async def test_an_exception_of_an_asynchronous_upstream_is_released_at_once(socket: str) -> None:
    """As above."""
    upstream = Upstream(200, "application/json", Body(), unreachable)
    async with (
        AsyncClient(socket) as sidecard,
        httpx.AsyncClient(transport=SidecardTransport(upstream, sidecard)) as http,
    ):
        gc.disable()
        try:
            seen = None
            try:
                await http.send(chat(http))
            except httpx.ConnectError as error:
                seen = ref(error)

            assert seen is not None
            await anyio.sleep(0.1)
            assert seen() is None
        finally:
            gc.enable()


def test_a_response_of_a_loop_that_has_ended_breaks_its_reader(socket: str) -> None:
    """Its reader in another loop gets an exception of its library: it is not canceled itself."""
    upstream = Upstream(200, "text/event-stream", Body(*EVENTS))
    transport = SidecardTransport(upstream, AsyncClient(socket))

    async def ask() -> httpx.Response:
        return await httpx.AsyncClient(transport=transport).send(chat(httpx.Client()), stream=True)

    response = asyncio.run(ask())

    async def read() -> None:
        with pytest.raises(httpx.ReadError, match="loop"):
            await response.aread()

    asyncio.run(read())
