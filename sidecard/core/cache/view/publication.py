"""Publications: entries as they are in a view, and what their hits need for a while after they left it."""

from collections import deque
from collections.abc import Collection
from math import inf

from msgspec import Struct

from sidecard.core.cache.entry import Entry
from sidecard.core.counters import Counters

LATE_SECONDS = 1.0
"""Hits on a publication are accepted for so long after it was withdrawn: clients report them within a quarter of that."""

MAX_LATE = 65536
"""Withdrawn publications that are kept for late hits."""

PUBLICATION_BYTES = 500
"""Cost of a publication beyond its record: this Struct, its numbers, and its places in the tables. Measured by `tests.bench.scale`."""

_FORGOTTEN_AT_ONCE = 128
"""Publications that one event forgets, which takes 20 us."""

_ROUNDING_SECONDS = 1e-6
"""A view lets go of an entry so much earlier, so that the rounding of two sums never makes it outlive its hits by the socket."""


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
        """The instant from which clients ask the daemon: it is then shared, stale or gone, or about to be."""
        return expiry_of(self.entry)


def expiry_of(entry: Entry) -> float:
    """Return until when an entry is a plain `Hit` for every begin without a bound on its age."""
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

    def end(self, publications: Collection[Publication]) -> None:
        """Note that publications left their view. Their entries may be published again."""
        self._ended.extend(publications)
        self.live -= len(publications)
        self._counters.view_withdrawals += len(publications)
        for publication in publications:
            if publication.entry.alive:
                publication.entry.set_published(False)

    def find(self, number: int, scope: str, now: float) -> Publication | None:
        """Return a publication of a scope; None if it is unknown, or was withdrawn too long ago."""
        publication = self._by_number.get(number)
        if publication is None or publication.scope != scope or now - publication.withdrawn_at > LATE_SECONDS:
            return None

        return publication

    def settle(self, now: float) -> None:
        """Note when the latest publications were withdrawn, and forget some that are too old for late hits."""
        if self._ended:
            for publication in self._ended:
                publication.withdrawn_at = now

            self._late.extend(self._ended)
            self._ended = []

        late = self._late
        for _ in range(_FORGOTTEN_AT_ONCE):
            if not late or (now - late[0].withdrawn_at <= LATE_SECONDS and len(late) <= MAX_LATE):
                break

            del self._by_number[late.popleft().number]
