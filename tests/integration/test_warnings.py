"""Warnings point at the line of the app that made the call, and cost the call nothing when they are errors."""

import asyncio
import re
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import anyio
import httpx
import pytest

from sidecard_client import AsyncClient, Client, SidecardWarning
from sidecard_client.call import warn
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from sidecard_client.openpipe import OpenPipeClient, OpenPipeLLMWrapper
from sidecard_client.protocol import wire
from tests.scripted_daemon import ScriptedDaemon

Warned = tuple[str, int, str]
"""File, line and text."""


@pytest.fixture
def daemon(socket_path: str) -> Iterator[ScriptedDaemon]:
    """A daemon that grants every begin."""
    with ScriptedDaemon(socket_path) as daemon:
        yield daemon


def broken(_: Any) -> dict[str, int]:
    """Fail each time."""
    raise ZeroDivisionError


def answer(question: str) -> str:
    """Answer."""
    return question


def pieces(question: str) -> Iterator[str]:
    """Answer in pieces."""
    yield from question


async def answer_async(question: str) -> str:
    """Answer."""
    await anyio.lowlevel.checkpoint()
    return question


async def pieces_async(question: str) -> AsyncIterator[str]:
    """Answer in pieces."""
    for piece in question:
        yield piece


def answers(questions: list[str]) -> list[str]:
    """Answer many."""
    return questions


class Bot:
    """Has methods."""

    def ask(self, question: str) -> str:
        """Answer."""
        return question

    async def ask_async(self, question: str) -> str:
        """Answer."""
        return question


def line() -> int:
    """Return the line after the caller's."""
    return sys._getframe(1).f_lineno + 1


def _by_call(client: Client) -> int:
    here = line()
    client.call(answer, "q", usage=broken)
    return here


def _by_outcome(client: Client) -> int:
    here = line()
    client.outcome(answer, "q", usage=broken)
    return here


def _by_stream(client: Client) -> int:
    stream = client.stream(pieces, "q", usage=broken)
    here = line()
    list(stream)
    return here


def _by_cached(client: Client) -> int:
    cached = client.cached(usage=broken)(answer)
    here = line()
    cached("q")
    return here


def _by_cached_method(client: Client) -> int:
    class Cached(Bot):
        ask = client.cached(usage=broken)(Bot.ask)

    here = line()
    Cached().ask("q")
    return here


def _by_wrap(client: Client) -> int:
    bot = client.wrap(Bot(), usage=broken)
    here = line()
    bot.ask("q")
    return here


def _by_each(client: Client) -> int:
    here = line()
    client.call_each(answers, ["q"], usage=broken)
    return here


def _through_other_code(client: Client) -> int:
    here = line()
    sorted(["q"], key=lambda question: client.call(answer, question, usage=broken))
    return here


@pytest.mark.parametrize(
    "made", [_by_call, _by_outcome, _by_stream, _by_cached, _by_cached_method, _by_wrap, _by_each, _through_other_code]
)
def test_a_warning_points_at_the_line_of_the_call(made: Callable[[Client], int], daemon: ScriptedDaemon) -> None:
    """The warning names the function and what to write instead."""
    with Client(daemon.path) as client, pytest.warns(SidecardWarning) as warned:
        here = made(client)

    (warning,) = warned
    assert (warning.filename, warning.lineno) == (__file__, here)
    assert re.match(r"usage= of [\w.]+ failed", str(warning.message))
    assert "return a Usage" in str(warning.message)


async def _by_call_async(client: AsyncClient) -> int:
    here = line()
    await client.call(answer_async, "q", usage=broken)
    return here


async def _by_call_of_a_plain_function(client: AsyncClient) -> int:
    here = line()
    await client.call(answer, "q", usage=broken)
    return here


async def _by_stream_async(client: AsyncClient) -> int:
    stream = client.stream(pieces_async, "q", usage=broken)
    here = line()
    async for _ in stream:
        pass

    return here


async def _by_cached_async(client: AsyncClient) -> int:
    cached = client.cached(usage=broken)(answer_async)
    here = line()
    await cached("q")
    return here


async def _by_wrap_async(client: AsyncClient) -> int:
    bot = client.wrap(Bot(), usage=broken)
    here = line()
    await bot.ask_async("q")
    return here


async def _by_each_async(client: AsyncClient) -> int:
    here = line()
    await client.call_each(answers, ["q"], usage=broken)
    return here


