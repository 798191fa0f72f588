"""Backends with real processes: one breaker, one limit and one budget for all workers of the host."""

import json
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecard_client import CallRejected, Client
from tests.acceptance.backend_worker import Account, Plan
from tests.daemons import Daemon, ask, poll
from tests.workers import Workers

WORKER = "tests.acceptance.backend_worker"
Start = Callable[..., Daemon]
kinds = pytest.mark.parametrize("kind", ["sync", "async"])
kinds_of_seconds = pytest.mark.parametrize("kind", ["sync", pytest.param("async", marks=pytest.mark.slow)])
"""For tests of the daemon that take seconds: the slow run repeats them with the other client."""

pytestmark = pytest.mark.timeout(120)


def backends(**settings: dict[str, Any]) -> dict[str, str]:
    """Configure backends by the environment."""
    return {"SIDECARD_BACKENDS": json.dumps(settings)}


class Crew(Workers[Account]):
    """Workers, and the ledger that the function they call writes."""

    def __init__(self, socket: str, directory: Path) -> None:
        super().__init__(WORKER, Account)
        self.socket = socket
        self.ledger = directory / "ledger"
        self.ledger.touch()

    def hire(self, count: int, **plan: Any) -> None:
        """Start workers, which then wait for `go`."""
        self.start(Plan(self.socket, str(self.ledger), **plan), count)

    def stop(self) -> None:
        """Let workers that call without end stop."""
        Path(f"{self.ledger}.stop").touch()

    def ends(self) -> Counter[str]:
        """Return how all calls ended."""
        return sum((Counter(account.ends) for account in self.results()), Counter())

    def words(self) -> list[str]:
        """Return the ledger, a word a line."""
        return [line.split()[0] for line in self.ledger.read_text().splitlines()]

    def calls(self) -> int:
        """Return how many calls have reached the backend."""
        return self.words().count("start")

    def most_at_once(self) -> int:
        """Return how many calls were in progress at the backend at most."""
        now = most = 0
        for word in self.words():
            now += 1 if word == "start" else -1
            most = max(most, now)

        return most


@pytest.fixture
def crew(socket_path: str, tmp_path: Path) -> Iterator[Crew]:
    """Have workers for a daemon at ``socket_path``, and end them with the test."""
    crew = Crew(socket_path, tmp_path)
    yield crew
    crew.kill()


def state_of(daemon: Daemon, backend: str = "b") -> dict[str, Any]:
    """Ask how a backend is."""
    breakers: Any = ask(daemon.socket, {"op": "breakers"})
    state: dict[str, Any] = breakers["backends"][backend]
    return state


@kinds_of_seconds
def test_breaker_opens_once_for_sixteen_processes(kind: str, daemon: Start, crew: Crew) -> None:
    """After the breaker opens for one process, no further call reaches the backend, and each process gets the reason."""
    running = daemon(**backends(b={"breaker": {"open_seconds": 60}}))
    crew.hire(16, kind=kind, callers=1, calls=40, fails=True, work_seconds=0.01)
    crew.go()
    accounts = crew.results()
    assert len(accounts) == 16
    assert all(account.ends.get("breaker_open", 0) >= 1 for account in accounts)
    # Ten concluded, and at most the other fifteen had begun already.
    assert 10 <= crew.calls() <= 25
    assert state_of(running)["opened"] == 1
    running.terminate()
    (opened,) = running.said("breaker opened")
    assert opened["calls"] == 10


def probe_cycles(cycles: int, daemon: Start, crew: Crew) -> None:
    """Let sixteen failing workers meet a breaker that is half-open again and again, and count at the backend."""
    running = daemon(**backends(b={"breaker": {"open_seconds": 0.03, "max_open_seconds": 0.03, "probes": 3}}))
    # Held open until all workers call, so that every call that reaches the backend is a probe.
    ask(running.socket, {"op": "breaker", "backend": "b", "action": "open"})
    crew.hire(16, kind="sync", callers=1, calls=0, fails=True)
    crew.go()
    poll(lambda: ask(running.socket, {"op": "stats"})["rejected_breaker_open"] >= 16, "the workers do not call")  # type: ignore[operator]  # a number
    assert crew.calls() == 0
    ask(running.socket, {"op": "breaker", "backend": "b", "action": "auto"})
    poll(lambda: state_of(running)["opened"] > cycles, "the breaker does not open again", seconds=60)
    crew.stop()
    ends = crew.ends()
    states = state_of(running)
    # The first opening was the operator's; each later one came after exactly three probes. The last may be going on.
    openings = states["opened"] - 1
    assert openings >= cycles
    assert 3 * openings <= crew.calls() <= 3 * openings + (0 if states["state"] == "open" else 3)
    assert ends.keys() == {"ConnectionError", "breaker_open"}
    assert ends["ConnectionError"] == crew.calls()


def test_probing_breaker_lets_exactly_three_probes_through(daemon: Start, crew: Crew) -> None:
    """A half-open breaker with three probes lets exactly three calls through, in 20 cycles."""
    probe_cycles(20, daemon, crew)


