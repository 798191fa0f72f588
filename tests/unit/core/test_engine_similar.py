"""Answers to similar requests: one sentence a test. Vectors have two dimensions, and are named by their angles in degrees."""

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


def test_the_answer_to_a_similar_request_is_served_with_its_similarity() -> None:
    """It says how similar, and is counted as a hit of its own kind; what it saved is what the other call took."""
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


def test_below_the_threshold_there_is_a_lease() -> None:
    """20 degrees are too far."""
    _, alice = similar_host()
    learns(alice, "a", 0)

    assert isinstance(asks(alice, "b", 20), Lease)


def test_the_own_answer_comes_first() -> None:
    """It has no similarity, however near another one is."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    learns(alice, "b", 60)
    reply = asks(alice, "b", 0)

    assert isinstance(reply, Hit)
    assert (unpacked(reply), reply.similarity) == ("b", None)
    assert host.stats().similar_hits == 0


def test_the_nearest_of_several_is_served() -> None:
    """Not the first, nor the last that came."""
    _, alice = similar_host()
    for key, degrees in (("a", 0), ("b", 14), ("c", 40)):
        learns(alice, key, degrees, **({"mode": "refresh"} if key == "b" else {}))

    reply = asks(alice, "d", 9)

    assert isinstance(reply, Hit)
    assert unpacked(reply) == "b"


def test_a_call_in_flight_is_shared_by_its_own_key_alone() -> None:
    """A similar request makes its own call; one of the same key waits, though something similar is stored."""
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
def test_nothing_else_may_differ(fields: dict[str, Any]) -> None:
    """Neither the namespace, nor the task, the group, and whether the answer comes in pieces."""
    _, alice = similar_host()
    learns(alice, "a", 0)

    assert isinstance(asks(alice, "b", 0, **fields), Lease)


def test_another_uid_is_served_nothing_similar() -> None:
    """Namespaces are private, whatever they are called."""
    host, alice = similar_host()
    learns(alice, "a", 0)

    assert isinstance(asks(host.peer(uid=4242), "b", 0), Lease)


def test_a_similar_hit_makes_no_entry_under_the_key_that_was_asked() -> None:
    """Else meanings would drift: what is near to the near would be served too."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    assert isinstance(asks(alice, "b", NEAR), Hit)

    assert isinstance(asks(alice, "c", 2 * NEAR), Lease)
    alice.asks(wire.Get("b", id=8))
    assert alice.receives() == [wire.Miss(8)]
    assert host.stats().cache_entries == 1


def test_a_vector_is_asked_for_where_it_would_help() -> None:
    """With neither an answer nor a call there; then the begin is over, and the next one has it."""
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


def test_a_task_that_looks_for_nothing_similar_has_vectors_not_looked_at() -> None:
    """Not even wrong ones, and it asks for none."""
    host, alice = similar_host(tasks={"other": SIMILAR})
    alice.completes(alice.leads("a", vector=b"wrong", embeds=True), "a")

    assert isinstance(asks(alice, "b", 0), Lease)
    assert (host.stats().vectors, host.stats().vectors_wanted) == (0, 0)


def test_refresh_looks_for_nothing_similar_and_leaves_its_answer_to_others() -> None:
    """It is asked for its vector for their sake."""
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
def test_what_is_no_vector_of_the_group_is_an_error_that_says_what_to_change(vector: Any, said: str) -> None:
    """And nothing has changed by it: the begin is not even counted."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    before = host.stats().begins
    alice.asks(Begin("b", id=1, vector=vector, group="g"))

    refused = alice.gets(Error)
    assert refused.code == "bad_request"
    assert said in refused.message
    assert host.stats().begins == before
    assert isinstance(asks(alice, "c", 0), Hit)


def test_a_vector_without_a_group_is_an_error() -> None:
    """It could be compared with anything."""
    _, alice = similar_host()
    alice.asks(Begin("b", id=1, vector=angle(0)))

    assert "group is missing" in alice.gets(Error).message


def test_numbers_do_as_well_as_their_bytes() -> None:
    """For whoever writes JSON by hand."""
    _, alice = similar_host()
    alice.completes(alice.leads("a", vector=(3.0, 0.0), group="g"), "a")

    assert isinstance(asks(alice, "b", NEAR), Hit)


def test_a_group_is_of_any_dimension_again_once_it_is_empty() -> None:
    """What fixes it is its first vector."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    alice.asks(wire.Delete("a", id=1))
    alice.receives()
    assert host.stats().vectors == 0
    alice.completes(alice.leads("b", vector=(1.0, 0.0, 0.0), group="g"), "b")
    alice.asks(Begin("c", id=2, vector=(1.0, 0.1, 0.0), group="g"))

    assert isinstance(alice.gets(Hit), Hit)


