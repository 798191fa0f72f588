"""Values and names that peers choose to cost more than they are charged."""

from msgspec import Raw

from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES, TERMS_OVERHEAD_BYTES
from sidecard.core.cache.policy import _FREE_TERMS
from sidecard.core.events import Found, Peer
from sidecard.core.flights.streams import CHUNK_OVERHEAD_BYTES, FOLLOWER_BYTES, STREAM_OVERHEAD_BYTES, chunks_of
from sidecard.core.records import Record
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Put
from tests.host import Host, packed

MIB = 1024 * 1024


def put(host: Host, key: str, value: Raw = Raw(b"\xc0"), **fields: object) -> int:  # noqa: B008 - a constant
    """Write an entry, and return what it is charged."""
    before = host.engine._policy.cache.bytes
    actor = host.peer()
    actor.asks(Put(key, value, id=1, **fields))  # type: ignore[arg-type]  # whatever a put may have
    assert actor.gets(wire.Stored).stored
    actor.dies()
    return host.engine._policy.cache.bytes - before


def test_value_with_too_many_chunks_is_not_streamed() -> None:
    """A value whose every byte may be a chunk is not streamed: the caller makes its own call."""
    host = Host(max_memory_bytes=16 * MIB)
    mine = put(host, "mine", packed("x" * 1000))
    many = 1_000_000
    put(host, "many", Raw(b"\xdd" + many.to_bytes(4, "big") + b"\xc0" * many))
    reader = host.peer()
    reader.asks(Begin("many", id=1, stream=True))

    assert reader.gets(wire.Rejected).reason == "busy"
    assert host.engine.metrics.limited == {"streams": 1}
    assert host.engine._streams.memory.total == 0
    assert mine > 1000
    reader.asks(wire.Get("mine", id=2))
    assert isinstance(reader.receives()[0], wire.Hit)


def test_value_with_chunks_that_fit_is_replayed_and_charged() -> None:
    """Every chunk of a replayed value is charged, in each form of msgpack's length."""
    host = Host(cache_max_bytes=16 * MIB)
    for header, count in ((b"\x93", 3), (b"\xdc\x10\x00", 4096), (b"\xdd\x00\x00\x40\x00", 16384)):
        put(host, str(count), Raw(header + b"\xc0" * count))
        reader = host.peer()
        reader.asks(Begin(str(count), id=1, stream=True))
        held = host.engine._streams.memory.total
        fixed = STREAM_OVERHEAD_BYTES + FOLLOWER_BYTES
        assert held in {0, fixed + len(header) + count * (1 + CHUNK_OVERHEAD_BYTES)}
        while host.behind:
            host.all_have_read()

        pieces, end = reader.reads()
        assert len(pieces) == count
        assert isinstance(end, wire.End)


def test_value_with_false_length_is_one_chunk() -> None:
    """A value whose header is false is one chunk and charged for at most its bytes."""
    lie = Raw(b"\xdd\xff\xff\xff\xff\xc0")
    assert chunks_of(lie) == [lie]
    assert Host(cache_max_bytes=MIB).engine._streams.fits(Peer(1, 1, 1, 1, operator=False), lie)


def test_entries_without_shared_terms_are_charged_for_their_own() -> None:
    """Entries with a namespace or lifetime each are charged for their own terms."""
    host = Host()
    usual = put(host, "k")
    for number in range(2 * _FREE_TERMS):
        charge = put(host, "k", namespace=f"n{number}", ttl_seconds=1000 + number / 7)
        assert charge == usual + TERMS_OVERHEAD_BYTES * (number >= _FREE_TERMS - 1), number

    assert usual == 1 + 1 + ENTRY_OVERHEAD_BYTES


def test_terms_are_shared_from_the_second_entry_on() -> None:
    """Terms are shared from the second entry on, also among a thousand namespaces."""
    host = Host()
    for number in range(2 * _FREE_TERMS):
        put(host, "first", namespace=f"n{number}")

    second, third = (put(host, key, namespace=f"n{2 * _FREE_TERMS - 1}") for key in ("second", "third"))
    assert second == len("second") + 1 + ENTRY_OVERHEAD_BYTES
    assert third == second - 1


def nested(depth: int) -> Raw:
    """Return a list nested ``depth`` deep."""
    return Raw(b"\x91" * depth + b"\x01")


def test_deeply_nested_value_is_rejected_at_every_entrance() -> None:
    """A value that small stacks cannot decode is neither stored nor shared, and the error names the limit."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    stream = alice.leads("stream", 2, stream=True)
    requests = (
        Put("put", nested(65), id=3),
        wire.Complete(lease, nested(65), id=4),
        wire.Append(stream, nested(64), id=5),
    )
    for request in requests:
        alice.asks(request)
        error = alice.gets(wire.Error)
        assert (error.id, error.code) == (request.id, "bad_request")
        assert "deep" in error.message
        assert "flatter" in error.message

    assert bob.receives() == []
    assert host.stats().cache_entries == 0
    alice.asks(Put("put", nested(64), id=3))
    assert alice.gets(wire.Stored).stored
    alice.asks(wire.Append(stream, nested(63), id=5))
    alice.asks(wire.Complete(stream, id=6))
    assert alice.gets(wire.Stored).stored
    alice.asks(wire.Complete(lease, nested(64), id=4))
    assert alice.gets(wire.Stored).stored
    assert isinstance(bob.gets(wire.Shared), wire.Shared)


def test_deeply_nested_value_of_a_store_is_damaged() -> None:
    """A store's entry that small stacks cannot decode counts as absent: the caller makes the call."""
    host = Host(store="own")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Found(Record(bytes(nested(900)), 1.0, 60.0, 60.0, "default")))

    assert isinstance(alice.gets(wire.Lease), wire.Lease)
