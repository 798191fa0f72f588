"""One `AsyncClient` in many event loops: made before them, used in each, closed anywhere or not at all."""

import asyncio
import gc
import importlib.util
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sidecard_client import AsyncClient
from sidecard_client.http import AsyncSidecardTransport
from tests.daemons import Daemon, ask, poll
from tests.llm_servers import ScriptedModel


@pytest.fixture
def path(daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch) -> str:
    """Start a daemon, which clients find by the environment."""
    path = daemon().socket
    monkeypatch.setenv("SIDECARD_SOCKET", path)
    return path


def peers(path: str) -> int:
    """Return the number of connections that the daemon has, but for the one that asks."""
    stats: dict[str, Any] = ask(path, {"op": "stats"})
    return int(stats["peers"]) - 1


async def answer(question: str) -> str:
    """Answer after a moment."""
    await anyio.sleep(0.001)
    return question.upper()


PROGRAM = """
import asyncio, gc, json, logging, sys, threading
import anyio
from sidecard_client import AsyncClient

logging.getLogger("asyncio").setLevel(logging.ERROR)  # without what the debug mode finds slow
sidecard = AsyncClient()
counter = sidecard.counter("runs")

async def answer(question):
    await anyio.sleep(0.001)
    return question

async def letters():
    for letter in "abc":
        await anyio.sleep(0.001)
        yield letter

async def run(question):
    counter.inc()
    outcomes = await asyncio.gather(*[sidecard.outcome(answer, question) for _ in range(3)])
    return sorted(outcome.source for outcome in outcomes)

async def run_with_anyio(question):
    counter.inc()
    return [(await sidecard.outcome(answer, question)).source]

async def leave_a_stream():
    async for letter in sidecard.stream(letters):
        return letter

async def leave_a_call():
    asyncio.get_running_loop().create_task(sidecard.call(answer, "left"))
    await asyncio.sleep(0)

def in_loop_of_its_own(work, close=True):
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    try:
        return loop.run_until_complete(work)
    finally:
        if close:
            loop.close()

seen = {}
seen["asyncio.run"] = [asyncio.run(run("a"), debug=True) for _ in range(2)]
seen["loop"] = [in_loop_of_its_own(run("b")) for _ in range(2)]
seen["trio"] = [anyio.run(run_with_anyio, "c", backend="trio") for _ in range(2)]
import uvloop
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    seen["uvloop"] = [runner.run(run("d")) for _ in range(2)]

results = []
def in_thread(number):
    results.extend(asyncio.run(run(f"thread {number}")) for _ in range(3))

threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
seen["threads"] = [len(results), sum(result.count("upstream") for result in results)]
seen["stream"] = [in_loop_of_its_own(leave_a_stream()), asyncio.run(leave_a_stream())]
asyncio.run(leave_a_call())

idle = asyncio.new_event_loop()
idle.run_until_complete(run("e"))
asyncio.run(sidecard.aclose())
seen["closed"] = idle.run_until_complete(run("e"))
idle.close()

gc.collect()
asyncio.run(run("f"))
print(json.dumps(seen))
"""


def test_one_client_serves_all_event_loops_of_a_program_without_a_warning(path: str) -> None:
    """It is never opened, and closed once on the way: nothing is on standard error, in development mode.

    After the program's end its measurements have arrived and its connections have ended.
    """
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    first, then = ["shared", "shared", "upstream"], ["cache", "cache", "cache"]
    assert json.loads(result.stdout) == {
        "asyncio.run": [first, then],
        "loop": [first, then],
        "trio": [["upstream"], ["cache"]],
        "uvloop": [first, then],
        "threads": [9, 3],
        "stream": ["a", "a"],
        "closed": then,
    }
    poll(lambda: peers(path) == 0, "a connection is left")
    assert "{'name': 'runs_total', 'value': 20.0}" in str(ask(path, {"op": "metrics"}))
    assert ask(path, {"op": "stats"})["leases"] == 0


