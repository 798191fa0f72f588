"""Answers to similar requests. Vectors have two dimensions; tests name them by their angles in degrees."""

import math
import struct
from typing import Any

import pytest

from sidecard.core.cache.entry import TERMS_OVERHEAD_BYTES
from sidecard.core.cache.similarity import GROUP_OVERHEAD_BYTES, NEAREST, VECTOR_OVERHEAD_BYTES
from sidecard.core.effects import StoreRead, StoreRelease
from sidecard.core.events import Absent, Answer, ClaimedRemotely, Found, InvalidationsMissed, Unavailable
from sidecard.core.records import Record
from sidecard.core.settings import TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Chunk, End, Error, Hit, Lease, Pending, Rejected, VectorWanted
from tests.host import Actor, Host, packed, unpacked

SIMILAR = TaskSettings(similar=True, similar_threshold=0.95)
TASKS = {"general": SIMILAR, "other": SIMILAR}
NEAR = 10.0
"""Degrees that are near enough: the cosine is 0.985. 20 are not: 0.940."""


def angle(degrees: float) -> bytes:
    """Return the vector of that angle."""
    return struct.pack("<2f", math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def similar_host(**settings: Any) -> tuple[Host, Actor]:
    """Return a host that looks for similar requests, and a peer."""
    host = Host(**{"tasks": TASKS} | settings)
    return host, host.peer()


def learns(peer: Actor, key: str, degrees: float, value: Any = None, **fields: Any) -> None:
    """Make a call that has a vector; its answer is its key unless ``value`` says otherwise."""
    lease = peer.leads(key, vector=angle(degrees), group=fields.pop("group", "g"), **fields)
    peer.completes(lease, key if value is None else value)


def asks(peer: Actor, key: str, degrees: float, **fields: Any) -> wire.AnyReply:
    """Begin with a vector and return the one reply."""
    peer.asks(Begin(key, id=7, vector=angle(degrees), group=fields.pop("group", "g"), **fields))
    (reply,) = peer.receives()
    return reply


def test_similar_answer_is_served_with_similarity() -> None:
    """A similar request's answer is served with its similarity and booked as a similar hit."""
    host, alice = similar_host()
    lease = alice.leads("paris?", vector=angle(0), group="g")
    host.passes(2.0)
    alice.completes(lease, "Paris", usage=wire.Usage(model="m", cost_dollars=0.5))
    host.passes(3.0)
    reply = asks(host.peer(), "paris please", NEAR)

    assert isinstance(reply, Hit)
    assert (unpacked(reply), reply.age_seconds, reply.saved_seconds, reply.saved_dollars) == ("Paris", 3.0, 2.0, 0.5)
    assert reply.similarity == pytest.approx(math.cos(math.radians(NEAR)))
    stats = host.stats()
    assert (stats.hits, stats.similar_hits, stats.misses, stats.vectors, stats.stored) == (1, 1, 1, 1, 1)
    total = host.report().total
    assert (total.hits, total.similar_hits, total.upstream_calls) == (1, 1, 1)
    assert (total.saved_by_similar_seconds, total.saved_by_similar_dollars) == (2.0, 0.5)
    assert (total.saved_by_cache_seconds, total.saved_by_cache_dollars) == (2.0, 0.5)
    assert total.served_dollars == total.billed_dollars + total.saved_by_cache_dollars + total.saved_by_sharing_dollars
    samples = host.samples()
    assert samples["sidecard_cache_hits_total freshness=similar task=general"] == 1
    assert samples["sidecard_cache_hits_total freshness=fresh task=general"] == 0
    assert samples["sidecard_vectors"] == 1


def test_request_below_threshold_leads() -> None:
    """A request below the similarity threshold leads."""
    _, alice = similar_host()
    learns(alice, "a", 0)

    assert isinstance(asks(alice, "b", 20), Lease)


def test_own_answer_precedes_similar_one() -> None:
    """A request's own answer is served before any similar one."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    learns(alice, "b", 60)
    reply = asks(alice, "b", 0)

    assert isinstance(reply, Hit)
    assert (unpacked(reply), reply.similarity) == ("b", None)
    assert host.stats().similar_hits == 0


def test_nearest_similar_answer_is_served() -> None:
    """The nearest of several similar answers is served."""
    _, alice = similar_host()
    for key, degrees in (("a", 0), ("b", 14), ("c", 40)):
        learns(alice, key, degrees, **({"mode": "refresh"} if key == "b" else {}))

    reply = asks(alice, "d", 9)

    assert isinstance(reply, Hit)
    assert unpacked(reply) == "b"


def test_flight_is_shared_by_equal_key_only() -> None:
    """A similar request leads its own flight; an equal key waits."""
    _, alice = similar_host()
    learns(alice, "a", 0)
    lease = alice.leads("b", 2, vector=angle(60), group="g")

    assert isinstance(asks(alice, "c", 60 + NEAR), Lease)
    alice.asks(Begin("b", id=8, vector=angle(0), group="g"))
    assert alice.receives() == [Pending(8)]
    alice.asks(wire.Complete(lease, packed("of b"), id=9))
    assert unpacked(alice.receives()[-1]) == "of b"


@pytest.mark.parametrize(
    "fields",
    [{"namespace": "elsewhere"}, {"task": "other"}, {"group": "another"}, {"stream": True}],
    ids=["namespace", "task", "group", "stream"],
)
def test_similar_requests_share_namespace_task_group_and_form(fields: dict[str, Any]) -> None:
    """Similar requests agree in namespace, task, group, and stream."""
    _, alice = similar_host()
    learns(alice, "a", 0)

    assert isinstance(asks(alice, "b", 0, **fields), Lease)


def test_other_uid_gets_no_similar_answer() -> None:
    """Another uid gets no similar answer."""
    host, alice = similar_host()
    learns(alice, "a", 0)

    assert isinstance(asks(host.peer(uid=4242), "b", 0), Lease)


def test_similar_hit_stores_no_entry() -> None:
    """A similar hit stores no entry under its key: meanings would drift."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    assert isinstance(asks(alice, "b", NEAR), Hit)

    assert isinstance(asks(alice, "c", 2 * NEAR), Lease)
    alice.asks(wire.Get("b", id=8))
    assert alice.receives() == [wire.Miss(8)]
    assert host.stats().cache_entries == 1


def test_vector_is_requested_if_useful() -> None:
    """A vector is requested if there is neither an entry nor a flight; that ends the begin."""
    host, alice = similar_host()
    alice.asks(Begin("a", id=1, embeds=True))
    assert alice.receives() == [VectorWanted(1)]
    learns(alice, "a", 0)
    alice.asks(Begin("a", id=2, embeds=True))
    assert isinstance(alice.gets(Hit), Hit)
    alice.leads("b", 3, vector=angle(90), group="g")
    alice.asks(Begin("b", id=4, embeds=True))
    assert alice.receives() == [Pending(4)]
    alice.asks(Begin("c", id=5, embeds=True, mode="only_if_cached"))
    assert alice.receives() == [VectorWanted(5)]
    reply = asks(alice, "c", NEAR, mode="only_if_cached")
    assert isinstance(reply, Hit)
    reply = asks(alice, "c", 45, mode="only_if_cached")
    assert isinstance(reply, Rejected)

    stats = host.stats()
    assert stats.vectors_wanted == 2
    ends = stats.hits + stats.shared + stats.leases_first + stats.failed + stats.rejected + stats.timeouts + stats.left
    assert stats.begins == ends + stats.waiters + stats.vectors_wanted


def test_task_without_similarity_ignores_vectors() -> None:
    """A task without similarity ignores vectors, even malformed ones."""
    host, alice = similar_host(tasks={"other": SIMILAR})
    alice.completes(alice.leads("a", vector=b"wrong", embeds=True), "a")

    assert isinstance(asks(alice, "b", 0), Lease)
    assert (host.stats().vectors, host.stats().vectors_wanted) == (0, 0)


def test_refresh_gets_no_similar_answer_but_is_indexed() -> None:
    """A refresh gets no similar answer, but its own answer is indexed."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    alice.asks(Begin("b", id=1, embeds=True, mode="refresh"))
    assert alice.receives() == [VectorWanted(1)]
    learns(alice, "b", 1, "new", mode="refresh")

    reply = asks(alice, "c", 2)
    assert isinstance(reply, Hit)
    assert unpacked(reply) == "new"
    assert host.stats().vectors == 2


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (b"12345", "5 bytes are not a whole count"),
        (struct.pack("<2f", 1.0, math.nan), "infinite or not a number"),
        (struct.pack("<2f", 1.0, math.inf), "infinite or not a number"),
        ((1.0, 1e300), "infinite or not a number"),
        ((0.0, 0.0), "all of its numbers are 0"),
        (struct.pack("<3f", 1.0, 2.0, 3.0), "has 3 dimensions, and those of its group have 2"),
    ],
)
def test_invalid_vector_is_an_error(vector: Any, said: str) -> None:
    """An invalid vector is an error that says what to change; the begin is not counted."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    before = host.stats().begins
    alice.asks(Begin("b", id=1, vector=vector, group="g"))

    refused = alice.gets(Error)
    assert refused.code == "bad_request"
    assert said in refused.message
    assert host.stats().begins == before
    assert isinstance(asks(alice, "c", 0), Hit)


def test_vector_without_group_is_an_error() -> None:
    """A vector without a group is an error."""
    _, alice = similar_host()
    alice.asks(Begin("b", id=1, vector=angle(0)))

    assert "group is missing" in alice.gets(Error).message


def test_vector_may_be_a_list_of_numbers() -> None:
    """A vector may be a list of numbers, for hand-written JSON."""
    _, alice = similar_host()
    alice.completes(alice.leads("a", vector=(3.0, 0.0), group="g"), "a")

    assert isinstance(asks(alice, "b", NEAR), Hit)


def test_empty_group_accepts_any_dimension() -> None:
    """A group's first vector fixes its dimension until the group is empty again."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    alice.asks(wire.Delete("a", id=1))
    alice.receives()
    assert host.stats().vectors == 0
    alice.completes(alice.leads("b", vector=(1.0, 0.0, 0.0), group="g"), "b")
    alice.asks(Begin("c", id=2, vector=(1.0, 0.1, 0.0), group="g"))

    assert isinstance(alice.gets(Hit), Hit)


def test_second_dimension_is_stored_without_vector() -> None:
    """Of two callers that began with different dimensions, the second answer is stored without its vector."""
    host, alice = similar_host()
    two = alice.leads("a", 1, vector=angle(0), group="g")
    three = alice.leads("b", 2, vector=(1.0, 0.0, 0.0), group="g")
    alice.completes(two, "a")
    alice.completes(three, "b")

    assert (host.stats().vectors, host.stats().cache_entries) == (1, 2)


@pytest.mark.parametrize("how", ["deleted", "purged", "tagged", "expired", "replaced", "put", "evicted", "resized"])
def test_vector_leaves_with_its_entry(how: str) -> None:
    """A vector and its bytes leave with its entry, by whatever way."""
    host, alice = similar_host(ttl_seconds=100.0, cache_max_bytes=60_000)
    root = host.peer(operator=True)
    alice.completes(alice.leads("a", vector=angle(0), group="g"), "a", tags=("t",))
    assert host.stats().vectors == 1
    match how:
        case "deleted":
            alice.asks(wire.Delete("a", id=1))
        case "purged":
            root.asks(wire.Purge(id=1))
        case "tagged":
            root.asks(wire.Purge(tag="t", id=1))
        case "expired":
            host.passes(102.0)
        case "replaced":
            alice.completes(alice.leads("a", mode="refresh", vector=angle(90), group="g"), "new")
        case "put":
            alice.asks(wire.Put("a", packed("new"), id=1))
        case "evicted":
            for number in range(200):
                alice.completes(alice.leads(f"other {number}"), "x" * 100)
        case "resized":
            host.reads(tasks=TASKS, cache_max_bytes=0)

    alice.receives()
    assert isinstance(asks(alice, "b", 0), Lease)
    assert host.stats().vectors == (how == "replaced")
    assert len(host.engine._similar.groups) == (how == "replaced")


def test_vector_counts_in_cache_budget() -> None:
    """A vector's numbers and its index overhead count in the cache's budget."""
    host, alice = similar_host()
    alice.completes(alice.leads("a"), "v")
    without = host.stats().cache_bytes
    learns(alice, "b", 0, "v")

    more = 2 * 4 + VECTOR_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES + TERMS_OVERHEAD_BYTES + len("default" + "general")
    assert host.stats().cache_bytes - 2 * without == more
    alice.asks(wire.Delete("b", id=1))
    assert host.stats().cache_bytes == without


def test_full_group_forgets_oldest_vector() -> None:
    """A full group forgets the oldest vector; the entry stays for its own key."""
    host, alice = similar_host(tasks={"general": TaskSettings(similar=True, similar_max_entries=2)})
    for key, degrees in (("a", 0), ("b", 90), ("c", 180)):
        learns(alice, key, degrees)

    assert (host.stats().vectors, host.stats().cache_entries) == (2, 3)
    assert isinstance(asks(alice, "a", 0), Hit)
    assert isinstance(asks(alice, "d", 0), Lease)
    assert isinstance(asks(alice, "e", 181), Hit)
    alice.asks(wire.Delete("a", id=1))
    assert host.stats().vectors == 2


def test_stale_answer_is_skipped_for_next_nearest() -> None:
    """A stale answer is not served to similar requests; the next nearest is."""
    host, alice = similar_host(ttl_seconds=10.0, stale_seconds=100.0, sharing_window_seconds=0.0)
    learns(alice, "a", 0)
    host.passes(8.0)
    learns(alice, "b", 30)
    host.passes(5.0)

    assert isinstance(asks(alice, "c", -NEAR), Lease)
    reply = asks(alice, "d", 15)
    assert isinstance(reply, Hit)
    assert unpacked(reply) == "b"


def test_only_nearest_few_are_considered() -> None:
    """Only the nearest few answers are considered."""
    host, alice = similar_host(ttl_seconds=10.0, stale_seconds=100.0, sharing_window_seconds=0.0)
    leases = [
        alice.leads(f"{number}", number, vector=angle(number / 10), group="g") for number in range(1, NEAREST + 1)
    ]
    for lease in leases:
        alice.completes(lease, "stale")

    host.passes(11.0)
    learns(alice, "fresh", 5)

    assert isinstance(asks(alice, "q", 0), Lease)
    assert isinstance(asks(alice, "r", 5), Hit)


def test_answer_in_sharing_window_is_not_similar() -> None:
    """An answer that only the sharing window keeps is served to equal keys only."""
    host, alice = similar_host(cache_max_bytes=0)
    learns(alice, "a", 0)

    assert isinstance(asks(alice, "a", 0), wire.Shared)
    assert isinstance(asks(alice, "b", 0), Lease)
    assert host.stats().similar_hits == 0


def test_replacing_caller_inherits_vector() -> None:
    """A caller that replaces an answer is not asked for a vector: the old one stays valid."""
    host, alice = similar_host(ttl_seconds=10.0, stale_seconds=100.0, sharing_window_seconds=0.0)
    learns(alice, "a", 0)
    host.passes(11.0)
    alice.asks(Begin("a", id=3, embeds=True))
    lease = alice.gets(Lease)
    alice.completes(lease.lease, "new")

    reply = asks(alice, "b", NEAR)
    assert isinstance(reply, Hit)
    assert (unpacked(reply), host.stats().vectors) == ("new", 1)


def test_similar_stream_is_served_in_chunks() -> None:
    """A similar stream is served in chunks; the first chunk and the end carry the similarity."""
    _, alice = similar_host()
    lease = alice.leads("a", vector=angle(0), group="g", stream=True)
    alice.appends(lease, "one", "two")
    alice.asks(wire.Complete(lease, id=3))
    alice.receives()
    alice.asks(Begin("b", id=4, vector=angle(NEAR), group="g", stream=True))

    first, _, end = alice.receives()
    assert isinstance(first, Chunk)
    assert isinstance(end, End)
    assert first.similarity == end.similarity == pytest.approx(math.cos(math.radians(NEAR)))
    assert (first.source, end.source) == ("cache", "cache")


def test_reload_enables_and_disables_similarity() -> None:
    """A reload that disables similarity drops all vectors; a new threshold applies to existing ones."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    host.reads(tasks={"general": TaskSettings(similar=True, similar_threshold=0.9)})
    assert isinstance(asks(alice, "b", 20), Hit)
    host.reads()
    assert host.stats().vectors == 0
    assert isinstance(asks(alice, "c", 0), Lease)
    host.reads(tasks=TASKS)
    assert isinstance(asks(alice, "d", 0), Lease)
    assert isinstance(asks(alice, "a", 0), Hit)


def test_uncached_task_requests_no_vector() -> None:
    """A task that stores nothing requests no vectors and serves no earlier ones."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    host.reads(tasks={"general": TaskSettings(similar=True, cache="never")})

    assert host.stats().vectors == 0
    alice.asks(Begin("b", id=7, embeds=True))
    assert isinstance(alice.gets(Lease), Lease)
    assert isinstance(asks(alice, "c", 0), Lease)
    assert host.stats().vectors_wanted == 0


def test_unvalidated_vector_is_not_indexed() -> None:
    """A vector sent before its task enabled similarity is not indexed."""
    host, alice = similar_host(tasks={})
    wrong = alice.leads("a", 1, vector=b"wrong", group="g")
    ungrouped = alice.leads("b", 2, vector=angle(0))
    host.reads(tasks=TASKS)
    alice.completes(wrong, "a")
    alice.completes(ungrouped, "b")

    assert (host.stats().vectors, host.stats().cache_entries) == (0, 2)


def store_says(host: Host, answer: Answer) -> None:
    """Let the store answer the question that is open."""
    (ask,) = (effect for effect in host.wants() if isinstance(effect, StoreRead))
    host.answers(ask.ticket, answer)


# With a store -------------------------------------------------------------------------------------------------------


def test_store_is_read_before_similar_answer() -> None:
    """The store is read before a similar answer in memory is served."""
    host, alice = similar_host(store="own")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent())
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Found(Record(bytes(packed("own")), 1.0, 60.0, 0.0, "default")))
    hit = alice.gets(Hit)
    assert (unpacked(hit), hit.similarity) == ("own", None)
    alice.asks(Begin("c", id=3, vector=angle(0), group="g"))
    assert alice.receives() == []
    store_says(host, Absent())

    assert alice.gets(Hit).similarity == 1.0
    assert (host.stats().flights, host.stats().misses, host.stats().similar_hits) == (0, 1, 1)


def test_waiters_for_store_are_served_or_asked_for_vector() -> None:
    """After a store miss, waiters get a similar answer, are asked for a vector, or lead."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("claim"))
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, embeds=True))
    alice.asks(Begin("b", id=3, vector=angle(NEAR), group="g", mode="only_if_cached"))
    alice.asks(Begin("b", id=4))
    alice.asks(Begin("b", id=5, embeds=True, mode="refresh"))
    store_says(host, Absent("claim"))

    kinds = {reply.id: type(reply) for reply in alice.receives()}
    assert kinds == {2: VectorWanted, 3: Hit, 4: Lease, 5: VectorWanted}


