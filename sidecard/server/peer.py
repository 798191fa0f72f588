"""One connection: bytes to messages, replies to bytes, and what happens when the other end does not read.

Back-pressure, in order of severity:

1. More than `HIGH_WATER_BYTES` unread: nothing more of this peer is read or served until it has read most of that.
2. So for ``stall_seconds``, or more than ``max_outbox_bytes`` unread (answers of other peers' calls): it is closed.

Others never notice, because nothing here waits.
"""

import asyncio
from collections import Counter, deque
from typing import Final

from sidecard.sections import Limits
from sidecard.server.driver import Driver
from sidecard.server.roster import Roster
from sidecard_client import wire
from sidecard_client.errors import FramingError
from sidecard_client.frames import Incoming, RequestReader, frame, line

HIGH_WATER_BYTES: Final = 1024 * 1024
LOW_WATER_BYTES: Final = HIGH_WATER_BYTES // 4

MAX_BATCH: Final = 256
"""Messages of one peer served in a row; some 3 ms, after which others get their turn."""

_ENDS_OF_BEGIN = frozenset(wire.FINAL_REPLIES_OF_BEGIN)
_MAY_END_OWN_WAIT = (wire.Complete, wire.Fail, wire.Cancel)


class Connection(asyncio.Protocol):
    """One accepted connection; also the outbox that the driver puts its replies in."""

    def __init__(self, driver: Driver, roster: Roster, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._driver = driver
        self._roster = roster
        self._limits = limits
        self._loop = loop
        self._reader = RequestReader(limits.max_frame_bytes, limits.max_line_bytes)
        self._feed = self._reader.feed
        self._backlog: deque[Incoming] = deque()
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._closing = False
        self._half_closed = False
        self._waiting: set[int] = set()
        """Ids of begins that wait. Kept for JSON lines only: their senders may half-close and still be answered."""
        self._unheard: Counter[int] = Counter()
        """By id, requests that were served and have had no word in return, because the store is asked; for JSON lines only."""
        self._asked: Incoming | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.full = False

    # -- what the transport says ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream's is no less
        """Find out who it is, and admit it or not."""
        self._transport = transport
        peer = self._roster.admit(self, transport.get_extra_info("socket"))
        if peer is None:
            self._closing = True
            transport.abort()
            return

        self._peer = peer
        transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        self._driver.join(peer, self)

    def data_received(self, data: bytes) -> None:
        """Serve what is whole now. The hot path: nothing here that is not needed each time."""
        if self._closing:
            return

        try:
            messages = self._feed(data)
        except FramingError as fault:
            # What was well said before the fault is served, as it would be had it come in a chunk of its own.
            self._driver.take(self._peer, self, (*self._backlog, *fault.before))
            self._refuse(fault)
            return

        if self._backlog or self._reader.json or len(messages) > MAX_BATCH:
            self._backlog.extend(messages)
            self._serve_backlog()
            return

        served = self._driver.take(self._peer, self, messages)
        if served < len(messages):
            self._backlog.extend(messages[served:])
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The peer sends no more. Only one that speaks JSON lines may still listen: `socat` users half-close."""
        if not self._reader.json:
            self.close()
            return False

        self._half_closed = True
        self._backlog.extend(self._reader.finish())
        self._serve_backlog()
        return True

    def pause_writing(self) -> None:
        """The peer does not read: stop reading it, and give it ``stall_seconds``."""
        self.full = True
        if not self._closing:
            self._transport.pause_reading()
            self._expect_progress()

    def resume_writing(self) -> None:
        """The peer has read most of it."""
        self.full = False
        if not self._closing:
            self._forget_deadline()
            # Not from in here: the transport is in the middle of its own write.
            self._loop.call_soon(self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection has ended, whoever ended it."""
        self._closing = True
        self._forget_deadline()
        self._backlog.clear()
        self._queued.clear()
        if self._roster.dismiss(self):
            self._driver.lose(self._peer)

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
        self._driver.lose(self._peer)
        self._transport.close()
        self._expect_progress()

    def abort(self) -> None:
        """End the connection now."""
        self._closing = True
        self._transport.abort()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        queued = self._queued
        # Looked at before and not after writing: one answer that is larger than the bound can still be delivered.
        if self.full and self._transport.get_write_buffer_size() > self._limits.max_outbox_bytes:
            self._abort(f"it left more than limits.max_outbox_bytes ({self._limits.max_outbox_bytes}) unread")
        elif not self._transport.is_closing():
            # Closing it is where the last write found nobody at the other end; `connection_lost` follows.
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

        queued.clear()
        self._queued_bytes = 0

    def _go_on(self) -> None:
        """Serve what waits for the peer's having read."""
        if not self._closing:
            self._driver.has_room(self._peer)

        self._serve_backlog()

    def _serve_backlog(self) -> None:
        """Serve a batch of what has been read; come back for the rest, and read on after that."""
        if self._reader.json:
            self._serve_lines()
        elif self._backlog and not self._closing and not self.full:
            batch = [self._backlog.popleft() for _ in range(min(len(self._backlog), MAX_BATCH))]
            served = self._driver.take(self._peer, self, batch)
            self._backlog.extendleft(reversed(batch[served:]))

        if self._closing or self.full:
            return

        if self._backlog:
            self._transport.pause_reading()
            self._loop.call_soon(self._serve_backlog)
        elif self._half_closed:
            self._close_if_answered()
        else:
            self._transport.resume_reading()

    def _serve_lines(self) -> None:
        """As a batch, but one by one, since `_follow` must know what was asked."""
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

    def _follow(self, reply: wire.AnyReply) -> None:
        """Keep `_waiting` true. An id may be used by a begin that waits and by other requests, whose answers end no wait."""
        if isinstance(reply, wire.Chunk) and reply.id in self._waiting:
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
        if not self._waiting and not self._unheard and not self._backlog:
            self.close()

    def _refuse(self, fault: FramingError) -> None:
        self._driver.refuse(self, fault.code, fault.message)
        self.close()

    def _expect_progress(self) -> None:
        self._forget_deadline()
        self._deadline = self._loop.call_later(self._limits.stall_seconds, self._stalled)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stalled(self) -> None:
        self._deadline = None
        self._abort(f"it read too little for limits.stall_seconds ({self._limits.stall_seconds:g})")

    def _abort(self, reason: str) -> None:
        self._roster.tell_closed(self._peer, reason)
        self.abort()


def _is_unanswered(asked: Incoming) -> bool:
    """Tell whether a request has no answer where nothing is wrong with it."""
    return isinstance(asked, wire.Append) or (isinstance(asked, wire.RecordMetrics) and not asked.acknowledge)
