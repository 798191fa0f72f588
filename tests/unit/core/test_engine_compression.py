"""Compressed entries: callers always get the original bytes."""

import random
from typing import Any

import msgspec
import pytest

from sidecard.adapters.zstd import Zstd
from sidecard.core import notes
from sidecard.core.cache.compression import MAX_BYTES
from sidecard.core.cache.entry import SIZE_PREFIX_BYTES, Entry
from sidecard.core.effects import StoreWrite
from sidecard.core.events import Absent, Found
from sidecard.core.records import Record
from sidecard.core.settings import BackendSettings, BreakerSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Get, Hit, Lease, Miss, Put, Rejected, Shared
from tests.host import Host, packed, unpacked

ON: dict[str, Any] = {"compress_min_bytes": 1000}
TEXT = "The capital of France is Paris, and the capital of Spain is Madrid. " * 100
OTHER = "A parcel that is not there after ten days is sent once more. " * 100
STALE = {"ttl_seconds": 10.0, "stale_seconds": 30.0, "sharing_window_seconds": 0.0}
SCOPE = "1000:default"


def filled(value: Any = TEXT, **settings: Any) -> Host:
    """Return a host that has an answer to ``key``."""
    host = Host(**settings)
    alice = host.peer()
    alice.completes(alice.leads("key"), value)
    return host


def entry_of(host: Host, key: str = "key") -> Entry:
    """Return an entry as it is kept."""
    entry = host.engine._policy.cache.get(SCOPE, key, host.now)
    assert entry is not None
    return entry


def compressed(value: Any) -> bytes:
    """Return a value as it is kept."""
    plain = wire.pack(value)
    return len(plain).to_bytes(SIZE_PREFIX_BYTES, "big") + Zstd().compress(plain)


def record(value: bytes, *, is_compressed: bool = True) -> Record:
    """Return an entry of the store."""
    return Record(value, 2.0, 300.0, 60.0, "cloud", age_seconds=10.0, compressed=is_compressed)


def test_nothing_is_compressed_by_default() -> None:
    """By default memory and store keep the bytes that were sent."""
    host = Host(store="own")
    alice = host.peer()
    alice.asks(Put("key", packed(TEXT), id=1))
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert (write.record.value, write.record.compressed) == (wire.pack(TEXT), False)
    assert (entry_of(host).value, entry_of(host).compressed) == (wire.pack(TEXT), False)
    stats = host.stats()
    assert stats.cache_compressed_entries == stats.cache_compressed_bytes == stats.cache_uncompressed_bytes == 0


def test_hit_and_get_return_original_bytes() -> None:
    """A hit and a get return the original bytes, although a tenth is kept."""
    host = filled(**ON)
    assert entry_of(host).compressed
    assert len(entry_of(host).value) < len(TEXT) / 10
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    assert bytes(alice.gets(Hit).value) == wire.pack(TEXT)
    alice.asks(Get("key", id=2))
    assert bytes(alice.gets(Hit).value) == wire.pack(TEXT)


def test_put_value_is_compressed() -> None:
    """A put value is compressed too, and its replacement is served."""
    host = filled(**ON)
    alice = host.peer()
    alice.asks(Put("key", packed(OTHER), id=1))
    alice.receives()
    alice.asks(Begin("key", id=2))
    assert unpacked(alice.gets(Hit)) == OTHER
    assert host.stats().cache_compressed_entries == 1


def test_waiters_get_original_bytes() -> None:
    """Waiters get the original bytes."""
    host = Host(**ON)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 2)
    alice.completes(lease, TEXT)
    assert unpacked(bob.gets(Shared)) == TEXT


def test_answer_in_sharing_window_is_decompressed() -> None:
    """An answer in the sharing window is decompressed, with caching off too."""
    host = filled(cache_max_bytes=0, **ON)
    assert entry_of(host).compressed
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    assert unpacked(alice.gets(Shared)) == TEXT


def test_stale_answer_is_decompressed() -> None:
    """A stale answer is decompressed with a lease, as a hit, and with a rejection."""
    host = filled(backends={"default": BackendSettings(breaker=BreakerSettings(min_calls=1))}, **STALE, **ON)
    host.passes(15.0)
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin("key", id=1))
    lease = alice.gets(Lease)
    assert msgspec.msgpack.decode(lease.stale_value) == TEXT
    bob.asks(Begin("key", id=2))
    hit = bob.gets(Hit)
    assert (unpacked(hit), hit.stale) == (TEXT, True)
    alice.fails(lease.lease)
    host.sets("default", "open")
    bob.asks(Begin("key", id=3))
    assert msgspec.msgpack.decode(bob.gets(Rejected).stale_value) == TEXT


