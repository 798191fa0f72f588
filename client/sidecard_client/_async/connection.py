"""One connection of the async client. It belongs to an event loop, and to none of its tasks.

The loop calls it when there is something to read, and at each tick. A caller awaits one reply future, which is set when the
reply has been read; no call has a task or a cancel scope of its own.

Time limits are enforced at ticks, which pass as long as callers wait or leases are held (`ticks`).

A connection ends once, with a reason, and is not used again.
"""

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Literal

from sidecard_client._async.event_loops import EventLoop
from sidecard_client._async.renewals import Renewals
from sidecard_client._async.reply_futures import Inbox, ReplyCallback, ReplyFuture, ReplyQueue, ReplySlot
from sidecard_client._async.send_buffer import SendBuffer
from sidecard_client._async.ticks import Ticks, Wait
from sidecard_client._async.unix_socket import connect
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import (
    LATE_SECONDS,
    Connection,
    ConnectionEnded,
    ConnectionLost,
    DaemonUnresponsive,
    LeaseWatcher,
)
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Begin, Cancel, Chunk, Pending, Ping, Timeout

RECEIVE_BYTES = 128 * 1024

EndedBy = Literal["daemon", "fault", "client"]
"""Who ended a connection: the daemon closed it, the daemon violated the protocol or hangs, or this process closed it."""

_log = logging.getLogger("sidecard_client")


