"""Remembered failures: a key's fatal failure is served to later callers without a call, for tasks that want this.

In memory alone and bounded, in number and by the memory of their uids' requests: the oldest leaves first. Storing or removing
the key's answer ends a remembered failure.
"""

from collections import OrderedDict
from typing import NamedTuple

from sidecard.core.accounts.charges import failure_bytes
from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.flights.flight import Flight
from sidecard.core.scopes import covers
from sidecard.core.settings import LiveSettings
from sidecard_client.protocol import wire

MAX_REMEMBERED = 1024
"""A message has up to 4,096 characters."""


class Failure(NamedTuple):
    """The message of a failed call, served until an instant, and charged to the uid that started its flight."""

    message: str
    until: float
    uid: int


class Failures:
    """The remembered failures, all of kind ``fatal``, by scope and key."""

    def __init__(self, settings: LiveSettings, memory: MemoryPool) -> None:
        self._settings = settings
        self._memory = memory
        self.known: OrderedDict[tuple[str, str], Failure] = OrderedDict()

    def remember_if_fatal(self, flight: Flight, task: str, failure: wire.Fail, now: float) -> None:
        """Serve a flight's failure to later callers, if its holder or its task requests that."""
        seconds = failure.ttl_seconds
        if seconds is None:
            seconds = self._settings.now.task(task).failure_ttl_seconds

        # The tags of the missing answer are unknown, so a purge of any tag counts.
        if seconds <= 0 or failure.kind != "fatal" or not flight.storable or flight.voided_tags:
            return

        scope, key, uid = flight.scope, flight.key, flight.uid
        self.forget(scope, key)
        if not self._memory.try_charge(uid, failure_bytes(scope, key, failure.message)):
            return

        self.known[scope, key] = Failure(failure.message, now + seconds, uid)
        if len(self.known) > MAX_REMEMBERED:
            self.forget(*next(iter(self.known)))

    def find(self, scope: str, key: str, now: float) -> Failure | None:
        """Return a key's failure if it is still remembered."""
        failure = self.known.get((scope, key))
        if failure is not None and now >= failure.until:
            self.forget(scope, key)
            return None

        return failure

    def forget(self, scope: str, key: str) -> None:
        """Forget a key's failure, if there is one, because the key's answer has changed."""
        failure = self.known.pop((scope, key), None)
        if failure is not None:
            self._memory.release(failure.uid, failure_bytes(scope, key, failure.message))

    def purge(self, namespace: str | None) -> None:
        """Forget all failures in a purged ``namespace``: failures have no tag and no task."""
        for scope, key in [place for place in self.known if covers(namespace, place[0])]:
            self.forget(scope, key)
