"""What the client needs from an event loop. No other module of the client depends on asyncio or trio.

A connection belongs to an event loop and to none of its tasks: no cancel scope and no context variable of the caller that
opened it reaches its work. Only the loop refers to a connection, by what it watches and has scheduled, so a loop that ends
takes its connections with it, closed or not. On asyncio the work is done in callbacks, on trio in system tasks.
"""

import os
import sys
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from socket import socket
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from weakref import WeakSet, ref

import anyio

from sidecard_client._async.reply_futures import EventReplyFuture, ReplyFuture
from sidecard_client.protocol.connection import NotConnected

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken

T = TypeVar("T")

Work = Callable[[], Coroutine[Any, Any, None]]

A_YEAR_SECONDS = 365 * 86400


class EventLoop(Protocol):
    """An event loop. `call_from_thread` is for any thread, all else for the loop's own."""

    place: Any
    """Identifies the loop: what `running` returns in it."""

    def new_future(self) -> ReplyFuture:
        """Return a future that has no result yet."""

    def call_soon(self, function: Callable[[], object]) -> object:
        """Call ``function`` once the tasks that are ready have run."""

    def call_later(self, seconds: float, function: Callable[[], object]) -> object:
        """Call ``function`` in some time. Nothing cancels that."""

    def call_from_thread(self, function: Callable[..., object], *args: object) -> object:
        """Call ``function`` soon, in the loop's thread. Raises `RuntimeError` if the loop has ended."""

    def watch(self, sock: socket, readable: Callable[[], object], ended: Callable[[], object], /) -> None:
        """Call ``readable`` whenever there is something to read, until `unwatch`; ``ended`` if the loop ends first."""

    def when_writable(self, sock: socket, function: Callable[[], object]) -> None:
        """Call ``function`` once, when the kernel has room."""

    def unwatch(self, sock: socket) -> None:
        """End `watch` and `when_writable`, before the socket is closed."""

    def start(self, work: Work) -> None:
        """Run ``work``, which raises nothing, in a task of the loop with the caller's context."""

    def is_idle(self) -> bool:
        """Return whether the loop does not run now."""


class AsyncioLoop:
    """An event loop of asyncio, or compatible with it (uvloop)."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.place = loop
        self.new_future = loop.create_future
        self._context = Context()

    def call_soon(self, function: Callable[[], object]) -> object:
        """Call a function in this turn of the loop or in the next one."""
        return self.place.call_soon(function, context=self._context)

    def call_later(self, seconds: float, function: Callable[[], object]) -> object:
        """Set a timer."""
        return self.place.call_later(seconds, function, context=self._context)

    def call_from_thread(self, function: Callable[..., object], *args: object) -> object:
        """Wake the loop."""
        return self.place.call_soon_threadsafe(function, *args, context=self._context)

    def watch(self, sock: socket, readable: Callable[[], object], _ended: Callable[[], object]) -> None:
        """Add a reader. A loop that is closed drops its last reference to the connection, without a call."""
        Context().run(self.place.add_reader, sock, readable)

    def when_writable(self, sock: socket, function: Callable[[], object]) -> None:
        """Add a writer for one event."""
        Context().run(self.place.add_writer, sock, self._once, sock, function)

    def _once(self, sock: socket, function: Callable[[], object]) -> None:
        self.place.remove_writer(sock)
        function()

    def unwatch(self, sock: socket) -> None:
        """Remove reader and writer."""
        with suppress(RuntimeError):  # the loop is closed
            self.place.remove_reader(sock)
            self.place.remove_writer(sock)

    def start(self, work: Work) -> None:
        """Create a task to which the loop refers by a timer, since tasks are referenced weakly."""
        task = self.place.create_task(work(), name="sidecard call")
        # A loop that is closed without canceling its tasks destroys this one: the app needs no warning of that.
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as asyncio's own gather() does
        reference = self.place.call_later(A_YEAR_SECONDS, _keep, task)
        task.add_done_callback(lambda _: reference.cancel())

    def is_idle(self) -> bool:
        """Return whether the loop does not run now. It may be run again, or be closed."""
        return not self.place.is_running()


class TrioLoop:
    """A run of trio."""

    def __init__(self, token: "TrioToken") -> None:
        import trio.lowlevel  # noqa: PLC0415 - imported, since it runs

        self._trio = trio
        self.place = token
        self.new_future = EventReplyFuture

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the next turn."""
        self.place.run_sync_soon(function)

    def call_later(self, seconds: float, function: Callable[[], object]) -> object:
        """Sleep in a task."""
        return self._trio.lowlevel.spawn_system_task(self._later, seconds, function, name="sidecard timer")

    async def _later(self, seconds: float, function: Callable[[], object]) -> None:
        await self._trio.sleep(seconds)
        function()

    def call_from_thread(self, function: Callable[..., object], *args: object) -> None:
        """Wake the loop."""
        self.place.run_sync_soon(function, *args)

    def watch(self, sock: socket, readable: Callable[[], object], ended: Callable[[], object]) -> None:
        """Wait in a task."""
        self._trio.lowlevel.spawn_system_task(self._watch, sock, readable, ended, name="sidecard connection")

    async def _watch(self, sock: socket, readable: Callable[[], object], ended: Callable[[], object]) -> None:
        try:
            while sock.fileno() >= 0:
                await self._trio.lowlevel.wait_readable(sock)
                readable()
        except self._trio.ClosedResourceError:
            pass
        finally:
            ended()

    def when_writable(self, sock: socket, function: Callable[[], object]) -> None:
        """Wait in a task."""
        self._trio.lowlevel.spawn_system_task(self._write, sock, function, name="sidecard connection")

    async def _write(self, sock: socket, function: Callable[[], object]) -> None:
        with suppress(self._trio.ClosedResourceError):
            await self._trio.lowlevel.wait_writable(sock)
            function()

    def unwatch(self, sock: socket) -> None:
        """Wake the tasks that wait."""
        self._trio.lowlevel.notify_closing(sock)

    def start(self, work: Work) -> None:
        """Run a system task, with the caller's context."""
        self._trio.lowlevel.spawn_system_task(work, name="sidecard call", context=copy_context())

    def is_idle(self) -> bool:
        """Return False: a run lasts from its beginning to its end."""
        return False


