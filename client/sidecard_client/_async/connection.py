"""One connection of the async client, with the three tasks that serve it: they read, write and watch.

A caller waits for one answer, set by the reader; there is no task and no cancel scope for a call.

Time limits are the watcher's. It counts ticks, of a quarter of ``timeout_seconds`` at most, and remembers where the ids were:
a request that was there so many ticks ago and has no answer is overdue. Ticks are counted and not measured: a loop that user code has
blocked for seconds counts one, and the answer that lies in the kernel meanwhile is read before the next.

A connection ends once, with a reason, and is not used again.
"""

import os
import socket
from collections import deque
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import NamedTuple
from weakref import WeakSet

import anyio
from msgspec import Struct

from sidecard_client._async.reply_futures import ReplyFuture, reply_future_factory
from sidecard_client._async.send_buffer import SendBuffer
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import Connection, ConnectionLost
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.socket_path import impostor
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Begin, Cancel, Chunk, Pending, Ping, Renew, Timeout

MIN_TICKS_PER_TIMEOUT = 4
MAX_TICK_SECONDS = 0.125
"""However patient a client is, its leases must be renewed in time."""

LATE_SECONDS = 1.0
"""How long the daemon's own `wire.Timeout` is waited for, beyond the caller's ``wait``, as in the blocking client."""

RECEIVE_BYTES = 128 * 1024
RENEWALS_PER_LEASE = 3


class Held(Struct):
    """A lease that is renewed every ``every_seconds``, next at ``renew_at``."""

    every_seconds: float
    renew_at: float


class Wait(NamedTuple):
    """A request that its caller lets wait for ``wait_seconds`` since an instant; ``begin_id`` is what to take back."""

    since: float
    wait_seconds: float
    begin_id: int


class ReplyQueue:
    """The replies to one request that has many: pieces of a stream, and what they end in."""

    __slots__ = ("answer", "new_answer", "replies")

    def __init__(self, new_answer: Callable[[], ReplyFuture]) -> None:
        self.replies: deque[AnyReply | None] = deque()
        self.new_answer = new_answer
        self.answer: ReplyFuture | None = None
        """What its reader waits for, if it does."""

    def put(self, reply: AnyReply | None) -> None:
        """Add a reply, or None where no more will come."""
        self.replies.append(reply)
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(reply)

    async def get(self) -> AnyReply | None:
        """Return the next reply."""
        if not self.replies:
            self.answer = self.new_answer()
            try:
                await self.answer
            finally:
                self.answer = None

        return self.replies.popleft()


