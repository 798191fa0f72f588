"""Planted bugs of views in the engine: what is published, when it is withdrawn, where it is, and how its hits are counted."""

from math import inf
from typing import Any

from msgspec import structs

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.view import publication, publisher
from sidecard.core.cache.view.publication import Publication, Publications
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.cache.view.space import ViewSpace
from sidecard.core.cache.view.views import Views
from sidecard.core.effects import Withdraw, WithdrawAll
from sidecard.core.engine import Engine
from sidecard.core.operations.view_hits import ViewHits
from sidecard.core.operations.views import ViewOperations
from sidecard.core.scopes import Scopes
from tests.simulation.mutants import Original, nothing
from tests.simulation.schedule_mutants import mutants_of


def _purge_without_views(purge: Original) -> Original:
    def mutant(self: MemoryCache, *what: Any) -> Any:
        published, self.published = self.published, None
        try:
            return purge(self, *what)
        finally:
            self.published = published

    return mutant


def _withdraw_after_the_replies(handle: Original) -> Original:
    def mutant(self: Engine, event: Any, now: float) -> Any:
        effects = handle(self, event, now)
        return sorted(effects, key=lambda effect: isinstance(effect, Withdraw | WithdrawAll))

    return mutant


def _find_with_the_task_of_the_entry(find: Original) -> Original:
    def mutant(self: Publications, *what: Any) -> Publication | None:
        found: Publication | None = find(self, *what)
        return None if found is None else structs.replace(found, task=found.entry.terms.task)

    return mutant


def _publish_for_longer(_: Original) -> Original:
    return lambda entry: entry.stored_at + entry.terms.ttl_seconds + 5.0


def _publish_what_is_refreshed_early(publish: Original) -> Original:
    def mutant(self: Publisher, entry: Entry, task: str, now: float) -> None:
        whole = entry.terms
        entry.terms = structs.replace(whole, early_refresh=0.0)
        publish(self, entry, task, now)
        entry.terms = whole

    return mutant


def _overwrite(_: Original) -> Original:
    def mutant(self: ViewSpace, size: int) -> Any:
        return (self._start if self._head + size > self._end else self._head), []

    return mutant


def _same_slot(find: Original) -> Original:
    def mutant(self: ViewSpace, *where: Any) -> Any:
        place = find(self, *where)
        return type(place)(place.slot // 4 * 4, place.offset, place.overwritten, None)

    return mutant


def _same_generation(withdraw: Original) -> Original:
    def mutant(self: Publisher, namespace: str | None) -> None:
        withdraw(self, namespace)
        for view in self.scopes.values():
            view.generation = 1

    return mutant


def _find_any(_: Original) -> Original:
    return lambda _self, _peer, namespace: f"1000:{namespace}"


def _find_late(find: Original) -> Original:
    def mutant(self: Publications, number: int, source: Any, _: float) -> Any:
        return find(self, number, source, -inf)

    return mutant


def _find_of_any_scope(_: Original) -> Original:
    def mutant(self: Publications, number: int, _source: Any, now: float) -> Publication | None:
        found = self._by_number.get(number)
        return found if found is not None and now - found.withdrawn_at <= publication.LATE_SECONDS else None

    return mutant


def _received_nothing(_: Original) -> Original:
    return lambda _self, _peer, _namespace: 0


def _count_once(book: Original) -> Original:
    def mutant(self: ViewHits, items: Any, *rest: Any) -> Any:
        return book(self, [(number, 1, first_at, last_at) for number, _, first_at, last_at in items], *rest)

    return mutant


def _open_without_bound(open_: Original) -> Original:
    def mutant(self: Views, *what: Any) -> Any:
        used, self.file_bytes = self.file_bytes, 0
        try:
            return open_(self, *what)
        finally:
            self.file_bytes += used

    return mutant


VIEW_MUTANTS = mutants_of(
    "engine",
    ("views: a purge withdraws nothing", "small views", 6_000, (MemoryCache, "purge", _purge_without_views)),
    ("views: a removed entry stays published", "small views", 2_000, (Publisher, "withdraw", nothing)),
    ("views: entries are withdrawn after the replies", "small views", 2_000, (Engine, "handle", _withdraw_after_the_replies)),
    ("views: hits count for the task of the entry", "defaults", 6_000, (Publications, "find", _find_with_the_task_of_the_entry)),
    ("views: an entry is published beyond its lifetime", "defaults", 6_000, (publisher, "expiry_of", _publish_for_longer), (publication, "expiry_of", _publish_for_longer)),
    ("views: an entry that is refreshed early is published", "stale answers", 10_000, (Publisher, "publish", _publish_what_is_refreshed_early)),
    ("views: space is reused that was not withdrawn", "small views", 20_000, (ViewSpace, "_overwritten", _overwrite)),
    ("views: a slot is reused that was not withdrawn", "small views", 20_000, (ViewSpace, "find", _same_slot)),
    ("views: a generation is used again", "small views", 20_000, (Publisher, "withdraw_covered", _same_generation)),
    ("views: all uids get one view", "defaults", 6_000, (Scopes, "find_own", _find_any)),
    ("views: hits count long after a withdrawal", "defaults", 10_000, (Publications, "find", _find_late)),
    ("views: hits count for another uid", "defaults", 20_000, (Publications, "find", _find_of_any_scope)),
    ("views: hits of before a reload are lost", "defaults", 20_000, (Views, "received", _received_nothing)),
    ("views: a view is read after the drain", "defaults", 10_000, (ViewOperations, "stopped", nothing)),
    ("views: several hits in one item count once", "defaults", 6_000, (ViewHits, "_book", _count_once)),
    ("views: files take more than their budget", "defaults", 6_000, (Views, "open", _open_without_bound)),
)  # fmt: skip
