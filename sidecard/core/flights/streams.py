"""Streams: answers that are shared while they come, chunk by chunk.

The chunks of an answer are kept once (`Stream`), however many read it. Each reader has a `Feed`, which is a position in them:

=======================  ===========================================================================================
what happens             what becomes of the feed
=======================  ===========================================================================================
append                   the chunk is sent at once to every feed that is not stuck
begin, stream in flight  a new feed at position 0: it gets what it missed, then what comes
begin, stream stored     a new feed at position 0 of a stream that has ended
`WINDOW_BYTES` sent      the feed is stuck: nothing more until the peer has read most of it (`AwaitRead`, `BacklogRead`)
complete                 `Feed.end` is set; it is sent after the last chunk, and the feed is over
the stream breaks        feeds that have seen a chunk end in a failure; the others wait for the next holder's stream
the reader leaves        the feed is over
=======================  ===========================================================================================

So a reader that is slow has at most a window, and one chunk, of its own in memory, and nobody waits for it; one that reads
nothing at all is closed by its connection (``limits.stall_seconds``).
What the streams themselves hold is bounded in all (`Streams.limit_bytes`), and is room that the cache does not have.
"""

from collections.abc import Sequence

from msgspec import MsgspecError, Raw
from msgspec.msgpack import Decoder

from sidecard.core.cache.memory import MemoryCache
from sidecard.core.effects import AwaitRead, Effect, Send
from sidecard.core.events import Peer
from sidecard_client.protocol import wire

WINDOW_BYTES = 256 * 1024
"""A quarter of what a connection may leave unread before it is not served any more; some ten thousand tokens."""

CHUNK_OVERHEAD_BYTES = 100
"""Of each chunk's bytes object and its place in the list: streams are made of small pieces."""

MAX_SHARE = 1 / 2
"""Of the cache's budget that all streams may hold."""

MAX_STREAM_BYTES = wire.MAX_FRAME_BYTES - 64 * 1024
"""Of one stream: as a whole it must fit a frame, because that is how it is stored and how `get` reads it."""

_SHORT_ARRAY, _ARRAY_16, _ARRAY_32 = 0x90, 0xDC, 0xDD
_MAX_SHORT = 15
_MAX_16 = 0xFFFF

_split = Decoder(list[Raw]).decode


class Stream:
    """The chunks of one answer, each a msgpack value. ``charge`` is what they count for while anybody holds them."""

    __slots__ = ("charge", "chunks", "holders", "size")

    def __init__(self) -> None:
        self.chunks: list[Raw] = []
        self.size = 0
        """Bytes of the chunks alone."""
        self.charge = 0
        self.holders = 0

    def packed(self) -> bytes:
        """Return the value that is stored: the list of the chunks."""
        return b"".join((_array_header(len(self.chunks)), *map(bytes, self.chunks)))


class Feed:
    """One reader of a stream."""

    __slots__ = ("end", "first", "peer", "position", "request_id", "sent_bytes", "stream", "stuck")

    def __init__(self, peer: Peer, request_id: int, stream: Stream, first: wire.Chunk) -> None:
        self.peer = peer
        self.request_id = request_id
        self.stream = stream
        self.first = first
        """What is said of the answer with its first chunk."""
        self.position = 0
        self.sent_bytes = 0
        """Since the peer last had room."""
        self.stuck = False
        self.end: wire.End | None = None


