"""Whose messages are served next, where peers have sent more than is served in one go.

One batch a turn of the loop, and uids in turn, then the connections of each: so whoever sends one request waits for one batch
of somebody else's at most, however many flood. Measured beside 16 peers that flood, in `sidecard.server.connection`.
"""

from typing import TYPE_CHECKING, Final, Protocol

from sidecard.core.backends.queue import FairQueue

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MAX_BATCH: Final = 64
"""Messages of one peer served in a row: some 1 ms of cheap ones. As many as an `AsyncClient` has calls at a time."""

MAX_BESIDE: Final = 8
"""Messages that a peer may send in one go and have served at once while others wait for their turns."""

TURN_SECONDS: Final = 0.002
"""After so long a batch ends, whatever its messages are: all metrics of a busy host take 30 ms to tell."""


class Turn(Protocol):
    """A connection, as far as it waits for its turn."""

    def __hash__(self) -> int: ...

    def serve_turn(self) -> bool:
        """Serve a batch; tell whether another one waits."""


class Turns:
    """Those who wait for their turn."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._call_soon: Callable[[Callable[[], None]], object] = loop.call_soon
        self._queue: FairQueue[Turn] = FairQueue()
        self._waiting: dict[Turn, int] = {}
        """With their uids."""
        self._called = False
        """Somebody has had, or will have, this turn of the loop."""

    def may_skip(self, count: int) -> bool:
        """Tell whether a peer may have its ``count`` messages, or a batch of them, served without standing in."""
        if count <= MAX_BESIDE:
            return True

        if self._called:
            return False

        self._call()
        return True

    def want(self, turn: Turn, uid: int) -> None:
        """Let a connection of ``uid`` stand in, unless it does already."""
        if turn not in self._waiting:
            self._waiting[turn] = uid
            self._queue.push(uid, turn)
            self._call()

    def forget(self, turn: Turn) -> None:
        """A connection has nothing to be served any more."""
        uid = self._waiting.pop(turn, None)
        if uid is not None:
            self._queue.remove(uid, turn)

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self._call_soon(self._next)

    def _next(self) -> None:
        self._called = False
        if self._waiting:
            turn = self._queue.first()
            uid = self._waiting.pop(turn)
            self._queue.serve(uid, turn)
            if turn.serve_turn():
                self.want(turn, uid)

        if self._waiting:
            self._call()
