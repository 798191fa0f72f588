"""One connection of a peer: bytes to messages, replies to bytes, and limits on peers that read or send too slowly.

Back-pressure, in order of severity:

1. More than `HIGH_WATER_BYTES` unread: the peer is not read or served further until it has read most of that.
2. More than that for ``stall_seconds``, or more than ``max_outbox_bytes`` unread (replies to other peers' calls): closed.
3. More than ``max_buffered_bytes`` held for all peers together: those that hold most are closed (`sidecard.server.buffers`).

A peer whose message stays incomplete for ``message_seconds`` is closed too, even if bytes keep arriving.

Requests that arrive one at a time are served inline; all others in turns (`sidecard.server.scheduler`). The rest of an incomplete
message is read in turns too while its uid is over its time.
"""

import asyncio
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from sidecard.config.schema import LimitSettings
from sidecard.core.events import Peer
from sidecard.server.buffers import COUNTED_BYTES
from sidecard.server.connections import AdmissionDenied
from sidecard.server.json_lines.text import json_line
from sidecard.server.peer_output import HIGH_WATER_BYTES, PeerOutput, ServerContext
from sidecard.server.reader import BadMessage, Incoming, RequestReader, requests_of_frames
from sidecard.server.scheduler import MAX_BATCH, TURN_SECONDS
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError

if TYPE_CHECKING:
    from collections.abc import Iterable

INLINE_BYTES: Final = 64 * 1024
"""More bytes of JSON lines are split and decoded in a turn: 1 MiB takes up to 20 ms. Frames are charged to their uid instead."""

READ_BYTES_PER_SECOND: Final = 250_000_000
"""Lowest speed of reading. A turn that continues reading spends up to 1 ms on it: one read returns at most 256 KiB."""

LOW_WATER_BYTES: Final = COUNTED_BYTES // 4
"""Unread bytes at which a peer has caught up."""

NEEDS_FRAMES: Final = "JSON lines carry no descriptor of a view: connect with msgpack frames"

MESSAGE_OVERHEAD_BYTES: Final = 200
"""Memory of a message that waits to be served, besides its own bytes."""


