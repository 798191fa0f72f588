"""One connection of the async client, and the three tasks that serve it until it ends: reader, sender, watcher.

A caller awaits one reply future, which the reader sets; no call has a task or a cancel scope of its own.

The watcher enforces time limits. It wakes in ticks of at most a quarter of ``timeout_seconds`` and notes the next request
id at each. A request whose id is older than one timeout of ticks, and that has no reply, is overdue. Ticks are counted and
not measured: if user code blocks the event loop for seconds, that is one tick, and the reader reads what has arrived
meanwhile before the next one.

A connection ends once, with a reason, and is not used again.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from math import ceil
from time import monotonic
from typing import NamedTuple
from weakref import WeakSet

import anyio

from sidecard_client._async.reply_futures import Inbox, ReplyFuture, ReplyQueue, ReplySlot, reply_future_factory
from sidecard_client._async.send_buffer import SendBuffer
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import (
    LATE_SECONDS,
    Connection,
    ConnectionEnded,
    ConnectionLost,
    DaemonUnresponsive,
    NotConnected,
    Renewal,
    renewal_of,
)
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.socket_path import impostor
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Begin, Cancel, Chunk, Pending, Ping, Renew, Timeout

MIN_TICKS_PER_TIMEOUT = 4
MAX_TICK_SECONDS = 0.125
"""Leases must be renewed in time, however long a client's timeout is."""

RECEIVE_BYTES = 128 * 1024


class Wait(NamedTuple):
    """A request that waits for at most ``wait_seconds`` from ``since``; ``begin_id`` is canceled after that."""

    since: float
    wait_seconds: float
    begin_id: int


