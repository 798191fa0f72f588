"""Streams: answers that are shared chunk by chunk while they arrive.

The chunks of an answer are kept once (`SharedStream`). Each caller has a `Follower`, its position in the stream:

=======================  ===========================================================================================
event                    what happens to the followers
=======================  ===========================================================================================
append                   the chunk is sent immediately to every follower that is not paused
begin, stream in flight  a new follower at position 0 gets the chunks so far, then each new one
begin, stream stored     a new follower at position 0 of a stream that has ended
window sent              the follower is paused until its peer has read most of its backlog (`AwaitRead`, `BacklogRead`)
complete                 `Follower.end` is set; it is sent after the last chunk, then the follower is closed
the stream breaks        followers that have seen a chunk fail; the other callers wait for the next holder's stream
the caller leaves        the follower is closed
=======================  ===========================================================================================

So a slow peer occupies at most one window and one chunk of memory of its own, and delays no one; the server closes the
connection of a peer that reads nothing (``limits.stall_seconds``). All streams together are bounded, and those of each uid, whose
holder is charged for them (`sidecard.core.accounts.memory`).
"""

from collections.abc import Sequence

from msgspec import MsgspecError, Raw, Struct, structs
from msgspec.msgpack import Decoder

from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.cache.entry import chunk_count
from sidecard.core.effects import AwaitRead, Effect, SendReply
from sidecard.core.events import Peer
from sidecard_client.protocol import wire
from sidecard_client.protocol.nesting import LISTS

WINDOW_BYTES = 256 * 1024
"""Unread bytes after which a follower is paused: a quarter of the backlog at which its whole connection is paused."""

WINDOW_CHUNKS = 512
"""Chunks after which a follower is paused as well: sending them takes 2 ms."""

CHUNK_OVERHEAD_BYTES = 100
"""Cost of each chunk's bytes object and list slot: streams consist of small chunks."""

STREAM_OVERHEAD_BYTES = 300
"""Cost of a stream without its chunks."""

FOLLOWER_BYTES = 400
"""Cost of a follower: its position, its first chunk's metadata, and its places in the tables."""

MAX_STREAM_BYTES = wire.MAX_FRAME_BYTES - 64 * 1024
"""Limit of one stream: the whole answer must fit into a frame, because it is stored and read by `get` as one value."""

_SHORT_ARRAY, _ARRAY_16, _ARRAY_32 = 0x90, 0xDC, 0xDD
_MAX_SHORT = 15
_MAX_16 = 0xFFFF

_split = Decoder(list[Raw]).decode


class SharedStream(Struct, eq=False):
    """The chunks of one answer, each a msgpack value. ``charge`` is what they cost ``uid`` while the stream has users."""

    uid: int
    chunks: list[Raw] = []
    size: int = 0
    """Bytes of the chunks, without overhead."""
    charge: int = STREAM_OVERHEAD_BYTES
    holders: int = 0

    def packed(self) -> bytes:
        """Return the value to store: the list of the chunks."""
        return b"".join((_array_header(len(self.chunks)), *map(bytes, self.chunks)))


class Follower(Struct, eq=False):
    """One caller's position in a stream."""

    peer: Peer
    request_id: int
    stream: SharedStream
    first: wire.Chunk
    """The metadata to send with the first chunk."""
    position: int = 0
    sent_bytes: int = 0
    """Since the follower was last resumed."""
    paused: bool = False
    end: wire.End | None = None


