"""Publish entries that are requested again; withdraw them before their change is acknowledged.

An entry is published while every begin of its task that sets no bound on its age would get it as a plain `Hit`. These events end
that, and withdraw it:

- The entry leaves the cache, for whatever reason: `MemoryCache` calls `Publisher.withdraw`.
- A purge covers its scope, or entries in memory are doubted: `Publisher.withdraw_covered`.
- The settings change, or the host slept: `Publisher.withdraw_covered` or `Views.retire_all`.
- Its time to live ends: the view has its `Publication.expires_at`.
"""

from msgspec import Raw

from sidecard.core.cache.entry import COMPRESSED, DEAD, PUBLISHED, Entry, chunk_count
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.view.changes import ViewChanges
from sidecard.core.cache.view.publication import PUBLICATION_BYTES, Publication, Publications, expiry_of
from sidecard.core.cache.view.scope_view import ScopeView
from sidecard.core.cache.view.views import Views
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Publish, WithdrawAll
from sidecard.core.records import NO_USAGE
from sidecard.core.scopes import covers
from sidecard_client.protocol.view import ViewRecord, digest_of, encode_record

_RESERVED_STEP = 64 * 1024
"""The cache's budget changes in steps of so many bytes: not with every publication."""

_FORGOTTEN_LATER = 4096
"""Publications that are forgotten every few seconds, which takes 1 ms."""

_NOT_PLAIN = COMPRESSED | PUBLISHED | DEAD


class Publisher:
    """Publishes and withdraws the entries of a cache."""

    def __init__(self, policy: CachePolicy, counters: Counters) -> None:
        self._policy = policy
        self._cache = policy.cache
        self._settings = policy.settings
        self.publications = Publications(counters)
        self.changes = ViewChanges()
        """The changes of the event in progress; if any are pending, `settle` must be called at its end."""
        self.views = Views(policy.settings, self.publications, self.changes)
        self.scopes = self.views.by_scope
        """The same object: each hit over the socket checks whether it is empty."""
        policy.cache.published = self

    def publish(self, entry: Entry, task: str, now: float) -> None:
        """Publish an entry for the calls of a task, if it is plain, fresh and small enough, and has room."""
        terms = entry.terms
        view = self.scopes.get(terms.scope)
        if view is None:
            return

        max_bytes = min(self._settings.now.view_max_entry_bytes, view.space.max_record_bytes)
        if (
            not view.has_room_for(entry.key, now)
            or entry.state & _NOT_PLAIN
            or terms.trust_epoch != self._policy.trust_epoch
            or not task
            or task
            in self._settings.now.uncached_tasks  # a `get` serves entries of before the reload, a begin does not
            or len(entry.value) > max_bytes
            or expiry_of(entry) <= now
            or self._cache.is_hidden(entry)
        ):
            return

        number = self.publications.last_number + 1
        meta = None if terms.usage is NO_USAGE else terms.usage
        record = encode_record(
            ViewRecord(
                number, entry.stored_at, entry.seconds, entry.dollars, terms.backend, task, meta, Raw(entry.value)
            )
        )
        digest = digest_of(entry.key)
        place = view.place_for(entry.key, digest, len(record), now) if len(record) <= max_bytes else None
        if place is None:
            return

        for victim in place.victims:
            self._withdraw(view, victim)

        publication = Publication(
            number,
            view.number,
            terms.scope,
            entry,
            entry.key,
            entry.seconds,
            task,
            chunk_count(entry.value),
            now,
            place.slot,
            place.offset,
            len(record),
        )
        view.space.add(publication)
        self.publications.add(publication)
        self.changes.add(
            Publish(view.number, place.slot, digest, place.offset, publication.expires_at, view.generation, record)
        )

    def withdraw(self, entry: Entry) -> None:
        """Withdraw an entry that leaves the cache, before it is emptied."""
        view = self.scopes.get(entry.terms.scope)
        publication = None if view is None else view.space.by_key.get(entry.key)
        # Otherwise the whole view was withdrawn, and the entry is still marked (`Publications.end_all`).
        if view is not None and publication is not None and publication.entry is entry:
            self._withdraw(view, publication)

    def withdraw_covered(self, namespace: str | None) -> None:
        """Withdraw all entries of the scopes that a purge of ``namespace`` covers; None means all."""
        for view in self.scopes.values():
            if covers(namespace, view.scope) and view.space.by_key:
                self.publications.end_all(view.clear())
                view.generation += 1
                self.changes.add(WithdrawAll(view.number, view.generation))

    def settle(self, now: float) -> list[Effect]:
        """Return the effects of the event's changes."""
        self.publications.settle(now)
        self.reserve()
        return self.changes.drain()

    def seconds_passed(self, now: float) -> None:
        """Forget publications that are too old for late hits."""
        self.publications.forget(now, _FORGOTTEN_LATER)
        self.reserve()

    def reserve(self) -> None:
        """Take the memory of views and publications from the cache's budget."""
        used = self.views.file_bytes + PUBLICATION_BYTES * len(self.publications)
        reserved = -(-used // _RESERVED_STEP) * _RESERVED_STEP
        if reserved != self._cache.reserved_bytes:
            self._cache.reserve(reserved)

    def _withdraw(self, view: ScopeView, publication: Publication) -> None:
        view.remove(publication)
        self.publications.end(publication)
        self.changes.withdraw(view.number, publication.slot)