def test_claim_is_released_after_similar_hit() -> None:
    """A claim is released if a similar answer ends the flight."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Absent("two"))

    assert alice.gets(Hit).similarity == 1.0
    assert [effect.claim for effect in host.wants() if isinstance(effect, StoreRelease)] == ["two"]
    assert (host.stats().flights, host.stats().claims) == (0, 0)


def test_another_hosts_call_precedes_similar_answer() -> None:
    """A caller waits for another host's call of its own key."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, ClaimedRemotely(5.0))

    assert alice.receives() == [Pending(2)]


def test_doubted_entry_is_not_served_as_similar() -> None:
    """A doubted entry is not served to similar requests."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    host.happens(InvalidationsMissed())
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Unavailable())

    assert isinstance(alice.gets(Lease), Lease)


def test_own_stale_answer_is_refreshed_despite_similar_one() -> None:
    """A caller with a stale answer of its own leads, although a similar answer exists."""
    host, alice = similar_host(store="own", ttl_seconds=10.0, stale_seconds=100.0, sharing_window_seconds=0.0)
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent())
    alice.completes(alice.gets(Lease).lease, "a")
    host.passes(11.0)
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Absent())
    alice.completes(alice.gets(Lease).lease, "b")
    alice.asks(Begin("a", id=3, vector=angle(0), group="g"))
    store_says(host, Absent())

    assert alice.gets(Lease).stale_age_seconds == 11.0


def test_caller_leads_after_other_host_fails() -> None:
    """A caller leads after another host's call has failed."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, ClaimedRemotely(5.0))
    assert alice.receives() == [Pending(2)]
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    host.passes(6.0)
    store_says(host, Absent("two"))

    assert isinstance(alice.gets(Lease), Lease)
    assert (host.stats().misses, host.stats().similar_hits) == (2, 0)


def test_similar_hit_counts_for_eviction() -> None:
    """A similar hit counts for eviction like a hit."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    cache = host.engine._policy.cache
    entry = cache.peek(cache.scopes()[0], "a")
    assert entry is not None
    assert entry.recent_hits == 0
    asks(alice, "b", NEAR)

    assert entry.recent_hits == 1
