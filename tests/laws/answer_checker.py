"""Check what apps receive, without any knowledge of engine, clients and their intentions.

Every call of an upstream function is a *run* with a number, and its answer consists of pieces that name the run, their place in
it and how many there are. So every received answer shows whose it is, whether it is whole, and whether it may still be served.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Literal

from sidecard_client import CallTimeout

End = Literal["", "ok", "transient", "fatal", "ignored", "unshareable", "left", "dead"]
"""How a run ended: `left` where its caller went before its end, `dead` with its process."""

_SLOWEST_CLOCK = 0.95
"""A process whose clock is fast waits less of the real time."""

Place = tuple[str, str]
"""Scope and key that a caller means."""

LATE_SECONDS = 4.0
"""Beyond its ``wait`` a call may take so long for a daemon that hangs, is gone, or forgets; see `sidecard_client._sync.connector`."""


class UpstreamFailed(Exception):
    """A call that fails as its plan says; ``kind`` is what clients make of it."""

    def __init__(self, run: "Run", kind: str) -> None:
        super().__init__(f"run {run.number} fails")
        self.run = run
        self.kind = kind


@dataclass(eq=False)
class Run:
    """One call of an upstream function."""

    number: int
    place: Place
    call: "Call"
    size: int
    """Pieces of its whole answer."""
    started_at: float
    backend: str = ""
    end: End = ""

    def piece(self, index: int) -> str:
        """Return a piece of its answer."""
        return f"{'|'.join(self.place)}|{self.number}/{index}/{self.size}"

    def answer(self) -> list[str]:
        """Return all of it."""
        return [self.piece(index) for index in range(self.size)]


@dataclass(eq=False)
class Call:
    """One request of an app for an answer."""

    number: int
    place: Place
    process: str
    started_at: float
    wait_seconds: float
    quiet_since: float = 0.0
    """When anything of it happened last that its caller could see."""
    runs: list[Run] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    over: bool = False
    running: bool = False
    excused_seconds: float = 0.0


@dataclass(eq=False)
class Removal:
    """A delete or a purge."""

    namespace: str | None
    key: str | None
    asked_at: float
    done_at: float | None = None

    def reaches(self, place: Place) -> bool:
        """Return whether it covers a place."""
        return self.key in {None, place[1]} and self.namespace in {None, place[0], place[0].partition(":")[2]}


class AnswerChecker:
    """Raises `AssertionError` at the first thing that may not be. ``now`` is the real time."""

    def __init__(self, *, calm: bool = False, exact_removals: bool = True) -> None:
        self.now = 0.0
        self.runs: list[Run] = []
        self.calls: dict[Call, None] = {}
        """Those that have had no end."""
        self.ends: dict[str, int] = defaultdict(int)
        """How calls ended, counted."""
        self._calm = calm
        self._exact_removals = exact_removals
        self._removals: list[Removal] = []
        self._running: dict[Place, list[Run]] = defaultdict(list)
        self._numbers = count(1)

    # Calls ------------------------------------------------------------------------------------------------------------

    def call_begins(self, place: Place, process: str, wait_seconds: float) -> Call:
        """An app begins a call."""
        call = Call(next(self._numbers), place, process, self.now, wait_seconds, self.now)
        self.calls[call] = None
        return call

    def call_sees(self, call: Call, piece: str) -> None:
        """A piece of a stream reaches its caller."""
        call.quiet_since = self.now
        run, index = self._origin(call, piece)
        assert index == len(call.seen), f"{piece} is seen after {call.seen}: a piece is missing, or came twice"
        assert not call.seen or self._origin(call, call.seen[0])[0] is run, "pieces of two runs are mixed"
        call.seen.append(piece)

    def call_ends(self, call: Call, value: object, source: str | None) -> None:
        """A call has an answer. Of a stream it was seen before, and ``value`` is what was seen."""
        self._over(call)
        self.ends[source or ""] += 1
        pieces = list(value) if isinstance(value, list | tuple) else [value]
        assert pieces, "an answer without a piece"
        run, index = self._origin(call, pieces[0])
        assert index == 0
        assert pieces == run.answer(), f"{pieces} is said to be whole"
        if source in {"upstream", "fallback"}:
            assert run.call.place == call.place
            return

        assert run.end == "ok", f"{source}: the answer of a run that has ended {run.end}"
        if source in {"cache", "stale", "shared"} and self._exact_removals:
            for removal in self._removals:
                late = removal.done_at is not None and removal.done_at < call.started_at
                assert not (late and run.started_at < removal.asked_at and removal.reaches(call.place)), (
                    f"{source}: the answer of run {run.number} was removed before it was asked for"
                )

    def call_fails(self, call: Call, fault: BaseException) -> None:
        """A call has ended in an exception that may be."""
        self._over(call)
        self.ends[type(fault).__name__] += 1
        if isinstance(fault, UpstreamFailed):
            assert fault.run in call.runs, f"the exception of another call's {fault.run}"
            return

        if isinstance(fault, CallTimeout):
            waited_seconds = self.now - call.started_at
            assert waited_seconds >= _SLOWEST_CLOCK * call.wait_seconds, f"sent away after {waited_seconds} s"

        words = str(fault).split("UpstreamFailed: run ")
        if len(words) > 1:
            run = self.runs[int(words[1].split()[0]) - 1]
            assert run.place == call.place, f"it failed as {run}"
            assert run.end in {"transient", "fatal", "ignored"}, f"it failed as {run}, which ended {run.end}"

    def call_leaves(self, call: Call) -> None:
        """The caller is gone, or has canceled."""
        self._over(call)
        self.ends["left"] += 1

    def _over(self, call: Call) -> None:
        assert not call.over, "a call has two ends"
        call.over = True
        del self.calls[call]

    def _origin(self, call: Call, piece: object) -> tuple[Run, int]:
        assert isinstance(piece, str), piece
        scope, key, origin = piece.split("|")
        assert (scope, key) == call.place, f"{piece} is given to a call for {call.place}"
        number, index, _ = map(int, origin.split("/"))
        return self.runs[number - 1], index

    # Runs -------------------------------------------------------------------------------------------------------------

    def run_begins(self, call: Call, size: int, backend: str = "") -> Run:
        """An upstream function is called."""
        run = Run(len(self.runs) + 1, call.place, call, size, self.now, backend)
        self.runs.append(run)
        call.runs.append(run)
        call.running = True
        others = self._running[call.place]
        assert not (self._calm and others), f"{run.place} is being computed twice, without any fault"
        others.append(run)
        return run

    def run_ends(self, run: Run, end: End) -> None:
        """It returns, or raises."""
        if run.end:
            return

        run.end = end
        run.call.running = False
        run.call.quiet_since = self.now
        self._running[run.place].remove(run)

    def foreign_answer(self, place: Place, process: str) -> Run:
        """Register an answer that no run here computes: it is put, or another host computes it."""
        call = Call(next(self._numbers), place, process, self.now, 0.0)
        # The time of its arrival is unknown here: it may follow a removal that was requested later.
        run = Run(len(self.runs) + 1, place, call, 1, inf, end="ok")
        self.runs.append(run)
        return run

    # Operators --------------------------------------------------------------------------------------------------------

    def removal_begins(self, namespace: str | None, key: str | None) -> Removal:
        """A delete or purge is requested."""
        removal = Removal(namespace, key, self.now)
        self._removals.append(removal)
        return removal

    def removal_ends(self, removal: Removal) -> None:
        """The removal is acknowledged."""
        removal.done_at = self.now

    # Time -------------------------------------------------------------------------------------------------------------

    def excuse(self, seconds: float, process: str | None = None) -> None:
        """Extend the deadlines of all calls, or of one process' calls."""
        for call in self.calls:
            if process in {None, call.process}:
                call.excused_seconds += seconds

    def look(self) -> None:
        """Check that no call has waited beyond its time."""
        for call in self.calls:
            if not call.running:
                late_at = call.quiet_since + 2 * call.wait_seconds + LATE_SECONDS + call.excused_seconds
                assert self.now <= late_at, f"{call} has had no end"
