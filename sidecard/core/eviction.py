"""Who leaves when there is no room: S3-FIFO, weighted by bytes.

Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023: a newcomer waits in a small queue; only if it
is asked for again there does it reach the main queue, so a scan of keys that nobody asks for twice passes through a tenth
of the cache and leaves the rest alone. Keys that left the small queue unasked are remembered (as hashes, no values);
one that comes back is admitted to the main queue at once. A hit costs one small integer's increment.

The seam is `EvictionPolicy`: another policy needs these three methods and `Entry.asked`.
"""

from collections import deque
from typing import Protocol

from sidecard.core.entries import Entry

SMALL_SHARE = 0.1
"""Share of the bytes for newcomers: the paper's value, which its authors found flat between 5 and 20 %."""

_MIN_GHOSTS = 64
"""Ghosts that even an empty main queue allows, so that a small cache learns at all."""

_SLACK = 1024
"""Dead entries that a queue may hold beyond half its living ones before it is rebuilt."""


class EvictionPolicy(Protocol):
    """What the cache needs of a policy."""

    def admit(self, entry: Entry) -> None:
        """Take a new entry in."""
        ...

    def forget(self, entry: Entry) -> None:
        """Learn that an entry left otherwise than as a victim. Called before the entry is emptied."""
        ...

    def victim(self) -> Entry:
        """Choose a live entry to leave and forget it. Raises `LookupError` where there is none."""
        ...


class _Queue:
    """A FIFO of entries with tombstones: an entry that left from the middle stays, dead, until it reaches the head."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.charge = 0
        self.count = 0

    def push(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.charge += entry.charge
        self.count += 1

    def pop(self) -> Entry:
        entry = self.entries.popleft()
        while not entry.alive:
            entry = self.entries.popleft()

        self.charge -= entry.charge
        self.count -= 1
        return entry

    def leave(self, entry: Entry) -> None:
        self.charge -= entry.charge
        self.count -= 1

    def tidy(self) -> None:
        """Drop the tombstones: those at the head at once (most entries expire in the order they came), others in bulk."""
        entries = self.entries
        while entries and not entries[0].alive:
            entries.popleft()

        if len(entries) > self.count + self.count // 2 + _SLACK:
            self.entries = deque(entry for entry in entries if entry.alive)


class S3Fifo:
    """Small queue, main queue, ghosts."""

    def __init__(self) -> None:
        self._small = _Queue()
        self._main = _Queue()
        self._ghosts: set[int] = set()
        self._ghost_order: deque[int] = deque()

    def admit(self, entry: Entry) -> None:
        """Take a new entry in: into the main queue where it is a ghost come back, else into the small one."""
        ghost = hash((entry.terms.scope, entry.key))
        if ghost in self._ghosts:
            self._ghosts.discard(ghost)
            entry.enter_main(0)
            self._main.push(entry)
        else:
            self._small.push(entry)

    def forget(self, entry: Entry) -> None:
        """Learn that an entry left; its place in the queue becomes a tombstone."""
        queue = self._main if entry.in_main else self._small
        entry.die()
        queue.leave(entry)
        queue.tidy()

    def victim(self) -> Entry:
        """Choose the entry to leave. Ends: each pass of the main queue lowers a count that nobody raises meanwhile."""
        small, main = self._small, self._main
        while True:
            if small.count and (not main.count or small.charge > SMALL_SHARE * (small.charge + main.charge)):
                entry = small.pop()
                if entry.asked > 1:
                    entry.enter_main(0)
                    main.push(entry)
                    continue

                self._remember(entry)
            elif main.count:
                entry = main.pop()
                if entry.asked:
                    entry.enter_main(entry.asked - 1)
                    main.push(entry)
                    continue

            else:
                raise LookupError

            entry.die()
            return entry

    def _remember(self, entry: Entry) -> None:
        ghost = hash((entry.terms.scope, entry.key))
        self._ghosts.add(ghost)
        self._ghost_order.append(ghost)
        # As many ghosts as the main queue has entries is the paper's bound. A ghost that came back stays in the order
        # until its turn; should it have become a ghost again by then, it leaves a little early.
        while len(self._ghost_order) > max(self._main.count, _MIN_GHOSTS):
            self._ghosts.discard(self._ghost_order.popleft())
