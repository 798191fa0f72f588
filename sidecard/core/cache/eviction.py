"""Who leaves when there is no room: the answer whose bytes earn least, by what it cost to fetch and how often it is asked for.

GreedyDual (Young 1994; with sizes Cao and Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997; with frequency
Cherkasova, "GDSF", 1998): an entry is due at L plus its value, the one due first leaves, and L becomes what that one was due
at. So L rises for ever, and what nobody asks for is due some day, however dear it is said to have been: it outlives usual
newcomers at the most `MOST_UNASKED` times.

An entry's value is its worth (`sidecard.core.cache.priority`) times how often it was asked for. Three things are not as in those papers:

- Nothing happens at a hit but the counting of it. Only when an entry is due is it looked at: if it was asked for meanwhile,
  it stays, at its new value from now. (As S3-FIFO, SIEVE and all of the CLOCK family.)
- A newcomer has but a part of its worth, `PROBATION`, until it is asked for: a scan of keys that nobody asks for twice
  leaves the rest alone, as S3-FIFO's small queue does. It needs no size of its own: how much room newcomers have follows.
- Who comes back soon after leaving is a ghost (`sidecard.core.cache.ghost_queue`), and goes on from the hits that it had.

Where all entries cost and take the same, that is a policy of hits alone: `sidecard bench --eviction` compares.
Entries of scopes with a limit of their own (``namespaces.NAME.max_bytes``) have a `Partition` each, with one L between all
rooms: for the whole cache, the first that is due in any room leaves; for one scope's limit, the first in its own.

The seam is `EvictionPolicy`.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.ghost_queue import GhostQueue
from sidecard.core.cache.levels import Partition, level_of
from sidecard.core.cache.priority import Priorities

PROBATION = 0.2
"""Share of its worth that a newcomer has until it is asked for. Measured: with 0.15 a power law and disk blocks have up to
half a percent more hits, with 0.25 chats and dollars gain as much; at 0.4 scans are felt."""

MOST_UNASKED = 64.0
"""The most that a newcomer's worth counts until it is asked for. All that it may be worth (`sidecard.core.cache.priority`) would save
up to 2 % more dollars, and let a cache full of answers with invented costs last four times as long; 32 would save 2 to 7 % less."""


class EvictionPolicy(Protocol):
    """What the cache needs of a policy."""

    def admit(self, entry: Entry) -> None:
        """Take a new entry in."""
        ...

    def forget(self, entry: Entry) -> None:
        """Learn that an entry left otherwise than as a victim. Called before the entry is emptied."""
        ...

    def victim(self, scope: str | None = None) -> Entry:
        """Choose a live entry to leave, of that scope if one is named, and forget it. Raises `LookupError` where there is none.

        A scope that is named must be among those set apart.
        """
        ...

    def set_apart(self, apart: Callable[[str], bool]) -> None:
        """Be ready to choose among the entries of any one scope of which ``apart`` is true."""
        ...


class GreedyDual:
    """Rooms of levels, ghosts, and one inflation."""

    def __init__(self) -> None:
        self._common = Partition()
        self._rooms: dict[str, Partition] = {}
        self._apart: Callable[[str], bool] | None = None
        self._inflation = 0.0
        self._worth = Priorities()
        self._ghosts = GhostQueue()
        self._count = 0

    def admit(self, entry: Entry) -> None:
        """Take a new entry in, with the hits that it had where it is a ghost come back."""
        self._count += 1
        worth = self._worth.learn(entry)
        times = self._ghosts.recall(entry.terms.scope, entry.key)
        # That it came back is one more.
        times = 0 if times is None else times + 1
        entry.settle(times, _level(times, worth))
        self._room(entry.terms.scope).push(entry, self._inflation)

    def forget(self, entry: Entry) -> None:
        """Learn that an entry left; its place in the queue becomes a tombstone."""
        scope, level = entry.terms.scope, entry.level
        entry.die()
        self._count -= 1
        self._room(scope).leave(level)
        self._close(scope)

    def victim(self, scope: str | None = None) -> Entry:
        """Choose the entry to leave. Ends: each entry that is passed over has lost its hits, and nobody counts any meanwhile."""
        while True:
            room, level = self._first_due(scope)
            entry = room.pop(level)
            asked = entry.asked
            if not asked:
                break

            times = entry.times + asked
            entry.settle(times, _level(times, self._worth.of(entry)))
            room.push(entry, self._inflation)

        self._count -= 1
        self._ghosts.remember(entry.terms.scope, entry.key, entry.times, self._count)
        entry.die()
        self._close(entry.terms.scope)
        return entry

    def set_apart(self, apart: Callable[[str], bool]) -> None:
        """Sort all entries into rooms anew, each with the time that it had left."""
        left: dict[tuple[Partition, int], list[tuple[float, Entry]]] = {}
        older = [self._common, *self._rooms.values()]
        self._common, self._rooms, self._apart = Partition(), {}, apart
        for number, seconds_left, entry in _with_what_is_left(older):
            left.setdefault((self._room(entry.terms.scope), number), []).append((seconds_left, entry))

        for (room, number), entries in left.items():
            level = room.at(number)
            for due, entry in sorted(entries, key=lambda pair: pair[0]):
                level.add(entry, due)

    def _first_due(self, scope: str | None) -> tuple[Partition, int]:
        """Return where who leaves next is, and let L rise to it: for all, or within the scope's room if one is named."""
        if scope is not None:
            room = self._rooms.get(scope)
            if room is None:
                raise LookupError(scope)

            due, level = room.next_due()
            room.inflation += max(0.0, due - room.inflation - self._inflation)
            return room, level

        if not self._count:
            raise LookupError

        if not self._rooms:
            room = self._common
            due, level = room.next_due()
        else:
            rooms = [room for room in (self._common, *self._rooms.values()) if room.levels]
            nexts = [(room.next_due(), room) for room in rooms]
            (due, level), room = min(nexts, key=lambda pair: pair[0][0] - pair[1].inflation)

        self._inflation = max(self._inflation, due - room.inflation)
        return room, level

    def _room(self, scope: str) -> Partition:
        if self._apart is None:
            return self._common

        room = self._rooms.get(scope)
        if room is None:
            if not self._apart(scope):
                return self._common

            room = self._rooms[scope] = Partition()

        return room

    def _close(self, scope: str) -> None:
        """Forget the room of a scope that has no entry any more."""
        room = self._rooms.get(scope)
        if room is not None and not room.levels:
            del self._rooms[scope]


def _level(times: int, worth: float) -> int:
    """Return the level of an entry that was asked for so many times."""
    return level_of(times * worth if times else PROBATION * min(worth, MOST_UNASKED))


def _with_what_is_left(rooms: list[Partition]) -> Iterator[tuple[int, float, Entry]]:
    """Yield the level of each entry, when it is due by the L of all rooms, and the entry."""
    for room in rooms:
        for number, level in room.levels.items():
            for run in level.runs:
                for entry in run.entries:
                    if entry.alive:
                        yield number, run.due - room.inflation, entry