def test_of_two_callers_with_other_dimensions_the_second_is_stored_without() -> None:
    """Both began when the group was empty."""
    host, alice = similar_host()
    two = alice.leads("a", 1, vector=angle(0), group="g")
    three = alice.leads("b", 2, vector=(1.0, 0.0, 0.0), group="g")
    alice.completes(two, "a")
    alice.completes(three, "b")

    assert (host.stats().vectors, host.stats().cache_entries) == (1, 2)


@pytest.mark.parametrize("how", ["deleted", "purged", "tagged", "expired", "replaced", "put", "evicted", "resized"])
def test_a_vector_leaves_with_its_entry(how: str) -> None:
    """By whatever way it leaves, nothing similar is found any more, and no byte of it stays."""
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


def test_a_vector_counts_in_the_caches_budget() -> None:
    """With its numbers, and what it costs in the index."""
    host, alice = similar_host()
    alice.completes(alice.leads("a"), "v")
    without = host.stats().cache_bytes
    learns(alice, "b", 0, "v")

    more = 2 * 4 + VECTOR_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES + TERMS_OVERHEAD_BYTES + len("default" + "general")
    assert host.stats().cache_bytes - 2 * without == more
    alice.asks(wire.Delete("b", id=1))
    assert host.stats().cache_bytes == without


def test_beyond_its_bound_a_group_forgets_the_vector_of_the_oldest() -> None:
    """Its entry stays, for its own key."""
    host, alice = similar_host(tasks={"general": TaskSettings(similar=True, similar_max_entries=2)})
    for key, degrees in (("a", 0), ("b", 90), ("c", 180)):
        learns(alice, key, degrees)

    assert (host.stats().vectors, host.stats().cache_entries) == (2, 3)
    assert isinstance(asks(alice, "a", 0), Hit)
    assert isinstance(asks(alice, "d", 0), Lease)
    assert isinstance(asks(alice, "e", 181), Hit)
    alice.asks(wire.Delete("a", id=1))
    assert host.stats().vectors == 2


def test_a_stale_answer_is_served_to_nobody_else_and_the_next_nearest_is() -> None:
    """What is beyond its time is not certain enough to be served for something else as well."""
    host, alice = similar_host(ttl_seconds=10.0, stale_seconds=100.0, sharing_window_seconds=0.0)
    learns(alice, "a", 0)
    host.passes(8.0)
    learns(alice, "b", 30)
    host.passes(5.0)

    assert isinstance(asks(alice, "c", -NEAR), Lease)
    reply = asks(alice, "d", 15)
    assert isinstance(reply, Hit)
    assert unpacked(reply) == "b"


def test_only_the_nearest_few_are_looked_at() -> None:
    """Behind so many stale ones there is nothing."""
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


def test_an_answer_that_is_only_shared_by_the_window_is_not_served() -> None:
    """Where nothing is cached, only those of the same key share."""
    host, alice = similar_host(cache_max_bytes=0)
    learns(alice, "a", 0)

    assert isinstance(asks(alice, "a", 0), wire.Shared)
    assert isinstance(asks(alice, "b", 0), Lease)
    assert host.stats().similar_hits == 0