async def _in_a_task_group(client: AsyncClient) -> int:
    here = 0

    async def ask() -> None:
        nonlocal here
        here = line()
        await client.call(answer_async, "q", usage=broken)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)

    return here


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "made",
    [
        _by_call_async,
        _by_call_of_a_plain_function,
        _by_stream_async,
        _by_cached_async,
        _by_wrap_async,
        _by_each_async,
        _in_a_task_group,
    ],
)
def test_a_warning_points_at_the_line_that_awaits(
    made: Callable[[AsyncClient], Coroutine[Any, Any, int]], backend: str, daemon: ScriptedDaemon
) -> None:
    """Through the event loop."""

    async def run() -> int:
        async with AsyncClient(daemon.path) as client:
            return await made(client)

    with pytest.warns(SidecardWarning) as warned:
        here = anyio.run(run, backend=backend)

    (warning,) = warned
    assert (warning.filename, warning.lineno) == (__file__, here)


def test_a_task_of_a_call_alone_points_at_the_function(daemon: ScriptedDaemon) -> None:
    """Without a line of the app, the warning points at the function and not at the event loop."""

    async def run() -> None:
        async with AsyncClient(daemon.path) as client:
            await asyncio.gather(client.call(answer_async, "q", usage=broken))

    with pytest.warns(SidecardWarning) as warned:
        asyncio.run(run())

    (warning,) = warned
    assert (warning.filename, warning.lineno) == (__file__, answer_async.__code__.co_firstlineno)


def test_openpipe_points_at_the_line_that_awaits(daemon: ScriptedDaemon) -> None:
    """A warning of the wrapper points at the line that awaits it."""

    async def run() -> int:
        openpipe = OpenPipeClient({"openpipe": {"socket": daemon.path}})
        await openpipe.initialize()
        llm = OpenPipeLLMWrapper(_Llm(), openpipe, usage=broken)
        here = line()
        await llm.generate("q")
        await openpipe.shutdown()
        return here

    with pytest.warns(SidecardWarning) as warned:
        here = anyio.run(run)

    (warning,) = warned
    assert (warning.filename, warning.lineno) == (__file__, here)


class _Llm:
    def generate(self, prompt: str) -> str:
        return prompt


@pytest.mark.parametrize("asynchronous", [False, True])
def test_transports_point_at_the_line_of_the_request(asynchronous: bool, daemon: ScriptedDaemon) -> None:
    """Through the HTTP library."""
    daemon.always(wire.Begin, wire.Error(id=0, code="denied", message="not yours"))
    body = {"model": "m", "messages": []}
    inner = httpx.MockTransport(lambda _: httpx.Response(200, json={"choices": []}))
    url = "http://model/v1/chat/completions"

    async def run() -> int:
        async with AsyncClient(daemon.path) as client:
            transport: Any = AsyncSidecardTransport(inner, sidecard=client)
            async with httpx.AsyncClient(transport=transport) as http:
                here = line()
                await http.post(url, json=body)
                return here

    def run_blocking() -> int:
        with Client(daemon.path) as client, httpx.Client(transport=SidecardTransport(inner, client)) as http:
            here = line()
            http.post(url, json=body)
            return here

    with pytest.warns(SidecardWarning, match="refuses the call of") as warned:
        here = anyio.run(run) if asynchronous else run_blocking()

    assert {(warning.filename, warning.lineno) for warning in warned} == {(__file__, here)}


def test_a_client_points_at_its_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a variable that it reads."""
    monkeypatch.setenv("SOVEREIGN_MODE", "enabled")
    here = line() + 1
    with pytest.warns(SidecardWarning, match="SOVEREIGN_MODE") as warned:
        Client("/nowhere")

    assert (warned[0].filename, warned[0].lineno) == (__file__, here)


def unshareable() -> object:
    """Return what cannot be shared."""
    return object()


def pieces_unshareable() -> Iterator[object]:
    """As above."""
    yield object()


@pytest.mark.parametrize("function", [unshareable, pieces_unshareable, answer, pieces])
@pytest.mark.parametrize("backend", ["sync", "asyncio"])
def test_a_warning_that_is_an_error_gives_the_lease_back(function: Any, backend: str, daemon: ScriptedDaemon) -> None:
    """The exception reaches the caller; the daemon holds nothing for it, and the next call works."""
    arguments = ("q",) if function in {answer, pieces} else ()
    stream = function in {pieces, pieces_unshareable}

    async def run() -> None:
        async with AsyncClient(daemon.path) as client:
            if stream:
                async for _ in client.stream(function, *arguments, usage=broken):
                    pass
            else:
                await client.call(function, *arguments, usage=broken)

    def run_blocking() -> None:
        with Client(daemon.path) as client:
            if stream:
                list(client.stream(function, *arguments, usage=broken))
            else:
                client.call(function, *arguments, usage=broken)

    warn._warned_of.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SidecardWarning)
        with pytest.raises(SidecardWarning):
            run_blocking() if backend == "sync" else anyio.run(run)

    daemon.wait_until(lambda: len(daemon.ended) == 1 or _reported(daemon))


def _reported(daemon: ScriptedDaemon) -> bool:
    """Return whether the lease was ended by a message."""
    return bool(daemon.requests(wire.Fail) or daemon.requests(wire.Complete) or daemon.requests(wire.Cancel))
