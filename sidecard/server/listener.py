"""The daemon's Unix socket: bound by the daemon itself, or adopted from the process that started it.

Binding a path is a race between two daemons, which a lock file beside the socket prevents. Interleaving without it:
1. A and B find a dead socket. 2. A removes it and binds. 3. B removes A's live socket and binds. A serves on, unreachable.
The lock is held as long as the daemon lives; the kernel releases it however the daemon ends.
"""

import contextlib
import fcntl
import grp
import os
import socket
import stat
from pathlib import Path

from sidecard.bind_errors import path_error
from sidecard.errors import ListenError
from sidecard_client.protocol import socket_path as paths

BACKLOG = 4096
"""All workers of a host may connect at the same time. The kernel limits it to net.core.somaxconn."""

PROBE_SECONDS = 1.0
"""How long a process behind an existing socket may take to reply to a ping."""


class Listener:
    """A listening socket, and the files to remove after it. ``setting`` is the one that named ``path``, for errors."""

    def __init__(self, path: str, setting: str = "--socket", adopted: socket.socket | None = None) -> None:
        self.path = path
        self.adopted = adopted is not None
        self._setting = setting
        self._lock: int | None = None
        self._inode: tuple[int, int] | None = None
        if adopted is not None:
            self.socket: socket.socket = adopted

    @property
    def gone(self) -> bool:
        """Whether the file of the socket bound here was removed or replaced, so that no client can connect."""
        return not self.adopted and _inode(self.path) != self._inode

    def bind(self, mode: int, group: str | int | None) -> None:
        """Create the socket file, at first or after it was removed. The caller closes a previous socket.

        Raises `ListenError`, and changes nothing, if that fails: another daemon may have bound the path.
        """
        try:
            _prepare_directory(self.path, self._setting)
            # The lock file may have been removed too, and a second daemon may have locked a new one of its name.
            held = self._lock is not None and _is_open_at(self._lock, f"{self.path}.lock")
            lock = self._lock if held else None
            if lock is None:
                lock = _lock(self.path, self._setting)
        except OSError as error:
            raise path_error(self.path, self._setting, error) from error

        try:
            _remove_dead(self.path, self._setting)
            bound = _bound(self.path, mode, group)
        except (OSError, ListenError) as error:
            if lock != self._lock:
                os.close(lock)

            if isinstance(error, ListenError):
                raise

            raise path_error(self.path, self._setting, error) from error

        if self._lock is not None and lock != self._lock:
            os.close(self._lock)

        self.socket, self._lock, self._inode = bound, lock, _inode(self.path)

    def close(self) -> None:
        """Remove the socket's file if it is still the one bound here, and release the lock. Keep an adopted socket's file."""
        self.socket.close()
        if self._inode is not None and _inode(self.path) == self._inode:
            with contextlib.suppress(FileNotFoundError):
                Path(self.path).unlink()

        if self._lock is not None:
            # The lock file stays: removing it would let a third daemon lock a new file while a second waits on this one.
            os.close(self._lock)
            self._lock = None


def adopt(listening: socket.socket) -> Listener:
    """Serve on a socket that another process has bound, and that remains responsible for its mode, group and removal."""
    listening.settimeout(0)
    name = listening.getsockname()
    return Listener(os.fsdecode(name) if isinstance(name, bytes) else str(name), adopted=listening)


def bind(path: str, mode: int, group: str | int | None, setting: str = "--socket") -> Listener:
    """Create the socket at ``path``, which the user chose by ``setting``.

    Raises `ListenError` with the reason, and leaves existing files unchanged.
    """
    listener = Listener(path, setting)
    listener.bind(mode, group)
    return listener


def _prepare_directory(path: str, setting: str) -> None:
    directory = Path(path).parent
    uid = os.getuid()
    if str(directory) != paths.private_directory(uid):
        directory.mkdir(parents=True, exist_ok=True)
        return

    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)

    # In /tmp any user may have created it first, and its owner could replace our socket.
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise ListenError(
            f"{directory} is not a directory that only uid {uid} can use: remove it, or choose another {setting}",
            lasting=True,
        )


def _lock(path: str, setting: str) -> int:
    name = f"{path}.lock"
    lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ListenError(
            f"another sidecard daemon serves at {path} (it holds {name}): stop it, or choose another {setting}"
        ) from error

    return lock


def _remove_dead(path: str, setting: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return

    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"{path} exists and is not a socket: remove it, or choose another {setting}")

    in_use = _probe(path)
    if in_use is not None:
        raise ListenError(f"{path} is in use: {in_use}; stop that process, or choose another {setting}")

    Path(path).unlink()


def _probe(path: str) -> str | None:
    """Describe the process behind a socket; None if there is none.

    A successful connect is not enough: the kernel accepts for a process that hangs or is stopped.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
            probe.sendall(b'{"op":"ping"}\n')
            reply = probe.recv(4096)
            if not reply:
                return "a process accepts connections there and drops them"
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except ConnectionError:
            return "a process accepts connections there and resets them"
        except (TimeoutError, BlockingIOError):
            return f"a process accepts connections there and did not answer a ping within {PROBE_SECONDS:g} s"
        except PermissionError:
            return "it belongs to another user and denies this one to connect"

    return "a sidecard daemon answers there" if b'"pong"' in reply else "another program answers there"


def _bound(path: str, mode: int, group: str | int | None) -> socket.socket:
    gid = _gid(group)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Created without any permission, then given its group, then its mode: never can more users connect than ``mode``
        # allows. Linux gives the file the mode of the socket's descriptor; a umask would affect all threads.
        os.fchmod(listening.fileno(), 0)
        listening.bind(path)
    except OSError:
        listening.close()
        raise

    try:
        if gid is not None:
            os.chown(path, -1, gid, follow_symlinks=False)

        Path(path).chmod(mode)
        listening.listen(BACKLOG)
        listening.settimeout(0)
    except OSError:
        listening.close()
        Path(path).unlink()
        raise

    return listening


def _gid(group: str | int | None) -> int | None:
    if group is None or isinstance(group, int):
        return group

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ListenError(f"there is no group {group!r}: create it, or change socket.group", lasting=True) from error


def _is_open_at(descriptor: int, path: str) -> bool:
    found = os.fstat(descriptor)
    return _inode(path) == (found.st_dev, found.st_ino)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None

    return found.st_dev, found.st_ino