def test_who_replaces_an_answer_is_not_asked_for_its_vector_which_stays() -> None:
    """The key is the same, so is the text: a stale answer's vector passes to the new one."""
    host, alice = similar_host(ttl_seconds=10.0, stale_seconds=100.0, sharing_window_seconds=0.0)
    learns(alice, "a", 0)
    host.passes(11.0)
    alice.asks(Begin("a", id=3, embeds=True))
    lease = alice.gets(Lease)
    alice.completes(lease.lease, "new")

    reply = asks(alice, "b", NEAR)
    assert isinstance(reply, Hit)
    assert (unpacked(reply), host.stats().vectors) == ("new", 1)


def test_a_stream_is_served_to_similar_ones_piece_by_piece() -> None:
    """The first piece and the end say how similar."""
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


def test_settings_that_are_read_again_end_it_and_begin_it() -> None:
    """Off drops all vectors, on begins with none; another threshold holds for what is there."""
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


def test_of_a_task_that_stores_nothing_no_vector_is_wanted() -> None:
    """Its callers would embed each request, for nobody. What was found by its vector before is found no more."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    host.reads(tasks={"general": TaskSettings(similar=True, cache="never")})

    assert host.stats().vectors == 0
    alice.asks(Begin("b", id=7, embeds=True))
    assert isinstance(alice.gets(Lease), Lease)
    assert isinstance(asks(alice, "c", 0), Lease)
    assert host.stats().vectors_wanted == 0


def test_a_vector_that_nobody_looked_at_is_not_kept_when_its_answer_comes() -> None:
    """The task began to look for similar requests in between."""
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


def test_the_store_is_asked_first() -> None:
    """An answer of one's own that is only there is better than a similar one in memory."""
    host, alice = similar_host(store="own")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent())
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Found(Record(packed("own"), 1.0, 60.0, 0.0, "default")))
    hit = alice.gets(Hit)
    assert (unpacked(hit), hit.similarity) == ("own", None)
    alice.asks(Begin("c", id=3, vector=angle(0), group="g"))
    assert alice.receives() == []
    store_says(host, Absent())

    assert alice.gets(Hit).similarity == 1.0
    assert (host.stats().flights, host.stats().misses, host.stats().similar_hits) == (0, 1, 1)


def test_all_who_waited_for_the_store_are_served_or_asked_for_their_vector() -> None:
    """Each by what it brings; who brings nothing leads."""
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


def test_a_claim_that_nobody_needs_is_given_back() -> None:
    """The flight is over with the similar answer."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Absent("two"))

    assert alice.gets(Hit).similarity == 1.0
    assert [effect.claim for effect in host.wants() if isinstance(effect, StoreRelease)] == ["two"]
    assert (host.stats().flights, host.stats().claims) == (0, 0)


def test_another_hosts_call_is_waited_for() -> None:
    """It is the very answer that was asked for."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, ClaimedRemotely(5.0))

    assert alice.receives() == [Pending(2)]


def test_what_is_doubted_is_not_served_to_similar_requests() -> None:
    """News of other hosts were missed, so it may have been deleted there."""
    host, alice = similar_host(store="shared")
    alice.asks(Begin("a", id=1, vector=angle(0), group="g"))
    store_says(host, Absent("one"))
    alice.completes(alice.gets(Lease).lease, "a")
    host.happens(InvalidationsMissed())
    alice.asks(Begin("b", id=2, vector=angle(0), group="g"))
    store_says(host, Unavailable())

    assert isinstance(alice.gets(Lease), Lease)


def test_a_stale_answer_of_ones_own_is_replaced_though_a_similar_one_is_there() -> None:
    """With a store or without: the caller leads with it, as it would without a vector."""
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


def test_who_has_waited_for_another_host_in_vain_makes_the_call() -> None:
    """That there is no answer of its own was known, and counted, before."""
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


def test_a_similar_hit_keeps_its_entry_as_its_own_hits_do() -> None:
    """Eviction looks at who was asked for."""
    host, alice = similar_host()
    learns(alice, "a", 0)
    cache = host.engine._policy.cache
    entry = cache.peek(cache.scopes()[0], "a")
    assert entry is not None
    assert entry.recent_hits == 0
    asks(alice, "b", NEAR)

    assert entry.recent_hits == 1
