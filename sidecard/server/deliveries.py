"""Deliver what one event causes in turns of its receivers: one event may answer 16,000 waiters.

The first `MAX_DELIVERIES` replies of an event are sent at once. A receiver of a later one gets a `DeferredWriter`, which keeps all
its replies in order, until they have been sent in turns. Streams that wait for their peer are continued in turns as well.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from sidecard.core.effects import AwaitRead
from sidecard.core.events import BacklogRead
from sidecard.server.scheduler import TURN_SECONDS, FairScheduler
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    import asyncio

    from sidecard.server.reader import Incoming

POLL_SECONDS: Final = 0.1
"""Poll interval for a watcher's unread buffer: a transport reports nothing below its high-water mark."""

MAX_DELIVERIES: Final = 64
"""Replies of one event that are sent at once: 1 ms of small ones, 6 ms of large ones."""


class ReplyWriter(Protocol):
    """Sends a peer its replies. No method waits or fails, even if the peer is lost."""

    @property
    def congested(self) -> bool:
        """Whether the peer must first read its backlog."""

    @property
    def has_unread(self) -> bool:
        """Whether some replies have not even reached the kernel yet."""

    def queue(self, reply: wire.AnyReply) -> None:
        """Queue a reply."""

    def queue_shared(self, reply: wire.AnyReply) -> None:
        """Queue a reply whose value may be sent to several peers."""

    def defer(self, reply: wire.AnyReply) -> Callable[[], None]:
        """Note a reply now, before further requests are served; return the function that queues it later."""

    def serve_again(self, request: "Incoming") -> None:
        """Serve a request in the peer's next turn, before its others."""

    def pass_descriptor(self, reply: wire.AnyReply, descriptor: int) -> bool:
        """Send a reply with a descriptor. Return False, and send nothing, while the peer has not read all earlier ones.

        Raises `OSError` if the kernel refuses to pass it.
        """

    def queue_metrics(self, request_id: int, families: list[bytes]) -> None:
        """Queue a reply to `metrics` with encoded families, which other peers get too, and flush."""

    def flush(self) -> None:
        """Pass the queued replies to the kernel."""


class DeferredWriter:
    """Sends replies of one peer in turns, in the order in which they were queued. ``on_sent`` is called when none is left."""

    def __init__(self, writer: ReplyWriter, clock: Callable[[], float], on_sent: Callable[[], None]) -> None:
        self._writer = writer
        self._clock = clock
        self._on_sent = on_sent
        self._replies: deque[Callable[[], None]] = deque()

    @property
    def congested(self) -> bool:
        """The peer must first get its backlog."""
        return True

    @property
    def has_unread(self) -> bool:
        """Some replies have not reached the kernel yet."""
        return True

    def queue(self, reply: wire.AnyReply) -> None:
        """Queue a reply behind the others."""
        self._replies.append(self._writer.defer(reply))

    queue_shared = queue

    def defer(self, reply: wire.AnyReply) -> Callable[[], None]:
        """Note a reply now; return the function that queues it later."""
        return self._writer.defer(reply)

    def serve_again(self, request: "Incoming") -> None:
        """Serve a request in the peer's next turn, before its others."""
        self._writer.serve_again(request)

    def pass_descriptor(self, reply: wire.AnyReply, descriptor: int) -> bool:  # noqa: ARG002 - not now
        """Send nothing: the peer must first get its backlog."""
        return False

    def queue_metrics(self, request_id: int, families: list[bytes]) -> None:
        """Queue a reply to `metrics` behind the others."""
        self._replies.append(partial(self._writer.queue_metrics, request_id, families))

    def flush(self) -> None:
        """Leave the replies to the next turn."""

    def serve_turn(self) -> bool:
        """Send replies for one turn. Return whether more wait."""
        ends_at = self._clock() + TURN_SECONDS
        while self._replies:
            self._replies.popleft()()
            if self._clock() > ends_at:
                break

        if not self._replies:
            # Before the flush, which may find the connection lost.
            self._on_sent()

        self._writer.flush()
        return bool(self._replies)


