"""Changes that are still to be written to a store: the latest of each key, in order, within a bound.

While the store is unavailable, reads are answered from the pending changes. Beyond the bound the oldest entries are dropped.
An entry in the store that a dropped one was to replace must not reappear after a restart, so a small
removal takes its place. If even the removals exceed the bound, `PendingWrites.must_clear_store` is set.
"""

from collections.abc import Hashable, Iterable

from msgspec import structs

from sidecard.core.cache.entry import terms_texts_bytes, text_bytes
from sidecard.core.effects import NO_TICKET, StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.persistence.write_behind import WriteBehindQueue
from sidecard.store.base import StoreChange

OVERHEAD_BYTES = 400
"""Memory of a change besides its texts and its value."""

SLACK_SHARE = 1 / 16
"""Share of the bound that is freed together: freeing scans all changes, which must not happen for each further one."""


class PendingWrites(WriteBehindQueue[StoreChange]):
    """Changes by scope and key, and purges. `take` starts a batch, `done` or `give_back` ends it."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(_size, max_bytes=max_bytes)
        self.dropped = 0
        self.must_clear_store = False
        """Removals were dropped, so the store may have entries that were removed: it must be cleared before it is read."""
        self._purges: dict[Hashable, StorePurge] = {}
        """All purges, waiting or taken: each read checks them, among possibly very many other changes."""
        self._numbers: dict[int, int] = {}
        """By `id` of a purge or an entry: a purge hides the entries with smaller numbers."""
        self._number = 0

    def add(self, change: StoreChange) -> StoreChange | None:
        """Add a change; return the waiting one of its key that it replaces. A purge hides waiting entries, however many, at once."""
        replaced = None
        if isinstance(change, StorePurge):
            self._count(change)
            self._purges[self.append(change)] = change
        else:
            name = change.scope, change.key
            older = self._waiting.get(name)
            change = _merged(None if older is None else self._seen(older), change)
            replaced = self.put(name, change)
            self._numbers.pop(id(replaced), None)
            self._count(change)

        self._shrink()
        return replaced

    def find(self, scope: str, key: str) -> StoreWrite | StoreRemove | None:
        """Return the pending change of a key; None if there is none."""
        name = (scope, key)
        change = self._waiting.get(name)
        if change is None:
            change = self._taken.get(name)

        seen = None if change is None else self._seen(change)
        return seen if isinstance(seen, StoreWrite | StoreRemove) else None

    def purged(self, scope: str, record: Record) -> bool:
        """Return whether a pending purge removes an entry that the store still has."""
        return any(_purges(purge, scope, record) for purge in self._purges.values())

    def purging(self, scope: str) -> bool:
        """Return whether a pending purge may concern a scope."""
        return any(covers(purge.namespace, scope) for purge in self._purges.values())

    def give_back(self, changes: Iterable[StoreChange] | None = None) -> None:
        """End the batch. All of it, or only ``changes`` of it, could not be written and wait again."""
        kept = None if changes is None else {id(change) for change in changes}
        newer, self._waiting = self._waiting, {}
        taken, self._taken = self._taken, {}
        for name, change in taken.items():
            if kept is not None and id(change) not in kept:
                self._forget(name, change)
            elif name in newer:
                merged = _merged(self._seen(change), newer[name])
                self._forget(name, change)
                if merged is not newer[name]:
                    self._numbers[id(merged)] = self._numbers.pop(id(newer[name]))
                    newer[name] = merged
            elif self._seen(change) is not change:
                # The purge after it may be done: it is known now that it purges this.
                seen = self._seen(change)
                self._forget(name, change)
                self.put(name, seen)
            else:
                self._waiting[name] = change

        self._waiting |= newer
        self._shrink()

    def _forget(self, name: Hashable, item: StoreChange) -> None:
        super()._forget(name, item)
        self._purges.pop(name, None)
        self._numbers.pop(id(item), None)

    def _count(self, change: StoreChange) -> None:
        """Number a purge or an entry that is added."""
        if not isinstance(change, StoreRemove):
            self._number += 1
            self._numbers[id(change)] = self._number

    def _seen(self, change: StoreChange) -> StoreChange:
        """Return a pending change as a reader sees it: a later purge makes an entry a removal."""
        if not self._purges or not isinstance(change, StoreWrite):
            return change

        number = self._numbers[id(change)]
        for purge in self._purges.values():
            if self._numbers[id(purge)] > number and _purges(purge, change.scope, change.record):
                return StoreRemove(NO_TICKET, change.scope, change.key)

        return change

    def _shrink(self) -> None:
        if self.bytes <= self.max_bytes:
            return

        enough = self.max_bytes * (1 - SLACK_SHARE)
        for entries_only in (True, False):
            for name, change in self.waiting:
                if self.bytes <= enough:
                    return

                if entries_only and not isinstance(change, StoreWrite):
                    continue

                # Not `discard`: an older change of the name that is being written must still count, and be retried.
                del self._waiting[name]
                self._forget(name, change)
                if not entries_only:
                    self.must_clear_store = True
                elif isinstance(change, StoreWrite):
                    self.dropped += 1
                    if change.claim or change.replace:
                        self.put(name, StoreRemove(NO_TICKET, change.scope, change.key))


def _merged(older: StoreChange | None, change: StoreChange) -> StoreChange:
    """Return the change that replaces ``older``. An entry that ``older`` was to remove must be removed in any case."""
    removes = isinstance(older, StoreRemove) or (isinstance(older, StoreWrite) and older.replace)
    if removes and isinstance(change, StoreWrite) and not change.claim and not change.replace:
        # Without this: 1. a key is to be removed; 2. an entry of the key is to be written, which keeps another host's
        # entry, or is dropped for lack of room; 3. the entry that was to be removed is served.
        return structs.replace(change, replace=True)

    return change


def _purges(purge: StorePurge, scope: str, record: Record) -> bool:
    return (
        covers(purge.namespace, scope)
        and (purge.tag is None or purge.tag in record.tags)
        and (purge.task is None or purge.task == record.task)
    )


def _size(change: StoreChange) -> int:
    if isinstance(change, StorePurge):
        texts = change.namespace, change.tag, change.task
        return OVERHEAD_BYTES + sum(text_bytes(text) for text in texts if text)

    size_bytes = OVERHEAD_BYTES + text_bytes(change.scope) + text_bytes(change.key)
    if isinstance(change, StoreWrite):
        # Each write holds its own copy of these texts, unlike entries in memory, which may share their terms.
        record = change.record
        size_bytes += len(record.value) + terms_texts_bytes(record.backend, record.usage, record.tags, record.task)

    return size_bytes
