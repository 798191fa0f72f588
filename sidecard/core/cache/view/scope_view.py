"""The view of one scope."""

from collections import OrderedDict
from math import inf

from sidecard.core.cache.view.publication import Publication
from sidecard.core.cache.view.space import RecordPlace, ViewSpace

STAY_SECONDS = 10.0
"""In a view that is more than half full, another publication may replace one only after this time. Otherwise every hit over the socket
would publish its entry, if more entries are requested than fit."""

MAX_WAITING = 1024
"""Limit of the keys that are known to wait for a slot."""


class ScopeView:
    """A view, and the connections that received its file."""

    def __init__(self, number: int, scope: str, size: int, now: float) -> None:
        self.number = number
        self.scope = scope
        self.size = size
        self.space = ViewSpace(size)
        self.generation = 1
        self.used_at = now
        """When a client last received it or reported hits."""
        self.peers: set[int] = set()
        """Connections that received it and have not ended."""
        self.full_until = -inf
        """The instant until which nothing is published: the record that would be overwritten stays."""
        self._staying: Publication | None = None
        """The one of these that stays longest."""
        self._waiting: dict[str, float] = {}
        """By key, the instant until which the oldest publication of its bucket stays."""

    def remove(self, publication: Publication) -> None:
        """Remove a publication; if others wait for its bytes, they wait no longer."""
        self.space.remove(publication)
        if publication is self._staying or not self.space.is_crowded:
            self.full_until, self._staying = -inf, None

    def clear(self) -> OrderedDict[str, Publication]:
        """Remove all publications, and return them by key, oldest first: then there is room for any."""
        self.full_until, self._staying = -inf, None
        self._waiting.clear()
        return self.space.clear()

    def has_room_for(self, key: str, now: float) -> bool:
        """Return whether `place_for` may find a place: a cheap check for most entries that must wait."""
        return now >= self.full_until and now >= self._waiting.get(key, -inf)

    def place_for(self, key: str, digest: bytes, length: int, now: float) -> RecordPlace | None:
        """Return where to publish a record of at most ``space.max_record_bytes``; None while others must stay."""
        place = self.space.find(digest, length)
        self.full_until = -inf
        # A ring with much free space meets few others. What it overwrites is soon published again.
        for other in place.overwritten if self.space.is_crowded else ():
            stays_until = _stays_until(other, now)
            if stays_until > self.full_until:
                self.full_until, self._staying = stays_until, other

        if now < self.full_until:
            return None

        if place.replaced is not None and now < (stays_until := _stays_until(place.replaced, now)):
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.clear()

            self._waiting[key] = stays_until
            return None

        return place


def _stays_until(publication: Publication, now: float) -> float:
    """Return until when a publication stays; an expired one may leave."""
    return publication.published_at + STAY_SECONDS if now < publication.expires_at else -inf
