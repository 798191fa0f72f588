"""One connection: bytes to messages, replies to bytes, and what happens when the other end does not do its part.

Back-pressure, in order of severity:

1. More than `HIGH_WATER_BYTES` unread: nothing more of this peer is read or served until it has read most of that.
2. So for ``stall_seconds``, or more than ``max_outbox_bytes`` unread (answers of other peers' calls): it is closed.
3. More than ``max_buffered_bytes`` held for all peers together: those are closed that hold most (`sidecard.server.buffers`).

A message that has come in part for ``message_seconds`` closes its peer too, however its bytes trickle in.

More than a few messages at once are served in turns (`sidecard.server.scheduler`). Others never notice, because nothing here waits.
Measured, a peer that asks every 5 ms for a hit has its answer, median, on two cores that all of them share, after 0.3 ms alone,
0.5 ms beside 4 peers that ping without pause, 0.5 ms beside 16, 6 ms beside 16 that have hits, 3 ms beside 16 that ask for all
metrics; before there were turns after 2, 8, 24 and 7,400 ms.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple, cast

from sidecard.config.schema import Limits
from sidecard.core.events import Peer
from sidecard.server.buffers import COUNTED_BYTES, Buffers
from sidecard.server.connections import Roster
from sidecard.server.driver import Driver
from sidecard.server.large_replies import LargeReply, around, large_value
from sidecard.server.scheduler import MAX_BATCH, TURN_SECONDS, Turns
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError
from sidecard_client.protocol.frames import Incoming, RequestReader, frame, line

HIGH_WATER_BYTES: Final = 1024 * 1024

RESUMED_BYTES: Final = COUNTED_BYTES // 4
"""Unread bytes at which a peer that was behind is so no more."""

MESSAGE_OVERHEAD_BYTES: Final = 200
"""Of a request that waits to be served, beside its own bytes."""

_ENDS_OF_BEGIN = frozenset(wire.FINAL_REPLIES_OF_BEGIN)
_MAY_END_OWN_WAIT = (wire.Complete, wire.Fail, wire.Cancel)


class Commons(NamedTuple):
    """What the connections of a daemon have in common."""

    driver: Driver
    roster: Roster
    turns: Turns
    buffers: "Buffers[Connection]"
    loop: asyncio.AbstractEventLoop


class Connection(asyncio.Protocol):
    """One accepted connection; also the outbox that the driver puts its replies in."""

    def __init__(self, commons: Commons, limits: Limits) -> None:
        self._driver, self._roster, self._turns, self._buffers, self._loop = commons
        self._limits = limits
        self._reader = RequestReader(limits.max_frame_bytes, limits.max_line_bytes, MAX_BATCH)
        self._feed = self._reader.feed
        self._backlog: deque[Incoming] = deque()
        self._fault: FramingError | None = None
        """What comes after the backlog, and ends the connection."""
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._closing = False
        self._refusal: str | None = None
        """Why it was not admitted, to be said in the encoding that it will show."""
        self._half_closed = False
        self._waiting: set[int] = set()
        """Ids of begins that wait. Kept for JSON lines only: their senders may half-close and still be answered."""
        self._unheard: Counter[int] = Counter()
        """By id, requests that were served and have had no word in return, because the store is asked; for JSON lines only."""
        self._asked: Incoming | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._rest_expected: asyncio.TimerHandle | None = None
        self._behind = False
        """So much is unread that it is counted."""
        self.full = False

    # -- what the transport says ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's is no less
        """Find out who it is, and admit it or not."""
        self._transport = transport
        admitted = self._roster.admit(self, transport.get_extra_info("socket"))
        if isinstance(admitted, Peer):
            self._peer = admitted
            transport.set_write_buffer_limits(COUNTED_BYTES, RESUMED_BYTES)
            self._driver.join(admitted, self)
            return

        self._closing = True
        if admitted.seconds:
            self._refusal = admitted.reason
            self._deadline = self._loop.call_later(admitted.seconds, transport.abort)
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Serve what is whole now. The hot path: nothing here that is not needed each time."""
        if self._closing:
            self._say_refusal(data)
            return

        try:
            messages = self._feed(data)
        except FramingError as fault:
            # What was well said before the fault is served first, as it would be had it come in a chunk of its own.
            self._fault = fault
            self._serve_slowly(fault.before)
            return

        if not self._reader.calm:
            self._serve_slowly(messages)
            return

        # It is one, then.
        self._driver.take(self._peer, self, messages)

    def eof_received(self) -> bool:
        """The peer sends no more. Only one that speaks JSON lines may still listen: `socat` users half-close."""
        if self._closing or not self._reader.json:
            self.close()
            return False

        self._half_closed = True
        self._serve_slowly(self._reader.finish())
        return True

    def pause_writing(self) -> None:
        """The peer does not read: from now on, what it leaves unread is counted."""
        self._behind = True
        self._count()

    def resume_writing(self) -> None:
        """The peer has read most of it."""
        self._behind = self.full = False
        self._buffers.take_back(self)
        if not self._closing:
            self._count()
            self._forget_deadline()
            # Not from in here: the transport is in the middle of its own write.
            self._loop.call_soon(self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection has ended, whoever ended it."""
        self._closing = True
        self._forget_deadline()
        if self._rest_expected is not None:
            self._rest_expected.cancel()

        self._backlog.clear()
        self._queued.clear()
        self._turns.forget(self)
        self._buffers.release(self)
        if self._roster.dismiss(self):
            self._driver.lose(self._peer)

    # -- what others say -----------------------------------------------------------------------------------------------

    def serve_turn(self) -> bool:
        """See `sidecard.server.scheduler.Turn`."""
        self._serve_batch()
        return self._has_more()

    def overflow(self) -> None:
        """All connections together hold too much, and this one most."""
        self._abort(
            "max_buffered_bytes",
            f"all peers left more than limits.max_buffered_bytes ({self._buffers.max_bytes}) unread, or unfinished, and it most",
        )

    # -- what the driver says ------------------------------------------------------------------------------------------

    def put(self, reply: wire.AnyReply) -> None:
        """Queue a reply; see `sidecard.server.driver.Outbox`."""
        if self._closing:
            return

        if self._reader.json:
            self._follow(reply)
            data = line(reply)
        else:
            data = frame(wire.pack(reply))

        self._queued.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > HIGH_WATER_BYTES:
            # Now and not at the end of the batch, which could be thousands of large answers long.
            self._write()

    def deliver(self, reply: wire.AnyReply) -> None:
        """Queue a reply that may be one of many of the same value; see `sidecard.server.driver.Outbox`."""
        value = None if self._reader.json else large_value(reply)
        if value is None:
            self.put(reply)
        elif not self._closing:
            before, after = around(cast("LargeReply", reply), value)
            self._write()
            if not self._transport.is_closing():
                self._buffers.lend(self, value)
                self._transport.writelines((before, value, after))
                if not self._behind:
                    # All of it has left.
                    self._buffers.take_back(self)

    def flush(self) -> None:
        """Hand the queued replies over; see `sidecard.server.driver.Outbox`."""
        if self._queued:
            self._write()

        if self._half_closed:
            self._close_if_answered()

    def close(self) -> None:
        """End the connection: the engine forgets the peer at once, replies on their way may still arrive."""
        if self._closing:
            return

        if self._queued:
            self._write()

        self._closing = True
        self._backlog.clear()
        self._turns.forget(self)
        self._driver.lose(self._peer)
        self._transport.close()
        self._expect_progress()

    def abort(self) -> None:
        """End the connection now."""
        self._closing = True
        self._transport.abort()

    @property
    def unread(self) -> bool:
        """See `sidecard.server.driver.Outbox`."""
        return bool(self._queued or self._transport.get_write_buffer_size())

    # -- inside --------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        queued = self._queued
        # Looked at before and not after writing: one answer that is larger than the bound can still be delivered.
        if self._behind and self._transport.get_write_buffer_size() > self._limits.max_outbox_bytes:
            self._abort(
                "max_outbox_bytes",
                f"it left more than limits.max_outbox_bytes ({self._limits.max_outbox_bytes}) unread",
            )
        elif queued and not self._transport.is_closing():
            # Closing it is where the last write found nobody at the other end; `connection_lost` follows.
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

        queued.clear()
        self._queued_bytes = 0
        if self._behind:
            self._count()

    def _go_on(self) -> None:
        """Serve what waits for the peer's having read."""
        if not self._closing:
            self._driver.has_room(self._peer)

        if self._has_more():
            self._turns.want(self, self._peer.uid)

    def _serve_slowly(self, messages: Sequence[Incoming]) -> None:
        """Serve what is more than one whole frame, or less: a few messages at once, more in turns."""
        if self._reader.partial:
            self._expect_rest()

        at_once = self._turns.may_skip(len(messages) + len(self._backlog) + self._reader.left)
        if at_once and len(messages) <= MAX_BATCH and not (self._reader.json or self._backlog or self.full):
            # Without the detour by the backlog, which a client with many calls at a time would pay for.
            self._backlog.extend(messages[self._driver.take(self._peer, self, messages) :])
        else:
            self._backlog.extend(messages)
            if at_once:
                self._serve_batch()

        if self._has_more():
            self._turns.want(self, self._peer.uid)

    def _serve_batch(self) -> None:
        if not self._backlog:
            self._backlog.extend(self._reader.more())

        if self._reader.json:
            self._serve_lines()
        elif self._backlog and not self._closing and not self.full:
            batch = [self._backlog.popleft() for _ in range(min(len(self._backlog), MAX_BATCH))]
            served = self._driver.take(self._peer, self, batch)
            self._backlog.extendleft(reversed(batch[served:]))

    def _has_more(self) -> bool:
        """Tell whether another batch waits that may be served; where none waits at all, read on, or end."""
        if self._closing:
            return False

        self._count()
        if self.full:
            return False

        if self._backlog or self._reader.left:
            self._transport.pause_reading()
            return True

        if self._fault is not None:
            self._refuse(self._fault)
        elif self._half_closed:
            self._close_if_answered()
        else:
            self._reader.settle()
            self._transport.resume_reading()

        return False

    def _count(self) -> None:
        """Take note of what is held for this peer, and of what follows from it."""
        unread = self._transport.get_write_buffer_size()
        if unread > HIGH_WATER_BYTES and not self.full and not self._closing:
            self.full = True
            self._transport.pause_reading()
            self._expect_progress()

        unserved = self._reader.held_bytes + MESSAGE_OVERHEAD_BYTES * (len(self._backlog) + self._reader.left)
        for victim in self._buffers.hold(self, self._peer.uid, unread + unserved):
            victim.overflow()

    def _serve_lines(self) -> None:
        """As a batch, but one by one, since `_follow` must know what was asked."""
        until = self._driver.clock() + TURN_SECONDS
        for _ in range(min(len(self._backlog), MAX_BATCH)):
            if self._closing or self.full:
                return

            self._asked = asked = self._backlog.popleft()
            if not _is_unanswered(asked):
                self._unheard[asked.id] += 1

            self._driver.take(self._peer, self, (asked,))
            if isinstance(asked, wire.Cancel):
                self._waiting.discard(asked.target)
                del self._unheard[asked.target]

            self._asked = None
            if self._driver.clock() > until:
                return

    def _follow(self, reply: wire.AnyReply) -> None:
        """Keep `_waiting` true. An id may be used by a begin that waits and by other requests, whose answers end no wait."""
        if isinstance(reply, wire.Chunk | wire.Note) and reply.id in self._waiting:
            return

        if self._unheard[reply.id] > 1:
            self._unheard[reply.id] -= 1
        else:
            del self._unheard[reply.id]

        if isinstance(reply, wire.Pending | wire.Chunk):
            self._waiting.add(reply.id)
        elif isinstance(reply, wire.End):
            # Of a stored answer it comes with the begin itself.
            self._waiting.discard(reply.id)
        elif type(reply) in _ENDS_OF_BEGIN and (self._asked is None or isinstance(self._asked, _MAY_END_OWN_WAIT)):
            self._waiting.discard(reply.id)

    def _close_if_answered(self) -> None:
        if not self._waiting and not self._unheard and not self._backlog and not self._reader.left:
            self.close()

    def _refuse(self, fault: FramingError) -> None:
        self._driver.refuse(self, fault.code, fault.message)
        self.close()

    def _say_refusal(self, data: bytes) -> None:
        """Tell people why they are not admitted. Clients find the connection closed, and make their calls themselves."""
        if self._refusal is None:
            return

        with suppress(FramingError):
            self._feed(data)

        if self._reader.json and not self._transport.is_closing():
            self._transport.write(
                line(wire.Error(0, "unavailable", f"This connection is not admitted: {self._refusal}"))
            )

        self._refusal = None
        self._transport.close()

    def _expect_rest(self) -> None:
        # Looked at only then, whatever comes meanwhile: large answers come in parts as well.
        if self._rest_expected is None:
            look = partial(self._look_for_rest, self._reader.partial)
            self._rest_expected = self._loop.call_later(self._limits.message_seconds, look)

    def _look_for_rest(self, message: int) -> None:
        self._rest_expected = None
        if self._closing or not self._reader.partial:
            return

        if self._reader.partial == message and not self.full:
            seconds = self._limits.message_seconds
            self._abort("message_seconds", f"a message of it took longer than limits.message_seconds ({seconds:g})")
        else:
            self._expect_rest()

    def _expect_progress(self) -> None:
        self._forget_deadline()
        self._deadline = self._loop.call_later(self._limits.stall_seconds, self._stalled)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stalled(self) -> None:
        self._deadline = None
        self._abort("stall_seconds", f"it read too little for limits.stall_seconds ({self._limits.stall_seconds:g})")

    def _abort(self, limit: str, reason: str) -> None:
        self._roster.tell_closed(self._peer, limit, reason)
        self._buffers.release(self)
        self.abort()


def _is_unanswered(asked: Incoming) -> bool:
    """Tell whether a request has no answer where nothing is wrong with it."""
    return isinstance(asked, wire.Append) or (isinstance(asked, wire.RecordMetrics) and not asked.acknowledge)
