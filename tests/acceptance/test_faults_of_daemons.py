"""A daemon that is killed, stopped, frozen, cut off or set to another time, and what its callers notice: nothing.

Each with the blocking client and the asynchronous one, plain and streamed. See `tests.acceptance.fault_index`.
"""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.daemons import Daemon, ask, poll
from tests.faults import Injected, Scene, clients_and_shapes, judge, whole

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NOBODY = 65534

wall_clock = time.time  # noqa: TID251 - what the daemon's is compared with

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@clients_and_shapes()
def test_killed_daemon_fails_no_waiter(kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected) -> None:
    """When the daemon is killed, the holder goes on and all waiters fall back: calls of one process are shared there."""
    scene = scenes()
    holders = scene.apps(kind, shape)
    scene.wait_for("start")
    others = scene.apps(kind, shape, processes=2, callers=50)
    scene.waits(100)
    scene.daemon.kill()
    scene.wait_for("start", count=3)
    scene.open("all")
    ends = [*holders.ends(), *others.ends()]
    notified = judge(ends)
    injected(1, callers=len(ends), notified=len(notified))

    assert not notified
    assert len(ends) == 101
    assert set(scene.noted("start")) == {*holders.pids, *others.pids}
    assert all(got.pieces[0].startswith(f"{got.pid}:") for got in ends)
    if shape == "plain":
        assert scene.most_at_once() == 1

    scene.daemon.start_again()
    scene.calm(restarted=True)


