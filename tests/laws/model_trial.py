"""An engine whose every reply the reference model predicts."""

from collections import defaultdict
from math import inf

import msgspec
from msgspec import structs

from sidecard.core import notes
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Event, PeerLost, RequestReceived, SettingsRead
from sidecard.core.settings import EngineSettings, SharedWith
from sidecard_client.protocol import wire
from tests.laws.engine_trial import EngineTrial
from tests.laws.event_checker import EventChecker
from tests.laws.records import UNKNOWN, Sent, Sums, budget_bytes
from tests.laws.reference_model import ReferenceModel

_MOST_CHARGED_BYTES = 1000
"""More than any entry of a trial is charged beside its value."""

_COUNTED = frozenset(wire.Stats.__struct_fields__) - frozenset(
    {"id", "version", "boot_id", "uptime_seconds", "draining", "peers", "flights", "leases", "waiters", "evicted"}
    | {"cache_entries", "cache_bytes", "cache_max_bytes", "expired_entries", "queued", "permits", "breakers", "store"}
    | {"memory_by_kind", "memory_by_uid", "similar_refused"}
    | {"views", "view_bytes", "view_entries", "view_publications", "view_withdrawals"}
)
"""The counters that the model predicts. The test of the cache checks the number of entries, `TableChecker` the memory."""