def test_compressed_stream_is_replayed_in_its_chunks() -> None:
    """A compressed stream is replayed in its chunks, and read as a whole by other callers."""
    host = Host(**ON)
    holder = host.peer()
    lease = holder.leads("key", stream=True)
    pieces = [TEXT, {"n": 1}, OTHER]
    holder.appends(lease, *pieces)
    holder.asks(wire.Complete(lease, id=99))
    holder.receives()
    assert entry_of(host).compressed
    reader = host.peer()
    reader.asks(Begin("key", id=1, stream=True))
    read, end = reader.reads()
    assert read == pieces
    assert isinstance(end, wire.End)
    reader.asks(Begin("key", id=2))
    assert unpacked(reader.gets(Hit)) == pieces


def test_stream_replay_is_bounded_by_decompressed_size() -> None:
    """Whether a stream can be replayed depends on its decompressed size."""
    host = Host(store="own", cache_max_bytes=4 * MAX_BYTES, max_memory_bytes=4 * MAX_BYTES, **ON)
    alice = host.peer()
    alice.asks(Get("key", id=1))
    host.answers(host.asked().ticket, Found(record(compressed("x" * 4 * MAX_BYTES))))
    alice.gets(Hit)
    alice.asks(Begin("key", id=2, stream=True))
    assert alice.gets(Rejected).reason == "busy"


def test_cache_charges_compressed_size() -> None:
    """The cache charges the compressed size: an answer fits if compressed, and not otherwise."""
    for settings, stored in (({}, False), (ON, True)):
        host = Host(cache_max_bytes=16_000, **settings)
        alice = host.peer()
        alice.asks(Put("key", packed(TEXT), id=1))
        assert alice.gets(wire.Stored).stored is stored
        if stored:
            assert host.stats().cache_bytes < 1000
        else:
            assert [type(note) for note in host.notes] == [notes.EntryRefused]


def test_small_or_incompressible_value_is_kept_as_is() -> None:
    """A value that is small or hardly compressible, such as an embedding, is kept as it is."""
    chance = random.Random(1)
    floats = [chance.gauss(0.0, 0.05) for _ in range(1000)]
    for value in ("short", floats, "x" * (MAX_BYTES + 1)):
        assert entry_of(filled(value, **ON)).value == wire.pack(value)


def test_compression_sums_follow_the_entries() -> None:
    """The sums of compressed entries return to zero, however the entries leave."""
    host = Host(cache_max_bytes=40_000, **ON)
    alice = host.peer()
    plain = wire.pack(TEXT)
    for value in (OTHER, TEXT):
        alice.asks(Put("key", packed(value), id=1))

    stats = host.stats()
    assert (stats.cache_compressed_entries, stats.cache_uncompressed_bytes) == (1, len(plain))
    assert stats.cache_compressed_bytes == len(entry_of(host).value)
    samples = host.samples()
    assert samples["sidecard_cache_compressed_entries"] == 1
    assert samples["sidecard_cache_compressed_bytes"] == stats.cache_compressed_bytes
    assert samples["sidecard_cache_uncompressed_bytes"] == len(plain)
    alice.asks(wire.Delete("key", id=2))
    assert host.stats().cache_compressed_entries == 0
    for number in range(200):
        alice.asks(Put(f"key-{number}", packed(f"{number} {TEXT}"), id=1))
        for _ in range(3):  # so that some of them outlive others
            alice.asks(Get(f"key-{number // 2}", id=1))

    stats = host.stats()
    assert stats.evicted > 0
    assert stats.cache_compressed_entries == stats.cache_entries > 0
    host.passes(1000.0)
    stats = host.stats()
    assert (stats.cache_entries, stats.cache_compressed_entries) == (0, 0)
    assert (stats.cache_compressed_bytes, stats.cache_uncompressed_bytes) == (0, 0)


