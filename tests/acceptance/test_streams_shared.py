"""Streams shared by real processes, some of which are killed: no caller takes a partial answer for a whole one, and nothing partial is stored."""

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.acceptance.stream_worker import Consumed, Plan
from tests.daemons import Daemon, ask, poll
from tests.workers import Workers

WORKER = "tests.acceptance.stream_worker"
PROCESSES = 8
CONSUMERS = 4
PIECES = 8

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("patient_clients")]

kinds = pytest.mark.parametrize("kind", ["sync", "async"])
kinds_of_crowds = pytest.mark.parametrize("kind", ["sync", pytest.param("async", marks=pytest.mark.slow)])
"""For tests of what the daemon does for many processes: the slow run repeats them with the other client."""


class Readers(Workers[list[Consumed]]):
    """Processes that read one stream."""

    def __init__(self, plan: Plan, processes: int) -> None:
        super().__init__(WORKER, list[Consumed])
        self.ledger = Path(plan.ledger)
        self.ledger.touch()
        self.start(plan, processes)

    def lines(self, word: str) -> list[list[str]]:
        """Return the ledger's lines of one word."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return [line for line in lines if line[0] == word and len(line) == 4]

    def consumed(self) -> list[Consumed]:
        """Wait for the processes that are alive, and return what they received."""
        return [one for result in self.results() for one in result]


@pytest.fixture
def readers(tmp_path: Path, daemon: Callable[..., Daemon]) -> Iterator[Callable[..., tuple[Daemon, Readers]]]:
    """Start a daemon and processes that read; end them with the test."""
    started: list[Readers] = []

    def start(
        kind: str, processes: int = PROCESSES, consumers: int = CONSUMERS, **fields: float
    ) -> tuple[Daemon, Readers]:
        running = daemon()
        pause_seconds = fields.pop("pause_seconds", 0.05)
        plan = Plan(kind, running.socket, str(tmp_path / "ledger"), consumers, PIECES, pause_seconds, **fields)
        started.append(Readers(plan, processes))
        started[-1].go()
        return running, started[-1]

    yield start
    for one in started:
        one.kill()


def whole(got: Consumed) -> bool:
    """Return whether a consumer has all pieces, in order, of one call."""
    pid = got.pieces[0].partition(":")[0] if got.pieces else ""
    return got.pieces == [f"{pid}:{number}" for number in range(PIECES)]


@kinds_of_crowds
def test_stream_reaches_32_consumers_in_8_processes_as_it_comes(
    kind: str, readers: Callable[..., tuple[Daemon, Readers]]
) -> None:
    """All consumers get the same pieces, and the first piece reaches the last consumer long before the call ends."""
    running, group = readers(kind)
    consumed = group.consumed()

    assert len(group.lines("start")) == 1
    assert len(consumed) == PROCESSES * CONSUMERS
    assert {tuple(one.pieces) for one in consumed} == {tuple(consumed[0].pieces)}
    assert all(whole(one) and one.end == "whole" for one in consumed)
    assert sorted({one.source for one in consumed}) in (["shared", "upstream"], ["cache", "shared", "upstream"])
    holder = next(one for one in consumed if one.source == "upstream")
    followers = [one.first_at for one in consumed if one.source == "shared"]
    last_made = float(group.lines("piece")[-1][3])
    assert max(followers) < last_made
    with Client(running.socket) as client:
        trips = []
        for _ in range(200):
            began = time.perf_counter()
            client.ping()
            trips.append(time.perf_counter() - began)

    late, trip = max(followers) - holder.first_at, statistics.median(trips)
    began = float(group.lines("start")[0][3])
    ratio = (max(followers) - began) / (holder.first_at - began)
    print(
        f"\n{kind}: first piece at the last of {len(followers)} followers {late * 1e3:.2f} ms after its holder's "
        f"({late / trip:.1f} round trips of {trip * 1e3:.3f} ms); time to first piece {ratio:.3f}x the holder's"
    )


@kinds_of_crowds
@pytest.mark.parametrize("when", ["before the first", "in the middle", "after the last"])
def test_killed_holder_of_a_stream_leaves_no_partial_answer(
    kind: str, when: str, readers: Callable[..., tuple[Daemon, Readers]]
) -> None:
    """Readers with a piece fail, the others read another call, and the cache has a whole answer or none."""
    running, group = readers(kind, processes=4, last_seconds=3.0 if when == "after the last" else 0.0)
    word, number = {"before the first": ("start", 0), "in the middle": ("piece", 3), "after the last": ("last", 0)}[
        when
    ]

    def killed() -> int:
        lines = [line for line in group.lines(word) if int(line[1]) >= number]
        return int(lines[0][2]) if lines else 0

    poll(lambda: killed() != 0, "the holder never came so far")
    os.kill(killed(), signal.SIGKILL)
    consumed = group.consumed()

    assert len(consumed) == 3 * CONSUMERS
    for one in consumed:
        assert whole(one) if one.end == "whole" else one.end == "CallFailed"
        assert not (one.end == "CallFailed" and when == "before the first")
        assert one.end != "whole" or not one.pieces[0].startswith(f"{killed()}:")

    if when != "before the first":
        assert "CallFailed" in {one.end for one in consumed}

    entry = ask(running.socket, {"op": "get", "key": "stream"})
    if entry["type"] == "hit":
        assert isinstance(entry["value"], list)
        assert whole(Consumed(entry["value"], "", ""))
        assert not entry["value"][0].startswith(f"{killed()}:")


@kinds
def test_killed_daemon_leaves_no_partial_stream(kind: str, readers: Callable[..., tuple[Daemon, Readers]]) -> None:
    """The holder reads on, followers with a piece fail, and later callers get a whole answer."""
    running, group = readers(kind, processes=4)
    poll(lambda: len(group.lines("piece")) > 3, "the holder never came so far")
    running.kill()
    running.start_again()
    consumed = group.consumed()

    assert len(consumed) == 4 * CONSUMERS
    assert [one.end for one in consumed if one.source == "upstream"].count("whole") >= 1
    for one in consumed:
        assert whole(one) if one.end == "whole" else one.end == "CallFailed"

    entry = ask(running.socket, {"op": "get", "key": "stream"})
    assert entry["type"] == "miss" or whole(Consumed(entry["value"], "", ""))  # type: ignore[arg-type]  # a list of str


@kinds_of_crowds
def test_killed_followers_affect_no_other_reader(kind: str, readers: Callable[..., tuple[Daemon, Readers]]) -> None:
    """After followers are killed, all other readers have the whole of one call."""
    _, group = readers(kind, processes=4)
    poll(lambda: len(group.lines("piece")) > 2, "the holder never came so far")
    holder = int(group.lines("start")[0][2])
    for process in [process for process in group.processes if process.pid != holder][:2]:
        process.kill()

    consumed = group.consumed()

    assert len(consumed) == 2 * CONSUMERS
    assert all(whole(one) and one.end == "whole" for one in consumed)
    assert len(group.lines("start")) == 1
