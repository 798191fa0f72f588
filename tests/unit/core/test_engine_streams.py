"""Answers that come in pieces, as conversations with the engine."""

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
    """Let a new peer wait for a stream of which nothing has come yet."""
    follower = host.peer()
    follower.waits(key, stream=True, **fields)
    return follower


def ends(holder: Actor, lease: str, **fields: Any) -> wire.Stored:
    """Complete a stream."""
    holder.asks(wire.Complete(lease, id=99, **fields))
    return holder.gets(wire.Stored)


def test_pieces_reach_a_follower_as_they_come() -> None:
    """Each in an effect of its own append; the end after the last."""
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


def test_the_first_piece_says_where_the_answer_is_from() -> None:
    """The others are no larger than they must be."""
    host = Host(backends={"cloud": BackendSettings()})
    holder = host.peer()
    holder.asks(wire.Begin("key", id=1, stream=True, backends=("cloud",)))
    lease = holder.gets(wire.Lease).lease
    follower = follower_of(host)
    holder.appends(lease, "a", "b")

    first, second = follower.receives()

    assert first == wire.Chunk(1, packed("a"), "shared", 0.0, "cloud")
    assert second == wire.Chunk(1, packed("b"))


def test_a_late_joiner_gets_what_it_missed_and_then_what_comes() -> None:
    """It is told to wait all the same, as everybody who must."""
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


def test_a_stored_stream_is_replayed_piece_by_piece() -> None:
    """A hit, booked as one."""
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
def test_streams_of_any_number_of_pieces_come_back_as_they_were(count: int) -> None:
    """Also where msgpack writes the length of a list in another form."""
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


def test_a_stream_is_read_as_a_list_by_those_who_want_no_pieces() -> None:
    """Waiting, coming later, and by get."""
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
def test_another_value_is_read_in_the_pieces_that_it_has(value: Any, pieces: list[Any]) -> None:
    """A list in its elements, all else as one."""
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


def test_a_broken_stream_fails_those_who_saw_a_piece_and_elects_one_of_the_others() -> None:
    """What was seen cannot be taken back."""
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
def test_nothing_of_a_broken_stream_is_stored_or_given_to_who_comes_later(how: str, seen: int) -> None:
    """However it broke, and however much of it had come."""
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


def test_the_late_pieces_and_the_late_end_of_a_lost_lease_change_nothing() -> None:
    """The fence refuses both."""
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


def test_a_follower_that_has_seen_nothing_is_elected_when_the_holder_dies() -> None:
    """As in any flight."""
    host = Host()
    holder, _ = stream_of(host)
    follower = follower_of(host)

    holder.dies()

    assert follower.gets(wire.Lease).attempt == 2


def test_fail_with_next_breaks_what_was_seen_and_begins_anew() -> None:
    """The pieces of two backends are never mixed."""
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


def test_patience_counts_from_the_last_piece() -> None:
    """A stream may take as long as it likes, if it goes on."""
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


def test_a_slow_reader_gets_a_window_at_a_time_and_nobody_waits_for_it() -> None:
    """The fast one has it all, while the slow one has a window."""
    host = Host()
    holder, lease = stream_of(host)
    slow, fast = follower_of(host), follower_of(host)
    pieces = [bytes([number]) * 100 * KIB for number in range(10)]
    for piece in pieces:
        holder.appends(lease, piece)
        for ask in [ask for ask in host.behind if ask.peer == fast.peer.id]:
            host.behind.remove(ask)
            host.happens(BacklogRead(ask.peer, ask.request_id))

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


def test_what_a_stuck_reader_holds_is_room_that_the_cache_does_not_have() -> None:
    """Entries give way; all of it comes back when the reader is gone."""
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
    assert stats.cache_bytes + stats.stream_bytes <= 4 * 1024 * KIB
    assert stats.evicted >= 14
    stuck.dies()
    assert host.stats().stream_bytes == 0


