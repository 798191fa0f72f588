"""Callers that have closed their connections, before their ends are read: they are not elected, and count as left."""

import pytest

from sidecard.core import notes
from sidecard.core.events import Absent, PeersHungUp
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Cancel, Timeout
from tests.backends import held, limited
from tests.host import Actor, Host


def hang_up(host: Host, *actors: Actor) -> None:
    """Let peers close their connections."""
    host.happens(PeersHungUp([actor.peer for actor in actors]))


def are_left(host: Host, *actors: Actor) -> bool:
    """Return whether these callers, and no others, have ended: not timed out and not failed, and counted once."""
    ends = [actor.receives() for actor in actors]
    ended = all(isinstance(end, wire.Failed) and end.kind == "cancelled" for (end,) in ends)
    for actor in actors:
        actor.dies()

    stats = host.stats()
    return ended and (stats.left, stats.timeouts, stats.failed, stats.waiters) == (len(actors), 0, 0, 0)


def ends_of_flights(host: Host) -> list[notes.FlightFailed]:
    """Return what was noted of failed flights."""
    return [note for note in host.notes if isinstance(note, notes.FlightFailed)]


@pytest.mark.parametrize("end", ["lost", "cancelled", "transient", "fatal", "expired"])
def test_waiters_that_have_hung_up_leave_when_the_call_fails(end: str) -> None:
    """Nobody waits any more, so nothing is said of a failure of theirs, however the call ended."""
    host = Host()
    holder, *gone = (host.peer() for _ in range(3))
    lease = holder.leads("key")
    for actor in gone:
        actor.waits("key")

    hang_up(host, *gone)
    match end:
        case "lost":
            holder.dies()
        case "cancelled":
            holder.asks(Cancel(1, id=2))
        case "transient" | "fatal":
            holder.fails(lease, end)
        case _:
            host.passes(15.0)

    assert are_left(host, *gone)
    assert ends_of_flights(host) == []
    assert host.stats().flights == 0


def test_waiter_that_is_there_fails_alone() -> None:
    """Only the caller that receives the failure counts as failed."""
    host = Host()
    holder, gone, there = (host.peer() for _ in range(3))
    lease = holder.leads("key")
    gone.waits("key")
    there.waits("key")
    hang_up(host, gone)
    holder.fails(lease, "fatal")
    assert there.gets(wire.Failed).kind == "fatal"
    (note,) = ends_of_flights(host)
    assert (note.waiters, host.stats().failed, host.stats().left) == (1, 1, 1)


def test_waiters_that_have_hung_up_leave_with_the_caller_in_the_queue() -> None:
    """The caller that waits for the backend ends; those behind it are gone, and have not timed out."""
    host = limited()
    held(host, "a")
    first, *gone = (host.peer() for _ in range(3))
    for actor in (first, *gone):
        actor.waits("key", backends=("a",))

    hang_up(host, *gone)
    first.dies()
    for actor in gone:
        (end,) = actor.receives()
        assert isinstance(end, wire.Failed)
        actor.dies()

    stats = host.stats()
    assert (stats.left, stats.timeouts, stats.queued, stats.flights) == (3, 0, 0, 0)


def test_caller_that_hung_up_while_the_store_was_asked_leaves() -> None:
    """What it sent is read after its end is known; the claim is given back."""
    host = Host(store="shared")
    gone = host.peer()
    hang_up(host, gone)
    gone.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Absent("claim"))
    (release,) = host.wants()
    assert release.claim == "claim"  # type: ignore[union-attr]  # a release, or this fails
    assert are_left(host, gone)


def test_deadline_of_a_caller_that_is_there_is_its_own() -> None:
    """Where one waiter has hung up and another's deadline has passed, only the latter times out."""
    host = limited()
    held(host, "a")
    first, gone, late = (host.peer() for _ in range(3))
    first.waits("key", backends=("a",))
    gone.waits("key", backends=("a",))
    late.waits("key", wait_seconds=1.0, backends=("a",))
    hang_up(host, gone)
    host.now += 1.0
    first.dies()
    assert late.receives() == [Timeout(1, 1.0)]
    (end,) = gone.receives()
    assert isinstance(end, wire.Failed)
    assert (host.stats().left, host.stats().timeouts) == (2, 1)
