"""Streamed answers."""

from typing import Any

import msgspec
import pytest

from sidecard.core import notes
from sidecard.core.events import BacklogRead
from sidecard.core.flights.streams import MAX_STREAM_BYTES, WINDOW_BYTES
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from tests.host import Actor, Host, packed

KIB = 1024


def stream_of(host: Host, key: str = "key", **fields: Any) -> tuple[Actor, str]:
    """Let a new peer lead a stream."""
    holder = host.peer()
    return holder, holder.leads(key, stream=True, **fields)


def follower_of(host: Host, key: str = "key", **fields: Any) -> Actor:
    """Let a new peer wait for a stream without a chunk yet."""
    follower = host.peer()
    follower.waits(key, stream=True, **fields)
    return follower


def ends(holder: Actor, lease: str, **fields: Any) -> wire.Stored:
    """Complete a stream."""
    holder.asks(wire.Complete(lease, id=99, **fields))
    return holder.gets(wire.Stored)


def test_chunks_reach_reader_as_they_arrive() -> None:
    """Each append sends its chunk to the readers; the end follows the last."""
    host = Host()
    holder, lease = stream_of(host)
    follower = follower_of(host)

    holder.appends(lease, "a")
    assert follower.reads() == (["a"], None)
    holder.appends(lease, {"b": 1}, b"c")
    assert follower.reads() == ([{"b": 1}, b"c"], None)
    ends(holder, lease)
    pieces, end = follower.reads()
    assert pieces == []
    assert isinstance(end, wire.End)
    assert end.source == "shared"


def test_first_chunk_carries_metadata() -> None:
    """The first chunk carries the answer's metadata; the others do not."""
    host = Host(backends={"cloud": BackendSettings()})
    holder = host.peer()
    holder.asks(wire.Begin("key", id=1, stream=True, backends=("cloud",)))
    lease = holder.gets(wire.Lease).lease
    follower = follower_of(host)
    holder.appends(lease, "a", "b")

    first, second = follower.receives()

    assert first == wire.Chunk(1, packed("a"), "shared", 0.0, "cloud")
    assert second == wire.Chunk(1, packed("b"))


def test_late_reader_gets_earlier_chunks_first() -> None:
    """A late reader is pending, gets the earlier chunks, then the new ones."""
    host = Host()
    holder, lease = stream_of(host)
    holder.appends(lease, 1, 2)
    late = host.peer()

    late.asks(wire.Begin("key", id=7, stream=True))
    pending, *missed = late.receives()
    holder.appends(lease, 3)
    ends(holder, lease)

    assert pending == wire.Pending(7)
    assert [msgspec.msgpack.decode(reply.chunk) for reply in missed if isinstance(reply, wire.Chunk)] == [1, 2]
    pieces, end = late.reads()
    assert pieces == [3]
    assert isinstance(end, wire.End)


def test_stored_stream_is_replayed_in_chunks() -> None:
    """A stored stream is replayed in chunks and booked as a hit."""
    host = Host()
    holder, lease = stream_of(host)
    holder.appends(lease, "a", "b")
    assert ends(holder, lease, usage=wire.Usage(cost_dollars=0.5)).stored
    host.passes(3)
    reader = host.peer()

    reader.asks(wire.Begin("key", id=4, stream=True))

    first, second, end = reader.receives()
    assert first == wire.Chunk(4, packed("a"), "cache", 3.0, "default", 0.5)
    assert second == wire.Chunk(4, packed("b"))
    assert isinstance(end, wire.End)
    assert (end.source, end.age_seconds, end.saved_dollars) == ("cache", 3.0, 0.5)
    stats = host.stats()
    assert (stats.hits, stats.streams, stats.stream_bytes) == (1, 0, 0)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_stream_of_any_length_is_replayed_unchanged(count: int) -> None:
    """Streams of any length are replayed unchanged, whatever msgpack's header form."""
    host = Host()
    holder, lease = stream_of(host)
    holder.appends(lease, *range(count))
    ends(holder, lease)
    reader = host.peer()

    reader.asks(wire.Begin("key", id=4, stream=True))
    pieces, end = reader.reads()
    while host.behind:
        host.all_have_read()
        more, end = reader.reads()
        pieces += more

    assert pieces == list(range(count))
    assert isinstance(end, wire.End)


def test_stream_is_a_list_to_plain_callers() -> None:
    """Waiters, later callers and gets without ``stream`` read a stream as a list."""
    host = Host()
    holder, lease = stream_of(host)
    waiter, reader = host.peer(), host.peer()
    waiter.waits("key")
    holder.appends(lease, "a", "b")
    assert waiter.receives() == []
    ends(holder, lease)

    assert msgspec.msgpack.decode(waiter.gets(wire.Shared).value) == ["a", "b"]
    reader.asks(wire.Begin("key", id=1))
    assert msgspec.msgpack.decode(reader.gets(wire.Hit).value) == ["a", "b"]
    reader.asks(wire.Get("key", id=2))
    assert msgspec.msgpack.decode(reader.gets(wire.Hit).value) == ["a", "b"]


