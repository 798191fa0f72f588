"""A begin after an acknowledged delete or purge starts a new flight; the voided one serves the callers that it had."""

from collections.abc import Callable

import pytest

from sidecard.core.events import Absent, ClaimedRemotely, EntriesPurged, KeyChanged
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Delete, Lease, Purge, Shared
from tests.host import Actor, Host, packed, unpacked

SCOPE = "1000:default"


def deletes(host: Host) -> None:
    """Delete the key."""
    actor = host.peer()
    actor.asks(Delete("key", id=1))
    assert isinstance(actor.receives()[0], wire.Deleted)


def purges(host: Host, **fields: str) -> None:
    """Purge as an operator."""
    actor = host.peer(0, 0, operator=True)
    actor.asks(Purge(id=1, **fields))
    assert isinstance(actor.receives()[0], wire.Deleted)


REMOVALS: dict[str, Callable[[Host], None]] = {
    "delete": deletes,
    "purge": purges,
    "purge by namespace": lambda host: purges(host, namespace="default"),
    "purge by task": lambda host: purges(host, task="general"),
    "purge by tag": lambda host: purges(host, tag="t"),
    "remote delete": lambda host: host.happens(KeyChanged(SCOPE, "key", "removed")),
    "remote purge": lambda host: host.happens(EntriesPurged(None, None)),
}


@pytest.mark.parametrize("removes", REMOVALS.values(), ids=REMOVALS)
def test_begin_after_removal_starts_a_flight(removes: Callable[[Host], None]) -> None:
    """Later callers share the new call's answer, earlier ones get the voided call's; only the new one is stored."""
    host = Host()
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    old = alice.leads("key")
    bob.waits("key")
    removes(host)
    new = carol.leads("key")
    dave.waits("key")
    alice.completes(old, "old", tags=("t",))
    assert unpacked(bob.gets(Shared)) == "old"
    assert dave.receives() == []
    carol.completes(new, "new")
    assert unpacked(dave.gets(Shared)) == "new"
    bob.asks(Begin("key", id=9))

    assert unpacked(bob.gets(wire.Hit)) == "new"
    stats = host.stats()
    assert (stats.flights, stats.leases, stats.waiters, stats.permits) == (0, 0, 0, 0)


@pytest.mark.parametrize("tags", [("t",), ("other",)])
def test_late_answer_of_replaced_flight_does_not_overwrite(tags: tuple[str, ...]) -> None:
    """1. call; 2. purge; 3. begin; 4. the new answer; 5. the old answer, whatever its tags: the new one stays."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    old = alice.leads("key")
    purges(host, tag="t")
    new = bob.leads("key")
    bob.completes(new, "new")
    alice.asks(wire.Complete(old, packed("old"), tags=tags, id=3))
    assert not alice.gets(wire.Stored).stored
    alice.asks(Begin("key", id=4))

    assert unpacked(alice.gets(wire.Hit)) == "new"


def test_answer_without_purged_tag_is_stored_while_no_caller_came() -> None:
    """A purge of another tag costs nothing unless a caller comes meanwhile."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    purges(host, tag="t")
    alice.completes(lease, "new", tags=("other",))
    alice.asks(Begin("key", id=4))

    assert unpacked(alice.gets(wire.Hit)) == "new"


def test_each_removal_starts_another_flight() -> None:
    """After two deletes, three calls are in progress, each with its own waiters; each permit returns once."""
    host = Host(backends={"default": BackendSettings(max_concurrent=3)})
    holders: list[tuple[Actor, str, Actor]] = []
    for number in range(3):
        holder, waiter = host.peer(), host.peer()
        holders.append((holder, holder.leads("key"), waiter))
        waiter.waits("key")
        if number < 2:
            deletes(host)

    assert host.breakers()["default"].permits == 3
    assert host.stats().flights == 3
    for number in (1, 2, 0):
        holder, lease, waiter = holders[number]
        holder.completes(lease, number)
        assert unpacked(waiter.gets(Shared)) == number

    assert host.breakers()["default"].permits == 0
    late = host.peer()
    late.asks(Begin("key", id=5))
    assert unpacked(late.gets(wire.Hit)) == 2


def test_holder_of_replaced_flight_that_dies_elects_its_own_waiter() -> None:
    """Elections stay within a flight, and the elected caller's answer is not stored."""
    host = Host()
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    alice.leads("key")
    bob.waits("key")
    deletes(host)
    new = carol.leads("key")
    dave.waits("key")
    alice.dies()
    again = bob.gets(Lease)
    assert again.attempt == 2
    carol.completes(new, "new")
    bob.completes(again.lease, "again")
    assert unpacked(dave.gets(Shared)) == "new"
    dave.asks(Begin("key", id=5))

    assert unpacked(dave.gets(wire.Hit)) == "new"


