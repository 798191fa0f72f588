"""The output of one connection: replies to bytes, within the limits on what a peer leaves unread."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Raw

from sidecard.config.schema import LimitSettings
from sidecard.core.events import Peer
from sidecard.server.buffers import COUNTED_BYTES, BufferBudget
from sidecard.server.connections import ConnectionTable
from sidecard.server.driver import Driver
from sidecard.server.json_lines.outbox import JsonOutbox, JsonValues
from sidecard.server.json_lines.unanswered import UnansweredRequests
from sidecard.server.peer_timers import PeerTimers
from sidecard.server.replies.large import around_value, shared_value
from sidecard.server.replies.metrics import metrics_frame
from sidecard.server.scheduler import FairScheduler
from sidecard.server.views.passing import pass_descriptor
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HIGH_WATER_BYTES: Final = 1024 * 1024


class ServerContext(NamedTuple):
    """Objects that all connections of a daemon share."""

    driver: Driver
    connections: ConnectionTable
    scheduler: FairScheduler
    buffers: "BufferBudget[PeerOutput]"
    json_values: JsonValues
    loop: asyncio.AbstractEventLoop


class PeerOutput(PeerTimers):
    """The part of a connection that sends replies: the `sidecard.server.deliveries.ReplyWriter` of its peer."""

    _peer: Peer
    _transport: asyncio.Transport
    _descriptor: int | None

    def __init__(self, context: ServerContext, limits: LimitSettings) -> None:
        self._driver, self._connections, self._scheduler, self._buffers, json_values, self._loop = context
        self._limits = limits
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._outbox = JsonOutbox(json_values)
        """Replies to a JSON-lines peer that are written in turns. It is served further after them."""
        self._unanswered = UnansweredRequests()
        """Maintained for JSON lines only: their senders may half-close and still get their replies."""
        self._deferred = 0
        """Number of replies to a JSON-lines peer that `defer` has noted and that are not queued yet."""
        self._closing = False
        self._silent = False
        """Nothing is sent any more: `_closing`, or `end_output` was called."""
        self.has_view = False
        """The peer has received a view, so it may have hits to report."""
        self._half_closed = False
        self._kept = 0
        """Size of the write that was the first not to fit: the transport keeps all of it until its last byte has left."""
        self._behind = False
        """The peer has left so much unread that it is counted."""
        self.congested = False

    def serve_turn(self) -> bool:
        """Work for one turn. Return whether more work waits."""
        raise NotImplementedError

    def _close_if_answered(self) -> None:
        raise NotImplementedError

    def _update_buffered(self) -> None:
        raise NotImplementedError

    def pause_writing(self) -> None:
        """Start to count the peer's unread bytes: it does not keep up."""
        self._behind = True
        self._kept = self._queued_bytes
        self._update_buffered()

    def queue(self, reply: wire.AnyReply, *, noted: bool = False) -> None:
        """Encode a reply and queue it; ``noted``: `defer` has noted it already."""
        if self._silent:
            return

        if self._reader.json:
            if not noted:
                self._unanswered.reply(reply)

            data = self._outbox.encode(reply)
            if data is None:
                self._enqueue_lines()
                return

        else:
            # `sidecard_client.protocol.frames.frame`, without its call: every hit passes here.
            data = wire.pack(reply)
            data = len(data).to_bytes(wire.FRAME_HEADER_BYTES, "big") + data

        self._queued.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > HIGH_WATER_BYTES:
            # Not at the end of the batch, which may be thousands of large replies long.
            self._write()

    def queue_shared(self, reply: wire.AnyReply) -> None:
        """Queue a reply. A large value that other peers get too is sent without copying it."""
        value = None if self._reader.json else shared_value(reply)
        if value is None:
            self.queue(reply)
        elif not self._silent:
            before, after = around_value(reply, value)
            self._write_shared((before, value, after))

    def defer(self, reply: wire.AnyReply) -> "Callable[[], None]":
        """Note a reply now, before further requests are served; return the function that queues it later."""
        if not self._reader.json:
            return partial(self.queue_shared, reply)

        self._unanswered.reply(reply)
        self._deferred += 1
        return partial(self._queue_deferred, reply)

    def _queue_deferred(self, reply: wire.AnyReply) -> None:
        self._deferred -= 1
        self.queue(reply, noted=True)

    def queue_metrics(self, request_id: int, families: list[bytes]) -> None:
        """Queue a reply to `metrics` with encoded families, which other peers get too, and flush."""
        if self._reader.json:
            self.queue(wire.Metrics(request_id, [Raw(family) for family in families]))  # type: ignore[misc]  # encoded alike
        elif not self._silent:
            self._write_shared(metrics_frame(request_id, families))

        self.flush()

    def pass_descriptor(self, reply: wire.AnyReply, descriptor: int) -> bool:
        """Send a reply with a descriptor. Return False, and send nothing, while the peer has not read all earlier ones.

        Raises `OSError` if the kernel refuses to pass it.
        """
        self._write()
        transport = self._transport
        if self._silent or transport.is_closing() or self._descriptor is None:
            return True

        if transport.get_write_buffer_size():
            return False

        data = frame(wire.pack(reply))
        sent = pass_descriptor(self._descriptor, data, descriptor)
        if 0 < sent < len(data):
            transport.write(data[sent:])

        self.has_view = self.has_view or sent > 0
        return sent > 0

    def end_output(self) -> None:
        """Send what is queued, then the end of output, and nothing more. The peer's requests are served as before."""
        self._write()
        if not self._transport.is_closing():
            self._transport.write_eof()

        self._silent = True

    def flush(self) -> None:
        """Pass the queued replies to the transport."""
        queued = self._queued
        if len(queued) == 1 and not self._behind:
            # `_write`, without its call: every hit passes here.
            if not self._transport.is_closing():
                self._transport.write(queued[0])

            queued.clear()
            self._queued_bytes = 0
        elif queued:
            self._write()

        if self._half_closed:
            self._close_if_answered()

    @property
    def has_unread(self) -> bool:
        """Whether some of the replies have not reached the kernel yet."""
        return bool(self._queued or self._outbox.lines or self._transport.get_write_buffer_size())

    def _write(self) -> None:
        """Pass the queued replies to the transport, unless the peer has left too much unread."""
        queued = self._queued
        # Checked before and not after writing: one reply larger than the bound can still be delivered.
        if self._behind and self._transport.get_write_buffer_size() > self._limits.max_outbox_bytes:
            self._abort_for_outbox()
        elif queued and not self._transport.is_closing():
            # A transport whose last write failed is closing already; `connection_lost` follows.
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

        queued.clear()
        self._queued_bytes = 0
        if self._behind:
            self._update_buffered()

    def _write_shared(self, parts: "Sequence[bytes | memoryview]") -> None:
        """Pass parts of one message to the transport, without copying them."""
        self._write()
        if parts and not self._transport.is_closing():
            for part in parts:
                if len(part) >= COUNTED_BYTES:
                    self._buffers.share(self, memoryview(part))

            self._transport.writelines(parts)
            if not self._behind:
                # The kernel has taken all of it.
                self._buffers.unshare(self)

    def _enqueue_lines(self) -> None:
        """Request turns to write waiting lines, unless they are too many."""
        if self._outbox.held_bytes > self._limits.max_outbox_bytes and len(self._outbox.lines) > 1:
            self._abort_for_outbox()
        else:
            self._scheduler.enqueue(self, self._peer.uid)

    def _abort_for_outbox(self) -> None:
        max_bytes = self._limits.max_outbox_bytes
        self._abort_for("max_outbox_bytes", f"it left more than limits.max_outbox_bytes ({max_bytes}) unread")
