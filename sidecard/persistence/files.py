"""Files in directories that others may write to: opened without waiting, and locked against a second daemon."""

import fcntl
import os
import stat
from pathlib import Path

SAFE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link may lead anywhere, and opening a FIFO must not wait for its other end."""

NOT_REGULAR = "it is not a regular file"


class FileLock:
    """An exclusive lock on a file, created if missing. It ends with the process, however that ends.

    Raises `BlockingIOError` where another process has it, else `OSError`.
    """

    def __init__(self, path: Path) -> None:
        # Read-only: an existing lock file can also be locked if nothing can be written at the moment.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | SAFE_FLAGS, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def create_regular(path: Path) -> bool:
    """Create a file if there is none; return whether it is a regular file. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | SAFE_FLAGS, 0o600)
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def read_regular(path: Path, max_bytes: int, flags: int = SAFE_FLAGS) -> bytes:
    """Return a file's content, cut after ``max_bytes`` + 1 bytes. Raises `OSError`, also for what is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, NOT_REGULAR)

        data = bytearray()
        while len(data) <= max_bytes and (more := os.read(descriptor, max_bytes + 1 - len(data))):
            data += more
    finally:
        os.close(descriptor)

    return bytes(data)
