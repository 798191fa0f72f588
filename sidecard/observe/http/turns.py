"""Turns of HTTP in the daemon's scheduler: every request starts in one, and continues in one after each block of its response.

All of HTTP over TCP is one uid to the scheduler, because the kernel reports none; over a Unix socket it is the peer's uid. So HTTP
takes at most the share of one uid from the others, however many connections it has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, Final, NamedTuple, Protocol

CLIENT: Final = "client"
"""Key of the `HttpClient` in the state of an ASGI scope."""

TURN_SECONDS: Final = 0.002
"""As the scheduler's."""


class HttpClient(NamedTuple):
    """The other side of a connection."""

    uid: int
    """To the scheduler: the peer's, or the pseudo-uid of TCP."""
    address: str
    """What connections are counted by: the remote address, or the uid."""
    transport: asyncio.Transport


def client_of(scope: MutableMapping[str, Any]) -> HttpClient:
    """Return the client of an ASGI request."""
    client: HttpClient = scope["state"][CLIENT]
    return client


class HttpWork(Protocol):
    """Work that is done in turns."""

    def __hash__(self) -> int: ...

    def serve_turn(self) -> bool:
        """Work for about `TURN_SECONDS`. Return whether more work waits."""


class Scheduler(Protocol):
    """`sidecard.server.scheduler.FairScheduler`, as far as HTTP uses it."""

    @property
    def clock(self) -> Callable[[], float]:
        """A monotonic clock, in seconds."""

    def enqueue(self, work: HttpWork, uid: int) -> None:
        """Queue work of ``uid``, unless it is queued already."""

    def remove(self, work: HttpWork) -> None:
        """Take work out of the queue, if it is in it."""

    def charge(self, uid: int, seconds: float) -> None:
        """Count the time that work of ``uid`` took outside of its turns."""


class HttpTurns:
    """Gives turns to tasks: one task of a uid runs at a time, until it waits or asks for its next turn."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._queues: dict[int, _TaskQueue] = {}

    async def next(self, uid: int, *, first: bool = False) -> None:
        """Wait for a turn of ``uid``; ``first``: before its other tasks."""
        queue = self._queues.get(uid)
        if queue is None:
            queue = self._queues[uid] = _TaskQueue(self.scheduler, uid, self._queues)

        await queue.wait(first=first)


class _TaskQueue:
    """The tasks of one uid that wait for a turn; it removes itself from ``queues`` when there is none."""

    def __init__(self, scheduler: Scheduler, uid: int, queues: "dict[int, _TaskQueue]") -> None:
        self._scheduler = scheduler
        self._uid = uid
        self._queues = queues
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running = False
        self._began_at = 0.0

    async def wait(self, *, first: bool) -> None:
        turn = self._loop.create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)

        if not self._running:
            self._scheduler.enqueue(self, self._uid)

        await turn

    def serve_turn(self) -> bool:
        """Resume one task. The next one is resumed after its step, so that they do not all run in one go."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running = True
                # The loop calls these three in this order: the task's next step is the second one.
                self._loop.call_soon(self._step_begins)
                turn.set_result(None)
                self._loop.call_soon(self._step_ended)
                break

        return False

    def _step_begins(self) -> None:
        self._began_at = self._scheduler.clock()

    def _step_ended(self) -> None:
        self._running = False
        self._scheduler.charge(self._uid, self._scheduler.clock() - self._began_at)
        if self._waiting:
            self._scheduler.enqueue(self, self._uid)
        elif self._queues.get(self._uid) is self:
            del self._queues[self._uid]
