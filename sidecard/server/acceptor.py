"""Accept connections a share at a time, and open them in turns of their uids.

A connection passes two steps:

1. *Accepted*: taken out of the kernel's queue, identified, and counted or denied (`ConnectionTable.admit`). This is cheap and
   in the kernel's order, so that a newcomer behind thousands of others reaches the next step soon. It ends after
   `ACCEPT_SECONDS` in each iteration of the event loop.
2. *Opened*: given a transport and a protocol. This costs ten times as much, so it is scheduled like a request: inline while
   this iteration has time left, otherwise in a turn of its uid. A connection that its client has closed meanwhile is dropped.

A connection beyond a limit is closed in step 1, except a few to which the reason is sent.
"""

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecard.core.events import Peer
from sidecard.server.connections import AdmissionDenied, ConnectionTable
from sidecard.server.scheduler import TURN_SECONDS, FairScheduler

if TYPE_CHECKING:
    from sidecard.server.connection import PeerConnection

ACCEPT_SECONDS: Final = 0.008
"""How long connections are accepted in one iteration of the event loop: about 500. So a newcomer behind a full queue of the kernel
(`sidecard.server.listener.BACKLOG`) is reached within ten iterations, and open connections wait at most so long."""

MAX_OPENED: Final = 16
"""Connections of one uid opened in a turn, or inline in one iteration. What follows for each (its first request, its end) takes up to 0.1 ms more."""

