"""Views across threads, forks, event loops and the ends of clients and processes: every hit is counted once."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.protocol.values import REPORT_HITS
from sidecard_client.view import keeper
from sidecard_client.view.reader import boot_clock
from tests.callers import Caller
from tests.daemons import Daemon, ask, poll, until
from tests.view_callers import counted, is_armed, publish, view_of

pytestmark = pytest.mark.usefixtures("spared_heap", "patient_clients")

READS = 700
"""More than one report."""

FORKS = 2


@pytest.fixture(scope="module")
def running(module_daemon: Callable[..., Daemon]) -> Daemon:
    """Start the daemon of all tests."""
    return module_daemon()


@pytest.fixture
def path(running: Daemon) -> str:
    """Return the socket of a daemon without answers."""
    running.purge()
    return running.socket


def read(sidecard: Client, times: int = READS) -> int:
    """Make calls whose answer is stored; return how many."""
    for _ in range(times):
        assert sidecard.outcome(str.upper, "k", name="shout", key="k").source == "cache"

    return times


def hits(path: str) -> int:
    """Return how many hits the daemon has counted, from views and over the socket."""
    (count,) = counted(path, "hits")
    return int(count)


def view_maps() -> set[str]:
    """Return the addresses at which this process maps views."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[0] for line in maps if "sidecard-view" in line}


def attached(path: str) -> Client:
    """Return a client that reads from a view."""
    sidecard = Client(path)
    publish(Caller(sidecard, None), "k")
    return sidecard