@pytest.mark.parametrize(("value", "pieces"), [("text", ["text"]), ([1, [2]], [1, [2]]), ([], []), (None, [None])])
def test_plain_value_is_streamed_by_its_elements(value: Any, pieces: list[Any]) -> None:
    """A plain list is streamed by its elements, any other value as one chunk."""
    host = Host()
    alice, follower, reader = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    follower.waits("key", stream=True)
    alice.completes(lease, value)
    reader.asks(wire.Begin("key", id=1, stream=True))

    for peer in (follower, reader):
        got, end = peer.reads()
        assert got == pieces
        assert isinstance(end, wire.End)


def test_broken_stream_fails_its_readers_and_elects_another() -> None:
    """A broken stream fails callers that have seen a chunk and elects one of the others."""
    host = Host()
    holder, lease = stream_of(host)
    seer = follower_of(host)
    blind, other = host.peer(), host.peer()
    blind.waits("key")
    other.waits("key")
    holder.appends(lease, "a")
    seer.receives()

    holder.fails(lease, "transient", message="Boom: no")

    assert seer.receives() == [wire.Failed(1, "transient", "Boom: no")]
    new = blind.gets(wire.Lease)
    assert other.receives() == []
    blind.completes(new.lease, "whole")
    assert msgspec.msgpack.decode(other.gets(wire.Shared).value) == "whole"
    stats = host.stats()
    assert (stats.failed, stats.reelections, stats.streams_broken, stats.stream_bytes) == (1, 1, 1, 0)


@pytest.mark.parametrize("seen", [0, 1, 3])
@pytest.mark.parametrize("how", ["dies", "expires", "transient", "cancelled", "fatal", "ignored", "cancels"])
def test_broken_stream_leaves_nothing(how: str, seen: int) -> None:
    """A broken stream is neither stored nor shown to later callers."""
    host = Host()
    holder, lease = stream_of(host)
    holder.appends(lease, *range(seen))

    match how:
        case "dies":
            holder.dies()
        case "expires":
            host.passes(16)
        case "cancels":
            holder.asks(wire.Cancel(1, id=5))
        case _:
            holder.asks(wire.Fail(lease, how, id=98))  # type: ignore[arg-type]  # one of the kinds

    late = host.peer()
    late.asks(wire.Begin("key", id=1, stream=True))
    new = late.gets(wire.Lease)
    late.appends(new.lease, "new")
    ends(late, new.lease)
    reader = host.peer()
    reader.asks(wire.Begin("key", id=1, stream=True))
    assert reader.reads()[0] == ["new"]
    assert host.stats().stream_bytes == 0


def test_late_chunks_and_complete_of_lost_lease_are_stale() -> None:
    """Late chunks and a late complete of a lost lease are stale."""
    host = Host()
    holder, lease = stream_of(host)
    follower = follower_of(host)
    holder.appends(lease, "a")
    host.passes(16)
    assert isinstance(follower.receives()[-1], wire.Failed)

    holder.asks(wire.Append(lease, packed("b"), id=3))
    holder.asks(wire.Complete(lease, id=4))

    assert holder.receives() == [wire.StaleLease(3), wire.StaleLease(4)]
    assert host.stats().stored == 0


def test_reader_without_chunks_is_elected() -> None:
    """A reader that has seen no chunk is elected when the holder is lost."""
    host = Host()
    holder, _ = stream_of(host)
    follower = follower_of(host)

    holder.dies()

    assert follower.gets(wire.Lease).attempt == 2


def test_fail_with_next_restarts_stream() -> None:
    """A fail with ``next`` fails readers; chunks of two backends are never mixed."""
    host = Host(backends={"a": BackendSettings(), "b": BackendSettings()})
    holder = host.peer()
    holder.asks(wire.Begin("key", id=1, stream=True, backends=("a", "b")))
    lease = holder.gets(wire.Lease).lease
    seer = follower_of(host)
    holder.appends(lease, "half")
    seer.receives()

    holder.asks(wire.Fail(lease, "transient", id=2, next=True))
    new = holder.gets(wire.Lease)
    late = host.peer()
    late.waits("key", stream=True)
    holder.appends(new.lease, "whole")
    ends(holder, new.lease)

    assert new.backend == "b"
    assert [type(reply) for reply in seer.receives()] == [wire.Failed]
    assert late.reads()[0] == ["whole"]


