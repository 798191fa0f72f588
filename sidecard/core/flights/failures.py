"""Failures that are remembered, where somebody asked for it: whoever asks next is told so, and no call is made.

In memory alone, and bounded: the oldest gives way. What was to be stored under the key, or is removed, ends it.
"""

from collections import OrderedDict
from typing import NamedTuple

from sidecard.core.scopes import covers

MAX_REMEMBERED = 1024
"""A message has up to 4,096 characters."""


class Failure(NamedTuple):
    """How a call failed, and until when that holds."""

    message: str
    until: float


class Failures:
    """The failures (``fatal``, all of them) of keys."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Failure] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, scope: str, key: str, message: str, seconds: float, now: float) -> None:
        """Let everybody know for so long."""
        self._known[scope, key] = Failure(message, now + seconds)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def find(self, scope: str, key: str, now: float) -> Failure | None:
        """Return how the key's last call failed, if that still holds."""
        failure = self._known.get((scope, key))
        if failure is not None and now >= failure.until:
            del self._known[scope, key]
            return None

        return failure

    def forget(self, scope: str, key: str) -> None:
        """What the key means has changed."""
        self._known.pop((scope, key), None)

    def purge(self, namespace: str | None) -> None:
        """Forget what a purge of ``namespace`` reaches, whatever its tag and task: failures have none."""
        for scope, key in [place for place in self._known if covers(namespace, place[0])]:
            del self._known[scope, key]
