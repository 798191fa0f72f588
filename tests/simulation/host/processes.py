"""Processes without a kernel: each has a clock of its own, things it is about to do, and turns in which it does them.

A turn is what a process does between two moments at which others may come in: it ends where the process waits.
Nothing happens outside of turns, and only the world gives them, so what happens is decided by the world's script alone.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol, TypeVarTuple

_EARLY_SECONDS = 1e-9
"""What rounding may make a timer early by, as in asyncio's ``_clock_resolution``."""

Action = Callable[[], object]
Arguments = TypeVarTuple("Arguments")


class Surroundings(Protocol):
    """What a process needs of the world."""

    now: float
    """The real time, which no process sees."""

    def stir(self, process: "Process") -> None:
        """The process has something to do."""

    def fault(self, fault: BaseException) -> None:
        """Something happened that must not."""


class Timer:
    """An action for later, on the clock of its process."""

    __slots__ = ("action",)

    def __init__(self, action: Action) -> None:
        self.action: Action | None = action

    def cancel(self) -> None:
        """Never do it."""
        self.action = None


class Process:
    """Whatever takes turns. Its clock shows ``offset_seconds`` at the world's beginning and runs at ``rate``."""

    current: "Process"
    """The process whose turn it is, or was last."""

    def __init__(self, world: Surroundings, name: str, *, offset_seconds: float = 0.0, rate: float = 1.0) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused = False
        self._offset_seconds = offset_seconds
        self._rate = rate
        self._ready: deque[Action] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = count()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def clock(self) -> float:
        """Return the time as this process has it."""
        return self._offset_seconds + self.world.now * self._rate

    def soon(self, action: Action) -> None:
        """Do something in the next turn."""
        if self.alive:
            self._ready.append(action)
            self.world.stir(self)

    def at(self, instant: float, action: Action) -> Timer:
        """Do something when this process' clock shows ``instant``."""
        timer = Timer(action)
        heappush(self._timers, (instant, next(self._sequence), timer))
        return timer

    @property
    def due(self) -> float | None:
        """The real time at which the next timer goes off; None where there is none."""
        timers = self._timers
        while timers and timers[0][2].action is None:
            heappop(timers)

        return (timers[0][0] - self._offset_seconds) / self._rate if timers else None

    @property
    def has_something(self) -> bool:
        """There is something to do now."""
        return bool(self._ready) or ((due := self.due) is not None and due <= self.world.now + _EARLY_SECONDS)

    def turn(self) -> None:
        """Do what there is to do now; what comes of it waits for the next turn."""
        Process.current = self
        now = self.clock() + _EARLY_SECONDS
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heappop(self._timers)
            if timer.action is not None:
                self._ready.append(timer.action)

        self.run_ready()

    def run_ready(self) -> None:
        """Do what is ready by now."""
        for _ in range(len(self._ready)):
            if self._ready:
                self._ready.popleft()()

    def forget_everything(self) -> None:
        """Have nothing to do any more."""
        self._ready.clear()
        self._timers.clear()


def monotonic() -> float:
    """Return the time as the process has it whose turn it is."""
    return Process.current.clock()


class _Handle(asyncio.Handle):
    def __call__(self) -> None:
        if not self._cancelled:
            self._run()


class _TimerHandle(asyncio.TimerHandle):
    def __call__(self) -> None:
        if not self._cancelled:
            self._run()


class Readable(Protocol):
    """The object of a descriptor."""

    @property
    def is_readable(self) -> bool:
        """Reading would return immediately."""

    @property
    def is_writable(self) -> bool:
        """Writing would take something immediately."""


class Loop(asyncio.AbstractEventLoop):
    """An event loop whose time and descriptors are a process'. Methods that no client uses are not implemented."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.descriptors: dict[int, Readable] = {}
        self._readers: dict[int, _Handle] = {}
        self._writers: dict[int, _Handle] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    def time(self) -> float:  # noqa: D102 - asyncio's
        return self._process.clock()

    def call_soon(  # noqa: D102 - asyncio's
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._process.soon(handle)
        return handle

    def call_later(  # noqa: D102 - asyncio's
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # noqa: D102 - asyncio's
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _TimerHandle(when, callback, args, self, context)
        self._process.at(when, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Let it go off and do nothing."""

    def create_future(self) -> asyncio.Future[Any]:  # noqa: D102 - asyncio's
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:  # noqa: D102 - asyncio's
        task = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that go on, in the order in which they began; asyncio's own set has no order."""
        self._tasks = [task for task in self._tasks if not task.done()]
        return self._tasks

    def get_task_factory(self) -> None:  # noqa: D102 - asyncio's
        return None

    def get_debug(self) -> bool:  # noqa: D102 - asyncio's
        return False

    def is_running(self) -> bool:  # noqa: D102 - asyncio's
        return True

    def is_closed(self) -> bool:  # noqa: D102 - asyncio's
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:  # noqa: D102 - asyncio's
        if self._process.alive:
            self._process.world.fault(context.get("exception") or RuntimeError(str(context)))

    def add_reader(self, fd: Any, callback: Callable[[*Arguments], object], *args: *Arguments) -> None:  # noqa: D102 - asyncio's
        fd = _number_of(fd)

        def read() -> None:
            callback(*args)
            if fd in self._readers:
                self.look(fd)  # asyncio calls as long as there is something to read

        self._readers[fd] = _Handle(read, (), self, None)
        self.look(fd)

    def remove_reader(self, fd: Any) -> bool:  # noqa: D102 - asyncio's
        return self._readers.pop(_number_of(fd), None) is not None

    def add_writer(self, fd: Any, callback: Callable[[*Arguments], object], *args: *Arguments) -> None:  # noqa: D102 - asyncio's
        fd = _number_of(fd)
        self._writers[fd] = _Handle(callback, args, self, None)
        self.look(fd)

    def remove_writer(self, fd: Any) -> bool:  # noqa: D102 - asyncio's
        return self._writers.pop(_number_of(fd), None) is not None

    def look(self, fd: int) -> None:
        """Call the callbacks of a descriptor that has become readable or writable.

        A writer is called once: it removes itself, or writes and is added again.
        """
        descriptor = self.descriptors.get(fd)
        if descriptor is None:
            return

        if fd in self._readers and descriptor.is_readable:
            self._process.soon(self._readers[fd])

        if fd in self._writers and descriptor.is_writable:
            self._process.soon(self._writers[fd])


def _number_of(fd: Any) -> int:
    number: int = fd if isinstance(fd, int) else fd.fileno()
    return number


class LoopProcess(Process):
    """A process that is an event loop."""

    def __init__(self, world: Surroundings, name: str, *, offset_seconds: float = 0.0, rate: float = 1.0) -> None:
        super().__init__(world, name, offset_seconds=offset_seconds, rate=rate)
        self.loop = Loop(self)  # type: ignore[abstract]  # what is not implemented is not needed here

    def run_ready(self) -> None:
        """Do what is ready by now, as the loop that is running."""
        asyncio._set_running_loop(self.loop)
        try:
            super().run_ready()
        finally:
            asyncio._set_running_loop(None)
