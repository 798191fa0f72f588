"""What one uid takes of the tables that all use, and what is left for the others."""

import pytest

from sidecard.core import notes
from sidecard.core.accounts.app_metrics import MAX_METRICS
from sidecard.core.settings import BackendSettings, SharedWith
from sidecard.core.shares import Share, in_spare
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Lease, Measurement, Pending, RecordMetrics, Rejected
from tests.host import Actor, Host, packed

GREEDY, POLITE, THIRD = 1000, 1001, 1002
SIXTEEN = {"spare_share": 0.5}
"""With a bound of 16 there are 8 more, of which those may have some who have less than 2."""


def fills(actor: Actor, count: int, first: int = 0) -> None:
    """Lead so many flights."""
    for number in range(first, first + count):
        actor.leads(f"key {number}", number)


def is_busy(actor: Actor, begin: Begin) -> bool:
    """Begin, and tell whether that was refused for want of room."""
    actor.asks(begin)
    (reply,) = actor.receives()
    return isinstance(reply, Rejected) and reply.reason == "busy"


@pytest.mark.parametrize(
    ("own", "total", "has_room"),
    [(0, 16, True), (1, 16, True), (2, 16, False), (16, 16, False), (0, 23, True), (0, 24, False)],
)
def test_the_spare_is_for_those_who_have_little_and_is_bounded(own: int, total: int, has_room: bool) -> None:
    """A quarter of it each, and no more than all of it."""
    assert in_spare(own, total, 16, 0.5) is has_room


def test_a_share_counts_by_uid_and_forgets_who_has_nothing() -> None:
    """Uids of containers come and go."""
    share = Share()
    for uid in (1, 1, 2):
        share.take(uid)

    assert (share.total, share.of(1), share.of(2), share.of(3)) == (3, 2, 1, 0)
    for uid in (1, 1, 2):
        share.give_back(uid)

    assert (share.total, len(share._of_uid)) == (0, 0)


def test_one_uid_alone_may_use_all_there_is_and_no_more() -> None:
    """On most hosts all workers are one uid."""
    host = Host(max_flights=16, **SIXTEEN)
    fills(greedy := host.peer(GREEDY), 16)

    assert is_busy(greedy, Begin("one more", id=99))
    assert host.engine.metrics.limited == {"max_flights": 1}
    assert notes.Saturated("flights", 16) in host.notes


def test_a_uid_that_took_all_flights_does_not_shut_another_out() -> None:
    """Nor a third one, and what they have is bounded too."""
    host = Host(max_flights=16, **SIXTEEN)
    fills(host.peer(GREEDY), 16)
    fills(polite := host.peer(POLITE), 2)
    assert is_busy(polite, Begin("one more", id=99))
    fills(host.peer(THIRD), 2)
    assert host.stats().flights == 20


def test_a_uid_that_took_all_leases_does_not_shut_another_out() -> None:
    """Calls without a key have no flight."""
    host = Host(max_leases=16, **SIXTEEN)
    greedy, polite = host.peer(GREEDY), host.peer(POLITE)
    for number in range(16):
        greedy.calls("default", request_id=number)

    assert is_busy(greedy, Begin(None, id=99))
    polite.calls("default")
    assert host.engine.metrics.limited == {"max_leases": 1}


def test_a_uid_that_took_all_places_to_wait_does_not_shut_another_out() -> None:
    """Whether they wait for an answer or for a permit."""
    host = Host(max_waiters=16, backends={"narrow": BackendSettings(max_concurrent=1)}, **SIXTEEN)
    greedy, polite = host.peer(GREEDY), host.peer(POLITE)
    greedy.leads("key", 100)
    for number in range(16):
        greedy.waits("key", number)

    assert is_busy(greedy, Begin("key", id=99))
    polite.leads("key", 1)
    polite.waits("key", 2)
    polite.calls("narrow", request_id=3)
    polite.asks(Begin(None, id=4, backends=("narrow",)))
    assert polite.receives() == [Pending(4)]
    assert host.engine.metrics.limited == {"max_waiters": 1}


