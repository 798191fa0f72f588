"""The socket's file: permissions, exclusion of a second daemon, takeover of a dead socket, removal."""

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecard.errors import ListenError
from sidecard.server import listener


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Listen as another program would."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        yield other


def test_a_bound_socket_never_has_a_wider_mode(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is created without any permission."""
    seen: list[int] = []
    chmod = Path.chmod

    def watched(path: Path, mode: int) -> None:
        seen.append(stat.S_IMODE(path.lstat().st_mode))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", watched)
    bound = listener.bind(socket_path, 0o640, None)
    assert seen == [0]
    assert stat.S_IMODE(Path(socket_path).stat().st_mode) == 0o640
    bound.close()


def test_binding_leaves_the_umask_unchanged(socket_path: str) -> None:
    """It would affect other files."""
    before = os.umask(0o022)
    try:
        listener.bind(socket_path, 0o660, None).close()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_socket_is_given_to_its_group(by_name: bool, socket_path: str) -> None:
    """By number or by name."""
    import grp  # noqa: PLC0415 - of this test alone

    bound = listener.bind(socket_path, 0o660, grp.getgrgid(os.getgid()).gr_name if by_name else os.getgid())
    assert Path(socket_path).stat().st_gid == os.getgid()
    bound.close()


def test_a_group_that_does_not_exist_is_an_error(socket_path: str) -> None:
    """No socket is left behind."""
    with pytest.raises(ListenError, match="there is no group 'no such group'"):
        listener.bind(socket_path, 0o660, "no such group")

    assert not Path(socket_path).exists()


def test_closing_removes_the_socket_and_keeps_the_lock_file(socket_path: str) -> None:
    """Another daemon may already wait for that very file."""
    listener.bind(socket_path, 0o660, None).close()
    assert os.listdir(Path(socket_path).parent) == ["s.sock.lock"]  # noqa: PTH208 - names are what is compared


def test_closing_keeps_another_daemons_socket(socket_path: str) -> None:
    """Only a file with the own inode is removed."""
    bound = listener.bind(socket_path, 0o660, None)
    Path(socket_path).unlink()
    with listening(socket_path):
        bound.close()
        assert Path(socket_path).is_socket()


def test_missing_directories_are_created(socket_directory: Path) -> None:
    """With all parents."""
    path = socket_directory / "a" / "b" / "s.sock"
    listener.bind(str(path), 0o660, None).close()
    assert path.parent.is_dir()


def test_a_dead_socket_is_replaced(socket_path: str) -> None:
    """Its process was killed."""
    with listening(socket_path):
        pass

    assert Path(socket_path).is_socket()
    listener.bind(socket_path, 0o660, None).close()


def test_two_listeners_exclude_each_other_by_the_lock(socket_path: str) -> None:
    """The error names the lock, and the first listener is unaffected."""
    first = listener.bind(socket_path, 0o660, None)
    inode = Path(socket_path).stat().st_ino
    with pytest.raises(ListenError, match="another sidecard daemon serves at"):
        listener.bind(socket_path, 0o660, None)

    assert Path(socket_path).stat().st_ino == inode
    first.close()
    listener.bind(socket_path, 0o660, None).close()


def test_a_program_that_accepts_and_is_silent_counts_as_alive(
    socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a daemon that hangs or is stopped."""
    monkeypatch.setattr(listener, "PROBE_SECONDS", 0.05)
    with listening(socket_path), pytest.raises(ListenError, match="did not answer a ping within"):
        listener.bind(socket_path, 0o660, None)

    assert Path(socket_path).is_socket()


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b'{"type":"pong"}\n', "a sidecard daemon answers"), (b"HTTP/1.1 400\r\n", "another program"), (b"", "drops")],
)
def test_a_program_that_answers_counts_as_alive(answer: bytes, said: str, socket_path: str) -> None:
    """Whatever it replies."""

    def serve(other: socket.socket) -> None:
        connection, _ = other.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)

    with listening(socket_path) as other:
        thread = threading.Thread(target=serve, args=(other,))
        thread.start()
        with pytest.raises(ListenError, match=said):
            listener.bind(socket_path, 0o660, None)

        thread.join()


def test_a_file_that_is_not_a_socket_is_not_removed(socket_path: str) -> None:
    """It may belong to a user."""
    Path(socket_path).write_text("precious")
    with pytest.raises(ListenError, match="is not a socket"):
        listener.bind(socket_path, 0o660, None)

    assert Path(socket_path).read_text() == "precious"


def test_a_lock_that_is_a_link_is_not_followed(socket_directory: Path, socket_path: str) -> None:
    """In a directory that others can write to, it could name any file."""
    (socket_directory / "s.sock.lock").symlink_to(socket_directory / "elsewhere")
    with pytest.raises(ListenError):
        listener.bind(socket_path, 0o660, None)

    assert not (socket_directory / "elsewhere").exists()


def test_after_a_failure_the_lock_is_free(socket_path: str) -> None:
    """The next attempt is not blocked."""
    Path(socket_path).write_text("in the way")
    with pytest.raises(ListenError):
        listener.bind(socket_path, 0o660, None)

    Path(socket_path).unlink()
    listener.bind(socket_path, 0o660, None).close()


@pytest.fixture
def private(socket_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Redirect the fallback directory of /tmp to the test's directory."""
    directory = socket_directory / "private"
    monkeypatch.setattr("sidecard_client.protocol.socket_path.private_directory", lambda _: str(directory))
    return directory


def test_the_fallback_directory_is_private(private: Path) -> None:
    """Whatever the umask."""
    listener.bind(str(private / "s.sock"), 0o660, None).close()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file"])
def test_a_fallback_directory_that_others_can_use_is_rejected(trap: str, private: Path) -> None:
    """Any user may have created it first."""
    if trap == "open to others":
        private.mkdir()
        private.chmod(0o770)
    elif trap == "a link":
        private.symlink_to(private.parent)
    else:
        private.touch()

    with pytest.raises(ListenError, match="choose another --socket"):
        listener.bind(str(private / "s.sock"), 0o660, None)


def test_an_adopted_socket_is_unchanged(socket_path: str) -> None:
    """The process that bound it removes it."""
    with listening(socket_path) as other:
        adopted = listener.adopt(other.dup())
        assert adopted.path == socket_path
        adopted.close()

    assert Path(socket_path).is_socket()
