"""Decide whose messages are served next when peers have sent more than one turn serves.

One batch is served per iteration of the event loop: uids in turn, and the connections of each uid in turn. A peer that
sends one request therefore waits for at most one batch of another peer. Median time of a hit for a peer that asks every
5 ms, on two cores shared by all processes:

=======================================  ==========  ========
others                                   with turns  without
=======================================  ==========  ========
none                                     0.3 ms
4 peers that ping without pause          0.5 ms      2 ms
16 peers that ping without pause         0.5 ms      8 ms
16 peers that have hits without pause    6 ms        24 ms
16 peers that read all metrics           3 ms        7,400 ms
=======================================  ==========  ========
"""

from typing import TYPE_CHECKING, Final, Protocol

from sidecard.core.backends.queue import FairQueue

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MAX_BATCH: Final = 64
"""Messages of one peer served in a row: about 1 ms of cheap ones. As many as an `AsyncClient` has concurrent calls."""

MAX_UNSCHEDULED: Final = 8
"""Messages of one burst that are served immediately, even while other connections wait for their turns."""

TURN_SECONDS: Final = 0.002
"""A batch ends after this time whatever its messages are: all metrics of a busy host take 30 ms."""


class Schedulable(Protocol):
    """A connection that waits for its turn."""

    def __hash__(self) -> int: ...

    def serve_turn(self) -> bool:
        """Serve one batch. Return whether another one waits."""


class FairScheduler:
    """Gives turns to connections that have messages to be served."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._call_soon: Callable[[Callable[[], None]], object] = loop.call_soon
        self._queue: FairQueue[Schedulable] = FairQueue()
        self._waiting: dict[Schedulable, int] = {}
        """Connections and their uids."""
        self._busy = False
        """This iteration of the event loop has had, or will have, a batch."""

    def may_serve_now(self, count: int) -> bool:
        """Return whether a peer's ``count`` messages, or a first batch of them, may be served without waiting for a turn."""
        if count <= MAX_UNSCHEDULED:
            return True

        if self._busy:
            return False

        self._schedule()
        return True

    def enqueue(self, connection: Schedulable, uid: int) -> None:
        """Queue a connection of ``uid``, unless it is queued already."""
        if connection not in self._waiting:
            self._waiting[connection] = uid
            self._queue.push(uid, connection)
            self._schedule()

    def remove(self, connection: Schedulable) -> None:
        """Take a connection out of the queue, if it is in it."""
        uid = self._waiting.pop(connection, None)
        if uid is not None:
            self._queue.remove(uid, connection)

    def _schedule(self) -> None:
        if not self._busy:
            self._busy = True
            self._call_soon(self._serve_next)

    def _serve_next(self) -> None:
        self._busy = False
        if self._waiting:
            connection = self._queue.first()
            uid = self._waiting.pop(connection)
            self._queue.serve(uid, connection)
            if connection.serve_turn():
                self.enqueue(connection, uid)

        if self._waiting:
            self._schedule()