def forked(child: Callable[[], object]) -> int:
    """Run ``child`` in a fork; return its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads; they are what is tested
        pid = os.fork()

    if pid == 0:
        signal.alarm(20)
        code = 1
        with suppress(Exception):
            child()
            code = 0

        os._exit(code)

    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def connections(path: str) -> int:
    """Return how many connections to a daemon this process has."""
    count = 0
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # not connected, or closed meanwhile
            if "socket:" in str(one.readlink()):
                with socket.socket(fileno=os.dup(int(one.name))) as duplicate:
                    count += duplicate.getpeername() == path

    return count


def test_close_reports_all_hits(path: str) -> None:
    """`close` reports hits that were read just before it, and then ends the connection."""
    sidecard = attached(path)
    before = hits(path)
    made = read(sidecard)
    sidecard.close()
    assert hits(path) == before + made


def test_threads_that_read_while_their_client_is_closed_lose_no_hit(path: str) -> None:
    """Each answer that a thread got is counted; after the end it gets none."""
    sidecard = attached(path)
    before, made = hits(path), [0] * 4
    started = threading.Barrier(5)

    def read_on(place: int) -> None:
        started.wait()
        with suppress(RuntimeError):  # the client is closed
            while True:
                made[place] += read(sidecard, 1)

    threads = [threading.Thread(target=read_on, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()

    started.wait()
    poll(lambda: min(made) > 20, "the threads do not read")
    sidecard.close()
    for thread in threads:
        thread.join()

    poll(lambda: hits(path) >= before + sum(made), "hits are lost")
    assert hits(path) == before + sum(made)


def test_parent_and_child_of_a_fork_read_views_of_their_own(path: str) -> None:
    """While threads read: the child begins without views and without hits to report, and each process reports its own."""
    sidecard = attached(path)
    before, stop = hits(path), threading.Event()
    made = [0] * 3

    def read_on(place: int) -> None:
        while not stop.is_set():
            made[place] += read(sidecard, 1)

    threads = [threading.Thread(target=read_on, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        assert view_of(sidecard) is None
        publish(Caller(sidecard, None), "k")
        read(sidecard)
        sidecard.close()

    mine = 0
    try:
        for _ in range(FORKS):
            mine += read(sidecard, 100)
            assert forked(child) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    # A child's first two hits come over the socket, or three if the view takes its time.
    poll(lambda: hits(path) >= before + mine + sum(made) + FORKS * (READS + 2), "hits are lost")
    mine += read(sidecard, 1)
    sidecard.close()
    by_socket = hits(path) - before - mine - sum(made) - FORKS * READS
    assert 2 * FORKS <= by_socket < 100


def test_child_keeps_nothing_of_the_parents_view(path: str) -> None:
    """Neither its connection, whose end would not be noticed, nor its memory."""
    poll(lambda: connections(path) == 0, "another test has left a connection")
    mapped = view_maps()
    sidecard = attached(path)
    assert view_maps() - mapped
    assert connections(path) == 2, "one for calls, and one for the view"

    def child() -> None:
        assert view_maps() <= mapped
        assert connections(path) == 0

    assert forked(child) == 0
    sidecard.close()


def test_child_keeps_no_memory_that_other_threads_read(path: str) -> None:
    """The child has what those threads refer to, for ever: interleaving 1. a thread reads; 2. another thread forks."""
    mapped = view_maps()
    sidecard = attached(path)
    reading, may_end = threading.Event(), threading.Event()
    view = view_of(sidecard)
    assert view is not None

    def stay() -> float:
        reading.set()
        assert may_end.wait(20.0)
        return boot_clock()

    view.reader._clock = stay
    thread = threading.Thread(target=read, args=(sidecard, 1))
    thread.start()
    assert reading.wait(20.0)

    def child() -> None:
        assert view_maps() <= mapped

    try:
        assert forked(child) == 0
    finally:
        may_end.set()
        thread.join()
        sidecard.close()


def test_client_that_is_dropped_reports_its_hits(path: str) -> None:
    """The garbage collector ends its thread, which reports the hits and ends the connection."""
    mapped = view_maps()
    sidecard = attached(path)
    before = hits(path)
    made = read(sidecard, 100)
    del sidecard
    gc.collect()
    poll(lambda: hits(path) == before + made, "hits are lost")
    poll(lambda: "sidecard-view" not in [one.name for one in threading.enumerate()], "the thread goes on")
    poll(lambda: counted(path, "peers") == (1,), "a connection is left")
    assert view_maps() <= mapped, "other tests of this process may have clients with views"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_async_client_reads_in_several_loops(path: str, backend: str) -> None:
    """The view belongs to the client, not to an event loop. After `aclose`, it attaches again."""
    attached(path).close()
    sidecard = AsyncClient(path)
    (read_before,) = counted(path, "view_hits")
    before, made = hits(path), 0

    async def read_some() -> None:
        nonlocal made
        for number in range(300):
            outcome = await sidecard.outcome(str.upper, "k", name="shout", key="k")
            assert outcome.source == "cache"
            made += 1
            if number == 2:
                await until(lambda: view_of(sidecard) is not None)

    for _ in range(3):
        anyio.run(read_some, backend=backend)

    assert view_of(sidecard) is not None
    anyio.run(sidecard.aclose, backend=backend)
    assert hits(path) == before + made
    assert view_of(sidecard) is None
    anyio.run(read_some, backend=backend)
    anyio.run(sidecard.aclose, backend=backend)
    assert hits(path) == before + made
    (view_hits,) = counted(path, "view_hits")
    assert view_hits - read_before > 900


def test_two_loops_in_two_threads_share_a_view(path: str) -> None:
    """Each yields on its own account, and all hits are counted."""
    attached(path).close()
    sidecard = AsyncClient(path)
    before = hits(path)

    async def read_some() -> None:
        for _ in range(READS):
            assert await sidecard.call(str.upper, "k", name="shout", key="k") == "K"

    threads = [threading.Thread(target=asyncio.run, args=(read_some(),)) for _ in range(2)]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    asyncio.run(sidecard.aclose())
    assert hits(path) == before + 2 * READS


WORKER = """
import multiprocessing, sys
from sidecard_client import Client
from tests.callers import Caller
from tests.view_callers import counted, publish

