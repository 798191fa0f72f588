"""Divide the event loop's time among uids, and each uid's time among its connections.

Requests that arrive one at a time are served inline, as soon as they are read, for as long as this iteration of the event loop has
time left. Everything else is a `Schedulable` that waits for a turn: uids take turns first, then the connections and
background tasks of each uid. A turn lasts `TURN_SECONDS`, or one piece of work that cannot be cut. A uid whose turn took longer owes
the difference: its next turns are skipped while other uids wait, and its requests are not served inline.

So a peer that sends one small request waits at most for the current turn, or, if another connection of its own uid waits too,
for one turn of each uid and of each connection of its own.

What cannot be cut, or was cut, measured on two cores (milliseconds in one go):

===============================================================  =======  =====
work                                                             at once  a cut
===============================================================  =======  =====
JSON line of 960 KB of ``1e308``, rejected by its elements       1,456    13
JSON line of 960 KB of usual numbers                             11       -
JSON text of 15 MiB of small integers (`json_lines.pieces`)      3,000    0.5
JSON text of 15 MiB of text                                      61       0.2
the failure of a flight with 16,000 waiters (`deliveries`)       159      18
the end of a connection with 16,000 leases (engine's jobs)       157      2
16,384 waiters with one deadline (512 in each tick)              78       2.4
msgpack frame of 15 MiB of small integers, with an unknown op    62       0.1
msgpack value of 15 MiB of small integers (skipped in C)         62       -
===============================================================  =======  =====
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MAX_BATCH: Final = 64
"""Messages of one peer served in a row: about 1 ms of cheap ones. As many as an `AsyncClient` has concurrent calls."""

TURN_SECONDS: Final = 0.002
"""A turn ends after this time, at the end of the current piece of work: all metrics of a busy host take 30 ms."""

MAX_DEBT_SECONDS: Final = 0.25
"""A uid owes no more than this, whatever its longest piece of work took."""

HTTP_UID: Final = -1
"""Pseudo-uid of all work requested over TCP, where the kernel reports no uid."""

DAEMON_UID: Final = -2
"""Pseudo-uid of the daemon's own background work."""

_NEVER: Final = float("-inf")


class Schedulable(Protocol):
    """Work that is done in turns: a connection's messages, or a background task."""

    def __hash__(self) -> int: ...

    def serve_turn(self) -> bool:
        """Work for about `TURN_SECONDS`. Return whether more work waits."""


class FairScheduler:
    """Gives turns to work that waits, and decides which requests are served inline. ``clock`` is monotonic."""

    def __init__(self, loop: "asyncio.AbstractEventLoop", clock: "Callable[[], float]") -> None:
        self._call_soon: Callable[[Callable[[], None]], object] = loop.call_soon
        self.clock = clock
        self.inline_until = _NEVER
        """Until then, requests are served inline without asking `may_serve_inline`, which keeps the hot path short."""
        self._queues: OrderedDict[int, OrderedDict[Schedulable, None]] = OrderedDict()
        """Waiting work by uid, the next uid first."""
        self._uids: dict[Schedulable, int] = {}
        self._debts: dict[int, float] = {}
        """Seconds by which uids have exceeded their turns. Forgotten as soon as nothing waits."""
        self._served: set[int] = set()
        """Uids that were served inline after this iteration's time was over."""
        self._scheduled = False
        self._spent = 0.0

    def __len__(self) -> int:
        """Count the work that waits."""
        return len(self._uids)

    def may_serve_inline(self, uid: int, now: float) -> bool:
        """Return whether a request of ``uid`` may be served now, and not in a turn."""
        if now < self.inline_until:
            return True

        if not self._scheduled:
            # The loop does not report when an iteration begins; `_serve` runs at the start of the next one.
            self._schedule()
            self.inline_until = now + TURN_SECONDS
            return True

        # The time of this iteration is over. Each uid that does not wait for a turn is served once more.
        if uid in self._served or uid in self._queues or uid in self._debts:
            return False

        self._served.add(uid)
        return True

    def enqueue(self, work: Schedulable, uid: int) -> None:
        """Queue work of ``uid``, unless it is queued already."""
        if work not in self._uids:
            self._uids[work] = uid
            queue = self._queues.get(uid)
            if queue is None:
                queue = self._queues[uid] = OrderedDict()

            queue[work] = None
            self._schedule()

    def remove(self, work: Schedulable) -> None:
        """Take work out of the queue, if it is in it."""
        uid = self._uids.pop(work, None)
        if uid is not None:
            queue = self._queues[uid]
            del queue[work]
            if not queue:
                del self._queues[uid]

    def charge(self, uid: int, seconds: float) -> None:
        """Count the time that work of ``uid`` took, in a turn or inline."""
        if seconds > 2 * TURN_SECONDS:
            self._debts[uid] = min(self._debts.get(uid, 0.0) + seconds - TURN_SECONDS, MAX_DEBT_SECONDS)
            self.inline_until = _NEVER
            self._schedule()

    def spend(self, seconds: float) -> None:
        """Shorten this iteration's turns by the time that the loop will spend because of the current one, such as on reading."""
        self._spent += seconds

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._serve)

    def _serve(self) -> None:
        """Give turns for `TURN_SECONDS`; then the requests that this iteration reads have as much time."""
        self._scheduled = False
        self._spent = 0.0
        self._served.clear()
        now = self.clock()
        until = now + TURN_SECONDS
        try:
            while self._uids and now + self._spent < until:
                began_at = now
                work, uid = self._next()
                try:
                    if work.serve_turn():
                        self.enqueue(work, uid)
                finally:
                    now = self.clock()
                    self.charge(uid, now - began_at)
        finally:
            if self._uids:
                self._schedule()
            else:
                self._debts.clear()

            self.inline_until = _NEVER if self._debts else now + TURN_SECONDS

    def _next(self) -> tuple[Schedulable, int]:
        """Take the next work out of the queue. Each skipped turn of a uid pays back `TURN_SECONDS` of its debt."""
        queues, debts = self._queues, self._debts
        uid = next(iter(queues))
        while debts and len(queues) > 1 and uid in debts:
            debts[uid] -= TURN_SECONDS
            if debts[uid] <= 0:
                del debts[uid]

            queues.move_to_end(uid)
            uid = next(iter(queues))

        queues.move_to_end(uid)
        work = next(iter(queues[uid]))
        self.remove(work)
        return work, uid
