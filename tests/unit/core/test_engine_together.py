"""Interactions of compression, similarity, purges, limits and logs."""

import struct
from typing import Any

from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES
from sidecard.core.cache.similarity import GROUP_OVERHEAD_BYTES, VECTOR_OVERHEAD_BYTES
from sidecard.core.settings import TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Hit, Lease
from tests.host import Actor, Host, packed, unpacked

TEXT = "The capital of France is Paris, and the capital of Spain is Madrid. " * 100
COMPRESSED: dict[str, Any] = {"compress_min_bytes": 1000}
SIMILAR = TaskSettings(similar=True)
VECTOR = struct.pack("<2f", 1.0, 0.0)


def learns(peer: Actor, key: str, value: Any = TEXT, **fields: Any) -> None:
    """Make a call that has a vector."""
    peer.completes(peer.leads(key, vector=VECTOR, group="g", **fields), value)


def asks(peer: Actor, key: str, **fields: Any) -> wire.AnyReply:
    """Begin with the same vector and return the one reply."""
    peer.asks(Begin(key, id=7, vector=VECTOR, group="g", **fields))
    (reply,) = peer.receives()
    return reply


def test_similar_request_gets_decompressed_answer() -> None:
    """A similar request gets the original bytes; the entry is charged for its value and vector."""
    host = Host(tasks={"general": SIMILAR}, **COMPRESSED)
    alice = host.peer()
    learns(alice, "a")
    reply = asks(alice, "b")

    assert isinstance(reply, Hit)
    assert (unpacked(reply), reply.similarity) == (TEXT, 1.0)
    stats = host.stats()
    assert (stats.vectors, stats.cache_compressed_entries) == (1, 1)
    kept = stats.cache_compressed_bytes + len(VECTOR) + VECTOR_OVERHEAD_BYTES + GROUP_OVERHEAD_BYTES
    assert kept + ENTRY_OVERHEAD_BYTES < stats.cache_bytes < kept + ENTRY_OVERHEAD_BYTES + 1000
    alice.asks(wire.Delete("a", id=1))
    after = host.stats()
    assert (after.vectors, after.cache_bytes, after.cache_compressed_bytes, after.cache_uncompressed_bytes) == (0,) * 4


def test_similar_stream_gets_chunks_of_compressed_answer() -> None:
    """A similar stream gets all chunks of a compressed answer."""
    host = Host(tasks={"general": SIMILAR}, **COMPRESSED)
    alice = host.peer()
    lease = alice.leads("a", vector=VECTOR, group="g", stream=True)
    alice.appends(lease, TEXT, TEXT)
    alice.asks(wire.Complete(lease, id=9))
    alice.receives()
    alice.asks(Begin("b", id=7, vector=VECTOR, group="g", stream=True))
    pieces, end = alice.reads()

    assert pieces == [TEXT, TEXT]
    assert isinstance(end, wire.End)
    assert end.similarity == 1.0
    assert host.stats().cache_compressed_entries == 1


def test_purge_by_task_removes_its_vectors_only() -> None:
    """A purge by task removes that task's vectors, although two groups share a name."""
    host = Host(tasks={"one": SIMILAR, "other": SIMILAR})
    alice, root = host.peer(), host.peer(operator=True)
    learns(alice, "a", task="one")
    learns(alice, "b", task="other")
    root.asks(wire.Purge(task="one", id=1))

    assert root.gets(wire.Deleted).count == 1
    assert host.stats().vectors == 1
    assert isinstance(asks(alice, "c", task="one"), Lease)
    assert isinstance(asks(alice, "d", task="other"), Hit)


def test_namespace_limit_counts_compressed_size() -> None:
    """A namespace's limit counts compressed sizes, and evicted entries return all of it."""
    host = Host(namespace_max_bytes={"team": 8 * len(TEXT)}, **COMPRESSED)
    alice = host.peer()
    for number in range(10):
        alice.asks(wire.Put(f"k{number}", packed(TEXT), namespace="team", id=1))

    assert (host.stats().cache_compressed_entries, host.stats().evicted_by_limits) == (10, 0)
    fills = []
    for number in range(1000):
        alice.asks(wire.Put(f"more {number}", packed(f"{number}{TEXT}"), namespace="team", id=1))
        fills.append(host.stats().cache_bytes / (8 * len(TEXT)))

    stats = host.stats()
    assert stats.evicted_by_limits == 1010 - stats.cache_entries > 0
    assert 0.9 < min(fills[500:]) <= max(fills) <= 1
    assert stats.cache_compressed_entries == stats.cache_entries
    host.reads(namespace_max_bytes={"team": len(TEXT)}, **COMPRESSED)
    for _ in range(5):
        host.passes(1.0)

    assert host.stats().cache_bytes <= len(TEXT)


def test_entry_evicted_by_namespace_limit_is_not_similar() -> None:
    """An entry evicted by its namespace's limit and its vector are not found any more."""
    host = Host(tasks={"general": SIMILAR}, namespace_max_bytes={"small": 20_000})
    alice = host.peer()
    learns(alice, "a", "small", namespace="small")
    learns(alice, "a", "default")
    for number in range(100):
        alice.asks(wire.Put(f"k{number}", packed("x" * 500), namespace="small", id=1))

    alice.receives()
    assert host.stats().vectors == 1
    assert isinstance(asks(alice, "b", namespace="small"), Lease)
    reply = asks(alice, "b")
    assert isinstance(reply, Hit)
    assert unpacked(reply) == "default"


def test_explain_reports_charge_of_compressed_entry() -> None:
    """Explain reports a compressed entry's charge without decompressing it."""
    host = Host(**COMPRESSED)
    alice = host.peer()
    alice.asks(wire.Put("key", packed(TEXT), id=1))
    alice.receives()
    alice.asks(wire.Explain(key="key", id=2))
    entry = alice.gets(wire.Explained).entry

    assert entry is not None
    assert entry.size_bytes == host.stats().cache_bytes < len(TEXT)
    assert not host.engine._policy.compression._recent


def test_explain_reports_similarity_settings() -> None:
    """Explain reports a task's similarity settings."""
    host = Host(tasks={"faq": TaskSettings(similar=True, similar_threshold=0.9, similar_max_entries=5)})
    alice = host.peer()
    alice.asks(wire.Explain(task="faq", id=1))
    policy = alice.gets(wire.Explained).policy

    said = {name: value.value for name, value in policy.items() if name.startswith("similar")}
    assert said == {"similar": True, "similar_threshold": 0.9, "similar_max_entries": 5}
    assert policy["similar"].setting == "tasks.faq.similar"


def test_call_log_has_stale_and_similar_hits() -> None:
    """The call log has a row for each stale and each similar hit, with the cost of the original call."""
    host = Host(
        log_calls=True, tasks={"general": SIMILAR}, ttl_seconds=10.0, stale_seconds=30.0, sharing_window_seconds=0.0
    )
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("a", vector=VECTOR, group="g")
    alice.completes(lease, 1, usage=wire.Usage(model="m", cost_dollars=0.5))
    assert isinstance(asks(alice, "b"), Hit)
    host.passes(11.0)
    alice.leads("a")
    bob.asks(Begin("a", id=8))

    assert bob.gets(Hit).stale
    served = [
        (row.source, row.reason, row.key, row.model, row.saved_dollars, row.age_seconds) for row in host.logged[1:]
    ]
    assert served == [("cache", "similar 1.0000", "b", "m", 0.5, 0.0), ("stale", "", "a", "m", 0.5, 11.0)]
