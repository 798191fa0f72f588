"""Store lookups and claims."""

from typing import Any

import pytest

from sidecard.core import notes
from sidecard.core.effects import StorePurge, StoreRead, StoreRelease, StoreRemove, StoreWrite
from sidecard.core.events import (
    Absent,
    Answer,
    ClaimedRemotely,
    EntriesPurged,
    Found,
    InvalidationsMissed,
    KeyChanged,
    Removed,
    StoreGauges,
    StoreMeasured,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.records import Record
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import (
    Begin,
    Cancel,
    Delete,
    Deleted,
    Get,
    Miss,
    Pending,
    Purge,
    Put,
    Rejected,
    Timeout,
)
from tests.host import Actor, Host, packed, unpacked

SCOPE = "1000:default"


def record(value: object = "old", *, age: float = 10.0, ttl: float = 300.0, window: float = 60.0) -> Record:
    """Return an entry of the store."""
    return Record(wire.pack(value), 2.0, ttl, window, "cloud", wire.Usage(cost_dollars=0.5), ("t",), age)


def own(**settings: Any) -> Host:
    """Return a host with a store of its own."""
    return Host(store="own", **settings)


def shared(**settings: Any) -> Host:
    """Return a host whose store others use, too."""
    return Host(store="shared", **settings)


def begun(host: Host, request_id: int = 1, **fields: Any) -> tuple[Actor, StoreRead]:
    """Let a new peer begin, and the store be asked."""
    actor = host.peer()
    actor.asks(Begin("key", id=request_id, **fields))
    return actor, host.asked()


def balanced(host: Host) -> bool:
    """Return whether every begin has its end, or waits."""
    stats = host.stats()
    ends = stats.hits + stats.shared + stats.leases_first + stats.failed + stats.rejected + stats.timeouts + stats.left
    return stats.begins == ends + stats.waiters


def test_hundred_callers_cost_one_store_read() -> None:
    """A hundred callers cost one store read; then the entry is in memory."""
    host = own()
    actors = [host.peer() for _ in range(100)]
    for actor in actors:
        actor.asks(Begin("key", id=1))

    ask = host.asked()
    assert ask == StoreRead(1, SCOPE, "key", claim=False, read_entry=True)
    assert all(actor.receives() == [] for actor in actors)
    host.answers(ask.ticket, Found(record()))
    for actor in actors:
        hit = actor.gets(wire.Hit)
        assert (unpacked(hit), hit.age_seconds, hit.saved_seconds, hit.backend) == ("old", 10.0, 2.0, "cloud")

    actors[0].asks(Begin("key", id=2))
    assert unpacked(actors[0].gets(wire.Hit)) == "old"
    assert host.wants() == []
    stats = host.stats()
    assert (stats.hits, stats.misses, stats.store_reads, stats.store_hits, stats.flights) == (101, 0, 1, 1, 0)
    assert balanced(host)


def test_absent_entry_makes_longest_waiting_caller_lead() -> None:
    """The longest-waiting caller leads, the others are sent one pending, and the answer is written."""
    host = own()
    alice, ask = begun(host)
    bob = host.peer()
    bob.asks(Begin("key", id=2))
    host.answers(ask.ticket, Absent())
    lease = alice.gets(wire.Lease)
    assert bob.receives() == [Pending(2)]
    alice.completes(lease.lease, "new", tags=("t",))
    assert unpacked(bob.gets(wire.Shared)) == "new"
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert (write.scope, write.key, write.claim, write.replace, write.made_at) == (SCOPE, "key", "", False, host.now)
    assert (write.record.value, write.record.ttl_seconds, write.record.tags) == (wire.pack("new"), 300.0, ("t",))
    assert host.stats().misses == 2
    assert balanced(host)


def test_pending_is_sent_only_if_store_is_slow() -> None:
    """Callers are sent pending once, after 20 ms; later callers immediately."""
    host = own()
    alice, ask = begun(host)
    host.passes(0.019)
    assert alice.receives() == []
    host.passes(0.002)
    assert alice.receives() == [Pending(1)]
    host.peer().waits("key", 5)
    host.answers(ask.ticket, Absent())
    assert alice.gets(wire.Lease).attempt == 1


def test_zero_wait_waits_for_store() -> None:
    """With ``wait_seconds`` 0, the first caller leads and the others time out once the store has answered."""
    host = own()
    alice, ask = begun(host, wait_seconds=0.0)
    bob = host.peer()
    bob.asks(Begin("key", id=2, wait_seconds=0.0))
    host.passes(0.3)
    alice.receives()
    bob.receives()
    host.answers(ask.ticket, Absent())
    alice.gets(wire.Lease)
    assert bob.receives() == [Timeout(2, 0.0)]
    assert balanced(host)


def test_deadline_passes_during_lookup() -> None:
    """A deadline that passes during a lookup is a timeout."""
    host = own()
    alice, ask = begun(host, wait_seconds=0.1)
    host.passes(0.2)
    pending, timeout = alice.receives()
    assert (pending, type(timeout)) == (Pending(1), Timeout)
    host.answers(ask.ticket, Absent())
    assert host.stats().flights == 0
    assert balanced(host)


def test_only_if_cached_reads_store_and_never_leads() -> None:
    """``only_if_cached`` gets the store's entry or a rejection."""
    host = shared()
    alice, ask = begun(host, mode="only_if_cached")
    assert ask.claim is False
    host.answers(ask.ticket, Absent())
    assert alice.receives() == [Rejected(1, "not_cached")]
    assert host.stats().flights == 0
    bob, ask = begun(host, mode="only_if_cached")
    host.answers(ask.ticket, Found(record()))
    assert unpacked(bob.gets(wire.Hit)) == "old"
    assert balanced(host)


def test_caller_joining_gets_asks_for_claim() -> None:
    """A caller that joins gets asks the store again, for the claim."""
    host = shared()
    reader, ask = begun(host, mode="only_if_cached")
    caller = host.peer()
    caller.asks(Begin("key", id=2))
    assert host.wants() == []
    host.answers(ask.ticket, Absent())
    assert reader.receives() == [Rejected(1, "not_cached")]
    again = host.asked()
    assert again.claim is True
    host.answers(again.ticket, Absent("c1"))
    caller.gets(wire.Lease)
    assert host.stats().misses == 2


def test_refresh_does_not_read_store() -> None:
    """A refresh leads immediately with an own store, and claims with a shared one; its answer replaces the entry."""
    host = own()
    alice = host.peer()
    alice.asks(Begin("key", id=1, mode="refresh"))
    alice.gets(wire.Lease)
    assert host.wants() == []
    host = shared()
    bob, ask = begun(host, mode="refresh")
    assert (ask.claim, ask.read_entry) == (True, False)
    host.answers(ask.ticket, Absent(""))
    bob.completes(bob.gets(wire.Lease).lease, "new")
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert write.replace is True


def test_get_reads_store() -> None:
    """Several gets cost one read; an entry in the sharing window is a miss."""
    host = own()
    actors = [host.peer() for _ in range(3)]
    for actor in actors:
        actor.asks(Get("key", id=4))

    host.answers(host.asked().ticket, Found(record(age=100.0, ttl=50.0, window=200.0)))
    assert [actor.receives() for actor in actors] == [[Miss(4)]] * 3
    actors[0].asks(Get("other", id=5))
    host.answers(host.asked().ticket, Found(record()))
    assert unpacked(actors[0].gets(wire.Hit)) == "old"
    actors[0].asks(Get("nothing", id=6))
    host.answers(host.asked().ticket, Absent())
    assert actors[0].receives() == [Miss(6)]
    assert host.stats().flights == 0


def test_get_of_key_in_flight_is_a_miss() -> None:
    """A get of a key in flight is a miss: the store was read before."""
    host = own()
    alice, ask = begun(host)
    host.answers(ask.ticket, Absent())
    alice.receives()
    alice.asks(Get("key", id=2))
    assert alice.receives() == [Miss(2)]
    assert host.wants() == []


def test_expired_record_is_a_miss() -> None:
    """An expired record of the store is a miss."""
    host = own()
    alice, ask = begun(host)
    host.answers(ask.ticket, Found(record(age=300.0)))
    alice.gets(wire.Lease)


def test_put_during_lookup_wins() -> None:
    """A put wins over the store's answer: 1. the store is asked; 2. the key is put; 3. the old answer arrives."""
    for answer in (Found(record("old")), Absent(), Unavailable()):
        host = own()
        alice, ask = begun(host)
        host.peer().asks(Put("key", packed("put"), id=9))
        host.answers(ask.ticket, answer)
        assert unpacked(alice.gets(wire.Hit)) == "put"
        alice.asks(Begin("key", id=2))
        assert unpacked(alice.gets(wire.Hit)) == "put"


@pytest.mark.parametrize(
    "change", ["delete", "purge", "removed elsewhere", "stored elsewhere", "purged elsewhere", "missed"]
)
def test_outdated_answer_is_asked_for_again(change: str) -> None:
    """The store is asked again: 1. it is asked; 2. the entry changes; 3. the old entry arrives."""
    host = shared()
    alice, ask = begun(host)
    operator = host.peer(0, 0, operator=True)
    match change:
        case "delete":
            alice.asks(Delete("key", id=8))
        case "purge":
            operator.asks(Purge(id=8))
        case "removed elsewhere":
            host.happens(KeyChanged(SCOPE, "key", "removed"))
        case "stored elsewhere":
            host.happens(KeyChanged(SCOPE, "key", "stored"))
        case "purged elsewhere":
            host.happens(EntriesPurged("default", None))
        case _:
            host.happens(InvalidationsMissed())

    assert not any(isinstance(wanted, StoreRead) for wanted in host.wants())
    host.answers(ask.ticket, Found(record("old")))
    assert alice.receives() == []
    again = host.asked()
    assert again.ticket != ask.ticket
    host.answers(again.ticket, Found(record("new")))
    assert unpacked(alice.gets(wire.Hit)) == "new"


def test_claim_is_valid_after_key_change() -> None:
    """A claim is used although the key changed during the lookup."""
    host = shared()
    alice, ask = begun(host)
    host.happens(KeyChanged(SCOPE, "key", "removed"))
    host.answers(ask.ticket, Absent("c1"))
    alice.gets(wire.Lease)
    assert host.stats().claims == 1


def test_callers_wait_for_another_hosts_call() -> None:
    """Callers wait for another host's answer and share it; its key change triggers a new read."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, ClaimedRemotely(15.0))
    assert alice.receives() == [Pending(1)]
    host.peer().waits("key", 2)
    assert host.stats().awaited == 1
    host.passes(3.0)
    host.happens(KeyChanged(SCOPE, "key", "stored"))
    host.answers(host.asked().ticket, Found(record("theirs", age=0.1)))
    answer = alice.gets(wire.Shared)
    assert (unpacked(answer), answer.saved_seconds, answer.backend) == ("theirs", 0.0, "cloud")
    stats = host.stats()
    assert (stats.shared, stats.misses, stats.awaited, stats.flights) == (2, 2, 0, 0)
    assert balanced(host)


def test_expired_remote_claim_is_replaced() -> None:
    """When another host's claim expires, the store is asked again and grants the claim."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, ClaimedRemotely(2.0))
    alice.receives()
    host.passes(1.9)
    assert host.wants() == []
    host.passes(0.2)
    host.answers(host.asked().ticket, Absent("c1"))
    alice.gets(wire.Lease)


@pytest.mark.parametrize("how", ["unshared", "down"])
def test_unshared_remote_answer_or_lost_store_makes_caller_lead(how: str) -> None:
    """A caller leads if the other host's answer is unshared, or the store is down."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, ClaimedRemotely(15.0))
    alice.receives()
    host.happens(
        KeyChanged(SCOPE, "key", "unshared") if how == "unshared" else StoreStateChanged("down", "It is gone.")
    )
    alice.gets(wire.Lease)
    assert host.wants() == []
    assert host.stats().claims == 0


def test_released_remote_claim_is_requested() -> None:
    """When another host releases its claim, this host requests it."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, ClaimedRemotely(15.0))
    alice.receives()
    host.happens(KeyChanged(SCOPE, "key", "released"))
    assert host.asked().claim is True


def test_wait_for_other_host_ends_at_deadline() -> None:
    """A wait for another host ends at the caller's deadline; without callers the store is not asked again."""
    host = shared()
    alice, ask = begun(host, wait_seconds=1.0)
    host.answers(ask.ticket, ClaimedRemotely(5.0))
    host.passes(2.0)
    assert alice.receives() == [Pending(1), Timeout(1, 1.0)]
    host.passes(5.0)
    assert host.wants() == []
    assert host.stats().flights == 0


def test_answer_is_written_with_its_claim() -> None:
    """An answer is written with its claim, which is then used up."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, Absent("c1"))
    alice.completes(alice.gets(wire.Lease).lease, "new")
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert write.claim == "c1"
    host.passes(1.0)
    assert host.wants() == []
    assert host.stats().claims == 0


def test_claim_survives_elections() -> None:
    """A claim survives elections on this host."""
    host = shared()
    alice, ask = begun(host)
    bob = host.peer()
    bob.asks(Begin("key", id=2))
    host.answers(ask.ticket, Absent("c1"))
    alice.fails(alice.gets(wire.Lease).lease)
    bob.receives()
    assert host.wants() == []
    assert host.stats().claims == 1


@pytest.mark.parametrize(
    ("end", "unshared"),
    [
        ("fatal", False),
        ("ignored", True),
        ("transient", False),
        ("lost", False),
        ("not stored", True),
        ("too large", True),
        ("deleted", False),
        ("expired", False),
    ],
)
def test_claim_without_entry_is_released(end: str, unshared: bool) -> None:
    """A claim without an entry is released, with the reason for other hosts' waiters."""
    host = shared(cache_max_bytes=100_000)
    alice, ask = begun(host)
    host.answers(ask.ticket, Absent("c1"))
    lease = alice.gets(wire.Lease).lease
    match end:
        case "fatal" | "ignored" | "transient":
            alice.fails(lease, end)
        case "lost":
            alice.dies()
        case "not stored":
            alice.completes(lease, "new", store=False)
        case "too large":
            alice.completes(lease, "x" * 50_000)
        case "deleted":
            host.peer().asks(Delete("key", id=8))
            alice.completes(lease, "new")
        case _:
            host.passes(20.0)

    releases = [wanted for wanted in host.wants() if isinstance(wanted, StoreRelease)]
    assert releases == [StoreRelease(SCOPE, "key", "c1", unshared)]
    assert host.stats().claims == 0


def test_claim_without_callers_is_released() -> None:
    """A claim is released: 1. the store is asked; 2. all callers leave; 3. the claim is granted."""
    host = shared()
    alice, ask = begun(host)
    alice.dies()
    assert host.wants() == []
    host.answers(ask.ticket, Absent("c1"))
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1")]
    assert host.stats().flights == 0


def test_claim_without_backend_is_released() -> None:
    """A claim is released if no backend admits the call."""
    host = shared()
    host.sets("cloud", "open")
    alice, ask = begun(host, backends=("cloud",))
    host.answers(ask.ticket, Absent("c1"))
    assert alice.gets(wire.Rejected).reason == "breaker_open"
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1")]
    assert balanced(host)


def test_doubted_entry_is_read_from_store_once() -> None:
    """A doubted entry is read from the store once before it is served."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("mine"), id=1))
    host.wants()
    alice.receives()
    host.happens(InvalidationsMissed())
    alice.asks(Begin("key", id=2))
    host.answers(host.asked().ticket, Found(record("theirs")))
    assert unpacked(alice.gets(wire.Hit)) == "theirs"
    alice.asks(Get("key", id=3))
    assert unpacked(alice.gets(wire.Hit)) == "theirs"
    assert host.wants() == []


@pytest.mark.parametrize("get", [False, True])
def test_doubted_entry_is_served_if_store_does_not_answer(get: bool) -> None:
    """A doubted entry is served if the store does not answer or is down."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("mine"), id=1))
    host.wants()
    alice.receives()
    host.happens(InvalidationsMissed())
    alice.asks(Get("key", id=2) if get else Begin("key", id=2))
    host.answers(host.asked().ticket, Unavailable())
    assert unpacked(alice.gets(wire.Hit)) == "mine"
    host.happens(StoreStateChanged("down", "It is gone."))
    alice.asks(Get("key", id=3) if get else Begin("key", id=3))
    assert unpacked(alice.gets(wire.Hit)) == "mine"
    assert host.wants() == []


def test_doubted_entry_absent_from_store_is_removed() -> None:
    """A doubted entry that the store does not have is removed."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("mine"), id=1))
    host.wants()
    alice.receives()
    host.happens(InvalidationsMissed())
    alice.asks(Begin("key", id=2))
    host.answers(host.asked().ticket, Absent("c1"))
    alice.gets(wire.Lease)
    assert host.stats().cache_entries == 0


@pytest.mark.parametrize("how", ["stored", "removed"])
def test_key_change_removes_entry_from_memory(how: str) -> None:
    """Another host's change removes the entry from memory."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("mine"), id=1))
    host.wants()
    alice.receives()
    host.happens(KeyChanged(SCOPE, "key", how))  # type: ignore[arg-type]  # one of its words
    alice.asks(Begin("key", id=2))
    host.asked()


def test_remote_removal_voids_flight() -> None:
    """Another host's removal prevents storing a flight's answer, and gives its claim to later callers of all hosts."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, Absent("c1"))
    lease = alice.gets(wire.Lease).lease
    host.happens(KeyChanged(SCOPE, "key", "removed"))
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1", unshared=False)]
    alice.completes(lease, "new")
    assert host.wants() == []
    assert host.stats().cache_entries == 0


def test_delete_counts_stored_entry() -> None:
    """A delete counts an entry that only the store had."""
    host = own()
    alice = host.peer()
    alice.asks(Delete("key", id=1))
    (remove,) = host.wants()
    assert isinstance(remove, StoreRemove)
    assert alice.receives() == []
    host.answers(remove.ticket, Removed(1))
    assert alice.receives() == [Deleted(1, 1)]
    assert host.stats().deleted == 1


@pytest.mark.parametrize("answer", [Unavailable(), None])
def test_purge_counts_memory_if_store_does_not_answer(answer: Answer | None) -> None:
    """A purge counts memory's entries if the store removes its own later."""
    host = own()
    operator = host.peer(0, 0, operator=True)
    operator.asks(Put("key", packed("v"), id=1))
    operator.receives()
    host.wants()
    if answer is None:
        host.happens(StoreStateChanged("down", "It is gone."))

    operator.asks(Purge(namespace="default", tag=None, id=2))
    (purge,) = host.wants()
    assert isinstance(purge, StorePurge)
    assert (purge.namespace, purge.tag) == ("default", None)
    if answer is not None:
        host.answers(purge.ticket, answer)

    assert operator.receives() == [Deleted(2, 1)]


def test_slow_store_does_not_delay_get_and_delete() -> None:
    """With a slow store, a get is a miss and a delete counts memory's entries."""
    host = own()
    alice = host.peer()
    alice.asks(Get("key", id=1))
    ask = host.asked()
    alice.asks(Delete("other", id=2))
    (remove,) = host.wants()
    assert isinstance(remove, StoreRemove)
    host.passes(0.29)
    assert alice.receives() == []
    host.passes(0.02)
    assert sorted(alice.receives(), key=lambda reply: reply.id) == [Miss(1), Deleted(2, 0)]
    host.answers(remove.ticket, Removed(1))
    host.answers(ask.ticket, Found(record()))
    assert alice.receives() == []
    assert host.stats().cache_entries == 1


def test_lost_peers_get_no_replies_from_lookups() -> None:
    """Lost peers get no reply to gets, begins and removals."""
    host = own()
    reader, caller, deleter = host.peer(), host.peer(), host.peer()
    reader.asks(Get("key", id=1))
    ask = host.asked()
    caller.asks(Begin("key", id=1))
    deleter.asks(Delete("other", id=1))
    (remove,) = host.wants()
    assert isinstance(remove, StoreRemove)
    for actor in (reader, caller, deleter):
        actor.dies()

    host.answers(remove.ticket, Removed(1))
    host.answers(ask.ticket, Found(record()))
    assert balanced(host)


def test_begin_canceled_during_lookup_gets_nothing() -> None:
    """A begin that is canceled during a lookup gets nothing; the lookup goes on for later callers."""
    host = own()
    alice, ask = begun(host)
    alice.asks(Cancel(1, id=9))
    assert alice.receives() == [wire.Ok(9)]
    host.answers(ask.ticket, Found(record()))
    assert alice.receives() == []
    assert host.stats().cache_entries == 1
    assert balanced(host)


def test_put_too_large_for_memory_removes_stored_entry() -> None:
    """A put too large for memory removes the store's older entry."""
    host = own(cache_max_bytes=100_000)
    alice = host.peer()
    alice.asks(Put("key", packed("x" * 50_000), id=1))
    assert alice.receives() == [wire.Stored(1, stored=False)]
    assert host.wants() == [StoreRemove(0, SCOPE, "key")]


def test_down_store_is_written_but_not_read() -> None:
    """A store that is down is not read, but gets writes for later."""
    host = shared()
    host.happens(StoreStateChanged("down", "It is gone."))
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    alice.completes(alice.gets(wire.Lease).lease, "new")
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert write.claim == ""


def test_read_only_store_is_read_without_claim() -> None:
    """A read-only store is read without a claim."""
    host = shared()
    host.happens(StoreStateChanged("read_only", "It is full."))
    alice, ask = begun(host)
    assert ask.claim is False
    host.answers(ask.ticket, Absent())
    alice.gets(wire.Lease)


def test_store_state_changes_are_noted_once() -> None:
    """A state change of the store is noted once, and health explains it."""
    host = shared()
    host.happens(StoreStateChanged("up"))
    host.happens(StoreMeasured(StoreGauges(store_pending=3)))
    host.happens(StoreStateChanged("down", "It is gone."))
    host.happens(StoreStateChanged("down", "It is still gone."))
    alice = host.peer()
    alice.asks(wire.GetHealth(id=1))
    health = alice.gets(wire.Health)
    assert health.store == "down"
    assert "It is still gone." in health.reasons[0]
    assert health.reasons[1].startswith("3 entries and removals wait")
    host.happens(StoreStateChanged("read_only", "It is full."))
    alice.asks(wire.GetHealth(id=2))
    assert alice.gets(wire.Health).reasons[0].startswith("The store accepts no entries: It is full.")
    host.happens(StoreStateChanged("up"))
    noted = [note for note in host.notes if isinstance(note, notes.StoreFailed | notes.StoreRecovered)]
    assert noted == [
        notes.StoreFailed("down", "It is gone."),
        notes.StoreFailed("read_only", "It is full."),
        notes.StoreRecovered(3),
    ]
    alice.asks(wire.GetHealth(id=3))
    assert alice.gets(wire.Health).reasons == []


def test_table_limits_bound_lookups() -> None:
    """Callers beyond the table limits are rejected immediately."""
    host = own(max_flights=1, max_waiters=2)
    _, ask = begun(host)
    alice = host.peer()
    alice.asks(Begin("other", id=1))
    assert alice.gets(wire.Rejected).reason == "busy"
    alice.asks(Get("other", id=2))
    assert alice.receives() == [Miss(2)]
    alice.asks(Begin("key", id=3))
    alice.asks(Begin("key", id=4))
    assert alice.gets(wire.Rejected).reason == "busy"
    host.answers(ask.ticket, Absent())
    assert balanced(host)


def test_begin_without_key_reads_no_store() -> None:
    """Begins without a key read no store."""
    host = shared()
    host.peer().calls()
    assert host.wants() == []


def test_memory_hit_reads_no_store() -> None:
    """A memory hit reads no store."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("v"), id=1))
    alice.receives()
    host.wants()
    alice.asks(Begin("key", id=2))
    alice.gets(wire.Hit)
    assert host.wants() == []
