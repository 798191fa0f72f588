"""The function of a stream that this process makes, and who drives it: its caller, or a thread in the caller's place.

To *drive* is to resume the conversation and to call the function. One thread at a time does, the driver; only the driver
touches the two generators, and it closes the function's. So no generator is closed or resumed while another thread runs it.

========== ========================================== =======================================================================
driver     who that is                                what ends it
========== ========================================== =======================================================================
``none``   no thread: the caller has a piece and      the caller takes the next piece or closes the stream (-> ``caller``);
           does not ask for more                      another caller waits, the stream stays unread, or nothing refers to it
                                                      any more (-> ``thread``)
``caller`` the thread that takes a piece, or closes   it has the piece (-> ``none``; -> ``thread`` if others wait meanwhile)
``thread`` a thread of this module; the caller takes  the stream ends (-> ``over``)
           its pieces from `UnreadPieces`
``over``   no thread, for ever                        -
========== ========================================== =======================================================================

``_lock`` guards every field. The driver holds it while it resumes the conversation, but not while the function runs: then
another thread may use the stream's connection. Interleavings:

1.  Another caller begins to wait while no thread drives: the heartbeat starts the thread.
2.  ... while the caller drives: `wanted` sets a flag, and the caller starts the thread when it has its piece.
3.  ... between that look at the flag and the caller's unlocking: the heartbeat looks again (`look` finds the lock taken).
4.  The caller closes the stream while no thread drives: it drives the conversation itself, which asks whether others wait, and
    starts the thread if they do.
5.  The caller closes it while the thread is in the function: it asks the daemon itself. If no other caller waits, or if the
    caller had the whole answer, it ends the conversation (`_take_over`); the thread closes the function when that returns.
6.  ... while the thread waits for the caller, or before the thread has begun: it ends, or goes on for the waiters.
7.  The function closes its own stream, or another thread than the reader does: as 5, with the reader as the driver.
8.  The last reference to the stream goes away: the garbage collector may interrupt any code, so it takes no lock, and rings the
    heartbeat, which starts the thread as if the stream had been closed. The thread looks for it too.
9.  The last waiter leaves while the thread drives: the thread goes on, and the answer is stored.
10. The lease expires, or the daemon is lost, while the thread drives: from then on it makes a piece only if the caller wants one.
11. The caller reads so slowly that `UnreadPieces` is full: the conversation ends the lease, and then as 10.
12. The caller does not read at all, and no other caller waits, for `wire.Lease.idle_seconds`: the conversation ends the call.
    A later read raises `CallFailed`.
13. No thread can be started: the caller drives as long as it reads; the heartbeat tries again.
14. The process forks: the child has no driver but the forking thread. A stream that another thread drove ends in it with
    `CallFailed`; any other one goes on without the daemon.
15. The interpreter exits: the thread is a daemon, because the function may never return. The connection ends with the process,
    and the daemon elects a waiter.
"""

import os
import threading
from contextlib import suppress
from contextvars import copy_context
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakSet

from sidecard_client.call.commands import AfterGive, Command, Give, GoOn, Open, Pull, Raised, Returned
from sidecard_client.call.conversation import finished
from sidecard_client.call.leading import lead
from sidecard_client.call.streams import END, Enough, ForOthers, ForOwnCaller, Leading, Provenance
from sidecard_client.call.unread_pieces import UnreadPieces
from sidecard_client.protocol.errors import CallFailed

if TYPE_CHECKING:
    from collections.abc import Generator

    from sidecard_client._sync.streams import StreamExecution


class CallerLeft(BaseException):
    """The result of a function that still runs, and whose caller has left. Never raised."""


Driver = Literal["none", "caller", "thread", "over"]

ORPHAN_SECONDS: Final = 1.0
"""How often a thread that waits for its caller checks that the caller still exists."""

RETRY_SECONDS: Final = 0.02
"""How soon the heartbeat looks again at a stream that a thread has locked."""


