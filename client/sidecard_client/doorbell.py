"""What a thread waits at for other threads, for sockets, and for the garbage collector."""

import os
import select
from collections.abc import Iterable
from contextlib import suppress

MAX_WAIT_SECONDS = 86_400.0
"""Limit of one wait: the kernel counts milliseconds in 31 bits."""

_RINGS = 4096
"""Rings that one wait takes at most."""


class Doorbell:
    """Wakes the thread that waits here. Raises `OSError` if no descriptor is left.

    `ring` takes no lock, so the garbage collector may call it at any point of any thread.

    Some apps close all descriptors that they do not know, as daemons do, and then open files under the same numbers. So each
    use checks that the descriptor is still the one that was made here. That takes a pipe: it has an inode of its own,
    and its reader wakes when its other end is closed.
    """

    __slots__ = ("_inode", "_reader", "_writer")

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._inode = inode_of(self._reader)

    def ring(self) -> None:
        """End the wait, or the next one. Does nothing if the app has closed the descriptors: then nothing waits."""
        if has_inode(self._writer, self._inode):
            with suppress(OSError):  # the thread has not been woken by very many rings
                os.write(self._writer, b"\0")

    def wait(self, seconds: float, sockets: Iterable[int] = ()) -> set[int]:
        """Wait for `ring`, for one of ``sockets`` to be readable, or for ``seconds``; return those that are readable.

        Raises `OSError` if the app has closed the descriptors.
        """
        self._check()
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        for descriptor in sockets:
            poller.register(descriptor, select.POLLIN)

        ready = {descriptor for descriptor, _ in poller.poll(1000 * max(0.0, min(seconds, MAX_WAIT_SECONDS)))}
        self._check()
        if self._reader in ready:
            ready.discard(self._reader)
            with suppress(BlockingIOError):
                os.read(self._reader, _RINGS)

        return ready

    def _check(self) -> None:
        if not inode_of(self._reader) == inode_of(self._writer) == self._inode:
            raise OSError("another file has the descriptor of a thread's doorbell: the app has closed it")

    def __del__(self) -> None:
        # Not before the last reference is gone: a descriptor that is closed earlier may be another file's when it is rung.
        for descriptor in getattr(self, "_reader", None), getattr(self, "_writer", None):
            if descriptor is not None:
                with suppress(OSError, AttributeError):
                    if inode_of(descriptor) == self._inode:
                        os.close(descriptor)


def inode_of(descriptor: int) -> tuple[int, int]:
    """Return what tells the file of a descriptor from all others. Raises `OSError` if it is closed."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def has_inode(descriptor: int, inode: tuple[int, int]) -> bool:
    """Return whether a descriptor is still that of the file with this `inode_of`: neither closed nor another file's."""
    try:
        return inode_of(descriptor) == inode
    except OSError:
        return False
