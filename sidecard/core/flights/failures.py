"""Remembered failures: a key's fatal failure is served to later callers without a call, for tasks that want this.

It is served to callers of the same context alone (`sidecard_client.protocol.wire.Begin.context`). In memory alone and bounded,
in number and by the memory of their uids' requests: the oldest leaves first. Storing or removing the key's answer ends its
remembered failures.
"""

from collections import OrderedDict
from typing import NamedTuple

from msgspec import UNSET

from sidecard.core.accounts.charges import failure_bytes
from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.flights.endings import CallFailure
from sidecard.core.flights.flight import Flight
from sidecard.core.scopes import covers
from sidecard.core.settings import LiveSettings

MAX_REMEMBERED = 1024
"""A message has up to 4,096 characters."""


class Failure(NamedTuple):
    """A failed call, served until an instant, and charged to the uid that started its flight."""

    call: CallFailure
    until: float
    uid: int


class Failures:
    """The remembered failures, all of kind ``fatal``, by scope, key and context."""

    def __init__(self, settings: LiveSettings, memory: MemoryPool) -> None:
        self._settings = settings
        self._memory = memory
        self.known: OrderedDict[tuple[str, str, str], Failure] = OrderedDict()
        """The oldest first."""
        self._contexts: dict[tuple[str, str], dict[str, None]] = {}
        """Of each key."""

    def remember_if_fatal(
        self, flight: Flight, task: str, failure: CallFailure, seconds: float | None, now: float
    ) -> None:
        """Serve a flight's failure to later callers for ``seconds``; None means for as long as its task requests."""
        if seconds is None:
            seconds = self._settings.now.task(task).failure_ttl_seconds

        # The tags of the missing answer are unknown, so a purge of any tag counts.
        if seconds <= 0 or failure.kind != "fatal" or not flight.storable or flight.voided_tags:
            return

        scope, key, uid = flight.scope, flight.key, flight.uid
        place = scope, key, failure.context
        self._forget(place)
        if not self._memory.try_charge(uid, charge_of(place, failure)):
            return

        self.known[place] = Failure(failure, now + seconds, uid)
        self._contexts.setdefault((scope, key), {})[failure.context] = None
        if len(self.known) > MAX_REMEMBERED:
            self._forget(next(iter(self.known)))

    def find(self, scope: str, key: str, context: str, now: float) -> CallFailure | None:
        """Return the failure of a key's calls with that context, if it is still remembered."""
        place = scope, key, context
        failure = self.known.get(place)
        if failure is None:
            return None

        if now >= failure.until:
            self._forget(place)
            return None

        return failure.call

    def latest(self, scope: str, key: str, now: float) -> CallFailure | None:
        """Return the latest failure of a key that is still remembered, of any context."""
        contexts = reversed(list(self._contexts.get((scope, key), ())))
        failures = (self.find(scope, key, context, now) for context in contexts)
        return next((failure for failure in failures if failure is not None), None)

    def forget(self, scope: str, key: str) -> None:
        """Forget a key's failures, if there are any, because the key's answer has changed."""
        for context in list(self._contexts.get((scope, key), ())):
            self._forget((scope, key, context))

    def purge(self, namespace: str | None) -> None:
        """Forget all failures in a purged ``namespace``: failures have no tag and no task."""
        for place in [place for place in self.known if covers(namespace, place[0])]:
            self._forget(place)

    def _forget(self, place: tuple[str, str, str]) -> None:
        failure = self.known.pop(place, None)
        if failure is None:
            return

        scope, key, context = place
        contexts = self._contexts[scope, key]
        del contexts[context]
        if not contexts:
            del self._contexts[scope, key]

        self._memory.release(failure.uid, charge_of(place, failure.call))


def charge_of(place: tuple[str, str, str], failure: CallFailure) -> int:
    """Return the charge for a remembered failure."""
    detail_bytes = 0 if failure.detail is UNSET else len(memoryview(failure.detail))
    return failure_bytes(*place, failure.message) + detail_bytes
