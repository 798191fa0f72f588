"""List the members of a `WeakSet` that other threads change."""

from contextlib import suppress
from typing import TypeVar
from weakref import WeakSet

_Member = TypeVar("_Member")


def living(members: WeakSet[_Member]) -> list[_Member]:
    """Return the members that are alive. Another thread may add one at any time, which ends an iteration with an error."""
    while True:
        with suppress(RuntimeError):
            return list(members)
