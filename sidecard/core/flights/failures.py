"""Remembered failures: a key's fatal failure is served to later callers without a call, for tasks that want this.

In memory alone and bounded: the oldest leaves first. Storing or removing the key's answer ends a remembered failure.
"""

from collections import OrderedDict
from typing import NamedTuple

from sidecard.core.flights.flight import Flight
from sidecard.core.scopes import covers
from sidecard.core.settings import LiveSettings
from sidecard_client.protocol import wire

MAX_REMEMBERED = 1024
"""A message has up to 4,096 characters."""


class Failure(NamedTuple):
    """The message of a failed call, served until an instant."""

    message: str
    until: float


class Failures:
    """The remembered failures, all of kind ``fatal``, by scope and key."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings
        self.known: OrderedDict[tuple[str, str], Failure] = OrderedDict()

    def remember_if_fatal(self, flight: Flight, task: str, failure: wire.Fail, now: float) -> None:
        """Serve a flight's failure to later callers, if its holder or its task requests that."""
        seconds = failure.ttl_seconds
        if seconds is None:
            seconds = self._settings.now.task(task).failure_ttl_seconds

        # The tags of the missing answer are unknown, so a purge of any tag counts.
        if seconds <= 0 or failure.kind != "fatal" or not flight.storable or flight.voided_tags:
            return

        self.known[flight.scope, flight.key] = Failure(failure.message, now + seconds)
        if len(self.known) > MAX_REMEMBERED:
            self.known.popitem(last=False)

    def find(self, scope: str, key: str, now: float) -> Failure | None:
        """Return a key's failure if it is still remembered."""
        failure = self.known.get((scope, key))
        if failure is not None and now >= failure.until:
            del self.known[scope, key]
            return None

        return failure

    def forget(self, scope: str, key: str) -> None:
        """Forget a key's failure, because the key's answer has changed."""
        self.known.pop((scope, key), None)

    def purge(self, namespace: str | None) -> None:
        """Forget all failures in a purged ``namespace``: failures have no tag and no task."""
        for scope, key in [place for place in self.known if covers(namespace, place[0])]:
            del self.known[scope, key]
