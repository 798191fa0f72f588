"""The purpose of sidecard, with real processes: one call for many callers, although processes die, hang or return."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sidecard_client import Client
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.acceptance.caller import Account, Call, Plan
from tests.daemons import Daemon, poll
from tests.worker_process import PATIENCE_SECONDS
from tests.workers import Workers

CALLER = "tests.acceptance.caller"
PROCESSES = 8
CALLERS = 125
UPSTREAM_SECONDS = 1.2
DAEMON_TIMEOUT_SECONDS = 0.5
"""The clients' own, for the tests that measure it."""

pytestmark = pytest.mark.timeout(120)

kinds = pytest.mark.parametrize("kind", ["sync", "async"])
kinds_of_seconds = pytest.mark.parametrize("kind", ["sync", pytest.param("async", marks=pytest.mark.slow)])
"""For tests that wait for clocks: what is proven of one client in the default run, the slow one proves of the other."""


class Callers(Workers[Account]):
    """Workers with one plan."""

    def __init__(self, plan: Plan, processes: int) -> None:
        super().__init__(CALLER, Account)
        self.ledger = Path(plan.ledger)
        self.ledger.touch()
        self.start(plan, processes)

    def upstream_pids(self, word: str = "start") -> list[int]:
        """Return the processes that made upstream calls, or wrote another word to the ledger, in order."""
        return [int(line.split()[1]) for line in self.ledger.read_text().splitlines() if line.startswith(word)]

    def stop(self) -> None:
        """Let callers start over no more."""
        Path(f"{self.ledger}.stop").touch()

    def first_holder(self) -> int:
        """Wait for the first upstream call and return its process."""
        poll(lambda: bool(self.upstream_pids()), "no worker began its upstream call")
        return self.upstream_pids()[0]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[..., Callers]]:
    """Start workers, and end them with the test."""
    started: list[Callers] = []

    def start(socket: str, kind: str, processes: int = PROCESSES, callers: int = CALLERS, **plan: object) -> Callers:
        whole = {"upstream_seconds": UPSTREAM_SECONDS, "prompts": ["one question"], **plan}
        ledger = str(tmp_path / "ledger")
        some = Callers(Plan(socket, ledger, kind, callers, **whole), processes)  # type: ignore[arg-type]  # by name
        started.append(some)
        return some

    yield start
    for some in started:
        some.kill()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Freeze a process for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def calls_of(accounts: list[Account]) -> list[Call]:
    """Return all calls; none may have raised."""
    assert [error for account in accounts for error in account.errors] == []
    return [call for account in accounts for call in account.calls]


@kinds_of_seconds
def test_thousand_callers_in_eight_processes_make_one_upstream_call(
    kind: str, daemon: Callable[..., Daemon], workers: Callable[..., Callers]
) -> None:
    """A thousand callers in eight processes share one upstream call."""
    callers = workers(daemon().socket, kind)
    callers.go()
    calls = calls_of(callers.results())

    assert len(callers.upstream_pids()) == 1
    assert len(calls) == PROCESSES * CALLERS
    assert len({call.value for call in calls}) == 1
    assert sum(call.source == "upstream" for call in calls) == 1


@kinds_of_seconds
def test_holder_killed_in_mid_call_costs_one_more_upstream_call(
    kind: str, daemon: Callable[..., Daemon], workers: Callable[..., Callers]
) -> None:
    """The lease of a killed holder passes immediately, and all callers of the other processes get the second holder's answer."""
    callers = workers(daemon().socket, kind)
    callers.go()
    holder = callers.first_holder()
    time.sleep(UPSTREAM_SECONDS / 2)  # the middle of the upstream call: what is tested, not waited for
    os.kill(holder, signal.SIGKILL)
    accounts = callers.results()
    calls = calls_of(accounts)

    assert len(accounts) == PROCESSES - 1
    assert len(callers.upstream_pids()) <= 2
    assert len(calls) == (PROCESSES - 1) * CALLERS
    assert len({call.value for call in calls}) == 1


@kinds_of_seconds
def test_holder_frozen_beyond_its_lease_is_replaced_and_refused(
    kind: str, daemon: Callable[..., Daemon], workers: Callable[..., Callers]
) -> None:
    """Another holder replaces a frozen one, whose `complete` changes nothing after it thaws."""
    # Renewed often, so that the second holder, beside 160 callers, does not lose its lease.
    running = daemon(SIDECARD_FLIGHTS_LEASE_SECONDS="2", SIDECARD_FLIGHTS_RENEW_SECONDS="0.1")
    callers = workers(running.socket, kind, callers=20, upstream_seconds=0.8)
    callers.go()
    holder = callers.first_holder()
    with stopped(holder), Client(running.socket, daemon_timeout=PATIENCE_SECONDS) as observer:
        poll(lambda: observer.stats().completed == 1, "nobody led in the frozen holder's place")
        assert observer.stats().expired == 1

    accounts = callers.results()
    with Client(running.socket, daemon_timeout=PATIENCE_SECONDS) as observer:
        assert observer.stats().stale_leases >= 1
    second = callers.upstream_pids()[1]
    others = {call.value for account in accounts if account.pid != holder for call in account.calls}

    assert calls_of(accounts)
    assert len(callers.upstream_pids()) == 2
    assert len(others) == 1
    assert f"answered by {second} " in others.pop()