@pytest.mark.slow
def test_probing_breaker_lets_exactly_three_probes_through_200_times(daemon: Start, crew: Crew) -> None:
    """A half-open breaker with three probes lets exactly three calls through, in 200 cycles."""
    probe_cycles(200, daemon, crew)


@kinds
def test_probe_after_a_dead_holder_is_sent_immediately(kind: str, daemon: Start, crew: Crew) -> None:
    """The permit of a lost probe returns with its connection and says nothing of the backend."""
    running = daemon(**backends(b={}))
    crew.hire(1, kind=kind, callers=1, work_seconds=60.0)
    for action in ("open", "auto"):
        ask(running.socket, {"op": "breaker", "backend": "b", "action": action})

    crew.go()
    poll(lambda: crew.calls() == 1, "the probe did not go out")
    begin = {"op": "begin", "key": "another", "backends": ["b"]}
    assert ask(running.socket, begin)["reason"] == "breaker_open"
    crew.processes[0].send_signal(signal.SIGKILL)
    poll(lambda: ask(running.socket, {"op": "stats"})["lost"] == 1, "the daemon did not notice")
    assert ask(running.socket, begin)["type"] == "lease"
    assert state_of(running)["state"] == "half_open"


@kinds
def test_local_model_gets_at_most_its_limit_of_concurrent_calls(kind: str, daemon: Start, crew: Crew) -> None:
    """Fifty callers in two processes are served two at a time, and the process with many callers does not starve the other."""
    running = daemon(**backends(b={"locality": "local", "max_concurrent": 2}))
    with socket.socket(socket.AF_UNIX) as holder:
        # The permits are held until all callers queue: those of the second process behind all of the first.
        holder.connect(running.socket)
        holder.sendall(b"".join(b'{"op":"begin","key":"held %d","backends":["b"]}\n' % number for number in range(2)))
        poll(lambda: state_of(running)["permits"] == 2, "the permits are not held")
        for callers, queued in ((40, 40), (10, 50)):
            crew.hire(1, kind=kind, callers=callers, work_seconds=0.02)
            crew.go()
            poll(lambda queued=queued: state_of(running)["queued"] == queued, "the callers do not wait")  # type: ignore[misc]  # bound now

    assert crew.ends() == {"answer": 50}
    assert crew.most_at_once() == 2
    few = str(crew.processes[1].pid)
    starts = [line.split()[1] for line in crew.ledger.read_text().splitlines() if line.startswith("start")]
    # In turn while both wait: the ten of the few are among the first twenty.
    assert [place for place, pid in enumerate(starts) if pid == few][-1] < 24, starts


@kinds_of_seconds
def test_equal_calls_wait_for_one_permit(kind: str, daemon: Start, crew: Crew) -> None:
    """Callers of an equal key join a flight that waits for a permit, and the backend is called once for all."""
    running = daemon(**backends(b={"max_concurrent": 1}))
    with Client(running.socket) as client:

        def slow(_: str) -> str:
            crew.hire(2, kind=kind, callers=10, prompt="the same")
            crew.go()
            poll(lambda: ask(running.socket, {"op": "stats"})["waiters"] == 20, "the callers do not wait")
            assert state_of(running)["queued"] == 1
            return "first"

        assert client.call(slow, "another", backend="b", name="slow") == "first"

    assert crew.ends() == {"answer": 20}
    assert crew.calls() == 1


def test_retries_of_many_workers_stay_within_the_budget_of_the_host(daemon: Start, crew: Crew) -> None:
    """Twenty calls of ten workers with three retries each cost a fifth more calls and the floor, not sixty more."""
    running = daemon(
        SIDECARD_RETRIES_FLOOR_PER_SECOND="0.5",
        SIDECARD_RETRIES_WINDOW_SECONDS="60",
        SIDECARD_RETRIES_BACKOFF_SECONDS="0.01",
        **backends(b={"breaker": {"enabled": False}}),
    )
    crew.hire(10, kind="sync", callers=1, calls=20, fails=True, retries=3)
    crew.go()
    assert crew.ends() == {"ConnectionError": 200}
    # 0.5/s over 60 s is 30, and a fifth of the 200 calls is 40; without a budget there would be 800 calls.
    assert 200 + 30 <= crew.calls() <= 200 + 30 + 40
    assert ask(running.socket, {"op": "stats"})["retries"] == crew.calls() - 200


def small(question: str) -> str:
    """Stand for a local model."""
    return f"small: {question}"


def big(question: str) -> str:
    """Stand for a dear one."""
    return f"big: {question}"


BOTH = {"local": small, "cloud": big}


def test_failed_call_continues_on_the_next_backend(daemon: Start) -> None:
    """The app gets the answer, and the outcome names the backend and the reason."""
    running = daemon()
    with Client(running.socket) as client:
        client.breaker("local", "open")
        outcome = client.outcome(BOTH, "hello")
        assert (outcome.value, outcome.backend, outcome.passed_over) == (
            "big: hello",
            "cloud",
            {"local": "breaker_open"},
        )
        client.breaker("local", "auto")
        assert client.outcome(BOTH, "again").backend == "local"


