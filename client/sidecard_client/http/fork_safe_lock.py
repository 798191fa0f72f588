"""A lock that a forked child finds free, whatever thread of its parent held it."""

import os
from threading import RLock
from weakref import WeakSet


class ForkSafeLock:
    """An `RLock` for what a whole process shares. What it guards must be usable between any two of its statements."""

    def __init__(self) -> None:
        self._lock = RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock: a thread that does not exist in this process may hold it."""
        self._lock = RLock()


_locks: WeakSet[ForkSafeLock] = WeakSet()


def _renew_in_child() -> None:
    for lock in list(_locks):
        lock.renew()


os.register_at_fork(after_in_child=_renew_in_child)
