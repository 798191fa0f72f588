"""Shared memory as another processor sees it: words of 8 bytes, stores that become visible in some order, loads that see some of them.

=====================  ==================================  ==================================================================
architecture           stores become visible               loads see the memory
=====================  ==================================  ==================================================================
``x86-64, ascending``  in the order of the program         in the order of the program, each copy word by word
``x86-64``             in the order of the program         in the order of the program, but the words of one copy in any
                                                           order, as ``memcpy`` takes them
``arm64``              in any order; those to one word in  at any time since the read began; a word never older than an
                       the order of the program            earlier load of the same word
=====================  ==================================  ==================================================================

One word is never torn. A system call separates the stores before it from those after it.
"""

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

WORD = 8

Architecture = Literal["x86-64, ascending", "x86-64", "arm64"]


class Store(NamedTuple):
    """A store of one word."""

    word: int
    value: bytes


class Chooser(Protocol):
    """Decides what the memory model leaves open."""

    def pick(self, count: int) -> int:
        """Choose one of ``count`` possibilities; the first is the oldest."""


class RandomChoices:
    """Chooses at random, the older possibilities more often."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.patience = 1.0
        """Mean of the choices."""

    def pick(self, count: int) -> int:
        """Choose."""
        return min(int(self._chance.expovariate(1 / self.patience)), count - 1)


class EveryChoice:
    """Goes through all sequences of choices: one more run after `next` has returned True."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []
        self._at = 0

    def pick(self, count: int) -> int:
        """Choose as in the last run up to the choice that this run changes."""
        if self._at == len(self._taken):
            self._taken.append((0, count))

        choice, _ = self._taken[self._at]
        self._at += 1
        return choice

    def next(self) -> bool:
        """Prepare the next run; return False after the last."""
        while self._taken:
            choice, count = self._taken.pop()
            if choice + 1 < count:
                self._taken.append((choice + 1, count))
                self._at = 0
                return True

        return False


def visible_order(segments: Sequence[Sequence[Store]], chance: random.Random) -> list[Store]:
    """Return the stores in an order in which arm64 may make them visible; a system call ends each segment."""
    order = []
    for segment in segments:
        waiting: dict[int, list[Store]] = {}
        for store in segment:
            waiting.setdefault(store.word, []).append(store)

        while waiting:
            word = chance.choice(list(waiting))
            order.append(waiting[word].pop(0))
            if not waiting[word]:
                del waiting[word]

    return order


class Timeline:
    """What each word holds at each time; the time is the number of stores that are visible."""

    def __init__(self, initial: bytes, stores: Iterable[Store]) -> None:
        self._initial = initial
        self._since: dict[int, list[int]] = {}
        self._values: dict[int, list[bytes]] = {}
        self.end = 0
        for store in stores:
            self.end += 1
            since, values = self._since.setdefault(store.word, [0]), self._values.setdefault(store.word, [])
            if not values:
                values.append(self.initial(store.word))

            if values[-1] != store.value:
                since.append(self.end)
                values.append(store.value)

    @property
    def size(self) -> int:
        """Bytes of the memory."""
        return len(self._initial)

    def initial(self, word: int) -> bytes:
        """Return what a word holds before the first store."""
        return self._initial[word * WORD : (word + 1) * WORD]

    def values(self, word: int, since: int) -> list[tuple[int, bytes]]:
        """Return the values that a word holds from a time on, each with the time at which it began."""
        begins = self._since.get(word)
        if begins is None:
            return [(0, self.initial(word))]

        first = bisect_right(begins, since) - 1
        return list(zip(begins[first:], self._values[word][first:], strict=True))


class Loads:
    """The loads of one read, which began at a time."""

    def __init__(self, timeline: Timeline, began: int, architecture: Architecture, chooser: Chooser) -> None:
        self._timeline = timeline
        self._architecture = architecture
        self._chooser = chooser
        self._now = began
        self._seen: dict[int, int] = {}
        """arm64: since when each word has held the value that was loaded last."""

    def load(self, offset: int, size: int) -> bytes:
        """Copy bytes, word by word."""
        first, last = offset // WORD, (offset + size + WORD - 1) // WORD
        taken, latest = [], self._now
        for word in range(first, last):
            possible = self._timeline.values(word, max(self._now, self._seen.get(word, 0)))
            begin, value = possible[self._chooser.pick(len(possible)) if len(possible) > 1 else 0]
            taken.append(value)
            if self._architecture == "arm64":
                self._seen[word] = begin
            elif self._architecture == "x86-64":
                latest = max(latest, begin)
            else:
                self._now = latest = max(latest, begin)

        self._now = latest
        skipped = offset - first * WORD
        return b"".join(taken)[skipped : skipped + size]