def test_sovereign_host_makes_no_remote_call(daemon: Start) -> None:
    """A backend that is not declared local gets no lease, under any name."""
    running = daemon("--set", "backends.lab.locality=local", SOVEREIGN_MODE="true")
    with Client(running.socket) as client:
        assert client.outcome({"cloud": big, "lab": small}, "hello").backend == "lab"
        with pytest.raises(CallRejected) as rejected:
            client.call(big, "of its own", backend="anywhere")

        assert rejected.value.reason == "sovereign"
        assert client.call(small, "no backend named") == "small: no backend named"


def price(_: str) -> dict[str, Any]:
    """Report what a call used."""
    return {"model": "m", "prompt_tokens": 1_000_000, "completion_tokens": 0}


def spend(client: Client, question: str) -> str:
    """Make a call that costs a dollar on the cloud; return where it was made."""
    return client.outcome({"cloud": big, "local": small}, question, usage=price).backend


PRICED = backends(cloud={"input_dollars_per_million_tokens": 1.0, "output_dollars_per_million_tokens": 1.0})
TWO_DOLLARS = {"SIDECARD_BUDGETS": '{"b": {"dollars": 2.0, "period_seconds": 31536000, "hard": true}}'}


def test_spent_budget_leaves_the_free_backend(daemon: Start) -> None:
    """Two dollars pay for two calls; then the local backend serves, and callers of the paid one alone are rejected."""
    running = daemon(**PRICED, **TWO_DOLLARS)
    with Client(running.socket) as client:
        assert [spend(client, str(number)) for number in range(4)] == ["cloud", "cloud", "local", "local"]
        with pytest.raises(CallRejected) as rejected:
            client.call(big, "x", backend="cloud")

        assert rejected.value.reason == "budget"
        report = client.report()
        assert report.budgets["b"].spent_dollars == 2.0
        assert report.backends["cloud"].dollars == 2.0
        assert report.total.billed_dollars == 2.0

    running.terminate()
    (note,) = running.said("budget spent")
    assert note["hard"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_ledger_budgets_and_open_breakers_survive_a_restart(number: int, daemon: Start, tmp_path: Path) -> None:
    """A stop keeps everything; a kill keeps what was booked before the last write."""
    running = daemon("--set=backends.other.weight=1", **PRICED, **TWO_DOLLARS, STATE_DIRECTORY=str(tmp_path))
    with Client(running.socket) as client:
        assert [spend(client, str(number)) for number in range(2)] == ["cloud", "cloud"]
        client.breaker("other", "open")
        if number == signal.SIGKILL:
            poll(lambda: b'"other"' in read(tmp_path / "ledger.json"), "nothing was written")

    running.process.send_signal(number)
    running.process.wait(20)
    running.start_again()
    with Client(running.socket) as client:
        report = client.report()
        assert report.total.billed_dollars == 2.0
        assert report.budgets["b"].spent_dollars == 2.0
        assert report.ledger_seconds > report.uptime_seconds
        assert spend(client, "new") == "local"
        assert client.breakers().backends["other"].state == "forced_open"


def read(path: Path) -> bytes:
    """Return a file's content; nothing where there is none yet."""
    return path.read_bytes() if path.exists() else b""


def test_damaged_ledger_is_set_aside_at_the_start(daemon: Start, tmp_path: Path) -> None:
    """The daemon renames a damaged ledger, logs it once, and begins a new one."""
    (tmp_path / "ledger.json").write_bytes(b'{"version": 1, "tasks": [')
    running = daemon(STATE_DIRECTORY=str(tmp_path))
    assert (tmp_path / "ledger.json.corrupt").exists()
    with Client(running.socket) as client:
        client.call(small, "x")

    assert running.terminate() == 0
    assert len(running.said("ledger reset")) == 1
    assert json.loads(read(tmp_path / "ledger.json"))["tasks"]["general"]["led"] == 1


def test_second_daemon_of_a_state_directory_runs_without_it(daemon: Start, tmp_path: Path) -> None:
    """A second daemon does not write the ledger of the first, because each would lose the other's sums."""
    first = daemon(STATE_DIRECTORY=str(tmp_path))
    second = daemon(STATE_DIRECTORY=str(tmp_path))
    first.terminate()
    second.terminate()
    assert not first.said("state not kept")
    (note,) = second.said("state not kept")
    assert "another daemon" in note["reason"]


def test_daemon_without_state_writes_no_ledger(daemon: Start, tmp_path: Path) -> None:
    """With `--no-state` no ledger is written, even if there is a state directory."""
    running = daemon("--no-state", STATE_DIRECTORY=str(tmp_path))
    with Client(running.socket) as client:
        client.call(small, "x")

    assert running.terminate() == 0
    assert not list(tmp_path.iterdir())
