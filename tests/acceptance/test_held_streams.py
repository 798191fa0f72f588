"""Streams whose holder is a process of its own that does not read, and that is killed or stopped while it goes on for others."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sidecard_client import CallFailed, Client
from tests.acceptance.stream_holder import Plan
from tests.daemons import Daemon, ask, poll
from tests.integration.test_streams import Reader

PIECES = 20
LEASE_SECONDS = 1.5

pytestmark = pytest.mark.timeout(60)


class HolderProcess:
    """A process that holds a stream."""

    def __init__(self, plan: Plan) -> None:
        self.ledger = Path(plan.ledger)
        command = [sys.executable, "-m", "tests.acceptance.stream_holder", msgspec.json.encode(plan).decode()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "holding\n"

    def made(self) -> int:
        """Return how many pieces its function has made."""
        return len(self.ledger.read_text(encoding="ascii").splitlines())

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def read(self) -> list[str]:
        """Let it read its stream, and return all of its pieces."""
        output, _ = self.process.communicate("read\n", timeout=30)
        return msgspec.json.decode(output, type=list[str])

    def pieces(self) -> list[str]:
        """Return what its function makes."""
        return [f"{self.process.pid}:{number}" for number in range(PIECES)]


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """Start a daemon that soon notices a stopped holder."""
    return daemon(SIDECARD_FLIGHTS_LEASE_SECONDS=str(LEASE_SECONDS))


@pytest.fixture(params=["sync", "async"])
def holder(request: pytest.FixtureRequest, running: Daemon, tmp_path: Path) -> Iterator[HolderProcess]:
    """Start a process that has taken a piece and does not read on."""
    plan = Plan(request.param, running.socket, str(tmp_path / "ledger"), PIECES, 0.05)
    holder = HolderProcess(plan)
    yield holder
    holder.process.kill()
    holder.process.communicate()


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of another process than the holder's."""
    with Client(running.socket) as client:
        yield client


def own(_: object = None) -> Iterator[str]:
    """Make the call in this process."""
    for number in range(PIECES):
        yield f"own:{number}"


OWN = [f"own:{number}" for number in range(PIECES)]


def test_follower_of_a_process_that_does_not_read_gets_everything(holder: HolderProcess, client: Client) -> None:
    """The follower gets pieces at the upstream's pace; the holder reads its own later."""
    assert holder.made() < PIECES  # it waits for its caller
    assert list(client.stream(own, key="stream")) == holder.pieces()
    assert holder.read() == holder.pieces()


def test_process_that_is_killed_while_it_goes_on_for_others_leaves_no_partial_answer(
    holder: HolderProcess, running: Daemon, client: Client
) -> None:
    """Followers with a piece fail at once, and the next caller makes the call."""
    follower = Reader(client.stream(own, key="stream"))
    follower.has(3)
    holder.send(signal.SIGKILL)
    with pytest.raises(CallFailed):
        follower.ends()

    assert ask(running.socket, {"op": "get", "key": "stream"})["type"] == "miss"
    assert list(client.stream(own, key="stream")) == OWN


def test_process_that_is_stopped_while_it_goes_on_for_others_loses_its_lease(
    holder: HolderProcess, running: Daemon, client: Client
) -> None:
    """Followers with a piece fail, the next caller makes the call, and the process, once it runs again, changes nothing."""
    follower = Reader(client.stream(own, key="stream"))
    follower.has(3)
    holder.send(signal.SIGSTOP)
    try:
        with pytest.raises(CallFailed):
            follower.ends()

        assert list(client.stream(own, key="stream")) == OWN
    finally:
        holder.send(signal.SIGCONT)

    assert holder.read() == holder.pieces()
    assert list(client.stream(own, key="stream")) == OWN
    assert ask(running.socket, {"op": "stats"})["leases"] == 0


def test_killed_follower_leaves_a_process_to_finish(holder: HolderProcess, running: Daemon, client: Client) -> None:
    """The process goes on without a waiter, and its answer is stored."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        for _ in client.stream(own, key="stream"):
            os.kill(os.getpid(), signal.SIGKILL)

        os._exit(1)

    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    poll(lambda: ask(running.socket, {"op": "get", "key": "stream"})["type"] == "hit", "the answer was not stored")
    assert list(client.stream(own, key="stream")) == holder.pieces() == holder.read()
