"""The law of flights within one process."""

import threading
from collections.abc import Callable

import pytest

from sidecard_client.call.local_flights import (
    MAX_ELECTIONS,
    Answered,
    Elected,
    LocalFailure,
    LocalFlight,
    LocalFlights,
    LocalWaiter,
    Released,
)
from sidecard_client.values.codec import unpack_value

KEY = ("default", "k")


@pytest.fixture
def flights() -> LocalFlights:
    """No call is running."""
    return LocalFlights(threading.Event)


class Recorder:
    """An event that records that it was set."""

    def __init__(self, record: Callable[[], object]) -> None:
        self.set = record


def lead(flights: LocalFlights) -> LocalFlight:
    """Enter as the first."""
    flight = flights.enter(KEY)
    assert isinstance(flight, LocalFlight)
    return flight


def wait(flights: LocalFlights, woken: list[str] | None = None, name: str = "") -> LocalWaiter:
    """Enter as a later one."""
    waiter = flights.enter(KEY)
    assert isinstance(waiter, LocalWaiter)
    waiter.event = Recorder(lambda: None if woken is None else woken.append(name))
    return waiter


def test_enter_the_first_leads_and_the_next_wait(flights: LocalFlights) -> None:
    """One call runs for a key, and another key is another call."""
    lead(flights)
    wait(flights)
    assert isinstance(flights.enter(("other", "k")), LocalFlight)
    assert len(flights) == 2


def test_succeed_gives_each_waiter_its_own_copy(flights: LocalFlights) -> None:
    """A waiter's changes do not show in another waiter's value."""
    woken: list[str] = []
    flight = lead(flights)
    waiters = [wait(flights, woken, name) for name in "ab"]
    value = {"text": ["x"]}
    flights.succeed(flight, value)
    assert woken == ["a", "b"]
    for waiter in waiters:
        assert isinstance(waiter.end, Answered)
        copy = unpack_value(waiter.end.packed)
        assert copy == value
        assert copy is not value

    assert len(flights) == 0


def test_succeed_forgets_the_answer(flights: LocalFlights) -> None:
    """The client caches nothing: a later caller leads."""
    flights.succeed(lead(flights), "x")
    lead(flights)


def test_succeed_with_a_value_that_cannot_be_shared_releases_all(flights: LocalFlights) -> None:
    """Waiters make their own calls, all at the same time."""
    flight = lead(flights)
    waiters = [wait(flights) for _ in range(3)]
    flights.succeed(flight, object())
    assert [waiter.end for waiter in waiters] == [Released()] * 3


@pytest.mark.parametrize("kind", ["transient", "cancelled"])
def test_fail_that_may_pass_elects_the_longest_waiting(flights: LocalFlights, kind: str) -> None:
    """The elected waiter runs the function, and the others keep waiting."""
    flight = lead(flights)
    first, second = wait(flights), wait(flights)
    flights.fail(flight, kind, "m")  # type: ignore[arg-type]  # a parameter's str
    assert first.end == Elected()
    assert second.end is None
    assert isinstance(flights.enter(KEY), LocalWaiter)


def test_fail_after_the_last_election_fails_all(flights: LocalFlights) -> None:
    """A backend that is down is called three times, not once for each waiting thread."""
    flight = lead(flights)
    waiters = [wait(flights) for _ in range(4)]
    for number in range(MAX_ELECTIONS):
        flights.fail(flight, "transient", f"m{number}")

    flights.fail(flight, "transient", "last")
    assert [waiter.end for waiter in waiters] == [
        Elected(),
        Elected(),
        LocalFailure("transient", "last"),
        LocalFailure("transient", "last"),
    ]
    assert len(flights) == 0


def test_fail_fatal_fails_all_together_and_is_not_remembered(flights: LocalFlights) -> None:
    """A fatal failure reaches all current waiters, and no later caller."""
    flight = lead(flights)
    waiters = [wait(flights), wait(flights)]
    flights.fail(flight, "fatal", "bad prompt")
    assert [waiter.end for waiter in waiters] == [LocalFailure("fatal", "bad prompt")] * 2
    lead(flights)


def test_fail_ignored_releases_all(flights: LocalFlights) -> None:
    """An ignored failure releases all waiters, like in the daemon."""
    flight = lead(flights)
    waiter = wait(flights)
    flights.fail(flight, "ignored", "")
    assert waiter.end == Released()


def test_fail_without_waiters_ends_the_flight(flights: LocalFlights) -> None:
    """Without waiters, a failure ends the flight."""
    flights.fail(lead(flights), "transient", "")
    assert len(flights) == 0


