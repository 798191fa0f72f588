"""The world: a daemon, processes, the sockets between them, and the time. A script decides everything in it.

A script is a list of steps, each a word with its arguments (`World.steps` lists them). Every list of steps can be run: a step
finds its subject by a number among the present ones, and does nothing without one. So parts of a script can be left out, and the
same script has the same outcome each time.

Nothing takes time by itself. A turn of a process or bytes that can arrive happen when a step ``go`` chooses them, and at the
latest after `World.LAG_SECONDS`, as in every fair system.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from msgspec import structs

from sidecard.core.effects import Effect
from sidecard.core.events import Event, Tick
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.answer_checker import AnswerChecker
from tests.laws.event_checker import EventChecker
from tests.laws.table_checker import TableChecker
from tests.simulation.host.apps import App, AsyncApp, BlockingApp, Fields
from tests.simulation.host.daemon import Credentials, Daemon, Store
from tests.simulation.host.processes import Process
from tests.simulation.host.raw_peers import RawPeer
from tests.simulation.host.sockets import Pipe

Step = tuple[Any, ...]

SLOTS = 7
"""Processes at a time, beside the daemon."""

DAEMON_OFFSET_SECONDS = 1000.0

_SETTLE_SECONDS = 60.0
"""Longer than any call."""

_SLOWEST_SECONDS = 3.0
"""Longer than a store takes to reply."""

_FORGET_SECONDS = 400.0
"""Longer than any lifetime."""


@dataclass(frozen=True)
class Setting:
    """A kind of world: the daemon's settings, and what may happen. ``weights`` are those of the steps in random scripts."""

    settings: EngineSettings
    weights: dict[str, int]
    reloads: Sequence[dict[str, Any]] = ({},)
    """What settings may become; the first is what they are."""
    calls: dict[str, Sequence[Any]] = field(default_factory=dict)
    """For each field of a call, what may be in it."""
    kinds: Sequence[str] = ("blocking", "async", "blocking", "frames", "lines", "async", "blocking")
    uids: Sequence[int] = (1000, 1000, 1000, 1000, 1000, 1001, 0)
    has_views: bool = False
    """Clients of processes with threads ask for views."""
    calm: bool = False
    """No fault happens: then no key is ever computed twice at a time."""