@pytest.mark.parametrize("collects", [False, True])
def test_a_loop_takes_its_connection_along(path: str, collects: bool) -> None:
    """A loop that is closed without the client, or dropped without being closed, leaves no connection behind."""
    sidecard = AsyncClient()

    def use_a_loop() -> "weakref.ref[asyncio.AbstractEventLoop]":
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(sidecard.call(answer, "q")) == "Q"
        assert peers(path) == 1
        loop.close()
        return weakref.ref(loop)

    gc.collect()
    gc.disable()
    try:
        loop = use_a_loop()
        if collects:
            gc.collect()
            assert loop() is None
            assert sidecard._connector._connections
            assert all(connection() is None for connection in sidecard._connector._connections.values())

        # Also without a collection: nothing of a connection refers to it.
        poll(lambda: peers(path) == 0, "a connection is left")
    finally:
        gc.enable()

    use_a_loop()
    assert len(sidecard._connector._connections) == 1


def test_the_context_of_the_first_caller_stays_its_own(path: str) -> None:
    """A connection outlives the request that opened it, whose variables it must neither keep nor see."""
    variable: ContextVar[object] = ContextVar("variable")

    class Session:
        """Belongs to one request."""

    async def first(sidecard: AsyncClient) -> "weakref.ref[Session]":
        session = Session()
        variable.set(session)
        await sidecard.call(answer, "q")
        return weakref.ref(session)

    with asyncio.Runner() as runner:
        sidecard = AsyncClient()
        session = runner.get_loop().create_task(first(sidecard))
        reference = runner.run(_result(session))
        del session
        gc.collect()
        assert reference() is None
        assert runner.run(sidecard.call(answer, "q")) == "Q"
        assert peers(path) == 1
        runner.run(sidecard.aclose())


async def _result(task: "asyncio.Task[Any]") -> Any:
    return await task


def test_a_streams_function_sees_the_context_of_its_caller(path: str) -> None:
    """It runs in a task of its own, for which its caller's tracing and logging must work."""
    variable: ContextVar[str] = ContextVar("variable")

    async def letters() -> Any:
        yield variable.get()

    async def program() -> list[Any]:
        variable.set("mine")
        return [piece async for piece in AsyncClient().stream(letters, key=None)]

    for backend in ("asyncio", "trio"):
        assert anyio.run(program, backend=backend) == ["mine"]


@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio")])
def test_without_a_daemon_loops_of_one_process_share_a_running_call(tmp_path: Path, backends: tuple[str, str]) -> None:
    """A waiter in one loop is woken by the leader in another one's thread."""
    sidecard = AsyncClient(tmp_path / "none")
    running, go_on = threading.Event(), threading.Event()
    runs: list[int] = []

    async def slow() -> str:
        runs.append(1)
        running.set()
        await anyio.to_thread.run_sync(go_on.wait)
        return "value"

    async def call() -> Any:
        return await sidecard.outcome(slow, key="k")

    def waits() -> bool:
        return any(flight.waiters for flight in sidecard._interpreter.flights._flights.values())

    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(lambda: anyio.run(call, backend=backends[0]))
        assert running.wait(5)
        waiter = threads.submit(lambda: anyio.run(call, backend=backends[1]))
        poll(waits, "no caller waits")
        go_on.set()
        outcomes = [leader.result(5), waiter.result(5)]

    assert runs == [1]
    assert [(outcome.value, outcome.source) for outcome in outcomes] == [("value", "fallback")] * 2


# Frameworks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """Start a model."""
    with ScriptedModel() as model:
        yield model


def test_an_sdk_of_a_module_serves_all_event_loops(path: str, model: ScriptedModel) -> None:
    """With both libraries: in `asyncio.run`, whose loops end without closing it, and in an app that is tested twice."""
    http_client = httpx2.AsyncClient(transport=AsyncSidecardTransport())
    llm = openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http_client, max_retries=0)
    plain = httpx.AsyncClient(transport=AsyncSidecardTransport())

    async def chat(text: str) -> str:
        body: Any = {"model": "m", "messages": [{"role": "user", "content": text}]}
        raw = await llm.chat.completions.with_raw_response.create(**body)
        other = await plain.post(f"{model.url}/v1/chat/completions", json=body)
        return f"{raw.headers['x-sidecard-source']} {other.headers['x-sidecard-source']}"

    first, then = "upstream upstream", "cache cache"
    assert [asyncio.run(chat(text)) for text in "aabb"] == [first, then, first, then]

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(await chat(request.path_params["text"]))

    app = Starlette(routes=[Route("/{text}", endpoint)])
    for text in "cd":
        with TestClient(app) as browser:
            assert [browser.get(f"/{text}").json() for _ in range(2)] == [first, then]

    assert TestClient(app).get("/e").json() == first

    async def close() -> None:
        await llm.close()
        await plain.aclose()

    asyncio.run(close())
    poll(lambda: peers(path) == 0, "a connection is left")