class AsyncConnection:
    """A connection to ``path``; `run` must be started in a task group. Raises `NotConnected`.

    ``proven`` is true from the first reply to the end; ``proved`` is called when it becomes true, ``ended`` at the end.
    ``reason`` is None until the end. ``ended_by_daemon`` distinguishes a closed connection from an unresponsive daemon.
    """

    __slots__ = (
        "__weakref__",
        "_ended",
        "_heard",
        "_held",
        "_ids",
        "_new_future",
        "_pending",
        "_proved",
        "_queues",
        "_resting",
        "_send_buffer",
        "_silent_ticks",
        "_socket",
        "_stirred",
        "_tick",
        "_tick_seconds",
        "_timeout_seconds",
        "_unanswered",
        "_waits",
        "ended_by_daemon",
        "protocol",
        "proven",
        "reason",
    )

    def __init__(
        self,
        path: str,
        timeout_seconds: float,
        *,
        proved: Callable[[], object],
        ended: Callable[["AsyncConnection"], object],
    ) -> None:
        self.reason: str | None = None
        self.ended_by_daemon = False
        self.proven = False
        self.protocol = Connection()
        self._proved = proved
        self._ended = ended
        self._new_future = reply_future_factory()
        self._unanswered: dict[int, ReplyFuture | ReplySlot] = {}  # in order of sending
        self._pending: dict[int, ReplyFuture | ReplySlot] = {}
        self._waits: dict[int, Wait] = {}
        self._held: dict[str, Renewal] = {}
        self._queues: dict[int, ReplyQueue] = {}
        self._tick = 0
        ticks = max(MIN_TICKS_PER_TIMEOUT, ceil(timeout_seconds / MAX_TICK_SECONDS))
        self._timeout_seconds = timeout_seconds
        self._tick_seconds = timeout_seconds / ticks
        # One more than the timeout has, because the last reply may have arrived at any moment of its tick.
        self._silent_ticks = ticks + 1
        self._ids = deque([0] * ticks, ticks)  # the next id at each of the last ticks
        self._heard = 0  # the tick of the last received bytes
        self._resting = False
        self._stirred = anyio.Event()
        self._socket = _connect(path)
        self._send_buffer = SendBuffer(self._socket, lambda reason: self.end(reason, by_daemon=True))
        _connections.add(self)

    def __repr__(self) -> str:
        """Show the counts, or the reason of the end."""
        if self.reason is not None:
            return f"<AsyncConnection ended: {self.reason}>"

        counts = f"{len(self._unanswered)} unanswered, {len(self._pending)} pending, {len(self._held)} held"
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

    def hold(self, lease: wire.Lease) -> None:
        """Renew ``lease`` until `release`."""
        self._held[lease.lease] = renewal_of(lease, monotonic())
        if self._resting:
            self._stir()

    def release(self, lease: wire.Lease) -> None:
        """Stop renewing ``lease``."""
        self._held.pop(lease.lease, None)

    def lost(self) -> ConnectionLost:
        """Return the error of a request that will get no reply."""
        reason = self.reason or "it did not answer in time"
        return ConnectionEnded(reason) if self.ended_by_daemon else DaemonUnresponsive(reason)

    def end(self, reason: str, *, by_daemon: bool = False) -> None:
        """Close the connection; waiting callers get `ConnectionLost`. Does nothing if the connection has ended."""
        if self.reason is not None:
            return

        self.reason = reason
        self.ended_by_daemon = by_daemon
        self.proven = False
        anyio.notify_closing(self._socket)
        self._socket.close()
        futures = [*self._unanswered.values(), *self._pending.values()]
        for queue in self._queues.values():
            queue.put(None)

        self._queues.clear()
        self._unanswered.clear()
        self._pending.clear()
        for future in futures:
            if not future.done():
                future.set_result(None)

        self._send_buffer.close()
        self._stirred.set()
        self._ended(self)

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

    # Tasks ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_buffer.run)
                tasks.start_soon(self._watch)
                await self._read()
        finally:
            self.end("its event loop has ended")  # at once, also if a client was not closed before

    async def _read(self) -> None:
        while self.reason is None:
            try:
                await anyio.wait_readable(self._socket)
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (OSError, anyio.ClosedResourceError) as error:
                self.end(f"the connection broke: {error}", by_daemon=True)
                return

            if not data:
                self.end("it closed the connection", by_daemon=True)
                return

            self._heard = self._tick
            try:
                replies = self.protocol.receive(data)
            except ProtocolError as fault:
                self.end(str(fault))
                return

            self._deliver(replies)

    async def _watch(self) -> None:
        while self.reason is None:
            if not (self._unanswered or self._pending or self._held or self._queues):
                self._resting = True
                await self._stirred.wait()
                continue

            await anyio.sleep(self._tick_seconds)
            self._tick += 1
            if self.reason is None:
                now = monotonic()
                self._renew(now)
                self._end_late_waits(now)
                self._judge()
                self._ids.append(self.protocol.next_id)

    # Decisions, which never wait --------------------------------------------------------------------------------------

    def _stir(self) -> None:
        self._resting = False
        self._stirred.set()
        self._stirred = anyio.Event()

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

    def _renew(self, now: float) -> None:
        for lease, held in self._held.items():
            # Early rather than late: a renewal that falls due within the coming tick is sent before it.
            if held.renew_at <= now + self._tick_seconds:
                held.renew_at = now + held.every_seconds
                self.send(Renew(lease=lease))

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
            if (self._pending or self._queues) and self._heard < self._tick - 1:
                request_id, data = self.protocol.send(Ping(id=self.protocol.next_id))
                self._unanswered[request_id] = self._new_future()
                self._send_buffer.send(data)

            return

        overdue = [request_id for request_id in self._unanswered if request_id < self._ids[0]]
        if overdue and self._tick - self._heard >= self._silent_ticks:
            self.end("it does not answer")
            return

        # Other requests were answered meanwhile: the daemon is overloaded, and does not hang.
        for request_id in overdue:
            future = self._unanswered[request_id]
            self._forget(request_id)
            self.send(Cancel(target=request_id))
            if not future.done():
                future.set_result(None)


def _connect(path: str) -> socket.socket:
    """Connect without waiting: a Unix socket's accept queue takes a connection immediately, or is full."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise NotConnected(str(error.strerror or error)) from error

    stranger = impostor(connection, path)
    if stranger is not None:
        connection.close()
        raise NotConnected(stranger)

    return connection


def _abandon_inherited() -> None:
    for connection in list(_connections):
        connection.abandon()


_connections: WeakSet[AsyncConnection] = WeakSet()
os.register_at_fork(after_in_child=_abandon_inherited)
