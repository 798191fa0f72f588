"""Answers that nobody had to fetch again: their replies, and how they are booked."""

from typing import Any

from msgspec import Raw

from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.cache.compression import Compression
from sidecard.core.cache.entry import COMPRESSED, Entry
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Send
from sidecard.core.events import Peer
from sidecard.core.flights.streams import Streams
from sidecard_client.protocol import wire

_FRESH = False
"""The ``stale`` of what others have just fetched, and of what readers are given."""


class Serving:
    """Serves entries, and answers that have just come."""

    def __init__(
        self, billing: Billing, count: Counters, recorder: CallRecorder, streams: Streams, compression: Compression
    ) -> None:
        self._spending = billing.spending
        self._ledgers = billing.tasks
        self._count = count
        self._recorder = recorder
        self._streams = streams
        self._compression = compression

    def missed(self, request: wire.Begin) -> None:
        """Count that there is no stored answer, where one was looked for."""
        if request.mode != "refresh":
            self._count.misses += 1
            self._ledgers.of(request.task).misses += 1

    def entry(self, peer: Peer, request: wire.Begin, entry: Entry, now: float) -> list[Effect]:
        """Serve an entry, a stale one as that, to a begin that has not waited for a call."""
        age = now - entry.stored_at
        ledger = self._ledgers.of(request.task)
        terms, dollars = entry.terms, entry.dollars
        if dollars:
            self._spending.count_saved(terms.backend, terms.usage.model, dollars)

        stale = age >= terms.fresh_seconds
        kind: type[wire.Hit | wire.Shared] = wire.Hit
        if age < terms.ttl_seconds:
            ledger.count_hit(entry)
            self._count.hits += 1
        elif stale:
            ledger.count_hit(entry)
            ledger.stale_hits += 1
            self._count.hits += 1
            self._count.stale_hits += 1
        else:
            ledger.count_shared(entry.seconds, dollars, 0.0)
            self._count.shared += 1
            kind = wire.Shared

        answer = self._compression.answer(entry) if entry.state & COMPRESSED else Raw(entry.value)
        reply = kind(request.id, answer, age, stale, entry.seconds, dollars, terms.backend, terms.usage)
        if self._recorder.enabled:
            self._recorder.record_served(peer, request, reply, 0.0)

        return self._streams.replay(peer, reply) if request.stream else [Send(peer.id, reply)]

    def value(self, entry: Entry) -> Raw:
        """Return an entry's answer as it is sent."""
        return self._compression.answer(entry)

    def similar(
        self, answers: SimilarAnswers, scope: str, peer: Peer, request: wire.Begin, now: float
    ) -> list[Effect] | None:
        """Answer a begin that has neither entry nor flight by a similar request's entry, or by asking for the vector.

        None if similarity does not apply or nothing similar is stored; the begin then goes on as without it.
        """
        if not answers.applies(request):
            return None

        if request.vector is None:
            if not request.embeds:
                return None

            self._count.vectors_wanted += 1
            return [Send(peer.id, wire.VectorWanted(request.id))]

        if request.mode == "refresh":
            return None

        for entry, similarity in answers.candidates(scope, request, now):
            if not request.stream or self._streams.fits(self.value(entry)):
                entry.touch()
                return self._similar_hit(peer, request, entry, similarity, now)

        return None

    def _similar_hit(
        self, peer: Peer, request: wire.Begin, entry: Entry, similarity: float, now: float
    ) -> list[Effect]:
        terms, dollars = entry.terms, entry.dollars
        self._ledgers.of(request.task).count_similar_hit(entry)
        self._count.hits += 1
        self._count.similar_hits += 1
        if dollars:
            self._spending.count_saved(terms.backend, terms.usage.model, dollars)

        age, value = now - entry.stored_at, self.value(entry)
        reply = wire.Hit(request.id, value, age, _FRESH, entry.seconds, dollars, terms.backend, terms.usage, similarity)
        if self._recorder.enabled:
            self._recorder.record_served(peer, request, reply, 0.0)

        return self.deliver(peer, request, reply)

    def deliver(self, peer: Peer, request: wire.Begin, reply: wire.Hit | wire.Shared) -> list[Effect]:
        """Send a whole answer, in pieces to who wants it so."""
        return self._streams.replay(peer, reply) if request.stream else [Send(peer.id, reply)]

    def answer(
        self,
        peer: Peer,
        request: wire.Begin,
        answer: Raw,
        seconds: float,
        backend: str,
        usage: wire.Usage,
        *,
        waited_seconds: float,
        age_seconds: float = 0.0,
        trace: str = "",
    ) -> wire.Shared:
        """Serve the answer of somebody else's call, which took ``seconds``, to a begin that has waited for it."""
        dollars = usage.cost_dollars or 0.0
        ledger = self._ledgers.of(request.task)
        saved_seconds = ledger.count_shared(seconds, dollars, waited_seconds)
        ledger.waits.observe(waited_seconds)
        self._count.shared += 1
        if dollars:
            self._spending.count_saved(backend, usage.model, dollars)

        reply = wire.Shared(request.id, answer, age_seconds, _FRESH, saved_seconds, dollars, backend, usage, trace)
        if self._recorder.enabled:
            self._recorder.record_served(peer, request, reply, waited_seconds)

        return reply

    def hit(self, request: wire.Get, entry: Entry, now: float) -> wire.Hit | wire.Miss:
        """Serve an entry to a reader; what is only shared by the window was never stored as far as readers know."""
        age, terms = now - entry.stored_at, entry.terms
        if age >= terms.ttl_seconds:
            return wire.Miss(request.id)

        return wire.Hit(
            request.id, self.value(entry), age, _FRESH, entry.seconds, entry.dollars, terms.backend, terms.usage
        )

    def brought(self, old: Entry, now: float) -> tuple[Any, float, str]:
        """Return what a lease or a rejection says of an older answer: its value, its age in seconds, its backend."""
        return self._compression.answer(old), now - old.stored_at, old.terms.backend