def test_a_lifespan_closes_and_opens_a_client_of_the_module(path: str) -> None:
    """Each start of the app opens it again, and an endpoint may be a cached function."""
    sidecard = AsyncClient()
    asked: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        async with sidecard:
            yield

    @sidecard.cached(name="answer")
    async def shout(text: str) -> str:
        asked.append(text)
        return text.upper()

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse(await shout(request.path_params["text"]))

    app = Starlette(routes=[Route("/{text}", endpoint)], lifespan=lifespan)
    for _ in range(3):
        with TestClient(app) as browser:
            assert browser.get("/a").json() == "A"
            assert peers(path) in {1, 2}, "one for calls, and perhaps one for a view"

        poll(lambda: peers(path) == 0, "a connection is left")

    assert asked == ["a"]


NOTEBOOK_CELLS = """
await sidecard.ping()
opened = await sidecard.__aenter__()
stream = sidecard.stream(letters, key="k"); first = await anext(stream)
rest = [piece async for piece in stream]; await stream.aclose()
await sidecard.__aexit__(None, None, None)
await sidecard.aclose(); last = (await sidecard.outcome(letters_of, key="k2")).value
"""


def test_cells_of_a_notebook_open_use_and_close_it(path: str) -> None:
    """Cells of a notebook, each a task of its own, share one client in a loop that stays open."""

    async def letters() -> Any:
        for letter in "abc":
            yield letter

    async def letters_of() -> str:
        return "abc"

    names: dict[str, Any] = {"sidecard": AsyncClient(path), "letters": letters, "letters_of": letters_of}
    with asyncio.Runner() as shell:
        for cell in NOTEBOOK_CELLS.strip().splitlines():
            code = compile(cell, "cell", "exec", flags=0x2000)  # `ast.PyCF_ALLOW_TOP_LEVEL_AWAIT`
            running = eval(code, names)  # noqa: S307 - what a notebook does
            if running is not None:
                shell.run(_awaited(running))

        shell.run(names["sidecard"].aclose())

    assert (names["first"], names["rest"], names["last"]) == ("a", ["b", "c"], "abc")


async def _awaited(running: Any) -> None:
    await running


PYTEST_ASYNCIO = """
import asyncio
import pytest
import pytest_asyncio
from sidecard_client import AsyncClient

sidecard = AsyncClient()
asked = []

@sidecard.cached(name="answer")
async def answer(question):
    asked.append(question)
    await asyncio.sleep(0.001)
    return question.upper()

@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_module():
    async with AsyncClient() as client:
        await client.ping()
        yield client

@pytest_asyncio.fixture
async def of_function():
    client = AsyncClient()
    await client.ping()
    yield client
    await client.aclose()

async def check(*clients):
    assert await answer("q") == "Q"
    assert asked == ["q"]
    for client in clients:
        await client.ping()

@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(3))
async def test_function(number, of_function, of_module):
    await check(of_function, of_module)

@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("number", range(3))
async def test_module(number, of_module):
    await check(of_module)
    if number == 1:
        await sidecard.aclose()

@pytest.mark.asyncio(loop_scope="session")
async def test_session(of_module):
    await check(of_module)

@pytest.mark.anyio
async def test_anyio(anyio_backend):
    assert await answer("q") == "Q"
"""


@pytest.mark.skipif(importlib.util.find_spec("pytest_asyncio") is None, reason="pytest-asyncio is not installed")
def test_loops_of_pytest_asyncio_share_one_client(path: str, tmp_path: Path) -> None:
    """A client fixture of every scope works with fixtures of other loops and beside anyio's plugin, without a warning."""
    (tmp_path / "test_it.py").write_text(PYTEST_ASYNCIO)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-3000:]
