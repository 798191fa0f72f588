"""Tables by names that peers choose (backends, models, tasks): bounded, fair to uids, and forgetful.

A name is charged to the uid that created it. When a table is full, the least recently used name of the uid that has most makes
room, so the junk of one uid costs others nothing. What belonged to a forgotten name goes on in the table's common item, so
totals stay. Names that the settings have are never forgotten, nor is one that is in use.
"""

from collections.abc import Callable, Hashable
from typing import Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from sidecard.core.shares import in_spare

UNKNOWN_UID = -1
"""The uid of names of earlier runs and of other hosts."""

OTHER = "(other)"
"""The name of the common item of all names that a table has forgotten or has no room for."""

SPARE_SHARE = 0.25
"""Room beyond a full table for uids that have few names, as a share of its bound (`sidecard.core.shares`)."""

_BATCH_SHARE = 32
"""A full table forgets a name for each so many that it may have: the search takes a few microseconds per name."""

Hold = Literal[0, 1, 2]
"""How much an item needs its name: it is idle; its state matters, to those who use it; or it is in use or configured."""


class Named(Protocol):
    """An item of a `NameTable`, which sets the first three attributes."""

    uid: int
    used_at: float
    seen: float
    """The activity at the table's last look."""

    @property
    def activity(self) -> float:
        """A number that grows with those uses that leave ``used_at`` as it is, because their path is too hot."""

    @property
    def hold(self) -> Hold:
        """How much the item needs its name."""


class NameMemory(Struct, frozen=True):
    """What is kept of a name over a restart. ``used_at`` is an instant of the wall clock."""

    uid: int
    used_at: float


class NameUse:
    """An item of a table that keeps names alone."""

    __slots__ = ("seen", "uid", "used_at")

    activity = 0.0
    hold: Hold = 0

    def __init__(self) -> None:
        self.uid = UNKNOWN_UID
        self.used_at = self.seen = 0.0


def never(_: Hashable) -> bool:
    """Return that a name is not configured."""
    return False


Name = TypeVar("Name", bound=Hashable)
Item = TypeVar("Item", bound=Named)


class NameTable(Generic[Name, Item]):
    """A bounded table. ``forgotten`` is called with each item that has left it; names that are ``kept`` stay.

    ``newest`` is the number of names, among the latest used in the order of ``items``, that make no room.
    """

    def __init__(
        self,
        bound: int,
        forgotten: Callable[[Name, Item], None],
        kept: Callable[[Name], bool] = never,
        newest: int = 0,
    ) -> None:
        self.items: dict[Name, Item] = {}
        self.bound = bound
        self._forgotten = forgotten
        self._kept = kept
        self._newest = newest
        self._latest = 0.0
        self._names_of: dict[int, int] = {}

    def enter(self, name: Name, make: Callable[[], Item], uid: int, now: float) -> Item | None:
        """Make and add the item of a new name; None if there is no room."""
        if self._kept(name):
            uid = UNKNOWN_UID
        elif not self.make_room(uid, now):
            return None

        item = make()
        self.add(name, item, uid, now)
        return item

    def add(self, name: Name, item: Item, uid: int, now: float) -> None:
        """Add a new name, for which there is room, or which is configured. Callers that have no clock leave out ``now``."""
        self._latest = max(self._latest, now)
        # Names of earlier runs were used before this clock began.
        item.uid, item.used_at, item.seen = uid, now or self._latest, item.activity
        self.items[name] = item
        self._names_of[uid] = self._names_of.get(uid, 0) + 1

    def make_room(self, uid: int, now: float) -> bool:
        """Return whether a uid may add a name; forget others if necessary."""
        if len(self.items) < self.bound:
            return True

        now = self._latest = max(self._latest, now)
        own = self._names_of.get(uid, 0)
        uids = sorted(self._names_of, key=lambda other: (-self._names_of[other], other != uid))
        for other in uids:
            if self._names_of[other] < own:
                break

            if self._forget_oldest(other, now):
                return True

        return in_spare(own, len(self.items), self.bound, SPARE_SHARE)

    def forget_unused(self, seconds: float, now: float) -> bool:
        """Forget the names that are idle and have not been used for so long; return whether there were any."""
        self._latest = now
        unused = [
            name
            for name, item in self.items.items()
            if not item.hold and now - self._used_at(item, now) >= seconds and not self._kept(name)
        ]
        for name in unused:
            self.forget(name)

        return bool(unused)

    def memory(self, wall_offset_seconds: float) -> dict[Name, NameMemory]:
        """Return what to keep over a restart."""
        return {name: NameMemory(item.uid, item.used_at + wall_offset_seconds) for name, item in self.items.items()}

    def _forget_oldest(self, uid: int, now: float) -> bool:
        """Forget the least recently used names of a uid; those whose state matters only if there are no others."""
        names = list(self.items)
        if self._newest:
            del names[max(0, len(names) - self._newest) :]

        items = self.items
        own = [(name, items[name].hold) for name in names if items[name].uid == uid]
        for held in (0, 1):
            found = [name for name, hold in own if hold == held and not self._kept(name)]
            if found:
                found.sort(key=lambda name: self._used_at(items[name], now))
                # One that matters is not forgotten before it must be.
                batch = 1 if held else 1 + self.bound // _BATCH_SHARE
                for name in found[:batch]:
                    self.forget(name)

                return True

        return False

    def forget(self, name: Name) -> None:
        """Remove a name."""
        item = self.items.pop(name)
        left = self._names_of[item.uid] - 1
        if left:
            self._names_of[item.uid] = left
        else:
            del self._names_of[item.uid]

        self._forgotten(name, item)

    @staticmethod
    def _used_at(item: Item, now: float) -> float:
        activity = item.activity
        if activity != item.seen:
            item.seen, item.used_at = activity, now

        return item.used_at
