"""What tests of faults share: a daemon, app processes that go as far as they are let, and what must hold when it is over."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.acceptance.fault_worker import End, Plan
from tests.daemons import Daemon, ask, poll
from tests.workers import Workers

WORKER = "tests.acceptance.fault_worker"


class Injected(Protocol):
    """Book what a test did, for the table of ``pytest --faults``."""

    def __call__(self, times: int, *, callers: int = 0, notified: int = 0, lost: int = 0) -> None:
        """Record ``times`` faults that affected ``callers``: ``notified`` of them got the failure, ``lost`` of them no valid end."""


EMPTY = ("flights", "leases", "waiters", "queued", "permits", "streams", "stream_bytes")
"""Of `stats`: what nothing may be left in."""

KINDS = ("sync", "asyncio", "trio")
SHAPES = ("plain", "stream")

DESCRIPTORS_OF_A_VIEW = 3
"""At most: a daemon keeps a view open for the next client."""

PATIENT = ("--set=flights.lease_seconds=600", "--set=flights.renew_seconds=200")
"""Settings for holders that are no client and renew nothing, on a machine that is busy."""

DEFAULT = {("sync", "stream"), ("asyncio", "plain")}
"""Of all clients and shapes, those of the default run, which has each once; the slow one has all."""


def clients_and_shapes(*default: tuple[str, str]) -> pytest.MarkDecorator:
    """Run a test with each client, plain and streamed; those that are not ``default`` (else `DEFAULT`) are slow."""
    quick = set(default) or DEFAULT
    return pytest.mark.parametrize(
        ("kind", "shape"),
        [
            pytest.param(kind, shape, marks=() if (kind, shape) in quick else pytest.mark.slow)
            for kind in KINDS
            for shape in SHAPES
        ],
    )


def resident_bytes(pid: int) -> int:
    """Return how much memory a process uses."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - links that may be gone when they are looked at


class Apps(Workers[list[End]]):
    """Processes with one plan."""

    def __init__(self, plan: Plan, processes: int) -> None:
        super().__init__(WORKER, list[End])
        self.directory = Path(plan.directory)
        self.pieces = plan.pieces
        self.start(plan, processes)

    def ends(self) -> list[End]:
        """Wait for the processes that are alive, and return what their callers received."""
        return [end for result in self.results() for end in result]


class Scene:
    """A daemon, app processes, and the upstream's ledger and gates."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon = daemon
        self.directory = directory
        (directory / "ledger").touch()
        self.groups: list[Apps] = []
        self._descriptors = descriptors(daemon.pid)

    def move(self, directory: Path) -> None:
        """Have ledger and gates somewhere else."""
        self.directory = directory
        (directory / "ledger").touch()
        (directory / "ledger").chmod(0o666)

    def apps(self, kind: str, shape: str, processes: int = 1, **plan: Any) -> Apps:
        """Start processes, and let them begin."""
        apps = Apps(Plan(kind, shape, self.daemon.socket, str(self.directory), **plan), processes)
        self.groups.append(apps)
        apps.go()
        return apps

    def open(self, gate: str) -> None:
        """Let upstreams pass a gate: the number of a piece, ``end``, or ``all``."""
        (self.directory / f"gate.{gate}").touch()

    def noted(self, word: str) -> list[int]:
        """Return the processes that noted a word, in order."""
        lines = [line.split() for line in (self.directory / "ledger").read_text().splitlines()]
        return [int(line[1]) for line in lines if line[0] == word and len(line) == 2]

    def most_at_once(self) -> int:
        """Return how many calls were made at the same time by one process, at most."""
        running, most = Counter[str](), 0
        for line in (self.directory / "ledger").read_text().splitlines():
            word, _, pid = line.partition(" ")
            running[pid] += {"start": 1, "done": -1}.get(word, 0)
            most = max(most, running[pid])

        return most

    def wait_for(self, word: str, count: int = 1) -> int:
        """Wait until a word was noted so often, and return the process that was last."""
        poll(lambda: len(self.noted(word)) >= count, f"nobody came as far as {word}")
        return self.noted(word)[count - 1]

    def stats(self) -> dict[str, Any]:
        """Ask the daemon."""
        return ask(self.daemon.socket, {"op": "stats"}, seconds=20.0)

    def waits(self, waiters: int) -> None:
        """Wait until so many wait, or read along."""
        poll(lambda: self.stats()["waiters"] >= waiters, f"{waiters} waiters never waited")

    def calm(self, *errors: str, restarted: bool = False) -> None:
        """Expect that nothing is left of the fault: tables empty, descriptors back, health fine, no internal error logged.

        ``errors`` are the events that the log may have at level error.
        """
        poll(lambda: not any(self.stats()[table] for table in EMPTY), f"left behind: {self.stats()}")
        poll(lambda: self.stats()["peers"] == 1, "peers that left are still counted")
        if not restarted:
            allowed = self._descriptors + 1 + DESCRIPTORS_OF_A_VIEW * self.stats()["views"]
            poll(lambda: descriptors(self.daemon.pid) <= allowed, "descriptors were left open")

        health = ask(self.daemon.socket, {"op": "health"})
        assert (health["status"], health["reasons"]) == ("ok", [])
        assert {line["event"] for line in self.daemon.log() if line["level"] == "error"} <= set(errors)

    def close(self) -> None:
        """End all processes but the daemon."""
        for apps in self.groups:
            apps.kill()


def whole(got: End, pieces: int = 3) -> bool:
    """Return whether a caller has all pieces, in order, of one call."""
    pid = got.pieces[0].partition(":")[0] if got.pieces else ""
    return got.pieces == [f"{pid}:{number}" for number in range(pieces)]


def judge(ends: list[End], pieces: int = 3) -> list[End]:
    """Expect that each has exactly one end: the whole of one call, or a failure after a piece of it. Return the failures."""
    failures = []
    for got in ends:
        if got.end == "value":
            assert whole(got, pieces), got
        else:
            # Only a caller that has seen the beginning of a stream may get its failure.
            assert got.end == "CallFailed", got
            assert 0 < len(got.pieces) < pieces or len({piece.partition(":")[0] for piece in got.pieces}) == 1, got
            failures.append(got)

    return failures


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