class Deliveries:
    """The receivers that get their replies, or continue their streams, in turns."""

    def __init__(
        self, loop: "asyncio.AbstractEventLoop", clock: Callable[[], float], handle: Callable[[BacklogRead], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._handle = handle
        self._scheduler: FairScheduler
        self._uids: dict[int, int] = {}
        self.writers: dict[int, ReplyWriter] = {}
        """By peer id; those of `deferred` too."""
        self.deferred: dict[int, DeferredWriter] = {}
        self._awaiting_read: dict[int, list[int]] = {}
        """Ids of begins whose streams wait until their peer has read its backlog, by peer id."""
        self._resumptions: dict[int, _Resumption] = {}

    def take_turns(self, scheduler: FairScheduler) -> None:
        """Use the turns of ``scheduler``; to be called before peers join."""
        self._scheduler = scheduler

    def join(self, peer_id: int, uid: int, writer: ReplyWriter) -> None:
        """Add a peer."""
        self.writers[peer_id] = writer
        self._uids[peer_id] = uid

    def leave(self, peer_id: int) -> bool:
        """Remove a peer, with all that waits for it. Return whether it was there."""
        for work in (self.deferred.pop(peer_id, None), self._resumptions.pop(peer_id, None)):
            if work is not None:
                self._scheduler.remove(work)

        self._uids.pop(peer_id, None)
        self._awaiting_read.pop(peer_id, None)
        return self.writers.pop(peer_id, None) is not None

    def defer(self, peer_id: int) -> DeferredWriter:
        """Send the next replies of a peer in turns, until all have been sent. Return their writer."""
        deferred = self.deferred.get(peer_id)
        if deferred is None:
            writer = self.writers[peer_id]

            def undefer() -> None:
                if self.deferred.pop(peer_id, None) is not None:
                    self.writers[peer_id] = writer
                    if not writer.congested:
                        self.backlog_read(peer_id)

            deferred = self.writers[peer_id] = self.deferred[peer_id] = DeferredWriter(writer, self._clock, undefer)
            self._scheduler.enqueue(deferred, self._uids[peer_id])

        return deferred

    def send_all(self) -> None:
        """Send all deferred replies now: the daemon stops."""
        for deferred in list(self.deferred.values()):
            self._scheduler.remove(deferred)
            while deferred.serve_turn():
                pass

    def await_read(self, effect: AwaitRead) -> None:
        """Continue a stream once its peer has read its backlog."""
        # Later, so that the replies so far are flushed first and other peers get their turn.
        self._loop.call_soon(self._await_read, effect)

    def backlog_read(self, peer_id: int) -> None:
        """Continue the streams that waited until the peer had read most of its backlog."""
        for request_id in self._awaiting_read.pop(peer_id, ()):
            self._resume(peer_id, request_id)

    def _await_read(self, effect: AwaitRead) -> None:
        writer = self.writers.get(effect.peer_id)
        if writer is None:
            return

        if effect.all and writer.has_unread:
            self._loop.call_later(POLL_SECONDS, self._await_read, effect)
        elif writer.congested:
            self._awaiting_read.setdefault(effect.peer_id, []).append(effect.request_id)
        else:
            self._resume(effect.peer_id, effect.request_id)

    def _resume(self, peer_id: int, request_id: int) -> None:
        """Have a stream continued in a turn of its peer's uid: each may be hundreds of chunks long."""
        resumption = self._resumptions.get(peer_id)
        if resumption is None:
            resumption = self._resumptions[peer_id] = _Resumption(self._handle, peer_id)

        resumption.request_ids.append(request_id)
        self._scheduler.enqueue(resumption, self._uids[peer_id])


class _Resumption:
    """The streams of one peer that are to be continued, one in each turn."""

    def __init__(self, handle: Callable[[BacklogRead], None], peer_id: int) -> None:
        self._handle = handle
        self._peer_id = peer_id
        self.request_ids: deque[int] = deque()

    def serve_turn(self) -> bool:
        """Continue one stream. Return whether others wait."""
        self._handle(BacklogRead(self._peer_id, self.request_ids.popleft()))
        return bool(self.request_ids)