def test_leave_while_waiting_affects_no_other_caller(flights: LocalFlights) -> None:
    """A waiter that has left is not elected."""
    flight = lead(flights)
    gone, there = wait(flights), wait(flights)
    flights.leave(gone)
    flights.fail(flight, "transient", "")
    assert gone.end is None
    assert there.end == Elected()


def test_leave_after_an_election_passes_the_turn_on(flights: LocalFlights) -> None:
    """1. A waiter is elected; 2. it is interrupted before it sees that; 3. the next waiter leads."""
    flight = lead(flights)
    elected, there = wait(flights), wait(flights)
    flights.fail(flight, "transient", "")
    flights.leave(elected)
    assert there.end == Elected()


def test_leave_after_the_answer_does_nothing(flights: LocalFlights) -> None:
    """Leaving an ended flight changes nothing."""
    flight = lead(flights)
    waiter = wait(flights)
    flights.succeed(flight, 1)
    flights.leave(waiter)
    assert len(flights) == 0


def test_lead_announces_a_call_that_others_may_join(flights: LocalFlights) -> None:
    """Callers that lose the daemon join a lease holder's call."""
    flight = flights.lead(KEY)
    assert flight is not None
    waiter = wait(flights)
    flights.succeed(flight, "x")
    assert isinstance(waiter.end, Answered)


def test_lead_while_another_call_of_the_key_runs(flights: LocalFlights) -> None:
    """The second call is made, and no caller joins it."""
    lead(flights)
    assert flights.lead(KEY) is None


def test_drop_ends_the_turn_of_an_interrupted_leader(flights: LocalFlights) -> None:
    """An interrupted leader leaves no flight without a leader."""
    flight = lead(flights)
    waiter = wait(flights)
    flights.drop(flight, 0)
    assert waiter.end == Elected()
    assert flight.elections == 1


def test_drop_after_the_turn_has_ended_does_nothing(flights: LocalFlights) -> None:
    """A leader ends neither the turn of its successor nor a later flight of the key."""
    flight = lead(flights)
    waiter = wait(flights)
    flights.fail(flight, "transient", "")
    flights.drop(flight, 0)
    assert waiter.end == Elected()
    assert len(flights) == 1
    flights.succeed(flight, 1)
    lead(flights)
    flights.drop(flight, 1)
    assert len(flights) == 1


def test_repr_counts(flights: LocalFlights) -> None:
    """The representation shows counts instead of keys."""
    flight = lead(flights)
    wait(flights)
    assert repr(flight) == "<LocalFlight 1 waiting, 0 elections>"


def test_forgotten_flight_serves_its_waiters_and_no_later_caller(flights: LocalFlights) -> None:
    """After a removal, a later caller makes its own call; the running one answers the waiters that it had."""
    leader = lead(flights)
    waiter = wait(flights)
    other = flights.enter(("other", "k"))
    flights.forget("default", "k")
    successor = lead(flights)
    late = wait(flights)
    flights.succeed(leader, "old")

    assert isinstance(waiter.end, Answered)
    assert unpack_value(waiter.end.packed) == "old"
    assert late.end is None
    flights.succeed(successor, "new")
    assert isinstance(late.end, Answered)
    assert unpack_value(late.end.packed) == "new"
    assert isinstance(other, LocalFlight)
    assert len(flights) == 1


def test_interrupted_leader_of_forgotten_flight_elects_its_waiter(flights: LocalFlights) -> None:
    """A removal between the leader's start and its interruption leaves no waiter behind."""
    leader = lead(flights)
    waiter = wait(flights)
    flights.forget(None)
    flights.drop(leader, 0)
    assert isinstance(waiter.end, Elected)
    flights.succeed(leader, "x")
    flights.drop(leader, 1)
    assert len(flights) == 0


@pytest.mark.parametrize(
    ("namespace", "key", "forgotten"),
    [
        ("default", "k", True),
        ("default", None, True),
        (None, None, True),
        ("1000:default", None, True),
        ("default", "other", False),
        ("team", None, False),
    ],
)
def test_removal_forgets_matching_flights_only(
    flights: LocalFlights, namespace: str | None, key: str | None, forgotten: bool
) -> None:
    """A removal reaches its namespace and key; one that names another uid's namespace reaches all."""
    lead(flights)
    flights.forget(namespace, key)
    assert isinstance(flights.enter(KEY), LocalFlight if forgotten else LocalWaiter)