def test_each_chunk_renews_the_deadline() -> None:
    """Each chunk renews a reader's deadline."""
    host = Host()
    holder, lease = stream_of(host)
    follower = follower_of(host, wait_seconds=10.0)
    for piece in range(4):
        host.passes(8)
        holder.asks(wire.Renew(lease, id=50))
        holder.receives()
        holder.appends(lease, piece)

    assert follower.reads() == ([0, 1, 2, 3], None)
    host.passes(9.5)
    holder.asks(wire.Renew(lease, id=51))
    assert follower.receives() == []
    host.passes(1)

    assert follower.gets(wire.Timeout).waited_seconds == pytest.approx(42)
    assert host.stats().streams == 0


def test_slow_reader_gets_one_window_and_delays_no_one() -> None:
    """A slow reader gets one window at a time while a fast one gets everything."""
    host = Host()
    holder, lease = stream_of(host)
    slow, fast = follower_of(host), follower_of(host)
    pieces = [bytes([number]) * 100 * KIB for number in range(10)]
    for piece in pieces:
        holder.appends(lease, piece)
        for ask in [ask for ask in host.behind if ask.peer_id == fast.peer.id]:
            host.behind.remove(ask)
            host.happens(BacklogRead(ask.peer_id, ask.request_id))

    ends(holder, lease)
    got_fast, end_fast = fast.reads()
    got_slow, end_slow = slow.reads()

    assert got_fast == pieces
    assert isinstance(end_fast, wire.End)
    assert got_slow == pieces[:3]
    assert sum(map(len, got_slow)) < WINDOW_BYTES + 100 * KIB
    assert end_slow is None
    assert host.stats().streams == 1
    windows = 0
    while host.behind:
        windows += 1
        host.all_have_read()
        more, end_slow = slow.reads()
        got_slow += more

    assert windows == 3, "each time it gets a whole window"
    assert got_slow == pieces
    assert isinstance(end_slow, wire.End)
    assert host.stats().stream_bytes == 0


def test_paused_reader_is_charged_and_displaces_no_entry() -> None:
    """A paused reader's chunks stay charged until the reader leaves; entries keep their room."""
    host = Host(cache_max_bytes=4 * 1024 * KIB)
    filler = host.peer()
    for number in range(30):
        filler.asks(wire.Put(f"k{number}", packed(b"x" * 128 * KIB), id=number))

    filler.receives()
    holder, lease = stream_of(host)
    stuck = follower_of(host)
    for _ in range(15):
        holder.appends(lease, b"y" * 128 * KIB)

    ends(holder, lease)
    stats = host.stats()

    assert stuck.reads()[1] is None
    assert stats.stream_bytes > 15 * 128 * KIB
    assert stats.cache_entries == 30
    assert not stats.evicted
    stuck.dies()
    assert host.stats().stream_bytes == 0


def test_a_stream_that_outgrows_its_room_goes_on_unshared() -> None:
    """Readers of a stream that exceeds its limit fail; the holder's call is billed."""
    host = Host(max_memory_bytes=2048 * KIB)
    holder, lease = stream_of(host)
    seer, blind = follower_of(host), host.peer()
    blind.waits("key")
    for _ in range(5):
        holder.appends(lease, b"y" * 120 * KIB)

    (failed,) = [reply for reply in seer.receives() if isinstance(reply, wire.Failed)]
    assert failed.kind == "ignored"
    assert blind.gets(wire.Failed).kind == "ignored"
    holder.appends(lease, b"more")
    assert not ends(holder, lease).stored
    stats = host.stats()
    assert (stats.completed, stats.stored, stats.stream_bytes, stats.flights) == (1, 0, 0, 0)