@pytest.mark.parametrize(("before", "after"), [(ON, {}), ({}, ON)])
def test_changed_settings_keep_existing_entries(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Changed settings apply to new entries; existing ones are served as before."""
    host = filled(**before)
    host.reads(**after)
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    assert unpacked(alice.gets(Hit)) == TEXT
    alice.completes(alice.leads("other"), OTHER)
    assert (entry_of(host).compressed, entry_of(host, "other").compressed) == (bool(before), bool(after))
    alice.asks(Begin("other", id=2))
    assert unpacked(alice.gets(Hit)) == OTHER


def test_store_gets_what_memory_keeps() -> None:
    """The store gets the bytes that memory keeps, by `complete` and by `put`."""
    host = Host(store="own", **ON)
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Absent())
    alice.completes(alice.gets(Lease).lease, TEXT)
    alice.asks(Put("other", packed(TEXT), id=1))
    for write in host.wants():
        assert isinstance(write, StoreWrite)
        assert (write.record.value, write.record.compressed) == (compressed(TEXT), True)


@pytest.mark.parametrize(
    ("settings", "found", "kept"),
    [
        ({}, record(compressed(TEXT)), wire.pack(TEXT)),
        (ON, record(compressed(TEXT)), compressed(TEXT)),
        ({"compress_min_bytes": 10_000_000}, record(compressed(TEXT)), wire.pack(TEXT)),
        (ON, record(wire.pack(TEXT), is_compressed=False), compressed(TEXT)),
        ({}, record(wire.pack(TEXT), is_compressed=False), wire.pack(TEXT)),
    ],
)
def test_record_is_read_in_either_form(settings: dict[str, Any], found: Record, kept: bytes) -> None:
    """A record is read compressed or not, and kept as the settings say."""
    host = Host(store="own", **settings)
    alice, reader = host.peer(), host.peer()
    alice.asks(Begin("key", id=1))
    reader.asks(Get("key", id=3))
    host.answers(host.asked().ticket, Found(found))
    assert unpacked(alice.gets(Hit)) == TEXT
    assert unpacked(reader.gets(Hit)) == TEXT
    assert entry_of(host).value == kept
    assert host.stats().store_hits == 1


def test_record_without_room_is_served() -> None:
    """A record that finds no room in memory is still served, decompressed."""
    host = Host(store="own", cache_max_bytes=2000, **ON)
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Found(record(compressed(TEXT))))
    assert unpacked(alice.gets(Hit)) == TEXT
    assert host.stats().cache_entries == 0


@pytest.mark.parametrize(
    "value",
    [
        b"",
        compressed(TEXT)[:-1],
        b"\xff\xff\xff\xff" + compressed(TEXT)[SIZE_PREFIX_BYTES:],
        b"\x00\x00\x00\x10" + compressed(TEXT)[SIZE_PREFIX_BYTES:],
        wire.pack(TEXT),
    ],
)
@pytest.mark.parametrize("store", ["own", "shared"])
def test_damaged_record_is_a_miss(store: str, value: bytes) -> None:
    """A damaged record makes the longest-waiting caller lead, and is a miss to gets."""
    host = Host(store=store, **ON)
    alice, bob, reader = host.peer(), host.peer(), host.peer()
    alice.asks(Begin("key", id=1))
    bob.asks(Begin("key", id=2))
    reader.asks(Get("key", id=3))
    host.answers(host.asked().ticket, Found(record(value)))
    assert reader.receives() == [Miss(3)]
    lease = alice.gets(Lease).lease
    bob.receives()
    alice.completes(lease, OTHER)
    assert unpacked(bob.gets(Shared)) == OTHER
    stats = host.stats()
    assert (stats.store_reads, stats.store_hits, stats.misses, stats.cache_entries) == (1, 0, 2, 1)


def test_caller_joining_gets_of_damaged_record_claims_first() -> None:
    """A caller that joins gets of a damaged record claims the key before it leads."""
    host = Host(store="shared", **ON)
    reader, caller = host.peer(), host.peer()
    reader.asks(Get("key", id=1))
    caller.asks(Begin("key", id=2))
    host.answers(host.asked().ticket, Found(record(b"damaged")))
    assert reader.receives() == [Miss(1)]
    again = host.asked()
    assert again.claim
    host.answers(again.ticket, Found(record(b"damaged")))
    caller.gets(Lease)


def test_hundred_waiters_cost_one_decompression() -> None:
    """A hundred waiters for the store cost one decompression, and one that checks the record."""
    counted = []

    class Counting(Zstd):
        def decompress(self, data: memoryview, size: int) -> bytes:
            counted.append(size)
            return super().decompress(data, size)

    class CountingHost(Host):
        codec = Counting()

    host = CountingHost(store="own", **ON)
    actors = [host.peer() for _ in range(100)]
    for actor in actors:
        actor.asks(Begin("key", id=1))

    host.answers(host.asked().ticket, Found(record(compressed(TEXT))))
    assert all(unpacked(actor.gets(Hit)) == TEXT for actor in actors)
    assert len(counted) == 2