class AsyncConnection:
    """A connection to ``path``, served by ``loop``. Raises `NotConnected`, and `RuntimeError` if the loop is ending.

    ``proven`` is true from the first reply to the end; ``proved`` is called when it becomes true, ``ended`` at the end.
    ``reason`` and ``ended_by`` are None until the end. ``place`` identifies the loop (`event_loops.running`).

    Its parts do not refer to it, so it is freed with its last reference, the loop's.
    """

    __slots__ = (
        "__weakref__", "_ended", "_loop", "_new_future", "_pending", "_proved", "_queues",
        "_renewals", "_resting", "_send_buffer", "_socket", "_ticks", "_timeout_seconds",
        "_unanswered", "_waits", "ended_by", "place", "protocol", "proven", "reason",
    )  # fmt: skip

    def __init__(
        self,
        path: str,
        timeout_seconds: float,
        loop: EventLoop,
        *,
        proved: Callable[[], object],
        ended: Callable[["AsyncConnection"], object],
    ) -> None:
        self.reason: str | None = None
        self.ended_by: EndedBy | None = None
        self.proven = False
        self.protocol = Connection()
        self.place = loop.place
        self._loop = loop
        self._proved = proved
        self._ended = ended
        self._new_future = loop.new_future
        self._unanswered: dict[int, ReplyFuture | ReplySlot | ReplyCallback] = {}  # in order of sending
        self._pending: dict[int, ReplyFuture | ReplySlot | ReplyCallback] = {}
        self._waits: dict[int, Wait] = {}
        self._renewals = Renewals(self.protocol)
        self._queues: dict[int, ReplyQueue] = {}
        self._timeout_seconds = timeout_seconds
        self._ticks = Ticks(timeout_seconds)
        self._resting = True  # no tick is scheduled
        self._socket = connect(path)
        self._send_buffer = SendBuffer(self._socket, loop)
        loop.watch(self._socket, self._on_readable, partial(self.end, "its event loop has ended", "client"))

    def __repr__(self) -> str:
        """Show the counts, or the reason of the end."""
        if self.reason is not None:
            return f"<AsyncConnection ended: {self.reason}>"

        counts = f"{len(self._unanswered)} unanswered, {len(self._pending)} pending, {len(self._renewals)} held"
        return f"<AsyncConnection {counts}>"

    # For callers ------------------------------------------------------------------------------------------------------

    async def ask(
        self, request: AnyRequest, wait_seconds: float | None = None, begin_id: int | None = None
    ) -> AnyReply:
        """Send a request and return its last reply. Raises `ConnectionLost`.

        A wait that the daemon does not end `LATE_SECONDS` after ``wait_seconds`` ends in the client's own `Timeout`, and
        the begin of ``begin_id`` (by default the request's own) is canceled. A canceled caller leaves nothing behind, not
        even a begin at the daemon.
        """
        if self.reason is not None:
            raise self.lost()

        request_id, data = self.protocol.send(request)
        future = self._unanswered[request_id] = self._new_future()
        if wait_seconds is not None:
            self._waits[request_id] = Wait(monotonic(), wait_seconds, request_id if begin_id is None else begin_id)

        self._send_buffer.send(data, at_once=len(self._unanswered) == 1)
        if self._resting:
            self._stir()

        try:
            reply = await future
        except BaseException:
            self._forget(request_id)
            if isinstance(request, Begin):
                # 1. the daemon grants the lease; 2. the caller is canceled, before or after the reply was read; 3. without
                # this, no caller would hold the lease.
                self.send(Cancel(target=request_id))

            raise

        if wait_seconds is not None:
            self._waits.pop(request_id, None)

        if reply is None:
            raise self.lost()

        return reply

    def call_back(self, request: AnyRequest, function: Callable[[AnyReply | None], None]) -> None:
        """Send a request, and call ``function`` with its reply, or with None if none will arrive. Does not block."""
        if self.reason is not None:
            function(None)
            return

        request_id, data = self.protocol.send(request)
        self._unanswered[request_id] = ReplyCallback(function)
        self._send_buffer.send(data)
        if self._resting:
            self._stir()

    def submit(self, reports: Sequence[AnyRequest], requests: Sequence[AnyRequest], inbox: Inbox) -> list[int]:
        """Send all; return the ids of ``requests``, whose replies go to ``inbox``. Raises `ConnectionLost`."""
        if self.reason is not None:
            raise self.lost()

        for report in reports:
            self.send(report)

        ids = []
        for request in requests:
            request_id, data = self.protocol.send(request)
            self._unanswered[request_id] = ReplySlot(inbox, request_id)
            self._send_buffer.send(data)
            ids.append(request_id)

        if self._resting:
            self._stir()

        return ids

    def discard(self, inbox: Inbox) -> None:
        """Withdraw the open requests of a batch."""
        for request_id in inbox.open:
            self._forget(request_id)
            self.send(Cancel(target=request_id))

        inbox.open.clear()

    def new_inbox(self) -> Inbox:
        """Return an empty inbox for `submit`."""
        return Inbox(self._new_future)

    async def follow(self, request: AnyRequest, wait_seconds: float | None = None) -> tuple[AnyReply, ReplyQueue]:
        """Like `ask`, for a reply that may be the first chunk of a stream. The queue receives the following replies.

        A caller that got a chunk calls `unfollow` when it wants no more.
        """
        request_id = self.protocol.next_id
        queue = self._queues[request_id] = ReplyQueue(self._new_future)
        following = False
        try:
            reply = await self.ask(request, wait_seconds)
            following = isinstance(reply, Chunk)
        finally:
            if not following:
                self._queues.pop(request_id, None)

        return reply, queue

    def unfollow_from_elsewhere(self, request_id: int) -> None:
        """Cancel a stream from another thread than the loop's, or at any point of it."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_from_thread(self.unfollow, request_id)

    def unfollow(self, request_id: int) -> None:
        """Cancel a stream that has not ended."""
        if self._queues.pop(request_id, None) is not None:
            self._forget(request_id)
            self.send(Cancel(target=request_id))

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._send_buffer.backlog_bytes

    def send(self, request: AnyRequest) -> None:
        """Send a request and ignore its reply. Never waits and never fails: a lost connection voids the request anyway."""
        if self.reason is None:
            request_id, data = self.protocol.send(request)
            self.protocol.forget(request_id)
            self._send_buffer.send(data)

    def hold(self, lease: wire.Lease, watcher: LeaseWatcher | None = None) -> None:
        """Renew ``lease`` until `release`. ``watcher`` is notified of waiters and of its loss."""
        self._renewals.hold(lease, watcher, monotonic())
        if self._resting:
            self._stir()

    def release(self, lease: wire.Lease) -> None:
        """Stop renewing ``lease``."""
        self._renewals.release(lease)

    def lost(self) -> ConnectionLost:
        """Return the error of a request that will get no reply."""
        reason = self.reason or "it did not answer in time"
        return ConnectionEnded(reason) if self.ended_by == "daemon" else DaemonUnresponsive(reason)

    def end(self, reason: str, by: EndedBy = "fault") -> None:
        """Close the connection; waiting callers get `ConnectionLost`. Does nothing if the connection has ended."""
        if self.reason is not None:
            return

        self.reason = reason
        self.ended_by = by
        self.proven = False
        self._loop.unwatch(self._socket)
        self._socket.close()
        futures = [*self._unanswered.values(), *self._pending.values()]
        for queue in self._queues.values():
            queue.put(None)

        self._renewals.lose()
        self._queues.clear()
        self._unanswered.clear()
        self._pending.clear()
        for future in futures:
            if not future.done():
                future.set_result(None)

        self._send_buffer.close()
        self._ended(self)

    def end_from_elsewhere(self, reason: str) -> None:
        """End the connection from another thread or another event loop than its own."""
        try:
            self._loop.call_from_thread(self.end, reason, "client")
        except RuntimeError:  # the loop has ended
            self.reason = reason
            self._socket.close()
        else:
            # A loop that does not run may never run again: shut the socket down now, so that the daemon notices.
            if self._loop.is_idle():
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    async def drain(self) -> None:
        """Wait until the kernel has taken all requests, or the connection has ended."""
        await self._send_buffer.drain()

    def abandon(self) -> None:
        """Close this process's copy of the connection, in the child of a fork.

        The daemon sees a connection's end only when the last copy is closed.
        """
        self.reason = "it belongs to the parent process"
        self.proven = False
        self._socket.close()

    # For the loop -----------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._safely(self._read)

    def _on_tick(self) -> None:
        self._safely(self._pass_a_tick)

    def _safely(self, step: Callable[[], None]) -> None:
        if self.reason is None:
            try:
                step()
            except ProtocolError as fault:
                self.end(str(fault))
            except Exception as error:  # noqa: BLE001 - callers fall back, and the loop goes on
                _log.exception("a connection to sidecard failed")
                self.end(f"an error of the client: {error!r}")

    def _read(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(f"the connection broke: {error}", by="daemon")
            return

        if not data:
            self.end("it closed the connection", by="daemon")
            return

        self._ticks.heard = self._ticks.number
        self._deliver(self.protocol.receive(data))
        if self.protocol.wanted:
            self._renewals.notify()

    def _pass_a_tick(self) -> None:
        self._ticks.number += 1
        now = monotonic()
        # Early rather than late: a renewal that falls due within the coming tick is sent before it.
        for data in self._renewals.beat(now + self._ticks.seconds, now):
            self._send_buffer.send(data)

        self._end_late_waits(now)
        self._judge()
        self._ticks.end(self.protocol.next_id)
        self._resting = not (self._unanswered or self._pending or self._renewals or self._queues)
        if not self._resting:
            self._loop.call_later(self._ticks.seconds, self._on_tick)

    # Decisions --------------------------------------------------------------------------------------------------------

    def _stir(self) -> None:
        self._resting = False
        self._loop.call_later(self._ticks.seconds, self._on_tick)

    def _deliver(self, replies: list[AnyReply]) -> None:
        if replies and not self.proven:
            self.proven = True
            self._proved()

        for reply in replies:
            request_id = reply.id
            future = self._unanswered.pop(request_id, None)
            if future is None:
                future = self._pending.pop(request_id, None)
                if future is None:
                    if not self._renewals.answered(request_id, reply):
                        self._enqueue(request_id, reply)

                    continue

            elif reply.__class__ is Pending:
                self._pending[request_id] = future
                if future.__class__ is ReplySlot:
                    future.inbox.put(reply)

                continue

            if not future.done():
                future.set_result(reply)

    def _enqueue(self, request_id: int, reply: AnyReply) -> None:
        queue = self._queues.get(request_id)
        if queue is not None:
            queue.put(reply)
            if reply.__class__ is not Chunk:
                del self._queues[request_id]

    def _forget(self, request_id: int) -> None:
        self.protocol.forget(request_id)
        self._unanswered.pop(request_id, None)
        self._pending.pop(request_id, None)
        self._waits.pop(request_id, None)

    def _end_late_waits(self, now: float) -> None:
        """End waits that the daemon has forgotten although it answers pings."""
        grace_seconds = self._timeout_seconds + LATE_SECONDS
        for request_id, wait in list(self._waits.items()):
            waited_seconds = now - wait.since
            future = self._pending.get(request_id)
            if future is not None and waited_seconds > wait.wait_seconds + grace_seconds:
                self._forget(request_id)
                self.send(Cancel(target=wait.begin_id))
                if not future.done():
                    future.set_result(Timeout(request_id, waited_seconds))

    def _judge(self) -> None:
        """Detect a hung daemon, and end overdue requests. Ping if callers wait and no other reply would show a hang."""
        if not self._unanswered:
            if (self._pending or self._queues) and self._ticks.heard < self._ticks.number - 1:
                request_id, data = self.protocol.send(Ping(id=self.protocol.next_id))
                self._unanswered[request_id] = self._new_future()
                self._send_buffer.send(data)

            return

        overdue = [request_id for request_id in self._unanswered if request_id < self._ticks.first_in_time()]
        if overdue and self._ticks.is_silent():
            self.end("it does not answer")
            return

        # Other requests were answered meanwhile: the daemon is overloaded, and does not hang.
        for request_id in overdue:
            future = self._unanswered[request_id]
            self._forget(request_id)
            self.send(Cancel(target=request_id))
            if not future.done():
                future.set_result(None)