class Streams:
    """All followers, and the memory of all streams."""

    def __init__(self, memory: MemoryPool) -> None:
        self.memory = memory
        self.followers: dict[tuple[int, int], Follower] = {}
        """By peer and request id."""
        self._of_peer: dict[int, set[int]] = {}
        self.taken = 0
        """Chunks received from holders."""
        self.sent = 0
        self.hits = 0
        """Stored answers served in chunks."""
        self.broken = 0
        """Readers of failed streams that had seen a chunk."""

    def __len__(self) -> int:
        return len(self.followers)

    @property
    def limit_bytes(self) -> int:
        """Maximum number of bytes that all streams may use."""
        return self.memory.limit_bytes

    def find(self, peer: Peer, request_id: int) -> Follower | None:
        """Return the follower of a peer's begin of that id."""
        return self.followers.get((peer.id, request_id))

    def hold(self, stream: SharedStream) -> SharedStream:
        """Add a user to a stream, until `drop`."""
        stream.holders += 1
        if stream.holders == 1:
            self.memory.charge(stream.uid, stream.charge)

        return stream

    def drop(self, stream: SharedStream) -> None:
        """Remove a user from a stream."""
        stream.holders -= 1
        if not stream.holders:
            self.memory.release(stream.uid, stream.charge)

    def append(self, stream: SharedStream, chunk: bytes) -> bool:
        """Add a chunk to a stream in use; False if there is no room for it."""
        charge = len(chunk) + CHUNK_OVERHEAD_BYTES
        if stream.size + len(chunk) > MAX_STREAM_BYTES or not self.memory.try_charge(stream.uid, charge):
            return False

        stream.chunks.append(Raw(chunk))
        stream.size += len(chunk)
        stream.charge += charge
        self.taken += 1
        return True

    def open(self, peer: Peer, request_id: int, stream: SharedStream, first: wire.Chunk) -> Follower:
        """Open a follower at the beginning of a stream."""
        follower = self.followers[peer.id, request_id] = Follower(peer, request_id, self.hold(stream), first)
        self._of_peer.setdefault(peer.id, set()).add(request_id)
        self.memory.charge(peer.uid, FOLLOWER_BYTES)
        return follower

    def close(self, follower: Follower | None) -> None:
        """Close a follower, if there is one."""
        if follower is None:
            return

        del self.followers[follower.peer.id, follower.request_id]
        ids = self._of_peer[follower.peer.id]
        ids.remove(follower.request_id)
        if not ids:
            del self._of_peer[follower.peer.id]

        self.memory.release(follower.peer.uid, FOLLOWER_BYTES)
        self.drop(follower.stream)

    def pump(self, follower: Follower) -> list[Effect]:
        """Send the follower all chunks that its window admits, and the end after the last one."""
        effects: list[Effect] = []
        chunks, peer_id, window_end = follower.stream.chunks, follower.peer.id, follower.position + WINDOW_CHUNKS
        while not follower.paused and follower.position < len(chunks):
            chunk = chunks[follower.position]
            plain = wire.Chunk(follower.request_id, chunk)
            reply = plain if follower.position else structs.replace(follower.first, id=plain.id, chunk=chunk)
            effects.append(SendReply(peer_id, reply))
            follower.position += 1
            self.sent += 1
            follower.sent_bytes += len(memoryview(chunk)) + CHUNK_OVERHEAD_BYTES
            if follower.sent_bytes >= WINDOW_BYTES or follower.position >= window_end:
                follower.paused = True
                effects.append(AwaitRead(peer_id, follower.request_id))

        if follower.end is not None and follower.position == len(chunks):
            effects.append(SendReply(peer_id, follower.end))
            self.close(follower)

        return effects

    def resume(self, peer_id: int, request_id: int) -> list[Effect]:
        """Resume a paused follower, whose peer has read most of its backlog."""
        follower = self.followers.get((peer_id, request_id))
        if follower is None or not follower.paused:
            return []

        follower.paused = False
        follower.sent_bytes = 0
        return self.pump(follower)

    def fits(self, peer: Peer, value: Raw) -> bool:
        """Return whether a stored answer can be replayed to a peer now, even if it reads slowly.

        Its elements cost as much as a stream's chunks: otherwise 16 MB of nulls would take a gigabyte.
        """
        packed = memoryview(value)
        charge = len(packed) + CHUNK_OVERHEAD_BYTES * chunk_count(packed)
        return charge <= WINDOW_BYTES or self.memory.has_room(peer.uid, charge)

    def replay(self, peer: Peer, reply: wire.Hit | wire.Shared) -> list[Effect]:
        """Serve a whole answer as a stream, if it fits; otherwise the caller makes its own call."""
        if not self.fits(peer, reply.value):
            return [
                SendReply(
                    peer.id, wire.Failed(reply.id, "ignored", "the answer is too large to be sent as a stream now")
                )
            ]

        self.hits += isinstance(reply, wire.Hit)
        chunks = chunks_of(reply.value)
        size = len(memoryview(reply.value)) + CHUNK_OVERHEAD_BYTES * len(chunks)
        if 0 < len(chunks) < WINDOW_CHUNKS and size < WINDOW_BYTES:
            # Sent at once, as `pump` would send it: there is no progress to keep.
            self.sent += len(chunks)
            first = SendReply(peer.id, first_of(reply, chunks[0]))
            others = [SendReply(peer.id, wire.Chunk(reply.id, chunk)) for chunk in chunks[1:]]
            return [first, *others, SendReply(peer.id, _end_of(reply))]

        charge = STREAM_OVERHEAD_BYTES + len(memoryview(reply.value)) + CHUNK_OVERHEAD_BYTES * len(chunks)
        stream = SharedStream(peer.uid, chunks, charge=charge)
        follower = self.open(peer, reply.id, stream, first_of(reply))
        return self.finish(follower, reply)

    def finish(self, follower: Follower, reply: wire.Hit | wire.Shared) -> list[Effect]:
        """Send the rest of a complete stream, and then its end, with the metadata of ``reply``."""
        follower.end = _end_of(reply)
        return self.pump(follower)

    def lose(self, peer: Peer) -> None:
        """Close all followers of a lost peer."""
        for request_id in list(self._of_peer.get(peer.id, ())):
            self.close(self.followers[peer.id, request_id])

    def whole_answers(self) -> Sequence[Follower]:
        """Return the followers of complete answers, which belong to no flight."""
        return [follower for follower in self.followers.values() if follower.end is not None]


def first_of(reply: wire.Hit | wire.Shared, chunk: Raw | None = None) -> wire.Chunk:
    """Return the first chunk of a whole answer, with the answer's metadata."""
    source, similarity = _source_of(reply), reply.similarity if isinstance(reply, wire.Hit) else None
    return wire.Chunk(reply.id, chunk, source, reply.age_seconds, reply.backend, reply.saved_dollars, similarity)


def chunks_of(value: Raw) -> list[Raw]:
    """Return the chunks of a stored value: the elements of a list, or the value itself."""
    packed = memoryview(value)
    if not packed or packed[0] not in LISTS:
        return [value]

    try:
        return _split(packed)
    except (MsgspecError, RecursionError):
        # From a store that other programs write too: served as it is.
        return [value]


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