BACK_OFF_SECONDS: Final = 0.1
"""Pause after an error that would only recur: a listening socket stays readable while connections wait."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
_CONNECTION_FAULTS = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR})
"""Errors of accept(2) that concern one connection; the next one may be fine."""


class Newcomer(NamedTuple):
    """An accepted connection that waits to be opened."""

    socket: socket.socket
    admission: Peer | AdmissionDenied


class Newcomers:
    """Accepted connections of one uid that wait for its turns, in which ``serve`` opens some of them."""

    def __init__(self, uid: int, serve: "Callable[[Newcomers], bool]") -> None:
        self.uid = uid
        self.waiting: deque[Newcomer] = deque()
        self._serve = serve

    def serve_turn(self) -> bool:
        """Open some. Return whether more may be opened in this iteration of the event loop."""
        return self._serve(self)


class Acceptor:
    """Accepts on listening sockets. ``new_connection`` makes the protocol of an admitted or denied connection, whose descriptor it gets.

    ``log(level, event, **fields)`` writes a log line; ``on_exhausted`` is called when no descriptor is left.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scheduler: FairScheduler,
        connections: ConnectionTable,
        new_connection: "Callable[[Peer | AdmissionDenied, int], PeerConnection]",
        *,
        log: Callable[..., None],
        on_exhausted: Callable[[], None],
    ) -> None:
        self._scheduler = scheduler
        self._clock = scheduler.clock
        self._loop = loop
        self._connections = connections
        self._new_connection = new_connection
        self._log = log
        self._on_exhausted = on_exhausted
        self._listening: set[socket.socket] = set()
        self._failing = False
        self._newcomers: dict[int, Newcomers] = {}
        """By uid; only uids whose connections wait."""
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """A descriptor to accept and close connections with when no other is left: -1 if it could not be opened again."""

    def listen(self, listening: socket.socket) -> None:
        """Accept on one more socket, which must be non-blocking."""
        self._listening.add(listening)
        self._loop.add_reader(listening, self._accept, listening)

    def close(self, listening: socket.socket) -> None:
        """Accept no more on a socket, and close it. Connections that were accepted stay."""
        if listening in self._listening:
            self._listening.remove(listening)
            self._loop.remove_reader(listening)

        listening.close()

    def stop(self) -> None:
        """Accept no more, and close the connections that wait to be opened."""
        for listening in tuple(self._listening):
            self.close(listening)

        for newcomers in self._newcomers.values():
            self._scheduler.remove(newcomers)
            while newcomers.waiting:
                self._drop(newcomers.waiting.popleft())

        self._newcomers.clear()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    # -- accepting -----------------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        """Accept until none waits, or for `ACCEPT_SECONDS`: the event loop then calls again in its next iteration."""
        clock, touched = self._clock, dict[int, Newcomers]()
        until = clock() + ACCEPT_SECONDS
        while True:
            try:
                connected, _ = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if not self._go_on_after(error, listening):
                    break
            else:
                self._failing = False
                self._admit(connected, touched)

            if clock() > until:
                break

        for newcomers in touched.values():
            self._open_or_enqueue(newcomers)

    def _open_or_enqueue(self, newcomers: Newcomers) -> None:
        """Open connections inline while that is allowed; the rest waits for turns of its uid."""
        waiting, uid, opened = newcomers.waiting, newcomers.uid, 0
        # A denied one waits, so that the ends of connections that this iteration reads are handled before the final decision.
        while (
            waiting
            and opened < MAX_OPENED
            and isinstance(waiting[0].admission, Peer)
            and self._scheduler.may_serve_inline(uid, self._clock())
        ):
            opened += self._open(waiting.popleft())

        if waiting:
            self._newcomers[uid] = newcomers
            self._scheduler.enqueue(newcomers, uid)

    def _serve(self, newcomers: Newcomers) -> bool:
        """Open connections for about `TURN_SECONDS`, and up to `MAX_OPENED`. Return whether to continue in this iteration."""
        until, opened = self._clock() + TURN_SECONDS, 0
        while newcomers.waiting:
            opened += self._open(newcomers.waiting.popleft())
            if opened == MAX_OPENED:
                self._loop.call_soon(self._scheduler.enqueue, newcomers, newcomers.uid)
                return False

            if self._clock() > until:
                return True

        self._newcomers.pop(newcomers.uid, None)
        return False

    def _admit(self, connected: socket.socket, touched: dict[int, Newcomers]) -> None:
        """Identify and count a connection, and add it to those of its uid that wait, and these to ``touched``."""
        try:
            connected.setblocking(False)  # noqa: FBT003 - positional only
            admission = self._connections.admit(connected)
        except OSError:
            # Its client has left.
            connected.close()
            return

        uid = admission.uid
        if isinstance(admission, AdmissionDenied) and not admission.seconds:
            connected.close()
            return

        newcomers = touched.get(uid)
        if newcomers is None:
            newcomers = self._newcomers.get(uid)
            if newcomers is None:
                newcomers = Newcomers(uid, self._serve)

            touched[uid] = newcomers

        newcomers.waiting.append(Newcomer(connected, admission))

    def _go_on_after(self, error: OSError, listening: socket.socket) -> bool:
        """Return whether to accept the next connection after an error. If not, accept again after a pause."""
        if error.errno in _CONNECTION_FAULTS:
            return True

        if error.errno in _EXHAUSTED:
            # The kernel looks for a descriptor first, and for a waiting connection then.
            closed = self._close_one(listening)
            if closed is not False:
                self._on_exhausted()

            if closed is not None:
                return closed

        elif not self._failing:
            self._failing = True
            self._log("error", "accept failed", reason=str(error), retry_seconds=BACK_OFF_SECONDS)

        self._loop.remove_reader(listening)
        self._loop.call_later(BACK_OFF_SECONDS, self._resume, listening)
        return False

    def _close_one(self, listening: socket.socket) -> bool | None:
        """Accept one connection with the spare descriptor, and close it: its client then makes its own call without a wait.

        Return whether one waited; None if the spare descriptor is lost.
        """
        closed = False
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
            with suppress(OSError):
                connected, _ = listening.accept()
                connected.close()
                closed = True

        try:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

        return closed

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening:
            self._loop.add_reader(listening, self._accept, listening)

    # -- opening -------------------------------------------------------------------------------------------------------

    def _open(self, newcomer: Newcomer) -> bool:
        """Give a connection its transport and protocol. Return False if its client has closed it already."""
        if _has_ended(newcomer.socket):
            self._drop(newcomer)
            return False

        if isinstance(newcomer.admission, AdmissionDenied):
            newcomer = Newcomer(newcomer.socket, self._connections.admit_again(newcomer.admission))

        new_connection = partial(self._new_connection, newcomer.admission, newcomer.socket.fileno())
        opening = self._loop.connect_accepted_socket(new_connection, newcomer.socket)
        # Not a task, whose first step would wait for the next iteration, and so delay the first request.
        self._continue(opening, newcomer)
        return True

    def _continue(self, opening: Coroutine[Any, Any, object], newcomer: Newcomer, _: object = None) -> None:
        try:
            waiter: asyncio.Future[None] = opening.send(None)
        except StopIteration:
            return
        except OSError as error:
            self._log("warning", "connection not opened", peer_uid=newcomer.admission.uid, reason=str(error))
            self._drop(newcomer)
        else:
            waiter.add_done_callback(partial(self._continue, opening, newcomer))

    def _drop(self, newcomer: Newcomer) -> None:
        newcomer.socket.close()
        self._connections.withdraw(newcomer.admission)


def _has_ended(connected: socket.socket) -> bool:
    try:
        return not connected.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
