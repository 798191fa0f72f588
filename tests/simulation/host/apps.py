"""Apps: processes that use the real clients, blocking and asynchronous, as an app would."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import anyio

from sidecard_client import AsyncClient, CallFailed, CallRejected, CallTimeout, Client
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import DaemonUnavailable, RequestRefused
from tests.laws.answer_checker import AnswerChecker, Call, Run, UpstreamFailed
from tests.simulation.host.processes import LoopProcess, Process, Surroundings
from tests.simulation.host.sockets import Socket
from tests.simulation.host.threads import Interrupted, Killed, ThreadedProcess

PATH = "/simulated/sidecard.sock"

TEAM = "team"
TEAM_UIDS = frozenset({1000, 1001})
"""The uids that share the namespace."""

Fields = dict[str, Any]
"""What a step says of a call: see `plan_of`."""

_MAY_BE = (CallFailed, CallRejected, CallTimeout, UpstreamFailed)
"""What a call may raise. Anything else is a fault of the daemon that became one of an app."""


class Stage(Surroundings, Protocol):
    """What an app needs of the world."""

    answers: AnswerChecker
    wait_seconds: float
    """Waiting time of a begin that names none."""


class App:
    """Base of both kinds of apps: credentials, sockets, and the calls of a plan."""

    world: Stage
    name: str
    sockets: list[Socket]
    uid: int
    pid: int
    dying: bool

    def begin(self, fields: Fields) -> Call:
        """Report the start of a call."""
        wait_seconds = fields.get("wait")
        return self.world.answers.call_begins(
            (scope_of(self.uid, fields.get("namespace")), fields["key"]),
            self.name,
            self.world.wait_seconds if wait_seconds is None else wait_seconds,
        )

    def run(self, call: Call, fields: Fields, backend: str) -> tuple[Run, float, str]:
        """Begin a run: its part of the plan is how long each piece takes, and how it ends."""
        plan = fields.get("plan", ((0.1, "ok"),))
        seconds, end = plan[len(call.runs) % len(plan)]
        if fields.get("stream") and end == "unshareable":
            end = "ok"

        return self.world.answers.run_begins(call, fields.get("size", 1), backend), seconds, end

    def ends(self, run: Run, end: str) -> None:
        """End a run. Raises what the plan says."""
        if end in {"transient", "fatal", "ignored"}:
            self.world.answers.run_ends(run, end)  # type: ignore[arg-type]  # one of its words
            raise UpstreamFailed(run, end)

        self.world.answers.run_ends(run, "unshareable" if end == "unshareable" else "ok")

    def breaks(self, run: Run) -> None:
        """A run is over before its end."""
        self.world.answers.run_ends(run, "dead" if self.dying else "left")

    def policy(self, fields: Fields) -> Fields:
        """Return the policy keywords of a call."""
        names = ("wait", "mode", "ttl", "stale", "retries", "namespace", "failure_ttl", "prefix")
        return {"key": fields["key"]} | {name: fields[name] for name in names if name in fields}

    def result(self, call: Call, outcome: Callable[[], tuple[object, str | None]]) -> None:
        """Report the end of a call to the answer checker."""
        answers = self.world.answers
        try:
            value, source = outcome()
        except _MAY_BE as fault:
            answers.call_fails(call, fault)
        except (Killed, Interrupted, asyncio.CancelledError):
            answers.call_leaves(call)
            raise
        else:
            answers.call_ends(call, value, source)

    @property
    def open_sockets(self) -> list[Socket]:
        """Return the sockets that are connected."""
        self.sockets = [one for one in self.sockets if one.is_open]
        return self.sockets

    def bury(self, kept: int) -> None:
        """End every connection as a kill does."""
        self.dying = True
        for one in self.sockets:
            one.kill(kept)


class BlockingApp(App, ThreadedProcess):
    """An app with threads and a `Client`."""

    world: Stage

    def __init__(self, world: Surroundings, name: str, uid: int, pid: int, **clock: float) -> None:
        ThreadedProcess.__init__(self, world, name, **clock)
        self.uid, self.pid = uid, pid
        self.sockets = []
        self.dying = False
        self._calls: list[Any] = []
        Process.current = self
        self._client = Client(PATH)

    def calls(self, fields: Fields) -> None:
        """Start a call in a thread of its own."""
        call = self.begin(fields)
        work = self._stream if fields.get("stream") else self._call
        self._calls = [thread for thread in self._calls if not thread.dead]
        self._calls.append(self.start(lambda: work(call, fields)))

    def interrupts(self, number: int) -> None:
        """Interrupt a thread that waits."""
        waiting = [thread for thread in self._calls if thread in self.waiting]
        if waiting:
            self.waiting[waiting[number % len(waiting)]].interrupt()

    def does(self, action: Callable[[Any], Any], then: Callable[[], None]) -> None:
        """Let the client do something that is no call; ``then`` where it did."""

        def work() -> None:
            try:
                action(self._client)
            except (DaemonUnavailable, RequestRefused):
                return

            then()

        self.start(work)

    def die(self, kept: int) -> None:
        """End immediately."""
        self.bury(kept)
        self.alive = False
        self.kill_threads()
        self.forget_everything()

    def _call(self, call: Call, fields: Fields) -> None:
        def function(backend: str) -> Callable[[], object]:
            def run() -> object:
                run, seconds, end = self.run(call, fields, backend)
                try:
                    self.sleep(seconds)
                    self.ends(run, end)
                finally:
                    self.breaks(run)

                return tuple(run.answer()) if end == "unshareable" else run.answer()

            return run

        def outcome() -> tuple[object, str]:
            result = self._client.outcome(_functions(function, fields), **self.policy(fields))
            return result.value, result.source

        self.result(call, outcome)

    def _stream(self, call: Call, fields: Fields) -> None:
        def function(backend: str) -> Callable[[], Iterator[str]]:
            def pieces() -> Iterator[str]:
                run, seconds, end = self.run(call, fields, backend)
                try:
                    for index in range(run.size):
                        self.sleep(seconds)
                        if end != "ok" and index >= run.size // 2:
                            self.ends(run, end)

                        yield run.piece(index)

                    self.ends(run, "ok")
                finally:
                    self.breaks(run)

            return pieces

        def outcome() -> tuple[object, str | None]:
            with self._client.stream(_functions(function, fields), **self.policy(fields)) as stream:
                for piece in stream:
                    self.world.answers.call_sees(call, piece)
                    if len(call.seen) == fields.get("leave"):
                        raise Interrupted

                    call.quiet_since = self.world.now
                    pause = fields.get("reads", 0.0)
                    if pause:
                        call.excused_seconds += 2 * pause
                        self.sleep(pause)

                return call.seen, stream.source

        self.result(call, outcome)


class AsyncApp(App, LoopProcess):
    """An app with an event loop and an `AsyncClient`."""

    world: Stage

    def __init__(self, world: Surroundings, name: str, uid: int, pid: int, **clock: float) -> None:
        LoopProcess.__init__(self, world, name, **clock)
        self.uid, self.pid = uid, pid
        self.sockets = []
        self.dying = False
        self._calls: list[asyncio.Task[None]] = []
        Process.current = self
        self._client = AsyncClient(PATH)
        self.soon(lambda: self._start(self._serve))

    def calls(self, fields: Fields) -> None:
        """Start a call in a task of its own."""
        call = self.begin(fields)
        work = self._stream if fields.get("stream") else self._call

        def start() -> None:
            if self.dying or call.over:
                return

            self._calls = [task for task in self._calls if not task.done()]
            self._calls.append(self._start(lambda: work(call, fields)))

        self.soon(start)

    def interrupts(self, number: int) -> None:
        """Cancel a call."""
        running = [task for task in self._calls if not task.done()]
        if running:
            self.soon(running[number % len(running)].cancel)

    def does(self, action: Callable[[Any], Any], then: Callable[[], None]) -> None:
        """Let the client do something that is no call; ``then`` where it did."""

        async def work() -> None:
            try:
                await action(self._client)
            except (DaemonUnavailable, RequestRefused):
                return

            then()

        self.soon(lambda: self._start(work))

    def die(self, kept: int) -> None:
        """End immediately. The tasks are ended too: otherwise Python warns about them."""
        self.bury(kept)
        Process.current = self
        for _ in range(100):
            tasks = self.loop.tasks().copy()
            # Tasks that have not begun begin first: Python warns about a coroutine that never ran.
            self.run_ready()
            for task in tasks:
                task.cancel()

            self._ready.extend(timer.action for _, _, timer in sorted(self._timers) if timer.action is not None)
            self._timers.clear()
            if not self._ready:
                break

        self.alive = False
        self.forget_everything()

    def _start(self, work: Callable[[], Any]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work()
            except Interrupted:
                pass
            except Exception as fault:  # noqa: BLE001 - whatever it is, no task may end so
                if not self.dying:
                    self.world.fault(fault)

        return self.loop.create_task(guarded())

    async def _serve(self) -> None:
        async with self._client:
            await anyio.Event().wait()

    async def _call(self, call: Call, fields: Fields) -> None:
        def function(backend: str) -> Callable[[], Any]:
            async def run() -> object:
                run, seconds, end = self.run(call, fields, backend)
                try:
                    await anyio.sleep(seconds)
                    self.ends(run, end)
                finally:
                    self.breaks(run)

                return tuple(run.answer()) if end == "unshareable" else run.answer()

            return run

        try:
            result = await self._client.outcome(_functions(function, fields), **self.policy(fields))
        except BaseException as error:  # noqa: BLE001 - raised again where all ends are handled
            fault = error
            self.result(call, lambda: _raise(fault))
        else:
            self.result(call, lambda: (result.value, result.source))

    async def _stream(self, call: Call, fields: Fields) -> None:
        def function(backend: str) -> Callable[[], AsyncIterator[str]]:
            async def pieces() -> AsyncIterator[str]:
                run, seconds, end = self.run(call, fields, backend)
                try:
                    for index in range(run.size):
                        await anyio.sleep(seconds)
                        if end != "ok" and index >= run.size // 2:
                            self.ends(run, end)

                        yield run.piece(index)

                    self.ends(run, "ok")
                finally:
                    self.breaks(run)

            return pieces

        try:
            async with self._client.stream(_functions(function, fields), **self.policy(fields)) as stream:
                async for piece in stream:
                    self.world.answers.call_sees(call, piece)
                    if len(call.seen) == fields.get("leave"):
                        raise Interrupted

                    pause = fields.get("reads", 0.0)
                    if pause:
                        call.excused_seconds += 2 * pause
                        await anyio.sleep(pause)

        except BaseException as error:  # noqa: BLE001 - raised again where all ends are handled
            fault = error
            self.result(call, lambda: _raise(fault))
        else:
            self.result(call, lambda: (call.seen, stream.source))


def scope_of(uid: int, namespace: str | None) -> str:
    """Return whose answers a process may share."""
    if namespace == TEAM and uid in TEAM_UIDS:
        return f"*:{TEAM}"

    return f"{uid}:{namespace or 'default'}"


def _functions(function: Callable[[str], Any], fields: Fields) -> Any:
    """Return one function, or one for each backend."""
    backends = fields.get("backends")
    return {name: function(name) for name in backends} if backends else function(wire.DEFAULT_BACKEND)


def _raise(fault: BaseException) -> tuple[object, str | None]:
    raise fault
