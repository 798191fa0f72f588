"""Replies that carry an answer: of the cache, of a similar request, or of another caller's call."""

from typing import Any

from msgspec import Raw, Struct

from sidecard.core.accounts.backend_ledger import BackendLedgers
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.cache.compression import Compression
from sidecard.core.cache.entry import COMPRESSED, HITS_AND_PUBLISHED, PUBLISHED, Entry
from sidecard.core.cache.freshness import is_fresh_for
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.endings import Endings, Rejection
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard.core.flights.streams import SharedStream, Streams
from sidecard_client.protocol import wire

_FRESH = False
"""``stale`` of answers that have just been computed, and of those that `get` reads."""

WOULD_WAIT = Rejection("saturated")
"""Marks a caller that would have to wait for a permit but has a previous answer: it is served that answer."""


class Serving(Struct, frozen=True, eq=False):
    """Serves answers and books what they save."""

    ledgers: TaskLedgers
    spending: BackendLedgers
    counters: Counters
    recorder: CallRecorder
    streams: Streams
    compression: Compression
    similar_answers: SimilarAnswers
    endings: Endings
    publisher: Publisher

    def count_miss(self, peer: Peer, request: wire.Begin, now: float) -> None:
        """Count that a begin found no stored answer, unless it wanted none."""
        if request.mode != "refresh":
            self.counters.misses += 1
            ledger = self.ledgers.of(request.task, peer.uid, now)
            ledger.misses += 1
            ledger.used_at = now

    def entry(self, peer: Peer, request: wire.Begin, entry: Entry, now: float, *, stale: bool = False) -> list[Effect]:
        """Serve an entry to a begin that has waited for no call. ``stale``: it is too old to be fresh for this begin."""
        age = now - entry.stored_at
        ledger = self.ledgers.of(request.task, peer.uid, now)
        terms = entry.terms
        dollars = terms.usage.cost_dollars or 0.0
        if dollars:
            self.spending.count_saved(terms.backend, terms.usage.model, dollars, peer.uid, now)

        kind: type[wire.Hit | wire.Shared] = wire.Hit
        if stale:
            ledger.count_hit(entry)
            ledger.stale_hits += 1
            self.counters.hits += 1
            self.counters.stale_hits += 1
        elif age < terms.ttl_seconds:
            ledger.count_hit(entry)
            self.counters.hits += 1
            if self.publisher.scopes and 1 < entry.state & HITS_AND_PUBLISHED < PUBLISHED:
                self.publisher.publish(entry, request.task, now)
        else:
            ledger.count_shared(entry.seconds, dollars, 0.0)
            self.counters.shared += 1
            kind = wire.Shared

        answer = self.compression.answer(entry) if entry.state & COMPRESSED else Raw(entry.value)
        reply = kind(request.id, answer, age, stale, entry.seconds, dollars, terms.backend, terms.usage)
        if self.recorder.enabled:
            self.recorder.record_served(peer, request, reply, 0.0)

        return self.streams.replay(peer, reply) if request.stream else [SendReply(peer.id, reply)]

    def entry_if_room(
        self, peer: Peer, request: wire.Begin, entry: Entry, now: float, *, stale: bool = False
    ) -> list[Effect]:
        """Serve an entry; reject a begin that wants a stream for which there is no room."""
        if request.stream and not self.streams.fits(peer, self.compression.answer(entry)):
            return self.endings.reject_full(peer, request, "streams", self.streams.limit_bytes)

        return self.entry(peer, request, entry, now, stale=stale)

    def previous(self, peer: Peer, request: wire.Begin, entry: Entry, now: float) -> list[Effect]:
        """Serve the answer that a caller's own call was to replace."""
        return self.entry_if_room(peer, request, entry, now, stale=not is_fresh_for(request, entry, now))

    def without_lease(self, applicant: Applicant, rejection: Rejection, now: float) -> list[Effect]:
        """End the begin of an applicant that gets no lease: with its previous answer, or with a rejection."""
        peer, request, previous = applicant.peer, applicant.request, applicant.previous
        if previous is None:
            return [self.endings.reject(peer, request, rejection)]

        if rejection is WOULD_WAIT or is_fresh_for(request, previous, now):
            return self.previous(peer, request, previous, now)

        self.counters.stale_given += 1
        return [self.endings.reject(peer, request, rejection, *self.answer_fields(previous, now))]

    def similar(self, scope: str, peer: Peer, request: wire.Begin, now: float) -> list[Effect] | None:
        """Answer a begin that has neither entry nor flight by a similar request's entry, or by asking for the vector.

        None if similarity does not apply or nothing similar is stored; the begin then continues as without it.
        """
        answers = self.similar_answers
        if not answers.applies(request):
            return None

        if request.vector is None:
            if not request.embeds:
                return None

            self.counters.vectors_wanted += 1
            return [SendReply(peer.id, wire.VectorWanted(request.id))]

        if request.mode == "refresh":
            return None

        for entry, similarity in answers.candidates(scope, request, now):
            if not request.stream or self.streams.fits(peer, self.compression.answer(entry)):
                entry.touch()
                return self._similar_hit(peer, request, entry, similarity, now)

        return None

    def _similar_hit(
        self, peer: Peer, request: wire.Begin, entry: Entry, similarity: float, now: float
    ) -> list[Effect]:
        terms, dollars = entry.terms, entry.dollars
        self.ledgers.of(request.task, peer.uid, now).count_similar_hit(entry)
        self.counters.hits += 1
        self.counters.similar_hits += 1
        if dollars:
            self.spending.count_saved(terms.backend, terms.usage.model, dollars, peer.uid, now)

        age, value = now - entry.stored_at, self.compression.answer(entry)
        reply = wire.Hit(request.id, value, age, _FRESH, entry.seconds, dollars, terms.backend, terms.usage, similarity)
        if self.recorder.enabled:
            self.recorder.record_served(peer, request, reply, 0.0)

        return self.streams.replay(peer, reply) if request.stream else [SendReply(peer.id, reply)]

    def shared(
        self,
        waiter: Waiter,
        answer: Raw,
        seconds: float,
        backend: str,
        usage: wire.Usage,
        now: float,
        *,
        age_seconds: float = 0.0,
        trace: str = "",
    ) -> list[Effect]:
        """Serve the answer of another caller's call, which took ``seconds``, to a waiter that has left its flight."""
        peer, request, waited_seconds = waiter.peer, waiter.request, now - waiter.joined_at
        dollars = usage.cost_dollars or 0.0
        ledger = self.ledgers.of(request.task, peer.uid, now)
        saved_seconds = ledger.count_shared(seconds, dollars, waited_seconds)
        ledger.waits.observe(waited_seconds)
        self.counters.shared += 1
        if dollars:
            self.spending.count_saved(backend, usage.model, dollars, peer.uid, now)

        reply = wire.Shared(request.id, answer, age_seconds, _FRESH, saved_seconds, dollars, backend, usage, trace)
        if self.recorder.enabled:
            self.recorder.record_served(peer, request, reply, waited_seconds)

        if waiter.follower is not None:
            return self.streams.finish(waiter.follower, reply)

        return self.streams.replay(peer, reply) if request.stream else [SendReply(peer.id, reply)]

    def follow(self, waiter: Waiter, lease: HeldLease, stream: SharedStream, now: float) -> list[Effect]:
        """Send a waiter the chunks that it has not seen yet. Each chunk renews its waiting time."""
        follower = waiter.follower
        if follower is None:
            first = wire.Chunk(0, None, "shared", 0.0, lease.backend)
            follower = self.streams.open(waiter.peer, waiter.request.id, stream, first)

        waiter.follow(follower, now + self.endings.wait_seconds(waiter.request))
        return self.streams.pump(follower)

    def read(self, request: wire.Get, entry: Entry | None, now: float) -> wire.Hit | wire.Miss:
        """Return the reply to a `get`. An answer that is only shared by the window counts as not stored."""
        if entry is None or now - entry.stored_at >= entry.terms.ttl_seconds:
            return wire.Miss(request.id)

        age, terms = now - entry.stored_at, entry.terms
        if request.max_age_seconds is not None and age >= request.max_age_seconds:
            return wire.Miss(request.id)

        if self.publisher.scopes and 1 < entry.state & HITS_AND_PUBLISHED < PUBLISHED:
            self.publisher.publish(entry, terms.task, now)

        answer = self.compression.answer(entry)
        return wire.Hit(request.id, answer, age, _FRESH, entry.seconds, entry.dollars, terms.backend, terms.usage)

    def answer_fields(self, entry: Entry, now: float) -> tuple[Any, float, str]:
        """Return the fields of a lease or a rejection for a previous answer: value, age in seconds, backend."""
        return self.compression.answer(entry), now - entry.stored_at, entry.terms.backend
