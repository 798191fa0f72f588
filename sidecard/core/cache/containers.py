"""Containers of entries that the garbage collector does not walk through: a queue and a table.

A collection visits every element of each list, deque and tuple that it tracks. Visiting a million entries takes 0.1 s, as
each is read from memory, and nothing else runs meanwhile. CPython never tracks a `Struct` with ``gc=False``, nor a dictionary
whose keys and values need no visit. All entries are kept in these alone. They cannot be part of an unreachable cycle: an
entry refers to nothing that refers to its containers, apart from a group of similar answers, which drops entries that leave.
"""

from collections.abc import Iterable, Iterator
from sys import maxsize
from typing import Any

from msgspec import Struct, defstruct

from sidecard.core.cache.entry import DEAD, Entry

PAGE = 60
"""Entries of a page, which so takes 496 bytes: the most that Python's own allocator serves is 512."""

FEW = 4
"""Entries of a queue's first page while they suffice: there may be one queue per entry."""

SHARD_ENTRIES = 5461
"""A dictionary with so many entries is split, in about a millisecond: with one more, Python would double it. A single
dictionary of a million entries takes 0.1 s whenever it has to be enlarged or tidied."""

_LEAST_PER_PLACE = 256
"""Entries per place below which nothing is split: keys whose hashes are all alike gain nothing by it."""

_SLOTS = tuple(f"entry_{offset}" for offset in range(PAGE))


def _page(name: str, slots: tuple[str, ...]) -> type[Any]:
    """Return the type of an array of fixed size. Unlike a list, it is never visited by the collector."""
    return defstruct(name, [(slot, Any, None) for slot in slots], gc=False, eq=False)


_Page = _page("_Page", _SLOTS)
_SmallPage = _page("_SmallPage", _SLOTS[:FEW])