class PeerConnection(PeerOutput):
    """One accepted connection."""

    def __init__(
        self,
        context: ServerContext,
        limits: LimitSettings,
        admission: Peer | AdmissionDenied,
        descriptor: int | None = None,
    ) -> None:
        super().__init__(context, limits)
        self._clock = self._scheduler.clock
        self._reader = RequestReader(limits.max_frame_bytes, limits.max_line_bytes, MAX_BATCH)
        self._receive = self._reader.receive
        self._backlog: list[bytes] = []
        """Messages that wait to be decoded and served: at most `MAX_BATCH`."""
        self._unfinished: Incoming | None = None
        """The first message of the backlog, decoded and served in part."""
        self._fault: FramingError | None = None
        """Ends the connection once the backlog has been served."""
        self._admission = admission
        self._descriptor = descriptor
        """Of the socket: the loop would make an object for each connection that is asked for its socket."""
        self._denial: str | None = None
        """Why the connection was not admitted, to be sent once its encoding is known."""
        self._read_bytes = 0
        """Size of the last read, if the connection is read further in its next turn."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a stream has a transport of this type
        """Let an admitted peer join, or arrange to send the reason why it is denied."""
        self._transport = transport
        admission = self._admission
        if isinstance(admission, Peer):
            self._peer = admission
            transport.set_write_buffer_limits(COUNTED_BYTES, LOW_WATER_BYTES)
            self._driver.peer_joined(admission, self, self._descriptor)
            self._connections.join(self, admission)
        else:
            self._closing = self._silent = True
            self._denial = admission.reason
            self._progress_timer = self._loop.call_later(admission.seconds, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Serve the messages that are complete now. The hot path: only what each read needs."""
        if self._closing:
            self._send_denial(data)
            return

        now, scheduler = self._clock(), self._scheduler
        large = not self._reader.single_frames and len(data) + self._reader.held_bytes > INLINE_BYTES
        inline = now < scheduler.inline_until or scheduler.may_serve_inline(self._peer.uid, now)
        if not inline or (large and self._reader.is_text(data)):
            self._hold(data)
            if not inline and self._reader.partial:
                # Bytes of one uid's messages may not arrive faster than in its turns.
                self._transport.pause_reading()
                self._read_bytes = len(data)
                scheduler.enqueue(self, self._peer.uid)

            return

        try:
            messages = self._receive(data)
        except FramingError as fault:
            self._fault, messages = fault, []

        if self._reader.single_frames:
            # Exactly one message.
            self._driver.serve(self._peer, self, messages, 1, now)
        else:
            self._serve_batch(now)
            self._enqueue_rest()
            if large:
                scheduler.charge(self._peer.uid, self._clock() - now)

    def eof_received(self) -> bool:
        """Handle the end of input. Only a JSON-lines peer may still read replies: `socat` half-closes."""
        if self._closing:
            return False

        now = self._clock()
        if not self._reader.json:
            if self._unfinished is None and self._scheduler.may_serve_inline(self._peer.uid, now):
                self.close()
                return False

            # Thousands of connections may end at the same time.
            self._half_closed = True
            self._scheduler.enqueue(self, self._peer.uid)
            return True

        self._half_closed = True
        self._reader.end()
        if self._reader.held_bytes <= INLINE_BYTES and self._scheduler.may_serve_inline(self._peer.uid, now):
            self._serve_batch(now)

        self._enqueue_rest()
        return True

    def resume_writing(self) -> None:
        """Continue to serve the peer, which has read most of its replies."""
        self._behind = self.congested = False
        self._kept = 0
        self._buffers.unshare(self)
        if not self._closing:
            self._update_buffered()
            self._cancel_progress_timer()
            # Deferred: the transport is in the middle of its own write.
            self._loop.call_soon(self._resume)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget the connection, whichever side ended it."""
        self._closing = self._silent = True
        self._cancel_timers()

        self._backlog.clear()
        self._queued.clear()
        self._outbox.clear()
        self._scheduler.remove(self)
        self._buffers.release(self)
        if not isinstance(self._admission, Peer):
            self._connections.withdraw(self._admission)
        elif self._connections.remove(self):
            self._driver.peer_lost(self._admission, self._descriptor)

    # -- called by the connection table, the scheduler and other connections -------------------------------------------

    def close(self) -> None:
        """End the connection: the engine forgets the peer immediately; replies in the send buffer may still arrive."""
        if self._closing:
            return

        if self._queued:
            self._write()

        while self._outbox.lines:
            # Only when the daemon stops: before, they are written in turns.
            self._write_shared(self._outbox.work())

        self._closing = self._silent = True
        self._backlog.clear()
        self._scheduler.remove(self)
        self._driver.peer_lost(self._peer, self._descriptor)
        self._transport.close()
        self._start_progress_timer()

    def abort(self) -> None:
        """End the connection now."""
        self._closing = self._silent = True
        self._transport.abort()

    def serve_turn(self) -> bool:
        """Serve one batch, or write waiting lines. Return whether more waits."""
        if self._half_closed and not self._reader.json and self._unfinished is None:
            self.close()
            return False

        now = self._clock()
        if self._read_bytes:
            self._scheduler.spend(self._read_bytes / READ_BYTES_PER_SECOND)
            self._read_bytes = 0

        if not self._outbox.lines:
            self._serve_batch(now)

        while self._outbox.lines and not self._closing and not self.congested:
            self._write_shared(self._outbox.work())
            if self._clock() - now > TURN_SECONDS:
                break

        return self._has_more()

    # -- serving -------------------------------------------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        """Keep received bytes for a turn, in which they are split, decoded and served."""
        try:
            self._reader.hold(data)
        except FramingError as fault:
            self._fault = fault
        self._enqueue_rest()

    def _enqueue_rest(self) -> None:
        if self._has_more():
            self._scheduler.enqueue(self, self._peer.uid)

    def _serve_batch(self, now: float) -> None:
        """Serve one batch: up to `MAX_BATCH` frames, or as many lines as fit into a turn."""
        if self._reader.json:
            self._serve_lines(now + TURN_SECONDS)
            return

        if not self._backlog:
            self._take_more()

        backlog = self._backlog
        if backlog and not self._closing and not self.congested:
            # Each is decoded just before it is served, if its turn comes now.
            messages: Iterable[Incoming] = requests_of_frames(backlog)
            if self._unfinished is not None:
                messages = chain((self._unfinished,), requests_of_frames(backlog[1:]))
                self._unfinished = None

            del backlog[: self._driver.serve(self._peer, self, messages, len(backlog), now)]

    def serve_again(self, request: Incoming) -> None:
        """Serve a request in the next turn, before others: it is the first of the backlog, or the only one received."""
        self._unfinished = request
        if self._reader.json:
            return

        if not self._backlog:
            self._backlog = [b""]

        self._reader.single_frames = False
        self._transport.pause_reading()
        self._scheduler.enqueue(self, self._peer.uid)

    def _take_more(self) -> None:
        try:
            self._backlog = self._reader.split_more()
        except FramingError as fault:
            self._fault, self._backlog = fault, list(fault.before)

    def _serve_lines(self, until: float) -> None:
        """Serve requests one at a time: `UnansweredRequests` must know which one is being served."""
        while (self._backlog or self._reader.has_more) and not (self._closing or self.congested or self._outbox.lines):
            if not self._backlog:
                self._take_more()

            if self._backlog:
                request = self._reader.decode(self._backlog.pop(0))
                if type(request) is wire.GetView:
                    # Before the engine opens a view that cannot be sent.
                    request = BadMessage(request.id, "unavailable", NEEDS_FRAMES)

                self._unanswered.begin(request)
                while not self._driver.serve(self._peer, self, (request,), 1, self._clock()):
                    # Lines are short enough to be served whole.
                    self._unfinished = None

                self._unanswered.end(request)

            if self._clock() > until:
                return

    def _has_more(self) -> bool:
        """Return whether another batch may be served now. If no message is left, read on, or end the connection."""
        if self._closing:
            return False

        self._update_buffered()
        if self.congested:
            return False

        if self._backlog or self._outbox.lines or self._reader.has_more:
            self._transport.pause_reading()
            return True

        if self._reader.note_partial():
            self._start_message_timer()

        if self._fault is not None:
            self._driver.reject(self, self._fault.code, self._fault.message)
            self.close()
        elif self._half_closed:
            self._close_if_answered()
        else:
            self._reader.mark_served()
            self._transport.resume_reading()

        return False

    def _resume(self) -> None:
        """Serve what waited until the peer had read its replies."""
        if not self._closing:
            self._driver.peer_read_backlog(self._peer)

        self._enqueue_rest()

    def _close_if_answered(self) -> None:
        if not (self._unanswered or self._deferred or self._backlog or self._outbox.lines or self._reader.has_more):
            self.close()

    def _send_denial(self, data: bytes) -> None:
        """Send the reason to a JSON-lines peer, usually a person. Clients see a closed connection and make their own calls."""
        if self._denial is None:
            return

        with suppress(FramingError):
            self._reader.hold(data)

        if self._reader.json and not self._transport.is_closing():
            self._transport.write(json_line(wire.Error(0, "unavailable", f"This connection is denied: {self._denial}")))

        self._denial = None
        self._transport.close()

    # -- limits --------------------------------------------------------------------------------------------------------

    def _update_buffered(self) -> None:
        """Update what is held for this peer, and apply the limits on it."""
        unread = self._transport.get_write_buffer_size()
        if unread > HIGH_WATER_BYTES and not self.congested and not self._closing:
            self.congested = True
            self._transport.pause_reading()
            self._start_progress_timer()

        waiting = self._backlog
        unserved = self._reader.held_bytes + sum(map(len, waiting)) + MESSAGE_OVERHEAD_BYTES * len(waiting)
        unserved += self._outbox.held_bytes
        max_bytes = self._buffers.max_bytes
        for victim in self._buffers.update(self, self._peer.uid, max(unread, self._kept) + unserved):
            victim._abort_for(  # noqa: SLF001 - of the same class
                "max_buffered_bytes",
                f"all peers together exceeded limits.max_buffered_bytes ({max_bytes}) of unread and incomplete messages, "
                "and it held the most",
            )

    def _abort_for(self, limit: str, reason: str) -> None:
        self._connections.report_closed(self._peer, limit, reason)
        self._buffers.release(self)
        self.abort()