class AsyncConnection:
    """A connection to ``path``; `run` must be started in a task group. Raises `ConnectionLost` where it cannot be made.

    ``proven`` is true from the first reply until the end; ``proved`` is called when it becomes so, ``ended`` at the end.
    ``reason`` is None until the end; ``gone`` says then that the daemon closed the connection, and not that it failed to answer.
    """

    __slots__ = (
        "__weakref__",
        "_ended",
        "_feeds",
        "_heard",
        "_held",
        "_ids",
        "_new_answer",
        "_outbox",
        "_pending",
        "_protocol",
        "_proved",
        "_resting",
        "_silent_ticks",
        "_socket",
        "_stirred",
        "_tick",
        "_tick_seconds",
        "_timeout_seconds",
        "_unanswered",
        "_waits",
        "gone",
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
        self.gone = False
        self.proven = False
        self._proved = proved
        self._ended = ended
        self._protocol = Connection()
        self._new_answer = reply_future_factory()
        self._unanswered: dict[int, ReplyFuture] = {}  # in order of asking
        self._pending: dict[int, ReplyFuture] = {}
        self._waits: dict[int, Wait] = {}
        self._held: dict[str, Held] = {}
        self._feeds: dict[int, ReplyQueue] = {}
        self._tick = 0
        ticks = max(MIN_TICKS_PER_TIMEOUT, ceil(timeout_seconds / MAX_TICK_SECONDS))
        self._timeout_seconds = timeout_seconds
        self._tick_seconds = timeout_seconds / ticks
        # One more than the timeout has, because the last reply may have come at any moment of its tick.
        self._silent_ticks = ticks + 1
        self._ids = deque([0] * ticks, ticks)  # the next id at each of the last ticks
        self._heard = 0  # the tick in which anything last came
        self._resting = False
        self._stirred = anyio.Event()
        self._socket = _connect(path)
        self._outbox = SendBuffer(self._socket, lambda reason: self.end(reason, gone=True))
        _connections.add(self)

    def __repr__(self) -> str:
        """Show the counts, or the reason of the end."""
        if self.reason is not None:
            return f"<AsyncConnection ended: {self.reason}>"

        return f"<AsyncConnection {len(self._unanswered)} unanswered, {len(self._pending)} pending, {len(self._held)} held>"

    # For callers ---------------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """Return the id that the next request gets."""
        return self._protocol.next_id()

    async def ask(
        self, request: AnyRequest, wait_seconds: float | None = None, begin_id: int | None = None
    ) -> AnyReply:
        """Send a request and return its last reply. Raises `ConnectionLost`.

        A wait that the daemon does not end `LATE_SECONDS` after ``wait_seconds`` ends in a `Timeout` of the client's own,
        and the begin of ``begin_id`` (the request's own where it is None) is taken back.
        A caller that is cancelled leaves nothing behind, at the daemon neither where it has only begun.
        """
        if self.reason is not None:
            raise self._lost()

        request_id, data = self._protocol.send(request)
        answer = self._unanswered[request_id] = self._new_answer()
        if wait_seconds is not None:
            self._waits[request_id] = Wait(monotonic(), wait_seconds, request_id if begin_id is None else begin_id)

        self._outbox.send(data, at_once=len(self._unanswered) == 1)
        if self._resting:
            self._stir()

        try:
            reply = await answer
        except BaseException:
            self._forget(request_id)
            if isinstance(request, Begin):
                # 1. the daemon grants the lease; 2. this caller is cancelled before or after it was read; 3. nobody holds it.
                self.tell(Cancel(target=request_id))

            raise

        if wait_seconds is not None:
            self._waits.pop(request_id, None)

        if reply is None:
            raise self._lost()

        return reply

    async def follow(
        self, request: AnyRequest, wait_seconds: float | None = None, begin_id: int | None = None
    ) -> tuple[AnyReply, ReplyQueue]:
        """Do as `ask` does, where the reply may be the first piece of a stream; what follows it is in the feed.

        Who has got a piece calls `unfollow` when it wants no more.
        """
        request_id = self._protocol.next_id()
        feed = self._feeds[request_id] = ReplyQueue(self._new_answer)
        following = False
        try:
            reply = await self.ask(request, wait_seconds, begin_id)
            following = isinstance(reply, Chunk)
        finally:
            if not following:
                self._feeds.pop(request_id, None)

        return reply, feed

    def unfollow(self, request_id: int) -> None:
        """Want no more of a stream."""
        if self._feeds.pop(request_id, None) is not None:
            self._forget(request_id)
            self.tell(Cancel(target=request_id))

    @property
    def backlog_bytes(self) -> int:
        """What was told and could not be sent yet."""
        return self._outbox.backlog_bytes

    def tell(self, request: AnyRequest) -> None:
        """Send a request whose reply nobody needs. Never waits and never fails: without a connection it is void anyway."""
        if self.reason is None:
            request_id, data = self._protocol.send(request)
            self._protocol.forget(request_id)
            self._outbox.send(data)

    def hold(self, lease: wire.Lease) -> None:
        """Renew ``lease`` until `release`."""
        every_seconds = lease.expires_in_seconds / RENEWALS_PER_LEASE
        self._held[lease.lease] = Held(every_seconds, monotonic() + every_seconds)
        if self._resting:
            self._stir()

    def release(self, lease: str) -> None:
        """Stop renewing a lease."""
        self._held.pop(lease, None)

    def end(self, reason: str, *, gone: bool = False) -> None:
        """Close the connection; whoever waits gets `ConnectionLost`. Does nothing where it has ended."""
        if self.reason is not None:
            return

        self.reason = reason
        self.gone = gone
        self.proven = False
        anyio.notify_closing(self._socket)
        self._socket.close()
        answers = [*self._unanswered.values(), *self._pending.values()]
        for feed in self._feeds.values():
            feed.put(None)

        self._feeds.clear()
        self._unanswered.clear()
        self._pending.clear()
        for answer in answers:
            if not answer.done():
                answer.set_result(None)

        self._outbox.close()
        self._stirred.set()
        self._ended(self)

    async def drain(self) -> None:
        """Wait until the kernel has taken everything that was to be sent, or the connection has ended."""
        await self._outbox.drain()

    def abandon(self) -> None:
        """Close this process's copy of the connection, in the child of a fork: the parent's is another.

        The daemon sees a connection's end only when the last copy is closed.
        """
        self.reason = "it belongs to the parent process"
        self.proven = False
        self._socket.close()

    # Tasks ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._outbox.run)
            tasks.start_soon(self._watch)
            await self._read()

    async def _read(self) -> None:
        while self.reason is None:
            try:
                await anyio.wait_readable(self._socket)
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (OSError, anyio.ClosedResourceError) as error:
                self.end(f"the connection broke: {error}", gone=True)
                return

            if not data:
                self.end("it closed the connection", gone=True)
                return

            self._heard = self._tick
            try:
                replies = self._protocol.receive(data)
            except ProtocolError as fault:
                self.end(str(fault))
                return

            self._deliver(replies)

    async def _watch(self) -> None:
        while self.reason is None:
            if not (self._unanswered or self._pending or self._held or self._feeds):
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
                self._ids.append(self._protocol.next_id())

    # Decisions, none of which waits --------------------------------------------------------------------------------

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
            answer = self._unanswered.pop(request_id, None)
            if answer is None:
                answer = self._pending.pop(request_id, None)
                if answer is None:
                    self._feed(request_id, reply)
                    continue

            elif reply.__class__ is Pending:
                self._pending[request_id] = answer
                continue

            if not answer.done():
                answer.set_result(reply)

    def _feed(self, request_id: int, reply: AnyReply) -> None:
        feed = self._feeds.get(request_id)
        if feed is not None:
            feed.put(reply)
            if reply.__class__ is not Chunk:
                del self._feeds[request_id]

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(self.reason or "it did not answer in time")

    def _forget(self, request_id: int) -> None:
        self._protocol.forget(request_id)
        self._unanswered.pop(request_id, None)
        self._pending.pop(request_id, None)
        self._waits.pop(request_id, None)

    def _renew(self, now: float) -> None:
        for lease, held in self._held.items():
            # Early rather than late: what falls due within the coming tick is renewed before it.
            if held.renew_at <= now + self._tick_seconds:
                held.renew_at = now + held.every_seconds
                self.tell(Renew(lease=lease))

    def _end_late_waits(self, now: float) -> None:
        """End waits that the daemon has forgotten, though it answers pings."""
        grace_seconds = self._timeout_seconds + LATE_SECONDS
        for request_id, wait in list(self._waits.items()):
            waited_seconds = now - wait.since
            answer = self._pending.get(request_id)
            if answer is not None and waited_seconds > wait.wait_seconds + grace_seconds:
                self._forget(request_id)
                self.tell(Cancel(target=wait.begin_id))
                if not answer.done():
                    answer.set_result(Timeout(request_id, waited_seconds))

    def _judge(self) -> None:
        """Find out whether the daemon hangs; ping it where somebody waits and nothing else would tell."""
        if not self._unanswered:
            if (self._pending or self._feeds) and self._heard < self._tick - 1:
                self._ask_for_a_sign_of_life()

            return

        overdue = [request_id for request_id in self._unanswered if request_id < self._ids[0]]
        if overdue and self._tick - self._heard >= self._silent_ticks:
            self.end("it does not answer")
            return

        # Others were answered meanwhile: the daemon is overloaded, not gone.
        for request_id in overdue:
            answer = self._unanswered[request_id]
            self._forget(request_id)
            self.tell(Cancel(target=request_id))
            if not answer.done():
                answer.set_result(None)

    def _ask_for_a_sign_of_life(self) -> None:
        request_id, data = self._protocol.send(Ping(id=self._protocol.next_id()))
        self._unanswered[request_id] = self._new_answer()
        self._outbox.send(data)


def _connect(path: str) -> socket.socket:
    """Connect at once: a Unix socket's queue of connections either takes one now or is full."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise ConnectionLost(str(error.strerror or error)) from error

    stranger = impostor(connection, path)
    if stranger is not None:
        connection.close()
        raise ConnectionLost(stranger)

    return connection


def _abandon_inherited() -> None:
    for connection in list(_connections):
        connection.abandon()


_connections: WeakSet[AsyncConnection] = WeakSet()
os.register_at_fork(after_in_child=_abandon_inherited)
