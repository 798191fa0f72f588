"""`AsyncClient` while the daemon hangs, dies, sends invalid bytes, or is not there."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, CallRejected, CallTimeout, DaemonUnavailable, Outcome
from sidecard_client.call import availability
from sidecard_client.protocol import wire
from tests.daemons import Daemon, poll, until
from tests.scripted_daemon import CLOSE, DIE, HANG, PENDING, ScriptedDaemon, hit, lease

pytestmark = pytest.mark.anyio

CALL_SECONDS = 1.0
"""The longest that a call may take beyond its own work, whatever the daemon does (design 4.5)."""

SECONDS = 20.0
"""Longer than any stall."""


@pytest.fixture
def scripted(socket_path: str) -> Iterator[ScriptedDaemon]:
    """Start a daemon that grants every lease unless scripted otherwise."""
    with ScriptedDaemon(socket_path) as daemon:
        yield daemon


async def came(scripted: ScriptedDaemon, op: type[wire.Request], count: int = 1) -> list[Any]:
    """Wait for requests to reach the daemon, and return them."""
    return await anyio.to_thread.run_sync(scripted.wait_for, op, count)


async def at_once() -> str:
    """Be a call that takes no time."""
    return "value"


async def timed(sidecard: AsyncClient, **policy: Any) -> tuple[Outcome[str], float]:
    """Make a call; return its outcome and its duration."""
    began = monotonic()
    outcome = await sidecard.outcome(at_once, **{"name": "f", **policy})
    return outcome, monotonic() - began


# A daemon that hangs ---------------------------------------------------------------------------------------------------


async def begins(scripted: ScriptedDaemon) -> int:
    """Thaw the daemon after its client was closed; return how many begins the client has sent."""
    scripted.thaw()
    await until(lambda: len(scripted.ended) == len(scripted.connections))
    return len(scripted.requests(wire.Begin))


async def test_a_daemon_that_gives_no_first_answer_is_done_without(
    scripted: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``daemon_timeout``, once: the calls that follow do not pay for it again."""
    monkeypatch.setattr(availability, "FIRST_BACK_OFF_SECONDS", SECONDS)
    scripted.freeze()

    async with AsyncClient(scripted.path) as sidecard:
        outcome, seconds = await timed(sidecard)
        await timed(sidecard)

    assert (outcome.value, outcome.source) == ("value", "fallback")
    assert 0.45 < seconds < CALL_SECONDS
    assert await begins(scripted) == 1


async def test_one_call_at_a_time_finds_out_whether_the_daemon_is_back(socket_path: str) -> None:
    """The others go on without it meanwhile."""
    daemon_timeout = 1.0
    async with AsyncClient(socket_path, daemon_timeout=daemon_timeout) as sidecard:
        await timed(sidecard)  # no daemon listens
        await anyio.sleep(0.15)  # longer than the first back-off
        with ScriptedDaemon(socket_path) as scripted:
            scripted.freeze()
            durations = []

            async def call(key: str) -> None:
                durations.append((await timed(sidecard, key=key))[1])

            async with anyio.create_task_group() as tasks:
                for key in "abc":
                    tasks.start_soon(call, key)

            await sidecard.aclose()
            assert await begins(scripted) == 1

    assert max(durations[:2]) < 0.9 * daemon_timeout
    assert 0.9 * daemon_timeout < durations[2] < daemon_timeout + CALL_SECONDS


async def test_calls_that_wait_notice_a_daemon_that_stops(scripted: ScriptedDaemon) -> None:
    """By a ping without a pong, all together; one of them runs the function for all."""
    runs = []

    async def counted() -> str:
        runs.append(1)
        await anyio.sleep(0.05)
        return "value"

    scripted.always(wire.Begin, PENDING)
    async with AsyncClient(scripted.path) as sidecard:
        outcomes = []

        async def call() -> None:
            outcomes.append(await sidecard.outcome(counted, name="f"))

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(call)

            await came(scripted, wire.Ping, 2)
            scripted.freeze()
            frozen_at = monotonic()

        seconds = monotonic() - frozen_at

    assert seconds < 2 * CALL_SECONDS  # 0.8 s on a quiet machine, where a call that notices nothing waits for minutes
    assert len(runs) == 1
    assert {(outcome.value, outcome.source) for outcome in outcomes} == {("value", "fallback")}


async def test_a_wait_goes_on_as_long_as_the_daemon_answers_pings(scripted: ScriptedDaemon) -> None:
    """Three times as long as ``daemon_timeout`` here."""
    scripted.script(wire.Begin, PENDING)

    async with AsyncClient(scripted.path, daemon_timeout=0.1) as sidecard:
        with anyio.move_on_after(0.3) as scope:
            await sidecard.call(at_once, name="f")

    assert scope.cancelled_caught
    assert len(scripted.requests(wire.Ping)) > 3


