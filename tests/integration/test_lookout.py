"""What a daemon notices of its own socket and descriptors, over real ones."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecard.errors import ListenError
from sidecard.server import listener
from sidecard.server.listener import Listener
from sidecard.server.socket_monitor import Lookout

pytestmark = pytest.mark.anyio

MODE = 0o660


class Watched:
    """A listener, and what is told of it."""

    def __init__(self, path: str) -> None:
        self.listening: Listener = listener.bind(path, MODE, None)
        self.told: list[tuple[str, str]] = []
        self.lookout = Lookout(self.listening, self._bind_anew, self._say)

    async def _bind_anew(self) -> None:
        before = self.listening.socket
        self.listening.bind_anew(MODE, None)
        before.close()

    def _say(self, level: str, event: str, **_: Any) -> None:
        self.told.append((level, event))


@pytest.fixture
def watched(socket_path: str) -> Iterator[Watched]:
    """Listen, and close it."""
    one = Watched(socket_path)
    yield one
    one.listening.close()


def can_connect(path: str) -> bool:
    """Tell whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0


async def test_a_socket_that_is_there_is_left_alone(watched: Watched) -> None:
    """And nothing is said."""
    inode = Path(watched.listening.path).stat().st_ino
    await watched.lookout.look()
    assert Path(watched.listening.path).stat().st_ino == inode
    assert watched.told == []


@pytest.mark.parametrize("removed", ["the socket", "the socket and its lock", "the directory"])
async def test_a_socket_whose_file_is_removed_is_bound_anew(watched: Watched, removed: str) -> None:
    """With its mode, and its lock, so that a second daemon still finds the place taken; at the end nothing is left."""
    path = Path(watched.listening.path)
    path.unlink()
    if removed != "the socket":
        Path(f"{path}.lock").unlink()

    if removed == "the directory":
        path.parent.rmdir()

    await watched.lookout.look()
    assert watched.told == [("warning", "socket bound anew")]
    assert path.stat().st_mode & 0o777 == MODE
    assert can_connect(str(path))
    with pytest.raises(ListenError, match="another sidecard daemon serves"):
        listener.bind(str(path), MODE, None)

    await watched.lookout.look()
    assert len(watched.told) == 1
    watched.listening.close()
    assert not path.exists()


async def test_another_daemons_socket_in_its_place_is_left_alone(watched: Watched) -> None:
    """It was started when both files were gone; told once, and tried until the place is free."""
    path = watched.listening.path
    Path(path).unlink()
    Path(f"{path}.lock").unlink()
    other = listener.bind(path, MODE, None)
    for _ in range(3):
        await watched.lookout.look()

    assert watched.told == [("error", "socket lost")]
    assert not other.gone
    other.close()
    await watched.lookout.look()
    assert watched.told[1:] == [("warning", "socket bound anew")]
    assert can_connect(path)


async def test_a_file_that_comes_back_is_told(watched: Watched) -> None:
    """Where it was only moved away for a while, and could not be replaced."""
    path = Path(watched.listening.path)
    moved = path.rename(path.with_suffix(".moved"))
    path.write_text("in the way")
    await watched.lookout.look()
    moved.replace(path)
    await watched.lookout.look()
    assert watched.told == [("error", "socket lost"), ("info", "socket found again")]


async def test_a_want_of_descriptors_is_told_once_and_so_is_its_end(watched: Watched) -> None:
    """The loop would close new peers without a word."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free number is beyond the limit: everything below it is taken.
    with socket.socket(socket.AF_UNIX) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), hard))
        try:
            await watched.lookout.look()
            await watched.lookout.look()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert watched.told == [("error", "no descriptors left")]
    await watched.lookout.look()
    assert watched.told[1:] == [("info", "descriptors are left again")]