class ModelTrial(EngineTrial):
    """One engine and its model."""

    def __init__(self, settings: EngineSettings) -> None:
        self.model = ReferenceModel(settings)
        self._values = 0
        self._purges: dict[tuple[int, int], int] = {}
        """What purges are expected to count, by peer and request: each is answered after its last batch."""
        super().__init__(settings, EventChecker(settings), lambda: 0.5)
        self.model.views = self.checker.views

    def share(self, shared: dict[str, SharedWith]) -> None:
        """Give the engine other shared namespaces."""
        self.settings = structs.replace(self.settings, shared_namespaces=shared)
        self.happen(SettingsRead(self.settings))

    def next_value(self, size: int = 0) -> msgspec.Raw:
        """Return an encoded value unlike any other."""
        self._values += 1
        return msgspec.Raw(wire.pack([self._values, b"v" * size]))

    def check(self, event: Event, effects: list[Effect]) -> None:
        """Compare the replies with the predicted ones, and the counters with the model's."""
        self._follow_entries(effects)
        predicted = self._without_purges(event, self.model.handle(event, self.now))
        sent = [(effect.peer_id, effect.reply) for effect in effects if isinstance(effect, SendReply)]
        unpurged = [
            (peer_id, reply)
            for peer_id, reply in sent
            if not self._is_of_purge(peer_id, reply) and not _says_no_view(event, reply)
        ]
        actual, expected = _by_request(unpurged), _by_request(predicted)
        assert actual == expected, f"the engine replies {actual}, the model {expected}"
        for peer_id, reply in sent:
            if isinstance(reply, wire.Lease):
                self.model.granted(peer_id, reply)

        for scope, published in self.checker.views.readable(self.now):
            self.model.check_read(scope, self.checker.key_of(published), published, self.now)

        if self.observer.id in self.checker.peers:
            self.check_stats()

    def check_stats(self) -> None:
        """Compare counters and gauges, and check that the counters add up."""
        stats = self.observe(wire.GetStats(), wire.Stats)
        model = self.model
        actual = {name: getattr(stats, name) for name in _COUNTED}
        expected = {name: model.counts[name] for name in _COUNTED}
        if self.engine.has_work:
            assert actual.pop("deleted") <= expected.pop("deleted")
        assert actual == expected, {
            name: (actual[name], expected[name]) for name in actual if actual[name] != expected[name]
        }
        assert stats.begins == (
            stats.hits
            + stats.shared
            + stats.leases_first
            + stats.failed
            + stats.rejected
            + stats.timeouts
            + stats.left
            + stats.waiters
        )
        gauges = (len(model.flights), len(model.leases), len(model.waiters()), len(model.peers), model.draining)
        assert (stats.flights, stats.leases, stats.waiters, stats.peers, stats.draining) == gauges
        assert (stats.permits, stats.queued) == (stats.leases, 0)
        self._check_views(stats)
        assert stats.waiters <= self.settings.max_waiters
        assert stats.flights <= self.settings.max_flights
        assert stats.leases <= self.settings.max_leases
        assert stats.cache_bytes <= budget_bytes(self.settings)
        assert stats.cache_entries >= len(model.live(self.now))
        self._check_health(stats)

    def check_report(self) -> None:
        """Compare the ledger of every task and in total, and check that its sums add up."""
        report = self.observe(wire.GetReport(), wire.Report)
        books = self.model.books
        if len(books) > self.settings.max_tasks:
            # Which tasks have made room is not predicted; nothing of them is lost.
            total = Sums()
            for book in books.values():
                total.add(book)

            books = {"all": total}
            report = structs.replace(report, tasks={"all": report.total})

        for task, ledger in report.tasks.items():
            book = books[task]
            assert ledger.rejected == sum(ledger.rejected_by_reason.values())
            assert ledger.calls == book.hits + book.shared + book.leads
            for name in book.__dataclass_fields__.keys() - {"leads"}:
                assert getattr(ledger, name) == getattr(book, name), (task, name)

        for ledger in [report.total, *report.tasks.values()]:
            assert ledger.served_dollars == (
                ledger.billed_dollars + ledger.saved_by_cache_dollars + ledger.saved_by_sharing_dollars
            )
            assert ledger.served_seconds == (
                ledger.billed_seconds
                + ledger.saved_by_cache_seconds
                + ledger.saved_by_sharing_seconds
                + ledger.waited_seconds
            )

        for name in ("calls", "hits", "shared", "upstream_calls", "served_seconds", "served_dollars"):
            assert getattr(report.total, name) == sum(getattr(ledger, name) for ledger in report.tasks.values())

    def check_end(self) -> None:
        """Check the ledger once more, and that every purge was answered."""
        assert not self._purges
        self.check_report()

    def _without_purges(self, event: Event, predicted: list[Sent]) -> list[Sent]:
        """Expect the replies to purges later than the model predicts; return the other ones."""
        if isinstance(event, PeerLost):
            self._purges = {place: count for place, count in self._purges.items() if place[0] != event.peer.id}

        if not isinstance(event, RequestReceived) or not isinstance(event.request, wire.Purge):
            return predicted

        for peer_id, reply in predicted:
            if isinstance(reply, wire.Deleted):
                self._purges[peer_id, reply.id] = reply.count

        return [(peer_id, reply) for peer_id, reply in predicted if not isinstance(reply, wire.Deleted)]

    def _is_of_purge(self, peer_id: int, reply: wire.AnyReply) -> bool:
        """Return whether a reply is to a purge, and check it."""
        if not isinstance(reply, wire.Deleted) or (peer_id, reply.id) not in self._purges:
            return False

        count = self._purges.pop((peer_id, reply.id))
        assert reply.count <= count if reply.in_progress else reply.count == count
        return True

    def _check_views(self, stats: wire.Stats) -> None:
        """What is counted is what the files have."""
        views = self.checker.views
        current = [one for one in views.by_publication.values() if one.withdrawn_at == inf]
        assert (stats.views, stats.view_bytes, stats.view_entries, stats.view_publications, stats.view_withdrawals) == (
            len(views.views),
            views.file_bytes,
            len(current),
            len(views.by_publication),
            len(views.by_publication) - len(current),
        )

    def _check_health(self, stats: wire.Stats) -> None:
        """No table is reported full that has room now."""
        health = self.observe(wire.GetHealth(), wire.Health)
        assert (health.status == "draining") == self.model.draining
        for table in ("flights", "leases", "waiters"):
            room = getattr(stats, table) < getattr(self.settings, f"max_{table}")
            assert not (room and any(f"table of {table}" in reason for reason in health.reasons)), health.reasons

    def _follow_entries(self, effects: list[Effect]) -> None:
        """Report to the model what the cache alone decides: which entries were evicted, and whether one is too large."""
        emitted = [effect.note for effect in effects if isinstance(effect, EmitNote)]
        refused = [note for note in emitted if isinstance(note, notes.EntryRefused)]
        assert all(note.size_bytes + _MOST_CHARGED_BYTES > note.max_bytes for note in refused)
        self.model.too_large = bool(refused)
        evicted = sum(note.count for note in emitted if isinstance(note, notes.Evicted))
        if evicted:
            tables = self.engine._policy.cache._tables
            gone = [
                place
                for place in self.model.live(self.now)
                if place[0] not in tables or place[1] not in tables[place[0]]
            ]
            assert len(gone) == evicted, "only live entries are evicted, and all of them are reported"
            for place in gone:
                self.model.forget(place)


def _says_no_view(event: Event, reply: wire.AnyReply) -> bool:
    return (
        isinstance(event, RequestReceived)
        and isinstance(event.request, wire.GetView)
        and isinstance(reply, wire.Error)
        and reply.code == "unavailable"
    )


def _by_request(sent: list[Sent]) -> dict[tuple[int, int], list[wire.AnyReply]]:
    """Group replies by peer and request id, without what only the engine knows."""
    grouped = defaultdict[tuple[int, int], list[wire.AnyReply]](list)
    for peer_id, reply in sent:
        grouped[peer_id, reply.id].append(_plain(reply))

    return grouped


def _plain(reply: wire.AnyReply) -> wire.AnyReply:
    match reply:
        case wire.Lease():
            return msgspec.structs.replace(reply, lease=UNKNOWN, waiters=0, prefix=False)
        case wire.Error() | wire.Failed():
            return msgspec.structs.replace(reply, message=UNKNOWN)
        case _:
            return reply
