"""Fair shares of the tables among uids."""

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
"""With a limit of 16 the spare is 8; uids that use less than 2 may use it."""


def fills(actor: Actor, count: int, first: int = 0) -> None:
    """Lead ``count`` flights."""
    for number in range(first, first + count):
        actor.leads(f"key {number}", number)


def is_busy(actor: Actor, begin: Begin) -> bool:
    """Begin; return whether that is rejected as busy."""
    actor.asks(begin)
    (reply,) = actor.receives()
    return isinstance(reply, Rejected) and reply.reason == "busy"


@pytest.mark.parametrize(
    ("own", "total", "has_room"),
    [(0, 16, True), (1, 16, True), (2, 16, False), (16, 16, False), (0, 23, True), (0, 24, False)],
)
def test_spare_is_for_small_users_and_bounded(own: int, total: int, has_room: bool) -> None:
    """A uid that uses little may add up to a quarter of the spare; all uids together fill it at most once."""
    assert in_spare(own, total, 16, 0.5) is has_room


def test_share_counts_by_uid_and_drops_empty_uids() -> None:
    """A share drops uids that use nothing: containers' uids come and go."""
    share = Share()
    for uid in (1, 1, 2):
        share.take(uid)

    assert (share.total, share.of(1), share.of(2), share.of(3)) == (3, 2, 1, 0)
    for uid in (1, 1, 2):
        share.give_back(uid)

    assert (share.total, len(share._of_uid)) == (0, 0)


def test_single_uid_may_use_the_whole_limit() -> None:
    """A single active uid may use the whole limit, and no more."""
    host = Host(max_flights=16, **SIXTEEN)
    fills(greedy := host.peer(GREEDY), 16)

    assert is_busy(greedy, Begin("one more", id=99))
    assert host.engine.metrics.limited == {"max_flights": 1}
    assert notes.TableFull("flights", 16) in host.notes


def test_uid_with_all_flights_does_not_shut_others_out() -> None:
    """A second and a third uid find room for flights, within the spare."""
    host = Host(max_flights=16, **SIXTEEN)
    fills(host.peer(GREEDY), 16)
    fills(polite := host.peer(POLITE), 2)
    assert is_busy(polite, Begin("one more", id=99))
    fills(host.peer(THIRD), 2)
    assert host.stats().flights == 20


def test_uid_with_all_leases_does_not_shut_others_out() -> None:
    """A second uid finds room for leases of calls without a key."""
    host = Host(max_leases=16, **SIXTEEN)
    greedy, polite = host.peer(GREEDY), host.peer(POLITE)
    for number in range(16):
        greedy.calls("default", request_id=number)

    assert is_busy(greedy, Begin(None, id=99))
    polite.calls("default")
    assert host.engine.metrics.limited == {"max_leases": 1}


def test_uid_with_all_waiters_does_not_shut_others_out() -> None:
    """A second uid finds room to wait for an answer and for a permit."""
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


def test_uid_with_whole_queue_does_not_shut_others_out() -> None:
    """A second uid finds room in a queue and takes turns with the first, however many processes that has."""
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


def test_share_is_returned_at_any_end() -> None:
    """A share is returned when a flight, lease or wait ends, in whichever way."""
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
    assert flights.waiters_by_uid.total == len(flights.waiters_by_uid._of_uid) == 0
    assert flights.flights_by_uid.total == len(flights.flights_by_uid._of_uid) == 0
    assert flights.leases_by_uid.total == len(flights.leases_by_uid._of_uid) == 0


def test_flight_counts_for_its_starter_until_its_end() -> None:
    """A flight counts for the uid that started it, even if another uid becomes its holder."""
    host = Host(shared_namespaces={"team": SharedWith(everyone=True)})
    alice, bob = host.peer(GREEDY), host.peer(POLITE)
    alice.leads("key", namespace="team")
    bob.waits("key", namespace="team")
    alice.dies()
    (lease,) = bob.receives()
    flights = host.engine._flights
    assert flights.flights_by_uid._of_uid == {GREEDY: 1}
    assert isinstance(lease, Lease)
    bob.asks(wire.Complete(lease.lease, packed("x"), id=9))
    assert len(flights) == flights.flights_by_uid.of(GREEDY) == 0
    assert not flights.flights_by_uid._of_uid


def test_uid_with_all_metric_names_does_not_shut_others_out() -> None:
    """A second uid finds room for metric names and series."""
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


def test_reloaded_spare_share_applies_to_all_tables() -> None:
    """A reloaded spare share applies to flights and app metrics immediately; existing ones stay."""
    host = Host(max_flights=16, max_series=26, spare_share=0.0)
    greedy, polite = host.peer(GREEDY), host.peer(POLITE)
    fills(greedy, 16)
    for number in range(MAX_METRICS):
        greedy.asks(RecordMetrics(metrics=(Measurement(name=f"greedy_{number}", kind="counter"),)))

    message = RecordMetrics(metrics=(Measurement(name="polite", kind="counter"),), acknowledge=True)
    assert is_busy(polite, Begin("key", id=99))
    polite.asks(message)
    assert polite.gets(wire.Recorded).dropped == 1

    host.reads(max_flights=16, max_series=26, **SIXTEEN)
    polite.leads("key")
    polite.asks(message)
    assert polite.gets(wire.Recorded).dropped == 0
