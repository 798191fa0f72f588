"""A flight begins by a look into the store: one sentence a test."""

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
    """Tell whether every begin has its end, or waits."""
    stats = host.stats()
    ends = stats.hits + stats.shared + stats.leases_first + stats.failed + stats.rejected + stats.timeouts + stats.left
    return stats.begins == ends + stats.waiters


def test_a_hundred_askers_cost_one_look() -> None:
    """All of them get what it finds, and it is in memory from then on."""
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


def test_an_absent_entry_makes_the_longest_waiting_caller_lead() -> None:
    """The others are told to wait, once; the answer is kept."""
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


def test_callers_are_told_to_wait_only_if_the_store_is_slow() -> None:
    """After 20 ms; who comes later, at once; and nobody twice."""
    host = own()
    alice, ask = begun(host)
    host.passes(0.019)
    assert alice.receives() == []
    host.passes(0.002)
    assert alice.receives() == [Pending(1)]
    host.peer().waits("key", 5)
    host.answers(ask.ticket, Absent())
    assert alice.gets(wire.Lease).attempt == 1


def test_who_waits_for_nobody_waits_for_the_store() -> None:
    """``wait_seconds`` 0: the first leads, the others time out, and neither before the store has answered."""
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


def test_a_short_patience_ends_while_the_store_is_asked() -> None:
    """As it does anywhere else."""
    host = own()
    alice, ask = begun(host, wait_seconds=0.1)
    host.passes(0.2)
    pending, timeout = alice.receives()
    assert (pending, type(timeout)) == (Pending(1), Timeout)
    host.answers(ask.ticket, Absent())
    assert host.stats().flights == 0
    assert balanced(host)


def test_only_if_cached_looks_into_the_store_and_nowhere_else() -> None:
    """It gets the entry, or is refused; it never leads."""
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


def test_a_caller_who_joins_readers_gets_a_claim_of_its_own_question() -> None:
    """Readers claim nothing: who would compute the key asks for it when it is known that it must be."""
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


def test_a_refresh_does_not_look() -> None:
    """With a store of our own it leads at once; with a shared one it claims, and its answer replaces what is there."""
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


def test_a_get_reads_the_store() -> None:
    """Several cost one look; what is only shared by the window is a miss to them."""
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


def test_a_get_of_a_key_in_flight_is_a_miss_at_once() -> None:
    """The store was asked when the flight began."""
    host = own()
    alice, ask = begun(host)
    host.answers(ask.ticket, Absent())
    alice.receives()
    alice.asks(Get("key", id=2))
    assert alice.receives() == [Miss(2)]
    assert host.wants() == []


def test_an_expired_entry_is_as_good_as_none() -> None:
    """The store's clock may be a little behind."""
    host = own()
    alice, ask = begun(host)
    host.answers(ask.ticket, Found(record(age=300.0)))
    alice.gets(wire.Lease)


def test_a_put_while_the_store_is_asked_wins() -> None:
    """1. the store is asked; 2. the key is put; 3. what the store had before arrives, or that it has nothing."""
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
def test_an_answer_that_may_be_old_is_asked_for_again(change: str) -> None:
    """1. the store is asked; 2. the entry is changed; 3. what was there before arrives."""
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


def test_a_claim_is_used_even_if_news_came_meanwhile() -> None:
    """That the key is ours to compute is true whatever became of its entry."""
    host = shared()
    alice, ask = begun(host)
    host.happens(KeyChanged(SCOPE, "key", "removed"))
    host.answers(ask.ticket, Absent("c1"))
    alice.gets(wire.Lease)
    assert host.stats().claims == 1


def test_what_another_host_computes_is_waited_for() -> None:
    """Its answer is shared, with the time waited; the store is asked again when there are news."""
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


def test_a_host_that_dies_is_followed_when_its_claim_expires() -> None:
    """Nobody tells: the store is asked again when the time is up, and grants the claim."""
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
def test_who_need_not_wait_for_another_host_goes_on_alone(how: str) -> None:
    """Its answer is for nobody else; or the store is gone, and nobody would tell."""
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