def test_stream_larger_than_a_frame_is_not_shared() -> None:
    """A stream larger than a frame is not shared."""
    host = Host(cache_max_bytes=1024 * 1024 * KIB)
    holder, lease = stream_of(host)
    seer = follower_of(host)
    for _ in range(MAX_STREAM_BYTES // (1024 * KIB) + 1):
        holder.appends(lease, b"y" * 1024 * KIB)
        host.all_have_read()

    assert isinstance(seer.receives()[-1], wire.Failed)


def test_stored_stream_without_room_is_rejected_as_busy() -> None:
    """A stored stream for which there is no room is rejected as busy."""
    host = Host(max_memory_bytes=7 * 1024 * KIB)
    holder, lease = stream_of(host)
    for _ in range(4):
        holder.appends(lease, b"y" * 120 * KIB)

    ends(holder, lease)
    readers = [host.peer() for _ in range(6)]
    for reader in readers:
        reader.asks(wire.Begin("key", id=1, stream=True))

    ends_ = [reader.reads()[1] for reader in readers]
    assert ends_[:4] == [None] * 4
    refused = ends_[-1]
    assert isinstance(refused, wire.Rejected)
    assert refused.reason == "busy"
    assert notes.TableFull("streams", 7 * 384 * KIB) in host.notes


def test_append_without_stream_lease_is_rejected() -> None:
    """An append is rejected unless its lease is of a stream and of this peer."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    plain = alice.leads("plain")
    alice.asks(wire.Append(plain, packed("x"), id=2))
    assert alice.gets(wire.Error).code == "bad_request"
    bob.asks(wire.Append(plain, packed("x"), id=3))
    assert bob.receives() == [wire.StaleLease(3)]


def test_only_streams_may_omit_the_value() -> None:
    """Only a stream's complete may omit the value; None is a value."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("plain")
    alice.asks(wire.Complete(lease, id=2))
    assert alice.gets(wire.Error).code == "bad_request"
    alice.completes(lease, None)


def test_stream_without_key_is_not_shared() -> None:
    """Chunks of a stream without a key are accepted and dropped."""
    host = Host()
    alice = host.peer()
    alice.asks(wire.Begin(None, id=1, stream=True))
    lease = alice.gets(wire.Lease).lease
    alice.appends(lease, "x")
    assert not ends(alice, lease).stored
    assert host.stats().stream_bytes == 0


@pytest.mark.parametrize("when", ["waiting", "following", "replaying"])
def test_leaving_reader_frees_its_memory(when: str) -> None:
    """A reader that cancels or is lost gets nothing more and frees its memory."""
    for how in ("cancels", "dies"):
        host = Host()
        holder, lease = stream_of(host)
        reader = follower_of(host)
        if when != "waiting":
            holder.appends(lease, *[b"x" * 100 * KIB] * 4)

        if when == "replaying":
            ends(holder, lease)

        reader.receives()
        if how == "dies":
            reader.dies()
        else:
            reader.asks(wire.Cancel(1, id=2))
            assert reader.receives() == [wire.Ok(2)]

        host.all_have_read()
        if when != "replaying":
            holder.appends(lease, "more")
            ends(holder, lease)

        assert reader.receives() == []
        stats = host.stats()
        assert (stats.streams, stats.stream_bytes) == (0, 0)
        assert stats.begins == stats.hits + stats.shared + stats.leases_first + stats.left


def test_an_id_whose_stream_is_still_being_read_cannot_be_used_again() -> None:
    """The id of a stream that is being read cannot be used again."""
    host = Host()
    holder, lease = stream_of(host)
    holder.appends(lease, *[b"x" * 100 * KIB] * 4)
    ends(holder, lease)
    reader = host.peer()
    reader.asks(wire.Begin("key", id=1, stream=True))
    reader.receives()

    reader.asks(wire.Begin("other", id=1))

    assert reader.gets(wire.Error).code == "bad_request"


def test_renew_reports_waiter_count() -> None:
    """Renew reports how many callers wait."""
    host = Host()
    holder, lease = stream_of(host)
    follower_of(host)
    follower = follower_of(host)
    holder.asks(wire.Renew(lease, id=5))
    assert holder.receives() == [wire.Ok(5, waiters=2)]
    follower.dies()
    holder.asks(wire.Renew(lease, id=6))
    assert holder.receives() == [wire.Ok(6, waiters=1)]


def test_deleted_stream_reaches_readers_only() -> None:
    """After a delete, a stream reaches its readers and is not stored."""
    host = Host()
    holder, lease = stream_of(host)
    follower = follower_of(host)
    holder.appends(lease, "a")
    follower.asks(wire.Delete("key", id=9))
    holder.appends(lease, "b")
    assert not ends(holder, lease).stored
    replies = follower.receives()
    assert [type(reply) for reply in replies] == [wire.Chunk, wire.Deleted, wire.Chunk, wire.End]


def test_expired_drain_ends_every_reader() -> None:
    """An expired drain ends waiting and paused readers."""
    host = Host()
    holder, lease = stream_of(host)
    follower = follower_of(host)
    holder.appends(lease, "a")
    other, other_lease = stream_of(host, "other")
    behind = follower_of(host, "other")
    other.appends(other_lease, *[b"x" * 100 * KIB] * 4)
    ends(other, other_lease)
    follower.receives()
    behind.receives()

    host.drains()
    assert not host.engine.idle
    host.gives_up_draining()

    assert follower.gets(wire.Rejected).reason == "draining"
    assert behind.gets(wire.Rejected).reason == "draining"
    assert host.stats().streams == 0


def test_stream_metrics_count_chunks_and_failures() -> None:
    """Metrics count received and sent chunks, held bytes and broken streams."""
    host = Host()
    holder, lease = stream_of(host)
    follower_of(host)
    holder.appends(lease, "a", "b")
    samples = host.samples()
    assert samples["sidecard_chunks_total way=taken"] == 2
    assert samples["sidecard_chunks_total way=sent"] == 2
    assert samples["sidecard_streams"] == 1
    assert samples["sidecard_stream_bytes"] > 2
    holder.dies()
    assert host.samples()["sidecard_streams_broken_total"] == 1