def test_a_uid_that_took_a_whole_queue_does_not_shut_another_out_and_is_passed() -> None:
    """With as many processes as it likes: uids take turns, and only then processes."""
    host = Host(backends={"narrow": BackendSettings(max_concurrent=1, max_queue=16)}, **SIXTEEN)
    greedy = [host.peer(GREEDY, pid=pid) for pid in range(1, 19)]
    lease = greedy[0].calls("narrow")
    for actor in greedy[1:17]:
        actor.asks(Begin(None, id=1, backends=("narrow",)))

    assert greedy[17].refused("narrow").reason == "saturated"
    assert host.engine.metrics.limited == {"max_queue": 1}
    polite = host.peer(POLITE, pid=99)
    polite.asks(Begin(None, id=1, backends=("narrow",)))
    greedy[0].completes(lease.lease, "x")
    (_, second) = greedy[1].receives()
    assert isinstance(second, Lease)
    greedy[1].completes(second.lease, "x")
    assert isinstance(polite.receives()[-1], Lease)


def test_what_ends_gives_its_share_back() -> None:
    """However it ends: answered, failed, expired, timed out, cancelled, lost."""
    host = Host(lease_seconds=10, wait_seconds=5)
    alice, bob = host.peer(GREEDY), host.peer(POLITE)
    alice.completes(alice.leads("a"), "x")
    alice.fails(alice.leads("b"))
    alice.receives()
    alice.leads("c")
    alice.waits("c", 2)
    alice.waits("c", 3)
    alice.asks(wire.Cancel(3))
    bob.leads("d")
    bob.waits("d", 2)
    bob.dies()
    host.passes(30)

    flights = host.engine._flights
    for share in (flights.flights_by_uid, flights.leases_by_uid, flights.waiters_by_uid):
        assert (share.total, len(share._of_uid)) == (0, 0)


def test_a_flight_counts_for_who_began_it_until_it_ends() -> None:
    """Also where another one has become its holder."""
    host = Host(shared_namespaces={"team": SharedWith(everyone=True)})
    alice, bob = host.peer(GREEDY), host.peer(POLITE)
    alice.leads("key", namespace="team")
    bob.waits("key", namespace="team")
    alice.dies()
    (lease,) = bob.receives()
    shares = host.engine._flights.flights_by_uid
    assert (shares.of(GREEDY), shares.of(POLITE)) == (1, 0)
    assert isinstance(lease, Lease)
    bob.asks(wire.Complete(lease.lease, packed("x"), id=9))
    assert shares.total == 0


def test_a_uid_that_took_all_names_of_metrics_does_not_shut_another_out() -> None:
    """Nor all series."""
    host = Host(max_series=26, **SIXTEEN)
    greedy, polite = host.peer(GREEDY), host.peer(POLITE)
    for number in range(600):
        greedy.asks(RecordMetrics(metrics=(Measurement(name=f"greedy_{number}", kind="counter"),)))

    samples = host.samples()
    assert sum(name.startswith("greedy_") for name in samples) == 512
    polite.asks(RecordMetrics(metrics=(Measurement(name="polite", kind="counter"),)))
    assert host.samples()["polite_total"] == 1

    for number in range(30):
        greedy.asks(RecordMetrics(metrics=(Measurement(name="greedy_0", kind="gauge", labels={"n": str(number)}),)))
        greedy.asks(RecordMetrics(metrics=(Measurement(name="greedy_1", kind="counter", labels={"n": str(number)}),)))

    polite.asks(RecordMetrics(metrics=(Measurement(name="polite", kind="counter", labels={"n": "1"}),)))
    assert host.samples()["polite_total n=1"] == 1


def test_a_spare_share_that_is_read_again_holds_for_all_tables_at_once() -> None:
    """Flights and the apps' metrics alike; what is there already stays."""
    host = Host(max_flights=16, max_series=26, spare_share=0.0)
    greedy, polite = host.peer(GREEDY), host.peer(POLITE)
    fills(greedy, 16)
    for number in range(MAX_METRICS):
        greedy.asks(RecordMetrics(metrics=(Measurement(name=f"greedy_{number}", kind="counter"),)))

    told = RecordMetrics(metrics=(Measurement(name="polite", kind="counter"),), acknowledge=True)
    assert is_busy(polite, Begin("key", id=99))
    polite.asks(told)
    assert polite.gets(wire.Recorded).dropped == 1

    host.reads(max_flights=16, max_series=26, **SIXTEEN)
    polite.leads("key")
    polite.asks(told)
    assert polite.gets(wire.Recorded).dropped == 0