def test_a_claim_that_ends_elsewhere_is_asked_for() -> None:
    """The other host's call has failed: it is our turn."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, ClaimedRemotely(15.0))
    alice.receives()
    host.happens(KeyChanged(SCOPE, "key", "released"))
    assert host.asked().claim is True


def test_waiting_for_another_host_ends_by_the_callers_own_deadline() -> None:
    """And when nobody waits any more, nobody asks any more."""
    host = shared()
    alice, ask = begun(host, wait_seconds=1.0)
    host.answers(ask.ticket, ClaimedRemotely(5.0))
    host.passes(2.0)
    assert alice.receives() == [Pending(1), Timeout(1, 1.0)]
    host.passes(5.0)
    assert host.wants() == []
    assert host.stats().flights == 0


def test_an_answer_is_written_under_its_claim() -> None:
    """Which is then used up."""
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


def test_a_claim_is_kept_while_the_lease_passes_on() -> None:
    """Elections are of this host; the others wait for the key, not for a caller."""
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
        ("deleted", True),
        ("expired", False),
    ],
)
def test_a_claim_without_an_entry_is_given_back(end: str, unshared: bool) -> None:
    """However the flight ends, and with what that means to those who wait on other hosts."""
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


def test_a_claim_that_nobody_wants_any_more_is_given_back() -> None:
    """1. the store is asked; 2. all callers leave; 3. the claim is granted."""
    host = shared()
    alice, ask = begun(host)
    alice.dies()
    assert host.wants() == []
    host.answers(ask.ticket, Absent("c1"))
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1")]
    assert host.stats().flights == 0


def test_a_claim_for_which_no_backend_may_be_called_is_given_back() -> None:
    """Another host may have one."""
    host = shared()
    host.sets("cloud", "open")
    alice, ask = begun(host, backends=("cloud",))
    host.answers(ask.ticket, Absent("c1"))
    assert alice.gets(wire.Rejected).reason == "breaker_open"
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1")]
    assert balanced(host)


def test_a_drain_leads_nobody_whom_the_store_answers() -> None:
    """And asks nothing more."""
    host = shared()
    alice, ask = begun(host)
    host.drains()
    host.answers(ask.ticket, Absent("c1"))
    assert alice.receives() == [Rejected(1, "draining")]
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1")]
    alice.asks(Begin("other", id=2))
    assert alice.receives() == [Rejected(2, "draining")]


def test_an_entry_that_news_may_have_missed_is_asked_for_before_it_is_served() -> None:
    """Once: what the store says is believed until news are missed again."""
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
def test_a_doubted_entry_is_served_where_nobody_can_say_better(get: bool) -> None:
    """The store does not answer, or is known to be down: old beats nothing."""
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


def test_a_doubted_entry_that_the_store_has_not_is_gone() -> None:
    """Somebody has removed it."""
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
def test_news_of_a_key_make_memory_forget_it(how: str) -> None:
    """The next caller asks the store."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("mine"), id=1))
    host.wants()
    alice.receives()
    host.happens(KeyChanged(SCOPE, "key", how))  # type: ignore[arg-type]  # one of its words
    alice.asks(Begin("key", id=2))
    host.asked()


def test_a_removal_elsewhere_voids_what_is_being_computed_here() -> None:
    """As one of our own: those who wait get the answer, memory and store do not."""
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, Absent("c1"))
    lease = alice.gets(wire.Lease).lease
    host.happens(KeyChanged(SCOPE, "key", "removed"))
    alice.completes(lease, "new")
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1", unshared=True)]
    assert host.stats().cache_entries == 0


def test_a_delete_counts_what_the_store_had() -> None:
    """Memory may have had no room for it."""
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
def test_a_purge_counts_what_memory_had_where_the_store_does_not_say(answer: Answer | None) -> None:
    """The store does it later."""
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


def test_a_store_that_takes_long_keeps_no_get_and_no_delete() -> None:
    """Their clients would take the daemon for dead: a get is a miss, a delete counts what memory had, and both go on."""
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


def test_who_is_gone_is_told_nothing() -> None:
    """Readers, callers and those who wait for a removal: an effect for a lost peer is a fault."""
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


def test_a_begin_that_is_taken_back_while_the_store_is_asked_gets_nothing() -> None:
    """The look goes on, for those who come."""
    host = own()
    alice, ask = begun(host)
    alice.asks(Cancel(1, id=9))
    assert alice.receives() == [wire.Ok(9)]
    host.answers(ask.ticket, Found(record()))
    assert alice.receives() == []
    assert host.stats().cache_entries == 1
    assert balanced(host)


def test_a_put_that_is_not_kept_removes_what_the_store_has() -> None:
    """Too large for memory: its older entry may not come back from the store."""
    host = own(cache_max_bytes=100_000)
    alice = host.peer()
    alice.asks(Put("key", packed("x" * 50_000), id=1))
    assert alice.receives() == [wire.Stored(1, stored=False)]
    assert host.wants() == [StoreRemove(0, SCOPE, "key")]


def test_a_store_that_is_down_is_not_asked_but_told() -> None:
    """What is written now it gets when it is back."""
    host = shared()
    host.happens(StoreStateChanged("down", "It is gone."))
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    alice.completes(alice.gets(wire.Lease).lease, "new")
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert write.claim == ""


def test_a_store_that_takes_no_writes_is_asked_without_a_claim() -> None:
    """It could not grant one."""
    host = shared()
    host.happens(StoreStateChanged("read_only", "It is full."))
    alice, ask = begun(host)
    assert ask.claim is False
    host.answers(ask.ticket, Absent())
    alice.gets(wire.Lease)


def test_turns_of_the_store_are_told_once() -> None:
    """And health says what they mean, with what waits."""
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
    told = [note for note in host.notes if isinstance(note, notes.StoreFailed | notes.StoreRecovered)]
    assert told == [
        notes.StoreFailed("down", "It is gone."),
        notes.StoreFailed("read_only", "It is full."),
        notes.StoreRecovered(3),
    ]
    alice.asks(wire.GetHealth(id=3))
    assert alice.gets(wire.Health).reasons == []


def test_tables_bound_what_waits_for_the_store() -> None:
    """Beyond them callers are sent away at once."""
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


def test_calls_without_a_key_have_nothing_to_look_for() -> None:
    """They lead."""
    host = shared()
    host.peer().calls()
    assert host.wants() == []


def test_a_memory_hit_asks_nothing() -> None:
    """The store is behind memory, not before it."""
    host = shared()
    alice = host.peer()
    alice.asks(Put("key", packed("v"), id=1))
    alice.receives()
    host.wants()
    alice.asks(Begin("key", id=2))
    alice.gets(wire.Hit)
    assert host.wants() == []