@clients_and_shapes()
def test_stopping_daemon_lets_the_call_in_progress_end(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """A stopping daemon lets calls and streams in progress end; new callers make their own calls."""
    scene = scenes()
    apps = scene.apps(kind, shape, processes=3)
    scene.waits(2)
    scene.open("0")
    scene.wait_for("piece.0")
    if shape == "stream":
        scene.wait_for("seen.1", count=3)

    scene.daemon.process.send_signal(signal.SIGTERM)
    poll(lambda: bool(scene.daemon.said("drain started")), "it did not begin to drain")
    late = scene.apps(kind, shape)
    scene.wait_for("start", count=2)
    scene.open("all")
    ends, after = apps.ends(), late.ends()
    injected(1, callers=len(ends) + len(after), notified=len(judge(ends + after)))

    assert [got.end for got in ends + after] == ["value"] * 4
    assert len({tuple(got.pieces) for got in ends}) == 1
    assert after[0].source == "fallback"
    assert scene.daemon.process.wait(timeout=20) == 0
    scene.daemon.start_again()
    scene.calm(restarted=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@clients_and_shapes()
def test_uid_without_access_makes_its_own_calls(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected, socket_directory: Path
) -> None:
    """A uid that the socket's mode excludes makes its own calls; with access it shares, under its own uid."""
    socket_directory.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="sc-", dir="/tmp") as open_to_all:
        Path(open_to_all).chmod(0o777)
        scene = scenes()
        scene.move(Path(open_to_all))
        scene.open("all")
        (first,) = scene.apps(kind, shape, user=NOBODY).ends()
        assert (first.source, whole(first), scene.stats()["begins"]) == ("fallback", True, 0)
        Path(scene.daemon.socket).chmod(0o666)
        (ours,) = scene.apps(kind, shape).ends()
        ends = [*scene.apps(kind, shape, user=NOBODY).ends(), *scene.apps(kind, shape, user=NOBODY).ends()]
        injected(1, callers=4, notified=len(judge([first, ours, *ends])))

        assert [got.source for got in ends] == ["upstream", "cache"]
        assert ends[0].pieces == ends[1].pieces != ours.pieces
        scene.calm()


@clients_and_shapes()
def test_deleted_socket_file_is_recreated_and_connections_stay(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """The daemon recreates a deleted socket file and keeps its connections; callers in between make their own calls."""
    scene = scenes()
    apps = scene.apps(kind, shape, processes=2)
    scene.waits(1)
    Path(scene.daemon.socket).unlink()
    between = scene.apps(kind, shape)
    poll(Path(scene.daemon.socket).is_socket, "it was not bound again")
    poll(lambda: answers(scene.daemon.socket), "nobody accepts there")
    later = scene.apps(kind, shape)
    poll(lambda: scene.stats()["waiters"] >= 2, "who came later does not wait with the others")
    scene.open("all")
    ends = [*apps.ends(), *later.ends()]
    gone = between.ends()
    injected(1, callers=4, notified=len(judge(ends + gone)))

    assert len({tuple(got.pieces) for got in ends}) == 1
    assert len(ends) == 3
    assert len(scene.daemon.said("socket recreated")) == 1
    assert len(scene.noted("start")) <= 2
    scene.calm()
    assert scene.daemon.terminate() == 0
    assert not Path(scene.daemon.socket).exists()


def answers(path: str) -> bool:
    """Return whether a daemon answers."""
    try:
        return ask(path, {"op": "ping"})["type"] == "pong"
    except OSError:
        return False


class Supervisor(threading.Thread):
    """Does as systemd does: a daemon that has not said that it lives for ``WatchdogSec`` is killed, and started again."""

    WATCHDOG_SECONDS = 4.0

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.serving: Daemon | None = None
        self.path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(self.WATCHDOG_SECONDS)
        self.pings = 0
        self.killed = 0
        self.enough = False

    def run(self) -> None:
        """Listen until it is enough."""
        while not self.enough:
            try:
                self.pings += self._socket.recv(4096).startswith(b"WATCHDOG=1")
            except TimeoutError:
                if self.serving is not None and not self.enough:
                    self.serving.kill()
                    self.killed += 1
                    self.serving.start_again()

        self._socket.close()


@pytest.fixture
def supervisor(socket_directory: Path) -> Iterator[Supervisor]:
    """Supervise, as long as the test takes."""
    one = Supervisor(socket_directory)
    one.start()
    yield one
    one.enough = True
    one.join()


@clients_and_shapes()
def test_stalled_loop_is_ended_by_the_watchdog_and_fails_no_call(
    kind: str, shape: str, scenes: Callable[..., Scene], supervisor: Supervisor, injected: Injected
) -> None:
    """The watchdog ends a daemon whose loop stalls; callers fall back until it is restarted, and no call fails."""
    scene = scenes(NOTIFY_SOCKET=supervisor.path, WATCHDOG_USEC=str(int(supervisor.WATCHDOG_SECONDS * 1e6)))
    supervisor.serving = scene.daemon
    poll(lambda: supervisor.pings >= 2, "it never said that it lives")
    apps = scene.apps(kind, shape, processes=2, callers=3, patience_seconds=1.0)
    scene.waits(5)
    stalled = scene.daemon.pid
    os.kill(stalled, signal.SIGSTOP)
    scene.wait_for("start", count=2)
    scene.open("all")
    ends = apps.ends()
    poll(lambda: supervisor.killed == 1, "the watchdog did not bite")
    poll(lambda: answers(scene.daemon.socket), "no other daemon came")
    injected(1, callers=len(ends), notified=len(judge(ends)))

    assert [got.end for got in ends] == ["value"] * 6
    assert scene.daemon.pid != stalled
    if shape == "plain":
        assert scene.most_at_once() == 1

    assert not judge(scene.apps(kind, shape).ends())
    assert scene.stats()["completed"] == 1
    scene.calm(restarted=True)


def logged_time(daemon: Daemon) -> float:
    """Return the wall clock's time in the last line of the log."""
    return datetime.fromisoformat(daemon.log()[-1]["timestamp"]).timestamp()


@pytest.mark.skipif(not LIBRARIES, reason="needs Debian's faketime")
@clients_and_shapes()
def test_jump_of_the_wall_clock_moves_no_deadline(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected, tmp_path: Path
) -> None:
    """A wall clock that jumps by a day moves no lease, no wait and no lifetime."""
    said = tmp_path / "time"
    said.write_text("+0")
    scene = scenes(
        LD_PRELOAD=str(LIBRARIES[0]),
        FAKETIME_TIMESTAMP_FILE=str(said),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    stored = ask(scene.daemon.socket, {"op": "put", "key": "entry", "value": 1, "ttl_seconds": 600})
    assert stored["type"] == "stored"
    apps = scene.apps(kind, shape, processes=2)
    scene.waits(1)
    for jump in ("+1d", "-1d", "+0"):
        said.write_text(jump)
        days = {"+1d": 1, "-1d": -1, "+0": 0}[jump]
        ask(scene.daemon.socket, {"op": "log", "level": "info"})
        poll(lambda days=days: abs(logged_time(scene.daemon) - wall_clock() - days * 86400) < 3600, "no jump")  # type: ignore[misc]
        assert ask(scene.daemon.socket, {"op": "get", "key": "entry"})["type"] == "hit"
        assert (scene.stats()["waiters"], scene.stats()["leases"], scene.stats()["expired"]) == (1, 1, 0)

    scene.open("all")
    ends = apps.ends()
    injected(3, callers=len(ends), notified=len(judge(ends)))
    assert [got.end for got in ends] == ["value", "value"]
    assert len(scene.noted("start")) == 1
    scene.calm()