class HeldStream:
    """The function of one stream. ``facts`` are complete with the first piece."""

    def __init__(self, execution: "StreamExecution", leading: Leading, facts: Provenance) -> None:
        self.orphaned = False
        """No reference to its stream is left."""
        self._execution = execution
        self.facts = facts
        self._attempts = leading.attempts
        self._conversation: Generator[Command, Any, Raised | None] = lead(leading, facts)
        self._context = copy_context()
        self._renew_locks()
        self._driver: Driver = "caller"
        self._calls_function = False
        self._complete = False
        self._wanted = False  # set without the lock
        self._lost = False  # set without the lock
        self._left = False
        self._read_at = 0.0
        self._unread = UnreadPieces()
        self._end: Raised | None = None
        _running.add(self)

    # The caller ------------------------------------------------------------------------------------------------------

    def first(self) -> Any:
        """Call the function, and return its first piece, or `END`. Raises what the function does."""
        return self._drive(None)

    def take(self) -> Any:
        """Return the next piece, or `END`. Raises what the function does."""
        with self._lock:
            while self._driver == "thread" and not (self._unread or self._left):
                self._changed.wait()

            if self._left:  # another thread has closed the stream, and may drive it now
                return END

            if self._unread:
                self._changed.notify_all()
                return self._unread.take()

            if self._driver == "caller":
                raise RuntimeError(
                    "The next piece of this stream is being taken already. Use a stream in one thread at a time."
                )

            if self._driver == "none":
                self._driver = "caller"

        if self._driver == "over":
            end, self._end = self._end, None
            finished(end)
            return END

        return self._drive("more")

    def leave(self) -> None:
        """End the caller's part. The call goes on if other callers wait for it, and is ended otherwise."""
        with self._lock:
            if self._left or self._driver == "over":
                return

            self._left = True
            self._unread.clear()
            self._changed.notify_all()
            if self._driver == "none":
                self._driver = "caller"
            else:
                if self._calls_function and (self._complete or not self._others_wait()):
                    self._take_over()

                return

        self._drive_to_its_end()

    def _others_wait(self) -> bool:
        lease = self._attempts.lease
        return lease is not None and self._execution.others_wait(lease)

    def _take_over(self) -> None:
        """End the conversation while its driver is in the function, which has no part in it any more."""
        try:
            self._execution.run(self._conversation, Raised(CallerLeft()))
        finally:
            self._driver = "over"
            self._execution.abandon()
            self._changed.notify_all()

    def orphan(self) -> bool:
        """Note that nothing refers to the stream any more; False if no thread will see it. Takes no lock."""
        self.orphaned = True
        return self._driver == "thread" or self._execution.poke()

    def _drive(self, result: AfterGive | None) -> Any:
        try:
            step = self._resume(result)
            if isinstance(step, Give):
                self._hand_back(step)
                return step.piece

            if isinstance(step, GoOn):  # another thread has closed the stream since the last piece
                self._go_on_without_caller()
                return END

            self._close(None)
            finished(step)
        except BaseException:
            step = None  # an error refers to this frame, which must not refer to it
            self._close(None)
            raise

        return END

    def _hand_back(self, step: Give) -> None:
        """Let no thread drive, or another one if others wait; end the stream if it was closed meanwhile."""
        with self._lock:
            left = self._left or self._driver == "over"
            if not left:
                self._driver = "none"
                self._read_at = monotonic()
                if self._wanted and step.shared and not self._lost:
                    self._start("more")

        if left:
            self._drive_to_its_end()

    def _drive_to_its_end(self) -> None:
        """Let the conversation know that the caller has left, unless it has ended."""
        try:
            step = None if self._driver == "over" else self._resume("left")
        except BaseException:
            self._close(None)
            raise

        if isinstance(step, GoOn):
            self._go_on_without_caller()
        else:
            self._close(None)

    def _go_on_without_caller(self) -> None:
        with self._lock:
            if self._start(result=True):
                return

        try:
            self._resume(result=False)
        finally:
            self._close(None)

    # The thread ------------------------------------------------------------------------------------------------------

    def _start(self, result: object) -> bool:
        """Let a thread drive, which resumes with ``result``; False if none can be started. With the lock."""
        before, self._driver = self._driver, "thread"
        try:
            threading.Thread(
                target=self._context.run, args=(self._run, result), name="sidecard-stream", daemon=True
            ).start()
        except RuntimeError:
            self._driver = before
            return False

        return True

    def _run(self, result: object) -> None:
        end: Raised | None = None
        try:
            step = self._resume(result)
            while isinstance(step, Give | GoOn) and self._driver != "over":
                step = self._resume(self._keep(step) if isinstance(step, Give) else True)

            end = step if isinstance(step, Raised) else None
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            end = Raised(error)

        with suppress(Exception):  # the function fails to close; its caller has the answer, or has left
            self._close(end)

    def _keep(self, step: Give) -> AfterGive:
        """Keep a piece until the caller takes it; wait for that if others do not get it."""
        with self._lock:
            self._unread.put(step.piece)
            self._changed.notify_all()
            while self._unread and (self._lost or not step.shared) and not self._has_left():
                self._changed.wait(ORPHAN_SECONDS)

            if self._has_left():
                return "left"

            return "full" if step.shared and self._unread.full else "more"

    def _has_left(self) -> bool:
        return self._left or self.orphaned

    # The driver ------------------------------------------------------------------------------------------------------

    def _resume(self, result: Any) -> Any:
        """Drive up to the next piece, the wish to go on without the caller, or the end."""
        execution, conversation = self._execution, self._conversation
        while True:
            with self._lock:
                if isinstance(result, str) and result != "full" and self._has_left():
                    result = "left"

                step = execution.run(conversation, result)
                if not isinstance(step, Open | Pull):
                    try:
                        return step
                    finally:
                        del step, result  # an error may refer to this frame, which must not refer to it

                if isinstance(step, Open):
                    self._hold(step)

                self._calls_function, self._complete = True, isinstance(step, Pull) and step.complete

            result = execution.call_function(step)
            with self._lock:
                self._calls_function = False
                if self._driver == "over":
                    return last_piece(result)

                if isinstance(result, Raised) and isinstance(step, Open):
                    execution.release()

    def _hold(self, step: Open) -> None:
        lease = step.lease
        if lease is not None:
            self._wanted, self._lost = lease.waiters > 0, False
            self._execution.watch(self, step)

    def _close(self, end: Raised | None) -> None:
        """End the stream, and close the function. For the driver alone."""
        with self._lock:
            if self._driver != "over":
                self._driver, self._end = "over", end
                self._execution.abandon()
                self._changed.notify_all()

        self._execution.close_source()

    # The heartbeat ---------------------------------------------------------------------------------------------------

    def wanted(self) -> None:
        """Note that another caller waits for the answer."""
        self._wanted = True

    def lost(self) -> None:
        """Note that others will not get the answer."""
        self._lost = True

    def look(self, now: float) -> float:
        """Start the thread if it is needed; return when to look again without a cause."""
        if not self._lock.acquire(blocking=False):
            return now + RETRY_SECONDS

        try:
            if self._driver != "none":
                return inf

            unread_at = self._read_at + (self._execution.idle_seconds or inf)
            if self.orphaned:
                result: AfterGive = "left"
            elif self._wanted and not self._lost:
                result = "more"
            elif now >= unread_at:
                result = "unread"
            else:
                return unread_at

            return inf if self._start(result) else now + ORPHAN_SECONDS
        finally:
            self._lock.release()

    # A fork ----------------------------------------------------------------------------------------------------------

    def leave_to_parent(self) -> None:
        """Go on in the child of a fork, where no other thread exists."""
        self._renew_locks()
        if self._driver == "thread":
            self._driver = "over"
            self._end = Raised(
                CallFailed("transient", "the process was forked while a thread of the parent made the call")
            )

    def _renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)


def last_piece(result: Returned | Raised) -> Give | None:
    """Return the piece that a function has produced after its stream was closed, for the thread that was waiting for it."""
    piece = result.value if isinstance(result, Returned) else END
    if isinstance(piece, ForOwnCaller):
        piece = piece.piece

    return None if piece is END or isinstance(piece, Enough | ForOthers) else Give(piece)


_running: WeakSet[HeldStream] = WeakSet()


def _leave_to_parent() -> None:
    for held in list(_running):
        held.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
