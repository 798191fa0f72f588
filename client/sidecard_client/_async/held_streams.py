"""The function of a stream that this process makes, in a task of its own: the driver of its conversation, from first to last.

======== ============================================ =========================================================================
state    the task                                     what ends it
======== ============================================ =========================================================================
paced    makes a piece, and waits for the caller to   another caller waits (-> ahead), the stream stays unread, or its caller
         take it                                      leaves
ahead    makes pieces as they come, into              the lease is lost, or too much is unread (-> paced)
         `UnreadPieces`
left     makes pieces for the waiters alone, or ends  its end
over     has ended                                    -
======== ============================================ =========================================================================

All of this happens in the task's event loop, so a step between two ``await`` is not interrupted. Interleavings, numbered as in
the blocking client's ``held_streams``:

1.  Another caller begins to wait while the task waits for its caller: it wakes, and runs ahead.
2.  ... while the function runs: the task does not wait after the next piece.
4.  The caller leaves while the task waits for it: the conversation asks whether others wait.
5.  ... while the function runs: the daemon is asked beside it, and the function is canceled if no other caller waits. If it has
    produced a piece meanwhile, the conversation has asked too, and that reply counts (`RunningCall`).
7.  The stream is closed in another event loop or thread: its own loop is notified.
8.  The last reference to the stream goes away, perhaps in another thread: as 7.
9.  The last waiter leaves while the task runs ahead: it goes on, and the answer is stored.
10. The lease expires, or the daemon is lost: the task waits for its caller again.
11. Too much is unread: the conversation ends the lease, and then as 10.
12. The caller does not read at all, and no other caller waits, for `wire.Lease.idle_seconds`: the conversation ends the call.
14. The process forks: no event loop runs in the child.
15. The event loop ends: it cancels the task, or destroys it, and the lease is returned.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from sidecard_client._async.event_loops import event_loop_of, running, runs_here
from sidecard_client.call.commands import AfterGive, Command, Give, GoOn, Raised
from sidecard_client.call.conversation import finished
from sidecard_client.call.leading import lead, others_wait
from sidecard_client.call.streams import END, Leading, Provenance
from sidecard_client.call.unread_pieces import UnreadPieces
from sidecard_client.call.warn import beside_caller, place_of_caller
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallFailed

if TYPE_CHECKING:
    from collections.abc import Generator

    from sidecard_client._async.streams import AsyncStreamExecution


class RunningCall:
    """The function runs, up to its next piece. ``complete``: the caller has the whole answer already."""

    __slots__ = ("complete",)

    def __init__(self, complete: bool = False) -> None:  # noqa: FBT001, FBT002 - of a private class
        self.complete = complete


class AsyncHeldStream:
    """The function of one stream. ``facts`` are complete with the first piece."""

    def __init__(self, execution: "AsyncStreamExecution", leading: Leading, facts: Provenance) -> None:
        self._execution = execution
        self.facts = facts
        self._attempts = leading.attempts
        self._conversation: Generator[Command, Any, Raised | None] = lead(leading, facts)
        self._scope = anyio.CancelScope()
        self._loop = event_loop_of(running())
        self._caller = place_of_caller()
        self._unread = UnreadPieces()
        self._changed_for_task = anyio.Event()
        self._changed_for_caller = anyio.Event()
        self._wanted = False
        self._lost = False
        self._left = False
        self._over = False
        self._error: BaseException | None = None
        self.settled = anyio.Event()
        """The call has ended, or goes on for waiters after its caller has left."""

    # The caller's side ------------------------------------------------------------------------------------------------

    async def take(self) -> Any:
        """Return the next piece, or `END`. Raises what the function does."""
        while not (self._unread or self._over or self._left):
            self._changed_for_caller = anyio.Event()
            await self._changed_for_caller.wait()

        if self._unread:
            self._changed_for_task.set()
            return self._unread.take()

        error, self._error = self._error, None
        if error is not None and not self._left:
            try:
                raise error
            finally:
                del error  # which refers to this frame

        return END

    def leave(self) -> bool:
        """End the caller's part: the call goes on only if other callers wait for it. False if its event loop is another one."""
        if not runs_here(self._loop.place):
            self.leave_from_elsewhere()
            return False

        if self._left or self._over:
            return True

        self._left = True
        self._unread.clear()
        self._changed_for_task.set()
        self._changed_for_caller.set()  # another task may wait for a piece
        running_call = self._execution.running_call
        if running_call is not None:
            if running_call.complete:
                self._scope.cancel()
            else:
                self._ask_whether_others_wait(running_call)

        return True

    def leave_from_elsewhere(self) -> None:
        """Do as `leave` in the stream's own event loop. The garbage collector calls this, in any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_from_thread(self.leave)

    def _ask_whether_others_wait(self, running_call: RunningCall) -> None:
        """Cancel the function if no other caller waits. Without a task, which a loop that is ending would not run."""

        def decide(reply: wire.AnyReply | None) -> None:
            if self._execution.running_call is not running_call:
                return

            if reply is not None and others_wait(reply):
                self.settled.set()
            else:
                self._scope.cancel()

        connection, lease = self._execution.connection, self._attempts.lease
        if connection is None or lease is None:
            decide(None)
        else:
            connection.call_back(wire.Renew(lease=lease.lease), decide)

    # The connection's side --------------------------------------------------------------------------------------------

    def begin(self, lease: wire.Lease) -> None:
        """Make the call under a new lease."""
        self._wanted, self._lost = lease.waiters > 0, False

    def wanted(self) -> None:
        """Run ahead of the caller, because another caller waits."""
        self._wanted = True
        self._changed_for_task.set()

    def lost(self) -> None:
        """Wait for the caller after each piece, because others do not get them."""
        self._lost = True
        self._changed_for_task.set()

    # The task's side --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the function, and hand its pieces over to the caller."""
        beside_caller.set(self._caller)
        self._execution.watcher = self
        error: BaseException | None = None
        try:
            with self._scope:
                try:
                    await self._drive()
                except Exception as raised:  # noqa: BLE001 - raised in the caller
                    error = raised
                finally:
                    await self._execution.close_source()
        except BaseException as raised:
            # Not an `Exception`: raised in the caller too, as if the function ran in the caller's own task.
            error = raised
            if isinstance(error, anyio.get_cancelled_exc_class()):
                # Not raised in the caller, which is not canceled itself.
                error = CallFailed("transient", "the event loop that made the call has ended")
                raise
        finally:
            if self._attempts.lease is not None:  # the task itself was dropped
                self._execution.abandon()

            self._error, self._over = error, True
            del error  # which refers to this frame
            self._execution.watcher = None
            self._changed_for_caller.set()
            self.settled.set()

    async def _drive(self) -> None:
        step = await self._execution.run(self._conversation)
        while isinstance(step, Give | GoOn):
            result: AfterGive | bool = True
            if isinstance(step, Give):
                result = await self._keep(step)
            else:
                self._wanted = True
                self.settled.set()

            step = await self._execution.run(self._conversation, result)

        try:
            finished(step)
        finally:
            del step  # an error refers to this frame, which must not refer to it

    async def _keep(self, step: Give) -> AfterGive:
        """Keep a piece until the caller takes it; wait for that unless others wait for the next one."""
        if not self._left:
            self._unread.put(step.piece)
            self._changed_for_caller.set()

        while self._unread and not (self._wanted and step.shared and not self._lost):
            self._changed_for_task = anyio.Event()
            idle_seconds = self._execution.idle_seconds if step.shared and not self._lost else 0.0
            with anyio.move_on_after(idle_seconds or None) as scope:
                await self._changed_for_task.wait()

            if scope.cancelled_caught and self._unread:
                return "unread"

        if self._left:
            return "left"

        return "full" if step.shared and self._unread.full else "more"
