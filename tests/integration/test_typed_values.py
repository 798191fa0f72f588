"""Both clients, the real daemon and several processes: answers whose types are annotated, and those whose types are not known."""

import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Any

import pytest

from sidecard_client import CallRejected, Client, SidecardWarning
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, poll
from tests.integration.typed_worker import ask_for_all
from tests.typed_values import DAY, LINE, NOON, SHARED, Event, Line, PricedLine, event, portrait

pytestmark = pytest.mark.usefixtures("patient_clients")

CALLS = len(SHARED) + 1
WRAPPED = 2
STREAMS = 2


def run_worker(socket: str, kind: str) -> dict[str, int]:
    """Run a worker process, and return how many answers of each source it got."""
    command = [sys.executable, "-m", "tests.integration.typed_worker", socket, kind]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    sources: dict[str, int] = json.loads(run.stdout)
    return sources


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon."""
    return daemon()


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, running: Daemon) -> Iterator[Caller]:
    """A client of each kind."""
    with connecting(request.param, running.socket) as connect:
        yield connect()


@pytest.mark.parametrize(("holder", "other"), [("sync", "asyncio"), ("trio", "sync")])
def test_values_of_every_type_are_the_same_in_every_process(running: Daemon, holder: str, other: str) -> None:
    """The first process makes every call, the second none: it has the holder's types."""
    assert ask_for_all(holder, running.socket) == {"upstream": CALLS + STREAMS, "wrapped": WRAPPED}
    assert run_worker(running.socket, other) == {"cache": CALLS + STREAMS, "wrapped": WRAPPED}
    assert ask_for_all(holder, running.socket)["cache"] == CALLS + STREAMS


def test_values_of_every_type_are_shared_within_a_process_without_a_daemon(socket_path: str) -> None:
    """Each call is made without the daemon, and its caller gets the value unchanged."""
    assert ask_for_all("sync", socket_path) == {"fallback": CALLS + STREAMS, "wrapped": WRAPPED}


@pytest.mark.parametrize("kind", KINDS)
def test_duplicates_within_a_process_without_a_daemon_get_the_type(socket_path: str, kind: str) -> None:
    """One call is made; each waiter gets a copy of its own."""
    gate, started = threading.Event(), threading.Event()

    def slow(day: str) -> Event:
        started.set()
        gate.wait(10)
        return event(day)

    with connecting(kind, socket_path) as connect:
        client = connect()
        futures = [client.begin(slow, "2026-01-02", name="slow")]
        assert started.wait(10)
        started.clear()
        futures += [client.begin(slow, "2026-01-02", name="slow") for _ in range(2)]
        flights = client.sidecard._interpreter.flights
        poll(lambda: sum(len(flight.waiters) for flight in flights._flights.values()) == 2, "nobody waits")
        gate.set()
        outcomes = [future.result(10) for future in futures]

    assert not started.is_set()
    assert [outcome.source for outcome in outcomes] == ["fallback"] * 3
    assert all(portrait(outcome.value) == portrait(event("2026-01-02")) for outcome in outcomes)
    assert len({id(outcome.value) for outcome in outcomes}) == 3


def priced(_: str) -> Line:
    """Return an instance of a subclass of what is annotated."""
    return PricedLine(text="a")


def unannotated(_: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as apps may write it
    """Return a dataclass within a list."""
    return {"events": [Event(DAY)]}


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (priced, r"priced: .*value is of type .*PricedLine, not .*Line"),
        (unannotated, r"unannotated: .*value\['events'\]\[0\] is of type .*Event: name that type .*returns="),
    ],
)
def test_a_value_that_is_not_of_its_type_is_for_its_own_caller(
    client: Caller, function: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is returned as it is, with a warning that names the place, and not shared."""
    monkeypatch.setattr("sidecard_client.call.warn._warned_of", {})
    with pytest.warns(SidecardWarning, match=place):
        first = client.outcome(function, "q")

    second = client.outcome(function, "q")
    assert [first.source, second.source] == ["upstream", "upstream"]
    assert portrait(first.value) == portrait(function("q"))


def wrongly_annotated(_: str) -> dict[str, int]:
    """Return what ``returns=`` names."""
    return LINE  # type: ignore[return-value]  # what is tested


def test_returns_replaces_the_annotation(client: Caller) -> None:
    """A function of a library may be annotated otherwise, or not at all."""
    values = [client.outcome(wrongly_annotated, "q", returns=Line) for _ in range(2)]
    assert [(outcome.source, outcome.value) for outcome in values] == [("upstream", LINE), ("cache", LINE)]

    with pytest.raises(TypeError, match=r"returns= must be a type that can be shared.*memoryview"):
        client.outcome(wrongly_annotated, "q", returns=memoryview)


def test_explain_shows_that_the_types_differ() -> None:
    """By their digests, which are part of the key."""
    with Client("/tmp/none") as client:
        one, other = client.explain(event, "2026-01-02"), client.explain(event, "2026-01-02", returns=Line)

    (difference,) = one.differences(other)
    assert difference.path == "returns"
    assert difference.one != difference.other


def test_an_answer_of_another_type_under_an_own_key_is_fetched_again(client: Caller) -> None:
    """Two functions of different types with one ``key=``: neither gets the other's answer."""
    assert client.outcome(event, "2026-01-02", key="k").value == event("2026-01-02")
    assert client.outcome(lambda: NOON, key="k", returns=datetime).value == NOON
    assert client.outcome(lambda: DAY, key="k", returns=date).value == DAY
    assert client.outcome(lambda: None, key="k", returns=date).source == "cache"
    with pytest.raises(CallRejected, match="not_cached"):
        client.outcome(event, "2026-01-02", key="k", mode="only_if_cached")


def test_a_stream_of_another_type_under_an_own_key_is_fetched_again(running: Daemon) -> None:
    """As for calls, before the first piece."""

    def dates() -> Iterator[date]:
        yield DAY

    def times() -> Iterator[datetime]:
        yield NOON

    with Client(running.socket) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(client.stream(dates, key="k", returns=date)) == [DAY]
        assert list(client.stream(times, key="k", returns=datetime)) == [NOON]
        stream = client.stream(times, key="k", returns=datetime)
        assert (list(stream), stream.source) == ([NOON], "cache")