@kinds_of_seconds
def test_killed_daemon_fails_no_call_and_is_used_after_its_restart(
    kind: str, daemon: Callable[..., Daemon], workers: Callable[..., Callers]
) -> None:
    """Calls return the right value while the daemon is dead, and use it again by themselves once it is back."""
    running = daemon()
    prompts = [f"question {number}" for number in range(10)]
    callers = workers(running.socket, kind, callers=4, prompts=prompts, seconds=60.0, upstream_seconds=0.05, ttl=0.1)
    callers.go()
    callers.first_holder()
    time.sleep(1.0)  # calls under way at the kill: what is tested, not waited for
    running.kill()
    time.sleep(1.0)  # a while without a daemon, likewise
    running.start_again()
    poll(lambda: set(callers.upstream_pids("again")) == set(callers.pids), "not all processes use the daemon again")
    back_at = time.monotonic()
    with Client(running.socket, daemon_timeout=PATIENCE_SECONDS) as observer:
        begins = observer.stats().begins
        poll(lambda: observer.stats().begins > begins + 100, "the daemon is not used")

    callers.stop()
    calls = calls_of(callers.results())

    assert all(call.value.startswith(f"{call.prompt} answered by ") for call in calls)
    assert {"fallback", "upstream"} <= {call.source for call in calls}
    assert "fallback" not in {call.source for call in calls if call.began_at > back_at}


def test_callers_that_left_a_frozen_daemon_get_no_lease(daemon: Callable[..., Daemon]) -> None:
    """The holder and two waiters end while the daemon is frozen; the next, which has only finished sending, gets the lease."""
    running = daemon("--set", "flights.max_elections=1")
    line = b'{"op":"begin","key":"k","id":1}\n'
    framed = frame(wire.pack(wire.Begin("k", id=1)))
    with ExitStack() as stack:
        callers = []
        for request in (framed, line, framed, line):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.settimeout(10)
            caller.connect(running.socket)
            caller.sendall(request)
            assert caller.recv(4096)  # the lease, or that it waits
            callers.append(caller)

        *gone, alive = callers
        with stopped(running.pid):
            alive.shutdown(socket.SHUT_WR)
            for caller in gone:
                caller.close()

        assert b'"type":"lease"' in alive.recv(4096)


@pytest.mark.slow
@kinds
def test_frozen_daemon_delays_each_call_by_at_most_a_second(
    kind: str, daemon: Callable[..., Daemon], workers: Callable[..., Callers]
) -> None:
    """While the daemon accepts and never replies, every call ends within a second plus its own work."""
    # Not an explicit ttl=, which excludes the sharing window, and with it most waiters.
    running = daemon("--set", "cache.ttl_seconds=0.1")
    prompts = [f"question {number}" for number in range(10)]
    callers = workers(
        running.socket,
        kind,
        callers=4,
        prompts=prompts,
        seconds=13.0,
        upstream_seconds=0.2,
        patience_seconds=DAEMON_TIMEOUT_SECONDS,
    )
    callers.go()
    callers.first_holder()
    time.sleep(1.0)  # calls under way when it freezes: what is tested, not waited for
    with stopped(running.pid):
        time.sleep(10.0)  # the ten seconds

    calls = calls_of(callers.results())
    # A caller that falls back joins its own process's call of the key, so its own work is at most one upstream call.
    slowest = max(calls, key=lambda call: call.took_seconds)
    assert slowest.took_seconds <= 1.0 + 2 * 0.2, slowest
    assert "fallback" in {call.source for call in calls}


@pytest.mark.slow
@kinds
def test_waiters_of_a_freezing_daemon_end_within_a_second(
    kind: str, daemon: Callable[..., Daemon], workers: Callable[..., Callers]
) -> None:
    """A hundred waiters in each process notice that the daemon has frozen, and make one call per process."""
    running = daemon()
    callers = workers(
        running.socket, kind, processes=2, callers=100, upstream_seconds=3.0, patience_seconds=DAEMON_TIMEOUT_SECONDS
    )
    callers.go()
    callers.first_holder()
    time.sleep(0.5)  # all of them wait by now; those that do not fall back at their first answer
    with stopped(running.pid):
        accounts = callers.results()

    calls = calls_of(accounts)
    assert len(callers.upstream_pids()) <= 2
    assert max(call.took_seconds for call in calls) <= 0.5 + 1.0 + 3.0 + 0.5
