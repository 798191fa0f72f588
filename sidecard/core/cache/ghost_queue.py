"""Recently evicted keys and the hits that they had: 8 bytes each.

A table of words in sets of four, as in the S3-FIFO paper (Yang et al., "FIFO queues are all you need for cache eviction",
SOSP 2023). The key's hash selects the set, and a new ghost replaces the oldest one in its set. The table is approximate: a
ghost may be overwritten early, and one key in a billion is mistaken for another. Either costs no more than a wrong guess.
"""

from array import array
from zlib import crc32

MIN_GHOSTS = 64
"""Enough that a tiny cache learns at all; more would remember evictions that are many turnovers old."""

GHOSTS_PER_ENTRY = 3
"""The paper has as many ghosts as entries in the main queue. They are cheap here, and block traces gain up to a quarter
of their hits from the second and the third."""

_PART_WORDS = 65_536
"""Words that are allocated together, at the first ghost among them: all at once would take 0.1 s for a million entries."""

_WAYS = 4
_HASH_BITS = 32
_HITS_BITS = 4
_HITS_MASK = (1 << _HITS_BITS) - 1
_TURN_BITS = 28
_TURN_MASK = (1 << _TURN_BITS) - 1
_HASH_SHIFT = _HITS_BITS
_TURN_SHIFT = _HITS_BITS + _HASH_BITS
_HASH_MASK = (1 << _HASH_BITS) - 1


class GhostQueue:
    """Ghosts by scope and key. A word holds the turn of the eviction, 32 bits of hash, and the hits plus 1."""

    def __init__(self) -> None:
        self._limit = MIN_GHOSTS
        self._size = MIN_GHOSTS
        """Words of the table."""
        self._parts: dict[int, array[int]] = {}
        """The table's words by place // `_PART_WORDS`. What is missing is empty."""
        self._turn = 0

    def __len__(self) -> int:
        """Return the number of ghosts. For tests: it scans the table."""
        return sum(bool(word) and self._is_young(word) for part in self._parts.values() for word in part)

    def remember(self, scope: str, key: str, hits: int, entries: int) -> None:
        """Add an evicted key and its hits; ``entries`` remain in the cache."""
        self._limit = max(MIN_GHOSTS, GHOSTS_PER_ENTRY * entries)
        if self._size < self._limit:
            # This drops all ghosts, each time that the cache has doubled.
            self._size = -(-2 * self._limit // _WAYS) * _WAYS
            self._parts = {}

        self._turn = (self._turn + 1) & _TURN_MASK
        number = _hash(scope, key)
        part, places = self._set(number)
        words = self._parts.get(part)
        if words is None:
            words = self._parts[part] = array("Q", bytes(8 * min(self._size, _PART_WORDS)))

        place = max(places, key=lambda place: self._age(words[place]) if words[place] else _TURN_MASK + 1)
        words[place] = self._turn << _TURN_SHIFT | number << _HASH_SHIFT | min(hits, _HITS_MASK - 1) + 1

    def recall(self, scope: str, key: str) -> int | None:
        """Remove a ghost and return its hits; None if the key is no ghost."""
        if not self._turn:
            return None  # nothing has been evicted yet

        number = _hash(scope, key)
        part, places = self._set(number)
        words = self._parts.get(part)
        if words is None:
            return None

        for place in places:
            word = words[place]
            if word and word >> _HASH_SHIFT & _HASH_MASK == number:
                words[place] = 0
                return (word & _HITS_MASK) - 1 if self._is_young(word) else None

        return None

    def _set(self, number: int) -> tuple[int, range]:
        """Return the part in which a hash's set is, and its places in that part."""
        part, first = divmod(number % (self._size // _WAYS) * _WAYS, _PART_WORDS)
        return part, range(first, first + _WAYS)

    def _age(self, word: int) -> int:
        return self._turn - (word >> _TURN_SHIFT) & _TURN_MASK

    def _is_young(self, word: int) -> bool:
        return self._age(word) < self._limit


def _hash(scope: str, key: str) -> int:
    # Not hash(): it differs between processes, and evictions must be reproducible.
    return crc32(key.encode(errors="surrogatepass"), crc32(scope.encode(errors="surrogatepass")))