def running() -> object:
    """Return what identifies the event loop that runs this code: asyncio's loop, or trio's token.

    Raises `NotConnected` if there is none. The child of a fork has none until it starts one, since it must not use its
    parent's.
    """
    if "trio" in sys.modules:  # first, because trio may be a guest of asyncio
        token = _trio_token()
        if token is not None and token not in _inherited:
            return token

    loop = _get_running_loop()
    if loop is None:
        raise NotConnected("no event loop of asyncio or trio runs in this thread")

    return loop


def event_loop_of(place: Any) -> EventLoop:
    """Return the event loop that `running` has identified."""
    return AsyncioLoop(place) if isinstance(place, AbstractEventLoop) else TrioLoop(place)


def runs_here(place: object) -> bool:
    """Return whether the event loop of ``place`` runs this code."""
    try:
        return running() is place
    except NotConnected:
        return False


class LoopEvent:
    """An event that tasks of one loop wait for, and that any thread may set."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        try:
            self._loop: EventLoop | None = event_loop_of(running())
        except NotConnected:
            self._loop = None

    def set(self) -> None:
        """Wake the tasks. Does nothing if their loop has ended."""
        if self._loop is None or runs_here(self._loop.place):
            self._event.set()
        else:
            with suppress(RuntimeError):
                self._loop.call_from_thread(self._event.set)

    async def wait(self) -> None:
        """Wait for `set`."""
        await self._event.wait()


class PerLoop(Generic[T]):
    """One object of a kind for each event loop, made by ``make`` when the loop first needs it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, tuple[ref[Any], T]] = {}

    def get(self) -> T:
        """Return the object of the running loop."""
        place = running()
        place_of, one = self._made.get(id(place), (None, None))
        if place_of is None or place_of() is not place:
            self._drop_ended()
            one = self._make()
            self._made[id(place)] = ref(place), one

        return one  # type: ignore[return-value]  # the pair of None is replaced above

    def pop(self) -> T | None:
        """Forget all objects, and return that of the running loop, which can be closed here."""
        made, self._made = self._made, {}
        place_of, one = made.get(id(running()), (None, None))
        return one if place_of is not None and place_of() is running() else None

    def _drop_ended(self) -> None:
        for number, (place_of, _) in list(self._made.items()):
            if _has_ended(place_of()):
                self._made.pop(number, None)


def _has_ended(place: Any) -> bool:
    if place is None:
        return True

    if isinstance(place, AbstractEventLoop):
        return place.is_closed()

    try:
        place.run_sync_soon(_keep)
    except RuntimeError:
        return True

    return False


def _keep(*_: object) -> None:
    """Refer to the arguments until this is called."""


def _trio_token() -> "TrioToken | None":
    from trio import lowlevel  # noqa: PLC0415 - imported already

    return lowlevel.current_trio_token() if lowlevel.in_trio_task() else None


def _leave_to_parent() -> None:
    # asyncio's own loops do not run in the child.
    token = _trio_token() if "trio" in sys.modules else None
    if token is not None:
        _inherited.add(token)


_inherited: WeakSet[Any] = WeakSet()
"""The run of trio in which this process was forked: it watches its parent's sockets."""

os.register_at_fork(after_in_child=_leave_to_parent)