class World:
    """One world, from its beginning to its end."""

    LAG_SECONDS = 0.004

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.now = 0.0
        self.happenings = 0
        stores = setting.settings.store != "none"
        self.answers = AnswerChecker(calm=setting.calm, exact_removals=not stores)
        self.has_views = setting.has_views
        self.wait_seconds = setting.settings.wait_seconds
        self.slots: list[Any] = [None] * SLOTS
        self.daemon: Daemon | None = None
        self.events: EventChecker
        self.tables: TableChecker
        self._settings = setting.settings
        self._chance = random.Random(1)
        self._store = Store(random.Random(2)) if stores else None
        self._possible: dict[Process | Pipe, float] = {}
        """What can happen now, with the time since when, the oldest first."""
        self._paused: dict[Process, float] = {}
        self._faults: list[BaseException] = []
        self._boots = count(1)
        self._pids = count(1)
        self._apps: set[int] = set()
        """Pids of all processes with a client."""
        self.steps: dict[str, Callable[..., object]] = {
            "boot": self.boot,
            "break": self.set_breaker,
            "call": self.call,
            "crash": self.crash,
            "cut": self.cut,
            "cut store": self.cut_store,
            "delete": self.delete,
            "elsewhere": self.elsewhere,
            "get": self.get,
            "go": self.go,
            "half-close": self.half_close,
            "interrupt": self.interrupt,
            "kill": self.kill,
            "pass": self.pass_time,
            "pause": self.pause,
            "pause daemon": self.pause_daemon,
            "purge": self.purge,
            "put": self.put,
            "reload": self.reload,
            "say": self.say,
            "slow store": self.slow_store,
            "start": self.start,
            "stop": self.stop,
        }
        self.boot()

    def do(self, step: Step) -> None:
        """Do one step of a script. Raises the first fault."""
        self.steps[step[0]](*step[1:])
        self._check()

    def end(self) -> None:
        """Let all calls end, and check that nothing is left."""
        for process in list(self._paused):
            self._resume(process)

        until = self.now + _SETTLE_SECONDS
        while self.now < until and any(call.process.startswith("app") for call in self.answers.calls):
            self.pass_time(0.25)

        self.close()
        self.pass_time(0.25)
        assert not self.answers.calls, f"calls without an end: {list(self.answers.calls)}"
        while self.daemon is not None and self.daemon.stopping:
            self.pass_time(1.0)

        daemon = self.boot()
        self.pass_time(_SLOWEST_SECONDS)
        until = self.now + _FORGET_SECONDS
        while self.now < until and daemon.engine.next_deadline() is not None:
            self.pass_time(5.0)

        self.pass_time(1.0)
        self.tables.check_empty()

    def close(self) -> None:
        """End all processes but the daemon."""
        for slot in range(SLOTS):
            self.kill(slot, 0)

    # What processes and pipes need ------------------------------------------------------------------------------------

    def stir(self, process: Process) -> None:
        """Register that a process can take a turn."""
        if process.alive and not process.paused:
            self._possible.setdefault(process, self.now)

    def moves(self, pipe: Pipe) -> None:
        """Register that bytes can arrive."""
        self._possible.setdefault(pipe, self.now)

    def fault(self, fault: BaseException) -> None:
        """Record a fault, which the next check raises."""
        self._faults.append(fault)

    def connect(self, process: Process, ours: Pipe, theirs: Pipe) -> None:
        """Connect a process to the daemon."""
        daemon = self.daemon
        if daemon is None or not daemon.accepting or process.dying:  # type: ignore[attr-defined]  # all who connect have it
            raise ConnectionRefusedError(111, "Connection refused")

        daemon.connect(ours, theirs, Credentials(process.pid, process.uid))  # type: ignore[attr-defined]  # as above

    def watch(self, daemon: Daemon, event: Event, effects: Sequence[Effect]) -> None:
        """Check an event of the engine."""
        if daemon.alive:
            now = daemon.clock()
            self.events.watch(event, effects, now)
            self.tables.check(now, ticked=isinstance(event, Tick))

    # Steps: what can happen by itself ---------------------------------------------------------------------------------

    def go(self, number: int, size: int) -> None:
        """Let one possible thing happen; of arriving bytes, ``size`` of them (0: all)."""
        if self._possible:
            possible = list(self._possible)
            self._happen(possible[number % len(possible)], size)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with what must happen in it."""
        end = self.now + seconds
        while True:
            instant, what = self._next()
            if what is None or instant > end:
                break

            self.now = max(self.now, instant)
            what()
            self._check()

        self.now = end

    def _next(self) -> tuple[float, Callable[[], None] | None]:
        """Return the next event and its time: the oldest possible one, a process that resumes, or a timer."""
        instant, what = float("inf"), None
        first = next(iter(self._possible), None)
        if first is not None:
            instant, what = self._possible[first] + self.LAG_SECONDS, partial(self._happen, first, 0)

        for process in self._processes():
            if process.paused:
                until = self._paused[process]
                if until < instant:
                    instant, what = until, partial(self._resume, process)
            elif process not in self._possible and (due := process.due) is not None and due < instant:
                instant, what = due, partial(self.stir, process)

        return instant, what

    def _happen(self, what: Process | Pipe, size: int) -> None:
        self.happenings += 1
        self.answers.now = self.now
        del self._possible[what]
        if isinstance(what, Pipe):
            what.deliver(size)
            if what.moving:
                self.moves(what)
        else:
            what.turn()
            if what.alive and what.has_something:
                self.stir(what)

    def _processes(self) -> list[Process]:
        processes = [process for process in self.slots if process is not None]
        return processes if self.daemon is None else [*processes, self.daemon]

    def _check(self) -> None:
        if self._faults:
            raise self._faults[0]

        self.answers.now = self.now
        self.answers.look()

    # Steps: processes -------------------------------------------------------------------------------------------------

    def start(self, slot: int, kind: str, uid: int, rate: float) -> None:
        """Start a process."""
        if self.slots[slot] is not None:
            return

        pid = next(self._pids)
        is_app = kind in {"blocking", "async"}
        name = f"{'app' if is_app else 'raw'}-{slot}-{pid}"
        if is_app:
            self._apps.add(pid)

        clock = {"offset_seconds": 17.0 * pid, "rate": rate}
        if kind == "blocking":
            self.slots[slot] = BlockingApp(self, name, uid, pid, **clock)
        elif kind == "async":
            self.slots[slot] = AsyncApp(self, name, uid, pid, **clock)
        else:
            self.slots[slot] = RawPeer(
                self, name, uid, pid, lines=kind == "lines", leases=lambda: self._leases_of_others(pid), **clock
            )

    def _leases_of_others(self, pid: int) -> list[str]:
        return [name for name, held in self.events.held.items() if held.peer.pid != pid]

    def kill(self, slot: int, kept: int) -> None:
        """Kill a process; of the bytes on their way from it, ``kept`` arrive."""
        process = self.slots[slot]
        if process is None:
            return

        self.slots[slot] = None
        self._possible.pop(process, None)
        self._paused.pop(process, None)
        process.die(kept)
        self._possible.pop(process, None)
        for call in [call for call in self.answers.calls if call.process == process.name]:
            self.answers.call_leaves(call)

    def pause(self, slot: int, seconds: float) -> None:
        """Stop a process, as SIGSTOP does, and continue it later."""
        process = self.slots[slot]
        if process is not None:
            self.answers.excuse(seconds, process.name)
            self._pause(process, seconds)

    def pause_daemon(self, seconds: float) -> None:
        """Stop the daemon."""
        if self.daemon is not None:
            self.answers.excuse(seconds)
            self._pause(self.daemon, seconds)

    def _pause(self, process: Process, seconds: float) -> None:
        if not process.paused:
            process.paused = True
            self._possible.pop(process, None)
            self._paused[process] = self.now + seconds

    def _resume(self, process: Process) -> None:
        process.paused = False
        del self._paused[process]
        if process.has_something:
            self.stir(process)

    def cut(self, slot: int, number: int, kept: int) -> None:
        """Lose a connection of a process."""
        process = self.slots[slot]
        if process is not None and process.open_sockets:
            process.open_sockets[number % len(process.open_sockets)].cut(kept)

    def half_close(self, slot: int) -> None:
        """Let a raw peer half-close."""
        process = self.slots[slot]
        if isinstance(process, RawPeer):
            process.half_closes()

    # Steps: what processes do -----------------------------------------------------------------------------------------

    def call(self, slot: int, fields: Fields) -> None:
        """Let a process make a call."""
        process = self.slots[slot]
        if process is not None:
            process.calls(fields)

    def interrupt(self, slot: int, number: int) -> None:
        """Interrupt, or cancel, a call of a process."""
        process = self.slots[slot]
        if process is not None:
            process.interrupts(number)

    def say(self, slot: int, request: Fields) -> None:
        """Let a raw peer send what a client never sends."""
        process = self.slots[slot]
        if isinstance(process, RawPeer):
            process.says(request)

    def get(self, slot: int, key: str) -> None:
        """Let a process read an entry."""
        self._does(slot, lambda client: client.get(key), lambda: None)

    def put(self, slot: int, key: str) -> None:
        """Let a process write an entry."""
        process = self.slots[slot]
        if isinstance(process, App):
            answer = self.answers.foreign_answer((f"{process.uid}:default", key), process.name).answer()
            self._does(slot, lambda client: client.put(key, answer), lambda: None)

    def delete(self, slot: int, key: str) -> None:
        """Let a process remove an entry."""
        process = self.slots[slot]
        if isinstance(process, App):
            removal = self.answers.removal_begins(f"{process.uid}:default", key)
            self._does(slot, lambda client: client.delete(key), lambda: self.answers.removal_ends(removal))

    def purge(self, slot: int, namespace: str | None) -> None:
        """Let a process purge, authorized or not."""
        process = self.slots[slot]
        if isinstance(process, App):
            removal = self.answers.removal_begins(namespace, None)
            self._does(
                slot, lambda client: client.purge(namespace=namespace), lambda: self.answers.removal_ends(removal)
            )

    def set_breaker(self, slot: int, backend: str, action: Any) -> None:
        """Let a process set a breaker, authorized or not."""
        self._does(slot, lambda client: client.breaker(backend, action), lambda: None)

    def _does(self, slot: int, action: Callable[[Any], Any], then: Callable[[], None]) -> None:
        if self.slots[slot] is not None:
            self.slots[slot].does(action, then)

    # Steps: the daemon ------------------------------------------------------------------------------------------------

    def boot(self) -> Daemon:
        """Start the daemon, if it does not run."""
        if self.daemon is None:
            stores = self._store is not None
            self.events = EventChecker(self._settings, stores=stores, is_client=self._apps.__contains__)
            self.daemon = Daemon(
                self,
                f"boot{next(self._boots)}",
                self._settings,
                offset_seconds=DAEMON_OFFSET_SECONDS,
                rate=1.0,
                jitter=self._chance.random,
                store=self._store,
                watchers=[self.watch],
            )
            self.tables = TableChecker(self.daemon.engine)

        return self.daemon

    def crash(self, kept: int) -> None:
        """Kill the daemon."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            self._possible.pop(daemon, None)
            self._paused.pop(daemon, None)
            daemon.die(kept)

    def stop(self, drain_seconds: float) -> None:
        """Stop the daemon as SIGTERM does."""
        daemon = self.daemon
        if daemon is not None:
            daemon.soon(lambda: daemon.stop(drain_seconds, lambda: self.crash(1 << 30)))

    def reload(self, number: int) -> None:
        """Reload other settings."""
        self._settings = structs.replace(self.setting.settings, **self.setting.reloads[number])
        daemon = self.daemon
        if daemon is not None:
            settings = self._settings
            daemon.soon(lambda: daemon.reload(settings))

    def cut_store(self, seconds: float) -> None:
        """Cut the daemon off from its store."""
        daemon, store = self.daemon, self._store
        if daemon is not None and store is not None and store.line is not None and store.line._up:
            line = store.line
            daemon.soon(line.cut)
            daemon.at(daemon.clock() + seconds, line.mend)

    def slow_store(self, seconds: float) -> None:
        """Delay the store."""
        if self._store is not None:
            self._store.slow(seconds)

    def elsewhere(self, key: str, seconds: float, end: str) -> None:
        """Let another host, which uses the same store, compute a key."""
        if self.daemon is None or self._store is None:
            return

        place = ("1000:default", key)

        def answer() -> bytes | None:
            return wire.pack(self.answers.foreign_answer(place, "elsewhere").answer()) if end == "ok" else None

        self._store.computes(self.daemon, place, seconds, answer)
