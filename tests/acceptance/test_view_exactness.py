"""Views of a real daemon: no read is older than what was acknowledged before it began, torn, or of another uid, whatever happens."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.acceptance.view_worker import SHARED, SHARED_KEY, Account, Board, Plan
from tests.daemons import Daemon, ask, poll
from tests.workers import Workers

Start = Callable[..., Daemon]

_UIDS = (5001, 5002) if os.geteuid() == 0 else (os.getuid(),)
_READERS = ("blocking", "async")
_ACTS = 4
_FROM_VIEW = 0.5
"""Of the answers, at least so many are read from views: otherwise the test would prove nothing."""


@pytest.fixture
def board(socket_directory: Path) -> Board:
    """Make the board that all processes share."""
    socket_directory.chmod(0o755)
    path = socket_directory / "board"
    path.write_bytes(bytes(Board.SIZE))
    path.chmod(0o666)
    for index in range(len(_UIDS)):
        uncertain = socket_directory / f"board.{index}"
        uncertain.touch()
        uncertain.chmod(0o666)

    return Board(str(path))


@pytest.fixture
def workers() -> Iterator[Workers[Account]]:
    """Start readers and writers; end what is left of them."""
    started = Workers("tests.acceptance.view_worker", Account)
    yield started
    started.kill()


class _Operator:
    """Does to a daemon what operators and accidents do, and notes on the board what is gone for good."""

    def __init__(self, daemon: Daemon, config: Path, board: Board, chance: random.Random) -> None:
        self._daemon = daemon
        self._config = config
        self._board = board
        self._chance = chance
        self._next: list[Callable[[], None]] = []
        self.done = Counter[str]()

    def act(self) -> None:
        """Do one thing: each in turn, in another order each time."""
        if not self._next:
            self._next = [self.purge, self.reload, self.freeze, self.kill]
            self._chance.shuffle(self._next)

        act = self._next.pop()
        act()
        self.done[act.__name__] += 1

    def purge(self) -> None:
        """Remove everything."""
        gone = self._board.remove_acknowledged(len(_UIDS))
        with Client(self._daemon.socket, daemon_timeout=10) as client:
            client.purge(namespace="default")

        self._board.note_removed(gone)

    def reload(self) -> None:
        """Change what tasks may do."""
        write_config(self._config, self._chance.randrange(100, 1000))
        assert ask(self._daemon.socket, {"op": "reload"})["type"] == "reloaded"

    def freeze(self) -> None:
        """Stop the daemon for a while; nothing changes meanwhile, so its views are valid."""
        os.kill(self._daemon.pid, signal.SIGSTOP)
        self._board.words[1] += 1
        time.sleep(self._chance.choice([0.05, 0.3, 0.8]))
        self._board.words[1] += 1
        os.kill(self._daemon.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the daemon, and start another one, which knows nothing."""
        self._daemon.kill()
        # No view may be read from now on.
        self._board.note_removed(self._board.remove_acknowledged(len(_UIDS)))
        self._daemon.start_again()


def write_config(file: Path, ttl_seconds: int) -> None:
    """Write settings."""
    file.write_text(f"[cache]\nttl_seconds = {ttl_seconds}\n[socket]\nmode = '0666'\n")


def _exercise(
    one: Daemon, board: Board, workers: Workers[Account], config: Path, *, pauses: Sequence[float], reads: int
) -> Counter[str]:
    """Read and write, and pause between what happens, until there are so many reads from views; return what happened."""
    path = str(Path(one.socket).parent / "board")
    numbers = count()
    for index, uid in enumerate(_UIDS):
        for role in ("writer", *_READERS):
            workers.start(Plan(role, one.socket, path, uid, index, next(numbers), pauses[0] / 20), 1)

    workers.go()
    poll(lambda: sum(map(bool, board.from_view)) == len(_UIDS) * len(_READERS), "a reader reads no view", 40)
    chance = random.Random(1)
    operator = _Operator(one, config, board, chance)
    while sum(board.from_view) < reads or len(operator.done) < _ACTS:
        assert all(process.poll() is None for process in workers.processes), "a process has ended"
        time.sleep(chance.choice(pauses))
        operator.act()

    board.words[0] = 1
    return operator.done


def _judge(accounts: list[Account]) -> None:
    """Check what the processes have seen, and that most of it came from views."""
    assert len(accounts) == len(_UIDS) * (1 + len(_READERS)), "a process has failed"
    assert [wrong for account in accounts for wrong in account.wrong] == []
    readers = [account for account in accounts if account.reads]
    hits, from_view = sum(account.hits for account in readers), sum(account.from_view for account in readers)
    assert from_view > _FROM_VIEW * hits > 0, f"{from_view} of {hits} answers were read from views"
    assert all(account.from_view for account in readers)


@pytest.mark.parametrize(
    ("pauses", "reads"),
    [
        ([0.05, 0.2], 5_000),
        pytest.param([0.05, 1.0, 5.0], 10_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_reads_of_views_are_exact_whatever_happens(
    daemon: Start,
    socket_path: str,
    board: Board,
    workers: Workers[Account],
    tmp_path: Path,
    pauses: Sequence[float],
    reads: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Two uids read and write with both clients while the daemon is purged, reloaded, frozen and killed."""
    config = tmp_path / "sidecard.toml"
    write_config(config, 300)
    done = _exercise(daemon("--config", str(config)), board, workers, config, pauses=pauses, reads=reads)
    accounts = workers.results()
    record_property("happened", dict(done))
    _judge(accounts)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: peers of several uids are made here")
def test_view_of_a_namespace_is_not_read_once_access_is_withdrawn(
    daemon: Start, socket_path: str, board: Board, workers: Workers[Account], tmp_path: Path
) -> None:
    """A reload acknowledges that a uid is no member any more: its reads that begin afterwards find nothing."""
    config = tmp_path / "sidecard.toml"

    def share_with(*uids: int) -> None:
        write_config(config, 300)
        with config.open("a") as file:
            file.write(f"[namespaces.{SHARED}]\nshared_with = {list(uids)}\n")

    share_with(0, *_UIDS)
    daemon("--config", str(config))
    with Client(socket_path, daemon_timeout=10) as client:
        client.put(SHARED_KEY, "of the team", namespace=SHARED)
        path = str(Path(socket_path).parent / "board")
        for index, uid in enumerate(_UIDS):
            workers.start(Plan("member", socket_path, path, uid, index, index), 1)

        workers.go()
        poll(lambda: all(board.from_view[: len(_UIDS)]), "a member reads no view", 40)
        share_with(0)
        assert ask(socket_path, {"op": "reload"})["type"] == "reloaded"
        board.words[1] = 1
        for _ in range(100):
            # What is published from now on is published where former members cannot read it.
            client.put(SHARED_KEY, "of the team", namespace=SHARED)
            assert [client.get(SHARED_KEY, namespace=SHARED) for _ in range(4)] == ["of the team"] * 4
            time.sleep(0.002)

        board.words[0] = 1
        accounts = workers.results()
        assert [account.wrong for account in accounts] == [[] for _ in _UIDS]
        assert all(account.reads for account in accounts)
        assert client.get(SHARED_KEY, namespace=SHARED) == "of the team"
