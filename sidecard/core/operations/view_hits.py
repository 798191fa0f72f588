"""The `hits` operation: account for what clients have read from views, as for hits over the socket."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from sidecard.core.accounts.backend_ledger import BackendLedgers
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.cache.entry import MAX_RECENT_HITS
from sidecard.core.cache.view.publication import HitSource
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, ServeAgain
from sidecard.core.events import Peer
from sidecard.core.flights.streams import Streams
from sidecard.core.replies import error, not_yours
from sidecard.core.scopes import Scopes
from sidecard_client.protocol import wire

PART_ITEMS = 1024
"""A report is booked in parts of at most this many items, which takes about 1 ms."""

PART_ROWS = 256
"""With a call log, a part also ends after this many rows: one for each hit."""

_DROPPED = "view_hits"

_Kind = Literal["hits", "streams", "gets"]


class ViewHits(Struct, frozen=True, eq=False):
    """Books reported hits to their tasks, backends and entries, for the uid and process that reported them."""

    scopes: Scopes
    publisher: Publisher
    ledgers: TaskLedgers
    spending: BackendLedgers
    counters: Counters
    streams: Streams
    metrics: DaemonMetrics
    recorder: CallRecorder
    unfinished: dict[int, tuple[wire.RecordHits, Iterator[None]]] = {}
    """By peer, the report that is being booked in parts, and its remaining parts."""

    def hits(self, peer: Peer, request: wire.RecordHits, now: float) -> list[Effect]:
        """Book a report, or its next part."""
        begun = self.unfinished.pop(peer.id, None)
        if begun is None or begun[0] is not request:
            views, namespace = self.publisher.views, request.namespace
            source = HitSource(self.scopes.find_own(peer, namespace), views.received(peer, namespace))
            if source.scope is None and not source.view:
                return [not_yours(peer, request, request.namespace)]

            problem = _problem(request)
            if problem:
                return [error(peer, request, "bad_request", f"hits: {problem}")]

            begun = request, self._book_all(peer, request, source, now)

        for _ in begun[1]:
            self.unfinished[peer.id] = begun
            return [ServeAgain()]

        return []

    def peer_lost(self, peer: Peer) -> None:
        """Forget the rest of a lost peer's report."""
        self.unfinished.pop(peer.id, None)

    def _book_all(self, peer: Peer, request: wire.RecordHits, source: HitSource, now: float) -> Iterator[None]:
        """Book a report; yield at the end of each part."""
        view = None if source.scope is None else self.publisher.scopes.get(source.scope)
        if view is not None:
            view.used_at = now

        for number, (kind, items) in enumerate(_parts(request)):
            if number:
                yield

            if kind == "gets":
                self.metrics.requests[wire.Get, wire.Hit] += self._touch(items, source, now)
                continue

            hits, chunks = self._book(items, peer, source, now)
            if kind == "streams":
                self.streams.hits += hits
                self.streams.sent += chunks
                self.metrics.requests[wire.Begin, wire.End] += hits

            if self.recorder.enabled:
                yield from self._log(items, peer, request.namespace, source, now)

    def _book(self, items: Sequence[wire.HitItem], peer: Peer, source: HitSource, now: float) -> tuple[int, int]:
        """Book the hits of begins; return how many, and how many chunks they would have had as streams."""
        find, hits, chunks, dropped = self.publisher.publications.find, 0, 0, 0
        task, ledger = "", None
        saved: defaultdict[tuple[str, str | None], float] = defaultdict(float)
        for number, count, _, _ in items:
            publication = find(number, source, now)
            if publication is None:
                dropped += count
                continue

            hits += count
            chunks += count * publication.chunks
            entry = publication.entry
            if entry.state & MAX_RECENT_HITS != MAX_RECENT_HITS:
                entry.touch(count)

            terms = entry.terms
            dollars = terms.usage.cost_dollars or 0.0
            if ledger is None or publication.task != task:
                task = publication.task
                ledger = self.ledgers.of(task, peer.uid, now)

            ledger.count_hits(count, publication.seconds, dollars)
            if dollars:
                saved[terms.backend, terms.usage.model] += count * dollars

        for (backend, model), dollars in saved.items():
            self.spending.count_saved(backend, model, dollars, peer.uid, now)

        self.counters.begins += hits
        self.counters.hits += hits
        self.counters.view_hits += hits
        self.metrics.dropped[_DROPPED] += dropped
        return hits, chunks

    def _touch(self, items: Sequence[wire.HitItem], source: HitSource, now: float) -> int:
        """Count the hits of gets on their entries, as a get over the socket does; return how many."""
        hits = 0
        for number, count, _, _ in items:
            publication = self.publisher.publications.find(number, source, now)
            if publication is None:
                self.metrics.dropped[_DROPPED] += count
            else:
                hits += count
                publication.entry.touch(count)

        return hits

    def _log(
        self, items: Sequence[wire.HitItem], peer: Peer, namespace: str, source: HitSource, now: float
    ) -> Iterator[None]:
        """Record each hit for the call log, at equal intervals from the first to the last; yield where a part ends."""
        rows = 0
        for number, count, first_at, last_at in items:
            publication = self.publisher.publications.find(number, source, now)
            if publication is None:
                continue

            begin, end = (min(max(publication.published_at, at), now) for at in (first_at, last_at))
            for hit in range(count):
                at = begin + (end - begin) * hit / max(1, count - 1)
                self.recorder.record_read(peer, namespace, publication, at, now)
                rows += 1
                if rows % PART_ROWS == 0:
                    yield


def _parts(request: wire.RecordHits) -> Iterator[tuple[_Kind, tuple[wire.HitItem, ...]]]:
    """Yield the items in parts, each with its field."""
    fields: tuple[tuple[_Kind, tuple[wire.HitItem, ...]], ...] = (
        ("hits", request.hits),
        ("streams", request.streams),
        ("gets", request.gets),
    )
    for kind, items in fields:
        for begin in range(0, len(items), PART_ITEMS):
            yield kind, items[begin : begin + PART_ITEMS]


def _problem(request: wire.RecordHits) -> str:
    """Return what is wrong with reported hits; empty if nothing is."""
    items = (*request.hits, *request.streams, *request.gets)
    if len(items) > wire.MAX_HIT_ITEMS:
        return f"{len(items)} items; send at most {wire.MAX_HIT_ITEMS} at once"

    hits = 0
    for _, count, first_at, last_at in items:
        hits += count
        if first_at > last_at:
            return "an item's first time is later than its last; send the earlier one first"

    if hits > wire.MAX_REPORTED_HITS:
        return f"{hits} hits; send at most {wire.MAX_REPORTED_HITS} at once"

    return ""