def test_follower_of_replaced_stream_gets_its_end() -> None:
    """Chunks of the voided stream go to its followers alone; a later caller gets the new stream from its beginning."""
    host = Host()
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    old = alice.leads("key", stream=True)
    bob.waits("key", stream=True)
    alice.appends(old, "a")
    deletes(host)
    new = carol.leads("key", stream=True)
    dave.waits("key", stream=True)
    carol.appends(new, "x")
    alice.appends(old, "b")
    alice.completes(old, None)
    carol.completes(new, None)

    pieces, end = bob.reads()
    assert (pieces, type(end)) == (["a", "b"], wire.End)
    pieces, end = dave.reads()
    assert (pieces, type(end)) == (["x"], wire.End)
    assert host.engine._streams.memory.total == 0


def test_queued_flight_is_joined_and_stores() -> None:
    """A flight that waits for a permit has no call in progress: its call starts after the removal."""
    host = Host(backends={"default": BackendSettings(max_concurrent=1)})
    other, alice, bob = host.peer(), host.peer(), host.peer()
    busy = other.leads("other")
    alice.waits("key")
    deletes(host)
    bob.waits("key")
    other.completes(busy, "x")
    alice.completes(alice.gets(Lease).lease, "new")
    assert unpacked(bob.gets(Shared)) == "new"
    bob.asks(Begin("key", id=5))

    assert unpacked(bob.gets(wire.Hit)) == "new"


def test_lookup_in_progress_is_repeated_and_stores() -> None:
    """The store is asked again after the removal; the call that follows starts after it, so its answer is stored."""
    host = Host(store="own")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    first = host.asked()
    host.peer().asks(Delete("key", id=1))
    bob = host.peer()
    bob.asks(Begin("key", id=1))
    host.wants()
    host.answers(first.ticket, Absent())
    alice.completes(alice.gets(Lease).lease, "new")
    assert unpacked(bob.receives()[-1]) == "new"
    bob.asks(Begin("key", id=5))

    assert unpacked(bob.gets(wire.Hit)) == "new"


def test_claim_of_voided_flight_goes_to_its_successor() -> None:
    """The claim is released before the successor asks for it, so this host is not kept waiting by its own claim."""
    host = Host(store="shared")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Absent("c1"))
    old = alice.gets(Lease).lease
    purges_of_tag = host.peer(0, 0, operator=True)
    purges_of_tag.asks(Purge(id=1, tag="t"))
    host.wants()
    bob = host.peer()
    bob.asks(Begin("key", id=1))
    release, ask = host.wants()
    assert (type(release).__name__, type(ask).__name__) == ("StoreRelease", "StoreRead")
    host.answers(ask.ticket, Absent("c2"))  # type: ignore[union-attr]  # checked above
    new = bob.gets(Lease).lease
    alice.completes(old, "old")
    assert host.wants() == []
    bob.completes(new, "new")
    assert [(type(want).__name__, want.claim) for want in host.wants()] == [("StoreWrite", "c2")]  # type: ignore[union-attr]  # as above


def test_flight_of_another_host_is_asked_about_again() -> None:
    """While another host computes the key, a removal makes this host ask the store again; callers join that question."""
    host = Host(store="shared")
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, ClaimedRemotely(5.0))
    alice.receives()
    host.peer().asks(Delete("key", id=1))
    ask = host.wants()[-1]
    bob.asks(Begin("key", id=1))
    host.answers(ask.ticket, Absent("c1"))  # type: ignore[union-attr]  # a question
    lease = alice.gets(Lease).lease
    alice.completes(lease, "new")

    assert unpacked(bob.receives()[-1]) == "new"


def test_drain_answers_waiters_of_replaced_flights() -> None:
    """Every caller has its reply at the end of a drain, also those of a voided flight."""
    host = Host()
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    alice.leads("key")
    bob.waits("key")
    deletes(host)
    carol.leads("key")
    dave.waits("key")
    host.drains()
    host.gives_up_draining()

    assert bob.gets(wire.Rejected).reason == dave.gets(wire.Rejected).reason == "draining"


def test_replaced_flights_count_as_flights() -> None:
    """Deleting again and again makes no room in the table of flights."""
    host = Host(max_flights=2, spare_share=0.0)
    for _ in range(2):
        host.peer().leads("key")
        deletes(host)

    late = host.peer()
    late.asks(Begin("key", id=1))
    assert late.gets(wire.Rejected).reason == "busy"