class EntryQueue(Struct, gc=False, eq=False):
    """Entries in order. What a deque of entries offers, as far as it is needed."""

    start: int = 0
    """The place of the first entry. A place divided by `PAGE` gives its page."""
    end: int = 0
    """The place after the last entry. Both are 0 if there is none."""
    first: Any = None
    """The first page."""
    last: Any = None
    """The last page."""
    pages: dict[int, Any] | None = None
    """All pages but the last, by number; None if there never was one."""

    def __len__(self) -> int:
        """Return the number of entries."""
        return self.end - self.start

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in order; none may be added or removed meanwhile."""
        return map(self.__getitem__, range(self.end - self.start))

    def __getitem__(self, index: int) -> Entry:
        """Return the entry at an index, counted from 0. Raises `IndexError` if there is none."""
        page, slot = self._find(index)
        entry: Entry = getattr(page, slot)
        return entry

    def replace_dead(self, index: int, entry: Entry) -> bool:
        """Replace the entry at an index, counted from 0, if it is dead; return whether it was."""
        page, slot = self._find(index)
        if getattr(page, slot).state < DEAD:
            return False

        setattr(page, slot, entry)
        return True

    def append(self, entry: Entry) -> None:
        """Add an entry at the end."""
        place = self.end
        offset = place % PAGE
        if not offset:
            self._add_page(place)
        elif offset == FEW and type(self.last) is _SmallPage:
            self.first = self.last = _Page(*(getattr(self.last, slot) for slot in _SLOTS[:FEW]))

        setattr(self.last, _SLOTS[offset], entry)
        self.end = place + 1

    def pop(self) -> Entry:
        """Remove and return the last entry. Raises `IndexError` if there is none."""
        place = self.end - 1
        if place < self.start:
            raise IndexError

        page, slot = self.last, _SLOTS[place % PAGE]
        entry: Entry = getattr(page, slot)
        setattr(page, slot, None)
        self.end = place
        if place == self.start:
            self._reset()
        elif not place % PAGE:
            assert self.pages  # noqa: S101 - for the type checker: what is left is on earlier pages
            self.last = self.pages.pop(place // PAGE - 1)

        return entry

    def popleft(self) -> Entry:
        """Remove and return the first entry. Raises `IndexError` if there is none."""
        if self.start == self.end:
            raise IndexError

        entry: Entry = getattr(self.first, _SLOTS[self.start % PAGE])
        self._drop_first()
        return entry

    def drop_dead(self, most: int = maxsize) -> int:
        """Remove the dead entries before the first live one, at most so many; return how many."""
        dropped = 0
        while dropped < most and self.start < self.end and getattr(self.first, _SLOTS[self.start % PAGE]).state >= DEAD:
            self._drop_first()
            dropped += 1

        return dropped

    def _drop_first(self) -> None:
        setattr(self.first, _SLOTS[self.start % PAGE], None)
        self.start = start = self.start + 1
        if start == self.end:
            self._reset()
        elif not start % PAGE:
            assert self.pages  # noqa: S101 - for the type checker: what is left is on later pages
            number = start // PAGE
            del self.pages[number - 1]
            self.first = self.pages.get(number, self.last)

    def _add_page(self, place: int) -> None:
        if not place:
            self.first = self.last = _SmallPage()
            return

        if self.pages is None:
            self.pages = {}

        self.pages[place // PAGE - 1] = self.last
        self.last = _Page()

    def _find(self, index: int) -> tuple[Any, str]:
        """Return the page and the slot of an index."""
        place = self.start + index
        if not self.start <= place < self.end:
            raise IndexError(index)

        number, offset = divmod(place, PAGE)
        if number == (self.end - 1) // PAGE:
            return self.last, _SLOTS[offset]

        assert self.pages  # noqa: S101 - for the type checker: not the last page
        return self.pages[number], _SLOTS[offset]

    def _reset(self) -> None:
        self.start = self.end = 0
        self.first = self.last = self.pages = None


def queue_of(entries: Iterable[Entry]) -> EntryQueue:
    """Return a queue of the given entries."""
    queue = EntryQueue()
    for entry in entries:
        queue.append(entry)

    return queue


class EntryTable(Struct, gc=False, eq=False):
    """Entries by key: extendible hashing (Fagin et al., ACM TODS 1979).

    The low bits of a key's hash select a place in ``shards``. A shard is at several places until it has been split often
    enough.
    """

    only: dict[str, Entry] = {}
    """All entries, while they are few."""
    mask: int = 0
    """The bits that select a place; 0 while there are no shards."""
    shards: tuple[dict[str, Entry], ...] = ()
    count: int = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return self.count

    def __contains__(self, key: str) -> bool:
        """Return whether there is an entry of a key."""
        return key in (self.shards[hash(key) & self.mask] if self.mask else self.only)

    def __getitem__(self, key: str) -> Entry:
        """Return an entry. Raises `KeyError` if there is none."""
        return (self.shards[hash(key) & self.mask] if self.mask else self.only)[key]

    def get(self, key: str) -> Entry | None:
        """Return an entry, or None."""
        return (self.shards[hash(key) & self.mask] if self.mask else self.only).get(key)

    def values(self) -> Iterator[Entry]:
        """Yield all entries; none may be added or removed meanwhile."""
        shards = {id(shard): shard for shard in self.shards or (self.only,)}
        for shard in shards.values():
            yield from shard.values()

    def add(self, entry: Entry) -> None:
        """Add an entry under a key that has none."""
        key = entry.key
        shard = self.shards[hash(key) & self.mask] if self.mask else self.only
        shard[key] = entry
        self.count += 1
        if len(shard) >= SHARD_ENTRIES and self.count > _LEAST_PER_PLACE * len(self.shards):
            self._split(shard, hash(key))

    def __delitem__(self, key: str) -> None:
        """Remove an entry. Raises `KeyError` if there is none."""
        del (self.shards[hash(key) & self.mask] if self.mask else self.only)[key]
        self.count -= 1

    def _split(self, shard: dict[str, Entry], number: int) -> None:
        """Move about half of a shard's entries to a new shard. ``number`` is the hash of one of its keys."""
        if not self.mask:
            self.shards, self.only = (shard,), {}

        bit = 1
        while bit <= self.mask and self.shards[(number ^ bit) & self.mask] is not shard:
            bit <<= 1

        if bit > self.mask:
            self.shards += self.shards
            self.mask = len(self.shards) - 1

        # Two new dictionaries: one that keys were deleted from is twice as large after its next enlargement.
        parts: tuple[dict[str, Entry], dict[str, Entry]] = {}, {}
        for key, entry in shard.items():
            parts[1 if hash(key) & bit else 0][key] = entry

        shards = list(self.shards)
        low = number & bit - 1
        for first, part in zip((low, low | bit), parts, strict=True):
            for place in range(first, len(shards), 2 * bit):
                shards[place] = part

        self.shards = tuple(shards)
