"""Clients that are dropped without being closed leave no thread, descriptor or connection behind."""

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from tests.daemons import ask, poll, until
from tests.many_hosts import Start

pytestmark = pytest.mark.usefixtures("spared_heap")


@pytest.fixture
def path(daemon: Start, socket_path: str) -> str:
    """Start a daemon."""
    daemon("--no-state", SIDECARD_FLIGHTS_RENEW_SECONDS="0.3")
    return socket_path


def work(text: str) -> str:
    """Be called by a client."""
    return text


def count(client: Client) -> None:
    """Change a counter, which starts a thread."""
    client.counter("dropped").inc()


def make_a_call(client: Client) -> None:
    """Make a call, which opens a connection, and starts the thread that renews leases."""
    assert client.call(work, f"{id(client)}") == f"{id(client)}"


def take_a_piece(client: Client) -> None:
    """Take the first piece of a stream, and drop the rest."""
    stream = client.stream(lambda: iter("abc"), name="letters")
    assert next(stream) == "a"


USES: dict[str, tuple[Callable[[Client], None], ...]] = {
    "nothing": (),
    "a counter": (count,),
    "a call": (make_a_call,),
    "a stream": (take_a_piece,),
    "all": (count, make_a_call, take_a_piece),
}


_earlier: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def threads_of_other_tests() -> None:
    """Note which threads were there before: clients of other tests in this process may still be alive."""
    _earlier.clear()
    _earlier.update(threading.enumerate())


def own_threads() -> list[str]:
    """Return the names of the threads of this test's clients."""
    return [thread.name for thread in set(threading.enumerate()) - _earlier if thread.name.startswith("sidecard")]


def descriptors() -> int:
    """Count the open descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def peers(path: str) -> object:
    """Return the number of connections that the daemon has, but for the one that asks."""
    stats = ask(path, {"op": "stats"})
    return stats["peers"]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
@pytest.mark.parametrize("uses", USES.values(), ids=USES)
def test_dropped_blocking_clients_leave_nothing(path: str, uses: tuple[Callable[[Client], None], ...]) -> None:
    """Many clients are used and dropped: threads, descriptors and peers return to what they were."""
    gc.collect()
    before = descriptors()
    for _ in range(10):
        client = Client(path)
        for use in uses:
            use(client)

        del client

    gc.collect()
    poll(lambda: not own_threads(), "a thread is left")
    poll(lambda: descriptors() <= before, "a descriptor is left")
    poll(lambda: peers(path) == 1, "a connection is left")


def test_last_measurements_of_dropped_client_are_sent(path: str) -> None:
    """What a client counted before it was dropped arrives, and what an instrument counts afterwards."""
    Client(path).counter("dropped").inc(3)
    gc.collect()
    kept = Client(path).counter("kept")
    gc.collect()
    kept.inc(4)

    def counted() -> bool:
        text = str(ask(path, {"op": "metrics"}))
        return "dropped_total" in text and "kept_total" in text

    poll(counted, "the counts did not arrive")
    del kept
    gc.collect()
    poll(lambda: not own_threads(), "a thread is left")


def test_dropped_client_without_a_daemon_leaves_no_thread(tmp_path: Path) -> None:
    """Measurements that no daemon takes are lost with their client."""
    for _ in range(5):
        Client(str(tmp_path / "none")).counter("lost").inc()

    gc.collect()
    poll(lambda: not own_threads(), "a thread is left")


def test_stream_outlives_its_client(path: str) -> None:
    """A stream of a client that is not referenced otherwise begins, goes on and ends."""
    stream = Client(path).stream(lambda: iter("abc"), name="letters")
    gc.collect()
    assert list(stream) == ["a", "b", "c"]


def test_cached_function_outlives_its_client(path: str) -> None:
    """A decorated function keeps its client."""
    function = Client(path).cached()(work)
    gc.collect()
    assert function("x") == function("x") == "x"


def test_child_of_a_fork_drops_its_copy_silently(path: str) -> None:
    """A child that drops the client changes nothing for its parent."""
    client = Client(path)
    count(client)
    make_a_call(client)
    child = os.fork()
    if not child:
        del client
        gc.collect()
        os._exit(len(own_threads()))

    assert os.waitpid(child, 0)[1] == 0
    make_a_call(client)
    assert client.flush_metrics(5.0)
    client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("measures", [False, True])
async def test_dropped_async_client_leaves_nothing(path: str, measures: bool) -> None:
    """A client that is never opened has nothing; the end of its block leaves nothing, metrics included."""
    for _ in range(5):
        client = AsyncClient(path)
        if measures:
            client.counter("dropped").inc()

        del client
        async with AsyncClient(path) as opened:
            assert await opened.call(work, "x") == "x"
            if measures:
                opened.counter("dropped").inc()

    gc.collect()
    await until(lambda: not own_threads())
    await anyio.to_thread.run_sync(poll, lambda: peers(path) == 1, "a connection is left")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
def test_dropped_async_client_of_a_plain_asyncio_program_is_silent(path: str) -> None:
    """Its event loop has no error to report, also beside trio, and the connection ends while the loop runs."""
    reported: list[object] = []

    async def program() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        client = AsyncClient(path)
        await client.__aenter__()
        assert await client.call(work, "x") == "x"
        del client
        gc.collect()
        await until(lambda: not any(name.endswith("connection") for name in map(asyncio.Task.get_name, others())))

    def others() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(program())
    gc.collect()
    assert reported == []
    poll(lambda: peers(path) == 1, "a connection is left")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_opened_async_client_that_is_dropped_ends_its_connection(path: str) -> None:
    """A client that was entered and never exited ends its connection when it is collected, from any thread."""
    for _ in range(5):
        client = AsyncClient(path)
        await client.__aenter__()
        assert await client.call(work, "x") == "x"
        del client

    await anyio.to_thread.run_sync(gc.collect)
    await anyio.to_thread.run_sync(poll, lambda: peers(path) == 1, "a connection is left")