def test_a_stream_that_outgrows_its_room_goes_on_unshared() -> None:
    """Readers are told; the holder's call is billed as ever."""
    host = Host(cache_max_bytes=1024 * KIB)
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


def test_a_stream_larger_than_a_frame_is_not_shared() -> None:
    """Nobody could read it as a whole."""
    host = Host(cache_max_bytes=1024 * 1024 * KIB)
    holder, lease = stream_of(host)
    seer = follower_of(host)
    for _ in range(MAX_STREAM_BYTES // (1024 * KIB) + 1):
        holder.appends(lease, b"y" * 1024 * KIB)
        host.all_have_read()

    assert isinstance(seer.receives()[-1], wire.Failed)


def test_a_stored_stream_for_which_a_slow_reader_has_no_room_is_refused_as_busy() -> None:
    """Which callers take for: make the call yourself."""
    host = Host(cache_max_bytes=4 * 1024 * KIB)
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
    assert notes.Saturated("streams", 2 * 1024 * KIB) in host.notes


def test_append_is_refused_where_the_lease_is_no_streams() -> None:
    """And where it is somebody else's."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    plain = alice.leads("plain")
    alice.asks(wire.Append(plain, packed("x"), id=2))
    assert alice.gets(wire.Error).code == "bad_request"
    bob.asks(wire.Append(plain, packed("x"), id=3))
    assert bob.receives() == [wire.StaleLease(3)]


def test_only_a_streams_value_may_be_left_out() -> None:
    """A complete without a value is a mistake elsewhere; None is a value."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("plain")
    alice.asks(wire.Complete(lease, id=2))
    assert alice.gets(wire.Error).code == "bad_request"
    alice.completes(lease, None)


def test_a_stream_without_a_key_is_nobody_elses() -> None:
    """Its pieces are taken and dropped."""
    host = Host()
    alice = host.peer()
    alice.asks(wire.Begin(None, id=1, stream=True))
    lease = alice.gets(wire.Lease).lease
    alice.appends(lease, "x")
    assert not ends(alice, lease).stored
    assert host.stats().stream_bytes == 0


@pytest.mark.parametrize("when", ["waiting", "following", "replaying"])
def test_a_reader_that_cancels_or_dies_gets_nothing_more_and_frees_what_it_held(when: str) -> None:
    """Whether it waits, reads along, or is behind."""
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
    """Or its replies could not be told apart."""
    host = Host()
    holder, lease = stream_of(host)
    holder.appends(lease, *[b"x" * 100 * KIB] * 4)
    ends(holder, lease)
    reader = host.peer()
    reader.asks(wire.Begin("key", id=1, stream=True))
    reader.receives()

    reader.asks(wire.Begin("other", id=1))

    assert reader.gets(wire.Error).code == "bad_request"


def test_renew_says_how_many_wait() -> None:
    """So that a holder whose caller left knows whether to go on."""
    host = Host()
    holder, lease = stream_of(host)
    follower_of(host)
    follower = follower_of(host)
    holder.asks(wire.Renew(lease, id=5))
    assert holder.receives() == [wire.Ok(5, waiters=2)]
    follower.dies()
    holder.asks(wire.Renew(lease, id=6))
    assert holder.receives() == [wire.Ok(6, waiters=1)]


def test_a_deleted_streams_followers_get_it_and_the_cache_does_not() -> None:
    """What is being computed may be what was to be removed."""
    host = Host()
    holder, lease = stream_of(host)
    follower = follower_of(host)
    holder.appends(lease, "a")
    follower.asks(wire.Delete("key", id=9))
    holder.appends(lease, "b")
    assert not ends(holder, lease).stored
    heard = follower.receives()
    assert [type(reply) for reply in heard] == [wire.Chunk, wire.Deleted, wire.Chunk, wire.End]


def test_the_end_of_a_drain_ends_every_reader() -> None:
    """Those who wait, and those who are behind."""
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


def test_metrics_of_streams() -> None:
    """What was taken, sent, is held and broke."""
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
