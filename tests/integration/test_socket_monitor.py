"""What a daemon detects about its own socket and descriptors, with real ones."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecard.errors import ListenError
from sidecard.server import listener
from sidecard.server.listener import Listener
from sidecard.server.socket_monitor import SocketMonitor

pytestmark = pytest.mark.anyio

MODE = 0o660


class Monitored:
    """A listener with its monitor, and what was logged."""

    def __init__(self, path: str) -> None:
        self.listening: Listener = listener.bind(path, MODE, None)
        self.logged: list[tuple[str, str]] = []
        self.monitor = SocketMonitor(self.listening, self._rebind, self._log)

    async def _rebind(self) -> None:
        before = self.listening.socket
        self.listening.bind(MODE, None)
        before.close()

    def _log(self, level: str, event: str, **_: Any) -> None:
        self.logged.append((level, event))


@pytest.fixture
def monitored(socket_path: str) -> Iterator[Monitored]:
    """Listen, and close the socket at the end."""
    one = Monitored(socket_path)
    yield one
    one.listening.close()


def can_connect(path: str) -> bool:
    """Return whether a process accepts connections at a path."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0


async def test_an_existing_socket_is_left_alone(monitored: Monitored) -> None:
    """Nothing is logged."""
    inode = Path(monitored.listening.path).stat().st_ino
    await monitored.monitor.check()
    assert Path(monitored.listening.path).stat().st_ino == inode
    assert monitored.logged == []


@pytest.mark.parametrize("removed", ["the socket", "the socket and its lock", "the directory"])
async def test_a_removed_socket_file_is_recreated(monitored: Monitored, removed: str) -> None:
    """Mode and lock are recreated too, so a second daemon cannot bind; closing the listener removes the file."""
    path = Path(monitored.listening.path)
    path.unlink()
    if removed != "the socket":
        Path(f"{path}.lock").unlink()

    if removed == "the directory":
        path.parent.rmdir()

    await monitored.monitor.check()
    assert monitored.logged == [("warning", "socket recreated")]
    assert path.stat().st_mode & 0o777 == MODE
    assert can_connect(str(path))
    with pytest.raises(ListenError, match="another sidecard daemon serves"):
        listener.bind(str(path), MODE, None)

    await monitored.monitor.check()
    assert len(monitored.logged) == 1
    monitored.listening.close()
    assert not path.exists()


async def test_the_socket_of_another_daemon_is_left_alone(monitored: Monitored) -> None:
    """The loss is logged once. The monitor retries until the path is free."""
    path = monitored.listening.path
    Path(path).unlink()
    Path(f"{path}.lock").unlink()
    other = listener.bind(path, MODE, None)
    for _ in range(3):
        await monitored.monitor.check()

    assert monitored.logged == [("error", "socket file lost")]
    assert not other.gone
    other.close()
    await monitored.monitor.check()
    assert monitored.logged[1:] == [("warning", "socket recreated")]
    assert can_connect(path)


async def test_a_socket_file_that_reappears_is_logged(monitored: Monitored) -> None:
    """The file was only moved away for a while, and could not be replaced meanwhile."""
    path = Path(monitored.listening.path)
    moved = path.rename(path.with_suffix(".moved"))
    path.write_text("in the way")
    await monitored.monitor.check()
    moved.replace(path)
    await monitored.monitor.check()
    assert monitored.logged == [("error", "socket file lost"), ("info", "socket file reappeared")]


async def test_exhausted_descriptors_are_logged_at_begin_and_end(monitored: Monitored) -> None:
    """The event loop would close new connections without reporting it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number is above the limit: everything below it is taken.
    with socket.socket(socket.AF_UNIX) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), hard))
        try:
            await monitored.monitor.check()
            await monitored.monitor.check()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert monitored.logged == [("error", "file descriptors exhausted")]
    await monitored.monitor.check()
    assert monitored.logged[1:] == [("info", "file descriptors available again")]
