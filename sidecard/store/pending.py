"""What is still to be written: the latest wish for each key, in the order of the wishes, within a bound.

While the store is away this is what remembers. Where too many wait, the oldest entries are given up; what they were to
replace must not come to life again after a restart, so in place of a write that was to replace something its removal stays,
which is small. Should even removals be too many, `Pending.lost_track` tells.
"""

from collections.abc import Iterable

from sidecard.core.effects import StorePurge, StoreRemove, StoreWrite
from sidecard.core.entries import text_bytes
from sidecard.core.scopes import covers

Wish = StoreWrite | StoreRemove | StorePurge

OVERHEAD_BYTES = 400
"""What a wish costs beside its texts and its value."""

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
        self._purges = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    def add(self, wish: Wish) -> Wish | None:
        """Let a wish wait, in place of an older one of its key, which is returned.

        A purge takes all that it covers and that waits with it.
        """
        older = None
        if isinstance(wish, StorePurge):
            self._purge(wish)
            self._purges += 1
            self._insert(("purge", self._purges), wish)
        else:
            older = self._insert((wish.scope, wish.key), wish)

        self._shrink()
        return older

    def find(self, scope: str, key: str) -> StoreWrite | StoreRemove | None:
        """Return what is to become of a key: its entry, its removal, or None where nothing is pending."""
        name = (scope, key)
        wish = self._waiting.get(name) or self._taken.get(name)
        return wish if isinstance(wish, StoreWrite | StoreRemove) else None

    def purged(self, scope: str, tags: tuple[str, ...]) -> bool:
        """Tell whether an entry that the store still has is to go by a purge that is pending."""
        return bool(self._purges) and any(
            isinstance(wish, StorePurge) and covers(wish.namespace, scope) and (wish.tag is None or wish.tag in tags)
            for wishes in (self._waiting, self._taken)
            for wish in wishes.values()
        )

    def purging(self, scope: str) -> bool:
        """Tell whether a purge is pending that may concern a scope."""
        return bool(self._purges) and any(
            isinstance(wish, StorePurge) and covers(wish.namespace, scope)
            for wishes in (self._waiting, self._taken)
            for wish in wishes.values()
        )

    def take(self, count: int) -> list[Wish]:
        """Give the ``count`` oldest wishes away. Nobody may take more before these have come back or are done."""
        for name in list(self._waiting)[:count] if count < len(self._waiting) else list(self._waiting):
            self._taken[name] = self._waiting.pop(name)

        return list(self._taken.values())

    def done(self) -> None:
        """What was taken is written."""
        for wish in self._taken.values():
            self.bytes -= _charge(wish)

        self._taken.clear()

    def give_back(self, wishes: Iterable[Wish] | None = None) -> None:
        """What was taken, or only ``wishes`` of it, could not be written and waits again, but for what is newer meanwhile."""
        kept = None if wishes is None else {id(wish) for wish in wishes}
        waiting, self._waiting = self._waiting, {}
        taken, self._taken = self._taken, {}
        for name, wish in taken.items():
            if name in waiting or (kept is not None and id(wish) not in kept):
                self.bytes -= _charge(wish)
            else:
                self._waiting[name] = wish

        self._waiting |= waiting
        self._shrink()

    def _insert(self, name: object, wish: Wish) -> Wish | None:
        older = self._waiting.pop(name, None)
        if older is not None:
            self.bytes -= _charge(older)

        self._waiting[name] = wish
        self.bytes += _charge(wish)
        return older

    def _purge(self, purge: StorePurge) -> None:
        for name, wish in list(self._waiting.items()):
            if (
                isinstance(wish, StoreWrite)
                and covers(purge.namespace, wish.scope)
                and (purge.tag is None or purge.tag in wish.record.tags)
            ):
                # Not the wish alone: an older entry of the key, with other tags, must not come back in its place.
                self._insert(name, StoreRemove(UNANSWERED, wish.scope, wish.key))

    def _shrink(self) -> None:
        if self.bytes <= self.max_bytes:
            return

        for name, wish in list(self._waiting.items()):
            if self.bytes <= self.max_bytes:
                return

            if isinstance(wish, StoreWrite):
                self.dropped += 1
                del self._waiting[name]
                self.bytes -= _charge(wish)
                if wish.claim or wish.replace:
                    self._insert(name, StoreRemove(UNANSWERED, wish.scope, wish.key))

        for name, wish in list(self._waiting.items()):
            if self.bytes <= self.max_bytes:
                return

            del self._waiting[name]
            self.bytes -= _charge(wish)
            self.lost_track = True


def _charge(wish: Wish) -> int:
    if isinstance(wish, StorePurge):
        return OVERHEAD_BYTES

    value_bytes = len(wish.record.value) if isinstance(wish, StoreWrite) else 0
    return OVERHEAD_BYTES + value_bytes + text_bytes(wish.scope) + text_bytes(wish.key)
