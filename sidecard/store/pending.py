"""What is still to be written: the latest wish for each key, in the order of the wishes, within a bound.

While the store is away this is what remembers. Where too many wait, the oldest entries are given up; what they were to
replace must not come to life again after a restart, so in place of a write that was to replace something its removal stays,
which is small. Should even removals be too many, `Pending.lost_track` tells.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from msgspec import structs

from sidecard.core.cache.entry import text_bytes
from sidecard.core.effects import StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import Record
from sidecard.core.scopes import covers

Wish = StoreWrite | StoreRemove | StorePurge

OVERHEAD_BYTES = 400
"""What a wish costs beside its texts and its value."""

SLACK_SHARE = 1 / 16
"""Share of the bound that is freed at once: all that waits is looked through for it, which each further wish must not cost."""

UNANSWERED = 0
"""The ticket of a removal that nobody waits for any more."""


class Pending:
    """Wishes by key. `take` gives a batch away, which is then either `done`, or comes back by `give_back`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.dropped = 0
        self.lost_track = False
        """Removals were forgotten: of what the store has, nothing can be trusted. For the store to clear."""
        self._waiting: dict[object, Wish] = {}
        self._taken: dict[object, Wish] = {}
        self._purges: dict[object, StorePurge] = {}
        """Those among what waits and what is taken: each read asks for them, and there may be very many other wishes."""
        self._purges_made = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    def add(self, wish: Wish) -> Wish | None:
        """Let a wish wait, in place of an older one of its key, which is returned.

        A purge takes all that it covers and that waits with it.
        """
        older = None
        if isinstance(wish, StorePurge):
            self._purge(wish)
            self._purges_made += 1
            name = ("purge", self._purges_made)
            self._purges[name] = wish
            self._insert(name, wish)
        else:
            older = self._waiting.get((wish.scope, wish.key))
            self._insert((wish.scope, wish.key), _heir(older, wish))

        self._shrink()
        return older

    def find(self, scope: str, key: str) -> StoreWrite | StoreRemove | None:
        """Return what is to become of a key: its entry, its removal, or None where nothing is pending."""
        name = (scope, key)
        wish = self._waiting.get(name)
        if wish is None:
            wish = self._taken.get(name)
            # 1. an entry is taken, to be written; 2. it is purged; 3. it is asked for.
            if isinstance(wish, StoreWrite) and self._purged_since(wish):
                return StoreRemove(UNANSWERED, scope, key)

        return wish if isinstance(wish, StoreWrite | StoreRemove) else None

    def purged(self, scope: str, record: Record) -> bool:
        """Tell whether an entry that the store still has is to go by a purge that is pending."""
        return any(_takes(purge, scope, record) for purge in self._purges.values())

    def purging(self, scope: str) -> bool:
        """Tell whether a purge is pending that may concern a scope."""
        return any(covers(purge.namespace, scope) for purge in self._purges.values())

    def within(self, purge: StorePurge) -> Iterator[StoreWrite]:
        """Go through the entries that wait to be written and that a purge would take."""
        for wish in self._waiting.values():
            if isinstance(wish, StoreWrite) and _takes(purge, wish.scope, wish.record):
                yield wish

    def take(self, count: int) -> list[Wish]:
        """Give the ``count`` oldest wishes away. Nobody may take more before these have come back or are done."""
        for name in list(islice(self._waiting, count)):
            self._taken[name] = self._waiting.pop(name)

        return list(self._taken.values())

    def done(self) -> None:
        """What was taken is written."""
        for name, wish in self._taken.items():
            self._forget(name, wish)

        self._taken.clear()

    def give_back(self, wishes: Iterable[Wish] | None = None) -> None:
        """What was taken, or only ``wishes`` of it, could not be written and waits again, but for what is newer meanwhile."""
        kept = None if wishes is None else {id(wish) for wish in wishes}
        waiting, self._waiting = self._waiting, {}
        taken, self._taken = self._taken, {}
        later = [purge for name, purge in self._purges.items() if name in waiting]
        for name, wish in taken.items():
            newer = waiting.get(name)
            if kept is not None and id(wish) not in kept:
                self._forget(name, wish)
            elif newer is not None:
                self._forget(name, wish)
                waiting[name] = _heir(wish, newer)
            elif isinstance(wish, StoreWrite) and any(_takes(purge, wish.scope, wish.record) for purge in later):
                # As in `_purge`, which came while this was taken.
                self._forget(name, wish)
                self._insert(name, StoreRemove(UNANSWERED, wish.scope, wish.key))
            else:
                self._waiting[name] = wish

        self._waiting |= waiting
        self._shrink()

    def _purged_since(self, taken: StoreWrite) -> bool:
        return any(
            name in self._waiting and _takes(purge, taken.scope, taken.record) for name, purge in self._purges.items()
        )

    def _insert(self, name: object, wish: Wish) -> None:
        older = self._waiting.pop(name, None)
        if older is not None:
            self.bytes -= _charge(older)

        self._waiting[name] = wish
        self.bytes += _charge(wish)

    def _forget(self, name: object, wish: Wish) -> None:
        self.bytes -= _charge(wish)
        self._purges.pop(name, None)

    def _purge(self, purge: StorePurge) -> None:
        for wish in list(self.within(purge)):
            # Not the wish alone: an older entry of the key, with other tags, must not come back in its place.
            self._insert((wish.scope, wish.key), StoreRemove(UNANSWERED, wish.scope, wish.key))

    def _shrink(self) -> None:
        if self.bytes <= self.max_bytes:
            return

        enough = self.max_bytes * (1 - SLACK_SHARE)
        for name, wish in list(self._waiting.items()):
            if self.bytes <= enough:
                return

            if isinstance(wish, StoreWrite):
                self.dropped += 1
                del self._waiting[name]
                self._forget(name, wish)
                if wish.claim or wish.replace:
                    self._insert(name, StoreRemove(UNANSWERED, wish.scope, wish.key))

        for name, wish in list(self._waiting.items()):
            if self.bytes <= enough:
                return

            del self._waiting[name]
            self._forget(name, wish)
            self.lost_track = True


def _heir(older: Wish | None, wish: Wish) -> Wish:
    """Return what takes an older wish's place: what the store still has of a key was to go, whatever comes after that."""
    inherits = isinstance(older, StoreRemove) or (isinstance(older, StoreWrite) and older.replace)
    if inherits and isinstance(wish, StoreWrite) and not wish.claim and not wish.replace:
        # 1. a key is to be removed; 2. an entry of it is to be written, which would let another host's stay, or is given
        # up for want of room; 3. the entry that was to be removed is served.
        return structs.replace(wish, replace=True)

    return wish


def _takes(purge: StorePurge, scope: str, record: Record) -> bool:
    return (
        covers(purge.namespace, scope)
        and (purge.tag is None or purge.tag in record.tags)
        and (purge.task is None or purge.task == record.task)
    )


def _charge(wish: Wish) -> int:
    if isinstance(wish, StorePurge):
        return OVERHEAD_BYTES

    value_bytes = len(wish.record.value) if isinstance(wish, StoreWrite) else 0
    return OVERHEAD_BYTES + value_bytes + text_bytes(wish.scope) + text_bytes(wish.key)