async def test_a_daemon_that_stops_during_the_function_does_not_keep_its_value(scripted: ScriptedDaemon) -> None:
    """The complete gets no answer, and the caller its value."""

    async def freezes() -> str:
        scripted.freeze()
        return "value"

    async with AsyncClient(scripted.path) as sidecard:
        began = monotonic()
        outcome = await sidecard.outcome(freezes, name="f")

    assert (outcome.value, outcome.source) == ("value", "upstream")
    assert monotonic() - began < CALL_SECONDS


async def test_a_lease_whose_answer_the_daemon_cannot_take_is_given_back(scripted: ScriptedDaemon) -> None:
    """Its waiters must not wait until it ends by itself."""
    scripted.script(wire.Complete, wire.Error(0, "bad_request", "a field that this daemon does not know"))
    async with AsyncClient(scripted.path) as sidecard:
        outcome, _ = await timed(sidecard)
        (begin,) = await came(scripted, wire.Begin)
        (cancel,) = await came(scripted, wire.Cancel)

    assert (outcome.value, outcome.source) == ("value", "upstream")
    assert cancel.target == begin.id


async def test_one_call_without_an_answer_does_not_end_the_others(scripted: ScriptedDaemon) -> None:
    """A daemon that answers others is overloaded: that call goes on alone, and its begin is taken back."""
    scripted.script(wire.Begin, HANG, PENDING)

    async with AsyncClient(scripted.path, daemon_timeout=0.2) as sidecard:
        outcomes = []

        async def call() -> None:
            outcomes.append(await sidecard.outcome(at_once, key="f"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await came(scripted, wire.Begin)
            tasks.start_soon(sidecard.call, _never_run)
            while not outcomes:
                await sidecard.ping()
                await anyio.sleep(0.01)

            (cancel,) = await came(scripted, wire.Cancel)
            tasks.cancel_scope.cancel()

    assert outcomes[0].source == "fallback"
    assert cancel.target == scripted.requests(wire.Begin)[0].id
    assert {taken.connection for taken in scripted.taken} == {0}


async def _never_run() -> str:
    raise AssertionError


async def test_an_event_loop_that_was_blocked_does_not_blame_the_daemon(scripted: ScriptedDaemon) -> None:
    """The answer came meanwhile; user code kept the loop from reading it."""
    scripted.script(wire.Begin, hit("stored"))

    async with AsyncClient(scripted.path, daemon_timeout=0.1) as sidecard:
        outcomes = []

        async def call() -> None:
            outcomes.append(await sidecard.outcome(at_once, name="f"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await came(scripted, wire.Begin)
            until = monotonic() + 0.4
            scripted.wait_until(lambda: monotonic() > until)  # without awaiting: this is what blocks the loop

    assert outcomes[0].source == "cache"


async def test_a_next_lease_that_comes_too_late_is_given_back(scripted: ScriptedDaemon) -> None:
    """1. a fail is not answered in time, though others are; 2. the call goes on alone; 3. the begin is taken back."""
    scripted.script(wire.Begin, lease("local"))
    scripted.script(wire.Fail, HANG)

    async def fails() -> str:
        raise ConnectionError

    async with AsyncClient(scripted.path, daemon_timeout=0.2) as sidecard:
        outcomes = []

        async def call() -> None:
            outcomes.append(await sidecard.outcome({"local": fails, "cloud": at_once}, key="f"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while not outcomes:
                await sidecard.ping()
                await anyio.sleep(0.01)

        cancels = await came(scripted, wire.Cancel, 2)

    assert (outcomes[0].backend, outcomes[0].attempts) == ("cloud", 1)
    begin, fail = scripted.requests(wire.Begin)[0], scripted.requests(wire.Fail)[0]
    assert {cancel.target for cancel in cancels} == {begin.id, fail.id}


# A daemon that ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pending", [False, True])
async def test_a_connection_that_ends_is_made_again_once(scripted: ScriptedDaemon, pending: bool) -> None:
    """A restarted daemon answers the second time, with what is left of the wait."""
    scripted.script(wire.Begin, [PENDING, CLOSE] if pending else CLOSE, hit("stored"))

    async with AsyncClient(scripted.path) as sidecard:
        outcome, _ = await timed(sidecard, wait=30)

    first, second = scripted.requests(wire.Begin)
    assert outcome.source == "cache"
    assert 29 < second.wait_seconds < first.wait_seconds == 30


@pytest.mark.parametrize("end", [CLOSE, DIE])
async def test_a_daemon_that_ends_every_connection_is_done_without(scripted: ScriptedDaemon, end: Any) -> None:
    """Two attempts are enough, and the next call does not try immediately."""
    scripted.always(wire.Begin, end)

    async with AsyncClient(scripted.path) as sidecard:
        outcome, seconds = await timed(sidecard)
        await timed(sidecard)

    assert (outcome.value, outcome.source) == ("value", "fallback")
    assert seconds < 0.4
    assert len(scripted.requests(wire.Begin)) == (2 if end is CLOSE else 1)


async def test_callers_that_lose_the_daemon_join_the_holder_of_their_process(scripted: ScriptedDaemon) -> None:
    """The function runs once, under a lease that is void by then."""
    go_on = anyio.Event()
    runs = []

    async def slow() -> str:
        runs.append(1)
        await go_on.wait()
        return "value"

    scripted.script(wire.Begin, lease())
    scripted.always(wire.Begin, PENDING)
    async with AsyncClient(scripted.path) as sidecard:
        outcomes = []

        async def call() -> None:
            outcomes.append(await sidecard.outcome(slow, name="f"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(call)

            await came(scripted, wire.Begin, 20)
            scripted.die()
            await anyio.sleep(0.1)  # time in which calls could be repeated: what is tested, not waited for
            go_on.set()

    assert len(runs) == 1
    assert sorted(outcome.source for outcome in outcomes) == ["fallback"] * 19 + ["upstream"]


async def test_a_client_uses_the_daemon_again_after_its_restart(daemon: Callable[..., Daemon]) -> None:
    """The client reconnects by itself, after a back-off of a fraction of a second."""
    first = daemon()
    async with AsyncClient(first.socket) as sidecard:
        assert (await timed(sidecard))[0].source == "upstream"
        first.kill()
        assert (await timed(sidecard))[0].source == "fallback"
        await anyio.to_thread.run_sync(first.start_again)
        with anyio.fail_after(5):
            while (await timed(sidecard))[0].source == "fallback":  # noqa: ASYNC110 - asking is how it finds the daemon
                await anyio.sleep(0.01)

        assert (await timed(sidecard))[0].source == "cache"


# A daemon that sends invalid bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
        pytest.param(b"\x00\x00\x00\x00", id="an empty frame"),
        pytest.param(b"\x00\x00\x00\x01\xc1", id="no msgpack"),
        pytest.param(wire.Stored(0, stored=True), id="an answer to another question"),
        pytest.param([PENDING, PENDING], id="pending twice"),
        pytest.param([b"\x00\x00", HANG], id="half a frame"),
    ],
)
async def test_invalid_bytes_lead_to_fallback(scripted: ScriptedDaemon, nonsense: Any) -> None:
    """An app never sees it; the policy may ask to."""
    scripted.always(wire.Begin, nonsense)

    async with AsyncClient(scripted.path) as sidecard:
        outcome, seconds = await timed(sidecard)
        with pytest.raises(DaemonUnavailable):
            await sidecard.call(at_once, name="f", on_unavailable="raise")

    assert (outcome.value, outcome.source) == ("value", "fallback")
    assert seconds < CALL_SECONDS


# No daemon -------------------------------------------------------------------------------------------------------------


async def test_without_a_daemon_calls_are_made_once_in_the_process(socket_path: str) -> None:
    """Fifty concurrent ones; each gets its own copy."""
    runs = []

    async def slow() -> list[int]:
        runs.append(1)
        await anyio.sleep(0.02)
        return [1]

    async with AsyncClient(socket_path) as sidecard:
        outcomes = []

        async def call() -> None:
            outcomes.append(await sidecard.outcome(slow, name="f"))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(call)

    assert len(runs) == 1
    assert [(outcome.value, outcome.source) for outcome in outcomes] == [([1], "fallback")] * 50
    assert len({id(outcome.value) for outcome in outcomes}) == 50


async def test_without_a_daemon_backends_are_asked_in_order(socket_path: str) -> None:
    """The first that answers."""

    async def fails() -> str:
        raise ConnectionError

    async with AsyncClient(socket_path) as sidecard:
        outcome = await sidecard.outcome({"local": fails, "cloud": at_once}, name="f")

    assert (outcome.value, outcome.source, outcome.backend) == ("value", "fallback", "cloud")


async def test_without_a_daemon_a_wait_has_its_limit(socket_path: str) -> None:
    """As with one."""
    async with AsyncClient(socket_path) as sidecard, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: sidecard.call(anyio.sleep_forever, name="f"))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(CallTimeout):
            await sidecard.call(anyio.sleep_forever, name="f", wait=0.02)

        tasks.cancel_scope.cancel()


async def test_an_impossible_path_in_the_environment_does_not_fail_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the operator's mistake; what needs the daemon names it."""
    monkeypatch.setenv("SIDECARD_SOCKET", "/tmp/" + "x" * 200)

    async with AsyncClient() as sidecard:
        assert (await timed(sidecard))[0].source == "fallback"
        with pytest.raises(DaemonUnavailable, match="longer than 107 bytes"):
            await sidecard.ping()


async def test_without_a_daemon_what_needs_one_says_so(socket_path: str) -> None:
    """Reading and storing fall back to nothing; the rest raises, with the path."""
    async with AsyncClient(socket_path) as sidecard:
        assert await sidecard.get("k", "nothing") == "nothing"
        assert await sidecard.put("k", 1) is False
        for ask in (sidecard.ping, sidecard.stats, sidecard.report, sidecard.health, sidecard.purge):
            with pytest.raises(DaemonUnavailable, match=f"Cannot reach a daemon at {socket_path}"):
                await ask()

        with pytest.raises(CallRejected, match="not_cached"):
            await sidecard.call(at_once, name="f", mode="only_if_cached")

    async with AsyncClient(socket_path, on_unavailable="raise") as sidecard:
        for request in (sidecard.call(at_once, name="f"), sidecard.get("k"), sidecard.put("k", 1)):
            with pytest.raises(DaemonUnavailable):
                await request


# Leases and forks ------------------------------------------------------------------------------------------------------


async def test_a_patient_client_renews_short_leases_in_time(scripted: ScriptedDaemon) -> None:
    """Leases are renewed in time, however long the client's timeout is."""
    scripted.script(wire.Begin, lease(expires_in_seconds=0.6))

    async def slow() -> float:
        began = monotonic()
        await came(scripted, wire.Renew, 3)
        return monotonic() - began

    async with AsyncClient(scripted.path, daemon_timeout=60.0) as sidecard:
        assert await sidecard.call(slow, name="f") < 1.5


async def test_a_lease_is_renewed_every_third_of_its_life(scripted: ScriptedDaemon) -> None:
    """As long as the function runs, and no longer."""
    granted = lease(expires_in_seconds=0.3)
    scripted.script(wire.Begin, granted)

    async def slow() -> str:
        await came(scripted, wire.Renew, 3)
        return "value"

    async with AsyncClient(scripted.path, daemon_timeout=0.1) as sidecard:
        began = monotonic()
        await sidecard.call(slow, name="f")
        seconds = monotonic() - began
        renewals = len(scripted.requests(wire.Renew))
        await anyio.sleep(0.2)  # in which another renewal would fall due

    assert {renewal.lease for renewal in scripted.requests(wire.Renew)} == {granted.lease}
    assert len(scripted.requests(wire.Renew)) == renewals
    assert 0.2 < seconds < 0.9


FORKING = """
import os, sys, anyio
from sidecard_client import AsyncClient

path, go, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sidecard = AsyncClient(path)

async def answer():
    return "value"

async def in_child():
    print((await sidecard.outcome(answer, key="k")).source, flush=True)
    await sidecard.aclose()

async def main():
    await sidecard.put("k", "stored")
    if os.fork() == 0:
        # Its parent's loop is not its own: calls go on without the daemon.
        print((await sidecard.outcome(answer, key="k")).source, flush=True)
        os._exit(0)

async def before_fork():
    await sidecard.ping()

anyio.run(main, backend=backend)
os.wait()
anyio.run(before_fork, backend=backend)
if os.fork() == 0:
    anyio.run(in_child, backend=backend)
    sys.stdin.read()  # outlives the parent, until the test ends
    os._exit(0)

async def parent_goes_on():
    print((await sidecard.outcome(answer, key="k")).source, flush=True)
    os.read(go, 1)
    os._exit(9)  # no clean-up: as a killed process

os.read(go, 1)
anyio.run(parent_goes_on, backend=backend)
"""


def test_a_forked_child_opens_its_own_and_does_not_keep_the_connection(
    daemon: Callable[..., Daemon], anyio_backend: str
) -> None:
    """A forked child calls in an event loop of its own. The daemon notices the parent's end although the child lives on."""
    path = daemon().socket
    go, gone = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", FORKING, path, str(go), anyio_backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[go],
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "fallback\n"
        assert parent.stdout.readline() == "cache\n"
        poll(lambda: _peers(path) == 0, "the child did not close its connection")
        os.write(gone, b"x")
        assert parent.stdout.readline() == "cache\n"
        assert _peers(path) == 1
        os.write(gone, b"x")
        poll(lambda: _peers(path) == 0, "the daemon did not see the parent's end")
        assert parent.stdin is not None
        parent.stdin.close()

    os.close(go)
    os.close(gone)


def _peers(path: str) -> int:
    """Count the connections of others."""

    async def count() -> int:
        async with AsyncClient(path) as observer:
            return (await observer.stats()).peers - 1

    return anyio.run(count)
