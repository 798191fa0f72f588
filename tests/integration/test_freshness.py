"""Both clients and the real daemon: the age of answers, samples, answers that their caller rejects, and refreshes."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sidecard_client import CallRejected, Client
from sidecard_client.protocol import wire
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, poll
from tests.scripted_daemon import ScriptedDaemon

pytestmark = pytest.mark.usefixtures("patient_clients")

AGE_SECONDS = 0.25

DELAY_SECONDS = 0.1
"""More than a request may be under way: an answer counts as newer if it was made longer after the other one."""


class Upstream:
    """A function that returns numbers, counts, and can be held."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, prompt: str = "") -> str:
        """Answer."""
        self.calls += 1
        number = self.calls
        self.go.wait(20)
        return f"{prompt}{number}"

    def pieces(self, prompt: str = "") -> Iterator[str]:
        """Answer in two pieces."""
        yield self(prompt)
        yield "end"


@pytest.fixture(scope="module")
def running(module_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with its defaults: answers live for 300 s, and are shared for 60 s."""
    return module_daemon()


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, running: Daemon) -> Iterator[Caller]:
    """A client of each kind, and no entries."""
    running.purge()
    with connecting(request.param, running.socket) as connect:
        yield connect()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream, whose calls end with the test."""
    made = Upstream()
    yield made
    made.go.set()


def pieces_of(client: Caller, *args: Any, **policy: Any) -> tuple[list[str], str]:
    """Read a stream; return its pieces and its source."""
    stream = client.sidecard.stream(*args, **policy)

    async def read() -> list[str]:
        async with stream:
            return [piece async for piece in stream]

    pieces = list(stream) if client.portal is None else client.portal.call(read)
    return pieces, stream.source


def test_explicit_limits_hold_for_every_answer(client: Caller, upstream: Upstream) -> None:
    """A caller's ``ttl=`` or ``max_age=`` ends hits and sharing; callers without a bound keep the window."""
    first = client.outcome(upstream, "q", key="k", ttl=AGE_SECONDS)
    assert client.outcome(upstream, "q", key="k", ttl=AGE_SECONDS).source == "cache"
    pieces_of(client, upstream.pieces, "s", key="s")
    time.sleep(AGE_SECONDS)
    window = client.outcome(upstream, "q", key="k")
    assert (window.value, window.source) == (first.value, "shared")
    with pytest.raises(CallRejected, match="not_cached"):
        client.outcome(upstream, "q", key="k", max_age=60, mode="only_if_cached")

    again = client.outcome(upstream, "q", key="k", ttl=AGE_SECONDS)
    assert (again.value, again.source) == ("q3", "upstream")
    assert client.outcome(upstream, "q", key="k", max_age=60).value == "q3"
    assert client.outcome(upstream, "q", key="k", max_age=0).value == "q4"
    assert client.ask("get", "k", max_age=60) == "q4"
    assert client.ask("get", "k", "old", max_age=0) == "old"
    assert pieces_of(client, upstream.pieces, "s", key="s", max_age=60) == (["s2", "end"], "cache")
    assert pieces_of(client, upstream.pieces, "s", key="s", max_age=AGE_SECONDS) == (["s5", "end"], "upstream")


def test_zero_ttl_stores_nothing_and_shares_running_calls(client: Caller, upstream: Upstream) -> None:
    """Callers at the same time share; the next one calls again."""
    upstream.go.clear()
    waiting = [client.begin(upstream, "q", key="k", ttl=0) for _ in range(3)]
    with Client(client_path(client)) as observer:
        poll(lambda: observer.stats().waiters == 2, "the callers do not share")
        upstream.go.set()
        assert {one.result(20).value for one in waiting} == {"q1"}
        assert observer.stats().cache_entries == 0

    assert client.outcome(upstream, "q", key="k").value == "q2"
    assert client.outcome(upstream, "q", key="k", ttl=0).value == "q3"
    assert client.outcome(upstream, "q", key="k").value == "q2"


def client_path(client: Caller) -> str:
    """Return the path of a client's daemon."""
    path: str = client.sidecard._connector.place()
    return path


def test_samples_are_answers_of_their_own(client: Caller, upstream: Upstream) -> None:
    """Each of five samples of one prompt is called for once, stored by itself, and shared by itself."""
    for policy in ({"name": "f"}, {"key": "k"}):
        drawn = [client.outcome(upstream, "q", sample=number, **policy).value for number in range(5)]
        assert len(set(drawn)) == 5
        again = [client.outcome(upstream, "q", sample=number, **policy) for number in range(5)]
        assert [(one.value, one.source) for one in again] == [(value, "cache") for value in drawn]
        assert client.outcome(upstream, "q", **policy).value == drawn[0]


def test_rejected_answers_pass_the_lease_on(client: Caller, upstream: Upstream) -> None:
    """Each rejected answer goes to its own caller, and is paid; the longest-waiting caller makes the next call."""
    upstream.go.clear()
    policy = {"key": "k", "valid": lambda value: value == "q3", "usage": lambda _: {"cost_dollars": 0.5}}
    with Client(client_path(client)) as observer:
        before = observer.report().total
        waiting = []
        for number in range(5):
            waiting.append(client.begin(upstream, "q", **policy))
            poll(lambda: upstream.calls == 1, "the first caller does not call")
            poll(lambda: observer.stats().waiters == number, "a caller does not wait")  # noqa: B023 - polled at once

        upstream.go.set()
        outcomes = [one.result(20) for one in waiting]
        after = observer.report().total
        assert [one.value for one in outcomes] == ["q1", "q2", "q3", "q3", "q3"]
        assert [one.source for one in outcomes] == ["upstream"] * 3 + ["shared"] * 2
        assert (after.upstream_calls - before.upstream_calls, after.billed_dollars - before.billed_dollars) == (3, 1.5)
        assert after.failed == before.failed
        assert observer.breakers().backends["default"].failures == 0

    assert client.outcome(upstream, "q", **policy).source == "cache"
    assert client.outcome(upstream, "q", key="k", valid=lambda value: value != "q3").value == "q4"
    assert client.outcome(upstream, "q", key="k").value == "q4"


def test_callers_of_a_bad_answer_share_one_further_call(client: Caller, upstream: Upstream) -> None:
    """An answer that a caller without ``valid=`` shares is refused by the others, who ask for a newer one together."""
    upstream.go.clear()
    with Client(client_path(client)) as observer:
        careless = client.begin(upstream, "q", key="k")
        poll(lambda: upstream.calls == 1, "the first call is not made")
        careful = [client.begin(upstream, "q", key="k", valid=lambda value: value != "q1") for _ in range(4)]
        poll(lambda: observer.stats().waiters == 4, "the callers do not wait")
        release, upstream.go = upstream.go, threading.Event()
        release.set()
        assert careless.result(20).value == "q1"
        poll(lambda: observer.stats().waiters == 3, "the callers do not share the second call")
        upstream.go.set()
        assert {one.result(20).value for one in careful} == {"q2"}

    assert upstream.calls == 2


def test_rejected_streams_reach_their_own_caller_only(client: Caller, upstream: Upstream) -> None:
    """The holder's caller gets the pieces as they are made; others get those of the next, valid stream."""

    def valid(pieces: list[str]) -> bool:
        return pieces[0] != "q1"

    assert pieces_of(client, upstream.pieces, "q", key="k", valid=valid) == (["q1", "end"], "upstream")
    assert pieces_of(client, upstream.pieces, "q", key="k", valid=valid) == (["q2", "end"], "upstream")
    assert pieces_of(client, upstream.pieces, "q", key="k", valid=valid) == (["q2", "end"], "cache")
    assert pieces_of(client, upstream.pieces, "q", key="k", valid=lambda _: False) == (["q3", "end"], "upstream")
    assert pieces_of(client, upstream.pieces, "q", key="k") == (["q2", "end"], "cache")


def test_refreshes_of_one_answer_share_one_call(client: Caller, upstream: Upstream) -> None:
    """Callers that find the same answer bad get one new answer; a further refresh asks again."""
    outcomes = [client.outcome(upstream, "q", name="f") for _ in range(6)]
    assert upstream.calls == 1
    time.sleep(DELAY_SECONDS)

    def refreshed(outcome: Any) -> Any:
        async def refresh() -> Any:
            return await outcome.refresh()

        return outcome.refresh() if client.portal is None else client.portal.call(refresh)

    with ThreadPoolExecutor(6) as threads:
        renewed = list(threads.map(refreshed, outcomes))

    assert {one.value for one in renewed} == {"q2"}
    assert client.outcome(upstream, "q", name="f").value == "q2"
    assert {refreshed(one).source for one in outcomes} == {"cache"}
    assert refreshed(refreshed(renewed[0])).value == "q4"
    each = client.ask("outcome_each", lambda texts: [upstream(text) for text in texts], ["a", "b", "a"], name="g")
    time.sleep(DELAY_SECONDS)
    assert (refreshed(each[0]).value, refreshed(each[2]).value) == ("a7", "a7")
    assert upstream.calls == 7


@pytest.mark.parametrize("kind", KINDS)
def test_rejected_answers_without_a_daemon_elect_the_next_caller(
    kind: str, socket_path: str, upstream: Upstream
) -> None:
    """The callers of one process share in the same way."""
    upstream.go.clear()
    with connecting(kind, socket_path) as connect:
        client = connect()
        flights = client.sidecard._interpreter.flights
        waiting = [client.begin(upstream, "q", key="k", max_age=0, valid=lambda value: value != "q1") for _ in range(3)]
        poll(lambda: sum(len(flight.waiters) for flight in flights._flights.values()) == 2, "the callers do not wait")
        upstream.go.set()
        assert sorted(one.result(20).value for one in waiting) == ["q1", "q2", "q2"]


@pytest.mark.parametrize("kind", KINDS)
def test_older_daemon_that_ignores_limits_is_corrected(kind: str, socket_path: str, upstream: Upstream) -> None:
    """The client rejects an answer beyond the bound, and asks for a new one."""

    def old(request: wire.Begin) -> Any:
        if request.mode == "refresh":
            return wire.Lease(0, "lease", "default", 15.0, 1)

        if request.stream:
            return [wire.Chunk(0, "x", "cache", 9.0), wire.End(0, "cache", 9.0, False, 0.0, 0.0, "default", {})]

        return wire.Hit(0, "old", 9.0, False, 0.0, 0.0, "default", {})

    def stored(_: wire.Get) -> Any:
        return wire.Hit(0, "old", 9.0, False, 0.0, 0.0, "default", {})

    with ScriptedDaemon(socket_path) as scripted, connecting(kind, socket_path) as connect:
        scripted.always(wire.Begin, old)
        scripted.always(wire.Get, stored)
        client = connect()
        assert client.outcome(upstream, "q", max_age=10, name="f").value == "old"
        assert client.outcome(upstream, "q", max_age=9, name="f").value == "q1"
        assert client.outcome(upstream, "q", ttl=5, name="f").value == "q2"
        assert pieces_of(client, upstream.pieces, "s", max_age=5, name="f") == (["s3", "end"], "upstream")
        assert (client.ask("get", "k", max_age=10), client.ask("get", "k", max_age=9)) == ("old", None)