class Streams:
    """All feeds, and what all streams hold."""

    def __init__(self, cache: MemoryCache) -> None:
        self._cache = cache
        self.feeds: dict[tuple[int, int], Feed] = {}
        """By peer and request id."""
        self._of_peer: dict[int, set[int]] = {}
        self.bytes = 0
        self.taken = 0
        """Chunks that holders have brought."""
        self.sent = 0
        self.hits = 0
        """Stored answers that were served in pieces."""
        self.broken = 0
        """Readers who had seen a chunk of a stream that failed."""

    def __len__(self) -> int:
        return len(self.feeds)

    @property
    def limit_bytes(self) -> int:
        """Most that all streams may hold."""
        return int(self._cache.budget * MAX_SHARE)

    def find(self, peer: Peer, request_id: int) -> Feed | None:
        """Return the feed that answers a peer's begin of that id."""
        return self.feeds.get((peer.id, request_id))

    def hold(self, stream: Stream) -> Stream:
        """Keep a stream's chunks until `drop`."""
        stream.holders += 1
        if stream.holders == 1:
            self._charge(stream.charge)

        return stream

    def drop(self, stream: Stream) -> None:
        """Let go of a stream."""
        stream.holders -= 1
        if not stream.holders:
            self._charge(-stream.charge)

    def append(self, stream: Stream, chunk: bytes) -> bool:
        """Add a chunk to a stream that is held; False where there is no room for it."""
        charge = len(chunk) + CHUNK_OVERHEAD_BYTES
        if stream.size + len(chunk) > MAX_STREAM_BYTES or self.bytes + charge > self.limit_bytes:
            return False

        stream.chunks.append(Raw(chunk))
        stream.size += len(chunk)
        stream.charge += charge
        self.taken += 1
        self._charge(charge)
        return True

    def open(self, peer: Peer, request_id: int, stream: Stream, first: wire.Chunk) -> Feed:
        """Let a peer read a stream from its beginning."""
        feed = self.feeds[peer.id, request_id] = Feed(peer, request_id, self.hold(stream), first)
        self._of_peer.setdefault(peer.id, set()).add(request_id)
        return feed

    def close(self, feed: Feed) -> None:
        """A reader gets no more."""
        del self.feeds[feed.peer.id, feed.request_id]
        ids = self._of_peer[feed.peer.id]
        ids.remove(feed.request_id)
        if not ids:
            del self._of_peer[feed.peer.id]

        self.drop(feed.stream)

    def abandon(self, feed: Feed | None) -> None:
        """A reader gets no more, where it has begun to read at all."""
        if feed is not None:
            self.close(feed)

    def pump(self, feed: Feed) -> list[Effect]:
        """Send what the reader may have now."""
        effects: list[Effect] = []
        chunks, peer_id = feed.stream.chunks, feed.peer.id
        while not feed.stuck and feed.position < len(chunks):
            chunk = chunks[feed.position]
            first = feed.first
            reply = (
                wire.Chunk(feed.request_id, chunk)
                if feed.position
                else wire.Chunk(
                    feed.request_id,
                    chunk,
                    first.source,
                    first.age_seconds,
                    first.backend,
                    first.saved_dollars,
                    first.similarity,
                )
            )
            effects.append(Send(peer_id, reply))
            feed.position += 1
            self.sent += 1
            feed.sent_bytes += len(memoryview(chunk)) + CHUNK_OVERHEAD_BYTES
            if feed.sent_bytes >= WINDOW_BYTES:
                feed.stuck = True
                effects.append(AwaitRead(peer_id, feed.request_id))

        if feed.end is not None and feed.position == len(chunks):
            effects.append(Send(peer_id, feed.end))
            self.close(feed)

        return effects

    def has_room(self, peer_id: int, request_id: int) -> list[Effect]:
        """The peer has read most of what it was sent."""
        feed = self.feeds.get((peer_id, request_id))
        if feed is None or not feed.stuck:
            return []

        feed.stuck = False
        feed.sent_bytes = 0
        return self.pump(feed)

    def fits(self, value: Raw) -> bool:
        """Tell whether a stored answer can be replayed now, however slowly it is read.

        Its elements count as those of a stream do: 16 MB of nothings would else take a gigabyte.
        """
        packed = memoryview(value)
        charge = len(packed) + CHUNK_OVERHEAD_BYTES * _count_of(packed)
        return charge <= WINDOW_BYTES or self.bytes + charge <= self.limit_bytes

    def replay(self, peer: Peer, reply: wire.Hit | wire.Shared) -> list[Effect]:
        """Serve a whole answer as a stream; one that has too many pieces is not shared with who wants it so."""
        if not self.fits(reply.value):
            return [Send(peer.id, wire.Failed(reply.id, "ignored", "the answer has too many pieces to be shared"))]

        self.hits += isinstance(reply, wire.Hit)
        stream = Stream()
        stream.chunks.extend(chunks_of(reply.value))
        stream.charge = len(memoryview(reply.value)) + CHUNK_OVERHEAD_BYTES * len(stream.chunks)
        feed = self.open(peer, reply.id, stream, first_of(reply))
        return self.finish(feed, reply)

    def finish(self, feed: Feed, reply: wire.Hit | wire.Shared) -> list[Effect]:
        """A stream is complete: let its reader have the rest, and then the end, which says what ``reply`` does."""
        feed.end = _end_of(reply)
        return self.pump(feed)

    def lose(self, peer: Peer) -> None:
        """Forget a peer's feeds."""
        for request_id in list(self._of_peer.get(peer.id, ())):
            self.close(self.feeds[peer.id, request_id])

    def detached(self) -> Sequence[Feed]:
        """Return the feeds of answers that are whole."""
        return [feed for feed in self.feeds.values() if feed.end is not None]

    def _charge(self, charge: int) -> None:
        self.bytes += charge
        self._cache.reserved = self.bytes


def first_of(reply: wire.Hit | wire.Shared) -> wire.Chunk:
    """Return what the first chunk says of a whole answer."""
    source, similarity = _source_of(reply), reply.similarity if isinstance(reply, wire.Hit) else None
    return wire.Chunk(reply.id, None, source, reply.age_seconds, reply.backend, reply.saved_dollars, similarity)


def chunks_of(value: Raw) -> list[Raw]:
    """Return the chunks of a stored value: the elements of a list; any other value is one chunk."""
    if not _is_array(memoryview(value)):
        return [value]

    try:
        return _split(memoryview(value))
    except (MsgspecError, RecursionError):
        # It came from a store that others write too, and is served as it is.
        return [value]


def _is_array(value: memoryview) -> bool:
    return bool(value) and (value[0] & 0xF0 == _SHORT_ARRAY or value[0] in {_ARRAY_16, _ARRAY_32})


def _count_of(value: memoryview) -> int:
    """Return how many chunks a stored value has, without making them: a byte of it may be one, and each costs a hundred."""
    if not _is_array(value):
        return 1

    size = {_ARRAY_16: 2, _ARRAY_32: 4}.get(value[0], 0)
    count = int.from_bytes(value[1 : 1 + size], "big") if size else value[0] & _MAX_SHORT
    return min(count, len(value))  # a header may lie, and each is a byte at least


def _end_of(reply: wire.Hit | wire.Shared) -> wire.End:
    return wire.End(
        reply.id,
        _source_of(reply),
        reply.age_seconds,
        reply.stale,
        reply.saved_seconds,
        reply.saved_dollars,
        reply.backend,
        reply.meta,
        reply.trace if isinstance(reply, wire.Shared) else "",
        reply.similarity if isinstance(reply, wire.Hit) else None,
    )


def _source_of(reply: wire.Hit | wire.Shared) -> wire.StreamSource:
    if reply.stale:
        return "stale"

    return "cache" if isinstance(reply, wire.Hit) else "shared"


def _array_header(length: int) -> bytes:
    if length <= _MAX_SHORT:
        return bytes((_SHORT_ARRAY | length,))

    if length <= _MAX_16:
        return bytes((_ARRAY_16,)) + length.to_bytes(2, "big")

    return bytes((_ARRAY_32,)) + length.to_bytes(4, "big")
