"""Publications: entries as they are in a view, kept for late hits after their withdrawal."""

from collections import OrderedDict, deque
from math import inf
from typing import NamedTuple

from msgspec import Struct

from sidecard.core.cache.entry import Entry
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect

LATE_SECONDS = 1.0
"""Time after a withdrawal in which hits are still booked: clients report them within a quarter of it."""

MAX_LATE = 65536
"""Withdrawn publications that are kept for late hits."""

PUBLICATION_BYTES = 500
"""Cost of a publication beyond its record: this Struct, its numbers, and its places in the tables. Measured: 330, and up to half as much
again when a table has just grown."""

_FORGOTTEN_AT_ONCE = 128
"""Limit of the publications that one event forgets, which takes 20 us."""

_RELEASED_AT_ONCE = 512
"""Publications of a withdrawn view whose entries are unmarked in one batch, which takes 0.3 ms."""

_ROUNDING_SECONDS = 1e-6
"""Publications expire this much earlier, so that rounding never lets one outlive its hits over the socket."""


class Publication(Struct, gc=False, eq=False):
    """An entry in a view."""

    number: int
    """From 1, never reused within a run of the daemon."""
    view: int
    scope: str
    entry: Entry
    key: str
    seconds: float
    """As `Entry.seconds`, which is cleared when the entry leaves the cache."""
    task: str
    """Whose begins may use it: accounts and policy are per task."""
    chunks: int
    """Of its value, served as a stream."""
    published_at: float
    slot: int = 0
    offset: int = 0
    length: int = 0
    withdrawn_at: float = inf

    @property
    def expires_at(self) -> float:
        """The instant from which clients ask the daemon: the entry is then shared, stale or gone, or about to be."""
        return expiry_of(self.entry)


class HitSource(NamedTuple):
    """What a connection may have read in a namespace."""

    scope: str | None
    """Of the namespace, by the current settings; None if it is another uid's."""
    view: int
    """The view that the connection received, maybe before a reload that gave the namespace another scope; 0 if none."""


def expiry_of(entry: Entry) -> float:
    """Return until when an entry is a plain `Hit` for every begin without a bound on its age: never, if it is refreshed early."""
    terms = entry.terms
    return entry.stored_at + min(terms.ttl_seconds, terms.direct_hit_seconds) - _ROUNDING_SECONDS


class Publications:
    """All publications by number, including those that were withdrawn within `LATE_SECONDS`."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._by_number: dict[int, Publication] = {}
        self.live = 0
        """How many are in a view."""
        self.last_number = 0
        self._ended: list[Publication] = []
        """Those that the event in progress has withdrawn; `settle` notes when."""
        self._leaving: deque[OrderedDict[str, Publication]] = deque()
        """Those withdrawn with a whole view whose entries are still marked as published."""
        self._late: deque[Publication] = deque()
        """The other withdrawn ones, oldest first."""

    def __len__(self) -> int:
        """Return how many there are, including those that late hits may need."""
        return len(self._by_number)

    def add(self, publication: Publication) -> None:
        """Add the publication with the next number."""
        publication.entry.set_published(True)
        self.last_number = publication.number
        self._by_number[publication.number] = publication
        self.live += 1
        self._counters.view_publications += 1

    def end(self, publication: Publication) -> None:
        """Note that a publication left its view. Its entry may be published again."""
        self._ended.append(publication)
        self._count_ended(1)
        if publication.entry.alive:
            publication.entry.set_published(False)

    def end_all(self, publications: OrderedDict[str, Publication]) -> None:
        """Note that all publications of a view left it. Batches let their entries be published again."""
        self._count_ended(len(publications))
        self._leaving.append(publications)
        self._release(_RELEASED_AT_ONCE)

    @property
    def has_work(self) -> bool:
        """Whether entries that left with a whole view are still marked as published."""
        return bool(self._leaving)

    def do_batch(self, now: float) -> list[Effect]:
        """Let some more of these entries be published again. Until then, the socket serves them."""
        self._release(_RELEASED_AT_ONCE)
        self.settle(now)
        return []

    def _release(self, count: int) -> None:
        while count > 0 and self._leaving:
            publications = self._leaving[0]
            for _ in range(min(count, len(publications))):
                _, publication = publications.popitem(last=False)
                self._ended.append(publication)
                if publication.entry.alive:
                    publication.entry.set_published(False)

                count -= 1

            if not publications:
                self._leaving.popleft()

    def _count_ended(self, count: int) -> None:
        self.live -= count
        self._counters.view_withdrawals += count

    def find(self, number: int, source: HitSource, now: float) -> Publication | None:
        """Return a publication that a connection may have read; None if it is unknown, or was withdrawn too long ago."""
        publication = self._by_number.get(number)
        if (
            publication is None
            or (publication.scope != source.scope and publication.view != source.view)
            or now - publication.withdrawn_at > LATE_SECONDS
        ):
            return None

        return publication

    def settle(self, now: float) -> None:
        """Note when the latest publications were withdrawn, and forget some that are too old for late hits."""
        if self._ended:
            for publication in self._ended:
                publication.withdrawn_at = now

            self._late.extend(self._ended)
            self._ended = []

        self.forget(now, _FORGOTTEN_AT_ONCE)

    def forget(self, now: float, count: int) -> None:
        """Forget up to ``count`` publications that are too old for late hits."""
        late = self._late
        for _ in range(count):
            if not late or (now - late[0].withdrawn_at <= LATE_SECONDS and len(late) <= MAX_LATE):
                break

            del self._by_number[late.popleft().number]