sidecard = Client(sys.argv[1])

def work():
    publish(Caller(sidecard, None), "k")
    print(*counted(sys.argv[1], "view_hits"), flush=True)
    for _ in range(100):
        assert sidecard.outcome(str.upper, "k", name="shout", key="k").source == "cache"

if __name__ == "__main__":
    if sys.argv[2] == "alone":
        work()
    else:
        child = multiprocessing.get_context(sys.argv[2]).Process(target=work)
        child.start()
        child.join()
        sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("how", ["alone", "fork", "spawn", "forkserver"])
def test_process_reports_its_last_hits_at_its_end(path: str, tmp_path: Path, how: str) -> None:
    """Without a close, also as a child of multiprocessing, whose ``atexit`` functions do not run before Python 3.13."""
    attached(path).close()
    before = hits(path)
    program = tmp_path / "worker.py"
    program.write_text(WORKER)
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", str(program), path, how]
    done = subprocess.run(command, env=environ, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    assert counted(path, "view_hits") == (int(done.stdout) + 100,)
    assert hits(path) - before < 140


CLOSER = """
import os, signal, socket, sys, tempfile, threading
from sidecard_client import Client
from tests.callers import Caller
from tests.view_callers import publish

sidecard, failed = Client(sys.argv[1]), []
threading.excepthook = failed.append
publish(Caller(sidecard, None), "k")
os.closerange(3, 1024)
files = [tempfile.TemporaryFile(buffering=0) for _ in range(50)]
for _ in range(3):
    assert sidecard.outcome(str.upper, "k", name="shout", key="k").source == "cache"

os.kill(int(sys.argv[2]), signal.SIGKILL)
connection = socket.socket(socket.AF_UNIX)
while not connection.connect_ex(sys.argv[1]):
    connection.close()
    connection = socket.socket(socket.AF_UNIX)

assert sidecard.outcome(str.upper, "k", name="shout", key="k").source == "fallback"
connection.close()
sidecard.close()
assert {os.fstat(file.fileno()).st_size for file in files} == {0}
assert not failed, failed
"""


def test_app_that_closes_all_descriptors_loses_views_and_nothing_else(
    daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """As daemons do at their start; files that it opens then get the numbers. Nothing is raised, written, closed, or stale."""
    served = daemon()
    program = tmp_path / "closer.py"
    program.write_text(CLOSER)
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", str(program), served.socket, str(served.pid)]
    subprocess.run(command, env=environ, check=True, timeout=60)


def test_a_stopped_daemon_has_booked_all_hits(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Of clients that were about to report, too: the daemon ends its side of their connections, and they report at once."""
    running = daemon(STATE_DIRECTORY=str(tmp_path))
    clients = [attached(running.socket) for _ in range(3)]
    poll(lambda: not any(map(is_armed, clients)), "hits are not reported")
    before = hits(running.socket)
    made = sum(read(sidecard, REPORT_HITS // 2) for sidecard in clients)
    assert running.terminate() == 0
    for sidecard in clients:
        sidecard.close()

    running.start_again()
    total = ask(running.socket, {"op": "report"})["total"]
    assert isinstance(total, dict)
    assert total["hits"] == before + made


def test_idle_process_gives_a_retired_view_back(
    daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that reads nothing unmaps a retired view, and attaches another one once it has hits again."""
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.02)
    config = tmp_path / "sidecard.toml"
    config.write_text("")
    running = daemon("--config", str(config))
    with attached(running.socket) as sidecard:
        config.write_text("[namespaces.team]\nshared_with = [1]\n")
        assert ask(running.socket, {"op": "reload"})["type"] == "reloaded"
        poll(lambda: ask(running.socket, {"op": "stats"})["view_bytes"] == 0, "the view is kept")
        before = counted(running.socket, "view_hits")
        poll(
            lambda: bool(read(sidecard, 10)) and counted(running.socket, "view_hits") > before, "there is no other one"
        )
