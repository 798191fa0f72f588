"""Threads without an operating system: greenlets, which go on until they wait.

What stands in place of `threading` in the blocking client's modules is `THREADING_MODULE`.
Threads are not interrupted between two lines, as real ones are: that is what the integration tests are for.
"""

from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from greenlet import getcurrent, greenlet

from sidecard_client.doorbell import MAX_WAIT_SECONDS
from tests.simulation.host.processes import Process, Surroundings, Timer

_JOIN_SECONDS = 0.01


class Killed(BaseException):
    """The process has ended."""


class Interrupted(KeyboardInterrupt):
    """A thread is interrupted where it waits."""


class Waiter:
    """A thread that waits."""

    __slots__ = ("_process", "_thread", "done", "timer")

    def __init__(self, process: "ThreadedProcess") -> None:
        self._process = process
        self._thread = getcurrent()
        self.done = False
        self.timer: Timer | None = None

    def wake(self) -> None:
        """Let it go on in the next turn of its process."""
        if not self.done:
            self._finish()
            self._process.soon(lambda: self._thread.switch(True))

    def expire(self) -> None:
        """Its time is up."""
        if not self.done:
            self._finish()
            self._thread.switch(False)

    def interrupt(self) -> None:
        """Raise something where it waits."""
        if not self.done:
            self._finish()
            self._process.soon(lambda: self._thread.throw(Interrupted))

    def _finish(self) -> None:
        self.done = True
        if self.timer is not None:
            self.timer.cancel()


class ThreadedProcess(Process):
    """A process that has threads."""

    def __init__(self, world: Surroundings, name: str, *, offset_seconds: float = 0.0, rate: float = 1.0) -> None:
        super().__init__(world, name, offset_seconds=offset_seconds, rate=rate)
        self._hub = getcurrent()
        self._threads: dict[greenlet, None] = {}
        self.waiting: dict[greenlet, Waiter] = {}
        """What each thread waits by."""

    def start(self, function: Callable[[], object]) -> greenlet:
        """Start a thread."""

        def run() -> None:
            try:
                function()
            except (Killed, Interrupted):
                pass
            except BaseException as fault:  # noqa: BLE001 - whatever it is, no thread may end so
                self.world.fault(fault)
            finally:
                self._threads.pop(thread, None)

        thread = greenlet(run, parent=self._hub)
        self._threads[thread] = None
        self.soon(thread.switch)
        return thread

    def waiter(self) -> Waiter:
        """Return what the thread that runs can be woken by."""
        return Waiter(self)

    def block(self, waiter: Waiter, instant: float | None) -> bool:
        """Wait; False where ``instant`` came before the waiter was woken."""
        if not self.alive:
            raise Killed

        thread = getcurrent()
        if instant is not None:
            waiter.timer = self.at(instant, waiter.expire)

        self.waiting[thread] = waiter
        try:
            return cast("bool", self._hub.switch())
        finally:
            self.waiting.pop(thread, None)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.block(self.waiter(), self.clock() + seconds)

    def kill_threads(self) -> None:
        """End every thread where it waits. Nothing that they still do has an effect."""
        Process.current = self
        while self._threads:
            thread, _ = self._threads.popitem()
            if thread:
                thread.throw(Killed)


class Lock:
    """A `threading.Lock`."""

    def __init__(self) -> None:
        self._locked = False
        self._waiting: list[Waiter] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it."""
        process = Process.current
        if not process.alive:
            return True

        if self._locked and not blocking:
            return False

        instant = process.clock() + timeout if timeout >= 0 else None
        while self._locked:
            assert isinstance(process, ThreadedProcess), "a lock that a coroutine would wait for"
            waiter = process.waiter()
            self._waiting.append(waiter)
            if not process.block(waiter, instant):
                return False

        self._locked = True
        return True

    def locked(self) -> bool:
        """Return whether a thread has it."""
        return self._locked

    def release(self) -> None:
        """Let it go."""
        self._locked = False
        while self._waiting:
            waiter = self._waiting.pop(0)
            if not waiter.done:
                waiter.wake()
                break

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """A `threading.Event`."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[Waiter] = []

    def set(self) -> None:
        """Wake the waiting thread."""
        self._set = True
        woken, self._waiting = self._waiting, []
        for waiter in woken:
            waiter.wake()

    def clear(self) -> None:
        """Let arriving threads wait."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait."""
        process = Process.current
        if not self._set:
            assert isinstance(process, ThreadedProcess)
            waiter = process.waiter()
            self._waiting.append(waiter)
            process.block(waiter, None if timeout is None else process.clock() + timeout)

        return self._set


class Condition:
    """A `threading.Condition`."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._waiting: list[Waiter] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `notify_all` without the lock; False if ``timeout`` seconds have passed."""
        process = Process.current
        assert isinstance(process, ThreadedProcess)
        waiter = process.waiter()
        self._waiting.append(waiter)
        self._lock.release()
        try:
            return process.block(waiter, None if timeout is None else process.clock() + timeout)
        finally:
            self._lock.acquire()

    def notify_all(self) -> None:
        """Wake all waiting threads."""
        woken, self._waiting = self._waiting, []
        for waiter in woken:
            waiter.wake()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Doorbell:
    """A `sidecard_client.doorbell.Doorbell`."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: list[Waiter] = []

    def ring(self) -> None:
        """End the wait, or the next one."""
        self._rung = True
        woken, self._waiting = self._waiting, []
        for waiter in woken:
            waiter.wake()

    def wait(self, seconds: float, sockets: Iterable[int] = ()) -> set[int]:
        """Wait for `ring`, for one of ``sockets`` to be readable, or for ``seconds``; return those that are readable."""
        process = Process.current
        assert isinstance(process, ThreadedProcess)
        numbers = set(sockets)
        own: list[Any] = process.sockets  # type: ignore[attr-defined]  # as `Socket` says
        watched = {one.fileno(): one for one in own if one.fileno() in numbers}
        instant = process.clock() + min(seconds, MAX_WAIT_SECONDS)
        while not self._rung and not any(one.is_readable for one in watched.values()):
            waiter = process.waiter()
            self._waiting.append(waiter)
            for one in watched.values():
                one.wake_when_stirred(waiter)

            if not process.block(waiter, instant):
                break

        self._rung = False
        return {number for number, one in watched.items() if one.is_readable}


class Thread:
    """A `threading.Thread`."""

    def __init__(
        self, target: Callable[..., object], name: str = "", args: tuple[object, ...] = (), daemon: bool = False
    ) -> None:
        del name, daemon
        self._target = partial(target, *args)

    def start(self) -> None:
        """Start it."""
        process = Process.current
        assert isinstance(process, ThreadedProcess)
        self._process, self._greenlet = process, process.start(self._target)

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        until = self._process.clock() + timeout
        while not self._greenlet.dead and self._process.alive and self._process.clock() < until:
            self._process.sleep(_JOIN_SECONDS)


THREADING_MODULE: Any = SimpleNamespace(
    Lock=Lock, Event=Event, Condition=Condition, Thread=Thread, current_thread=lambda: None
)
