"""Who has left the cache lately, and how often they had been asked for: 8 bytes each.

A table of words in sets of four, as in the S3-FIFO paper: which set is told by the key's hash, and a newcomer takes the place
of the one in its set that left first. Nothing is exact here: a ghost may be overwritten early, and one key in a billion is
taken for another. Neither costs more than a wrong guess.
"""

from array import array
from zlib import crc32

MIN_GHOSTS = 64
"""So many that even an empty cache learns at all, and no more: what left a tiny cache a hundred turns ago is no news."""

GHOSTS_PER_ENTRY = 3
"""The paper has as many ghosts as entries in the main queue. They are cheap here, and block traces gain up to a quarter
of their hits from the second and the third."""

_WAYS = 4
_HASH_BITS = 32
_TIMES_BITS = 4
_MOST_TIMES = (1 << _TIMES_BITS) - 1
_TURN_BITS = 28
_TURN_MASK = (1 << _TURN_BITS) - 1
_HASH_SHIFT = _TIMES_BITS
_TURN_SHIFT = _TIMES_BITS + _HASH_BITS
_HASH_MASK = (1 << _HASH_BITS) - 1


class GhostQueue:
    """Remembers the last leavers, by scope and key. A word is the turn it left in, 32 bits of hash, and times plus 1."""

    def __init__(self) -> None:
        self._limit = MIN_GHOSTS
        self._words = array("Q", bytes(8 * MIN_GHOSTS))
        self._turn = 0

    def __len__(self) -> int:
        """Count those that are remembered. For tests: it looks at all."""
        return sum(bool(word) and self._is_young(word) for word in self._words)

    def remember(self, scope: str, key: str, times: int, entries: int) -> None:
        """Learn that a key left which had been asked for so many times, and that ``entries`` are still there."""
        self._limit = max(MIN_GHOSTS, GHOSTS_PER_ENTRY * entries)
        if len(self._words) < self._limit:
            # What was remembered is forgotten then, which happens each time that the cache has doubled.
            self._words = array("Q", bytes(16 * self._limit))

        self._turn = (self._turn + 1) & _TURN_MASK
        words, number = self._words, _hash(scope, key)
        first = self._first(number)
        places = range(first, first + _WAYS)
        place = max(places, key=lambda place: self._age(words[place]) if words[place] else _TURN_MASK + 1)
        words[place] = self._turn << _TURN_SHIFT | number << _HASH_SHIFT | min(times, _MOST_TIMES - 1) + 1

    def recall(self, scope: str, key: str) -> int | None:
        """Return how many times a key had been asked for when it left, and forget it; None where it is no ghost."""
        words, number = self._words, _hash(scope, key)
        first = self._first(number)
        for place in range(first, first + _WAYS):
            word = words[place]
            if word and word >> _HASH_SHIFT & _HASH_MASK == number:
                words[place] = 0
                return (word & _MOST_TIMES) - 1 if self._is_young(word) else None

        return None

    def _first(self, number: int) -> int:
        return number % (len(self._words) // _WAYS) * _WAYS

    def _age(self, word: int) -> int:
        return self._turn - (word >> _TURN_SHIFT) & _TURN_MASK

    def _is_young(self, word: int) -> bool:
        return self._age(word) < self._limit


def _hash(scope: str, key: str) -> int:
    # Not hash(): that differs in each process, and who leaves must not.
    return crc32(key.encode(errors="surrogatepass"), crc32(scope.encode(errors="surrogatepass")))
