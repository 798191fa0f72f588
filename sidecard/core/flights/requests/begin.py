"""`begin`: answer the question "must I make this call?"."""

import re
from operator import ge

from msgspec import Struct, structs

from sidecard.core.accounts.charges import begin_bytes
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.freshness import FreshnessPolicy, is_fresh_for
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.endings import DRAINING, NOT_CACHED, Endings
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.grants import Grants
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.participants import Applicant
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.replies import error, id_in_use, not_yours
from sidecard.core.scopes import Scopes
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import MAX_KEY_CHARACTERS, PREFIX_CHARACTERS, sampled

_HEXADECIMAL = re.compile("[0-9a-f]*")
_TOO_LONG = f"it has more than {MAX_KEY_CHARACTERS} characters; send a digest of it"


class BeginOperation(Struct, frozen=True, eq=False):
    """Serves fresh entries of memory; every other begin goes to `Misses`."""

    scopes: Scopes
    flights: Flights
    streams: Streams
    policy: CachePolicy
    serving: Serving
    counters: Counters
    misses: "Misses"

    def begin(self, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:  # noqa: C901 - as few functions as possible
        """Answer a begin. This is the hot path: a hit passes as few functions as possible."""
        scope = self.scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        if self.flights.is_waiting(peer, request.id) or (
            self.streams.followers and self.streams.find(peer, request.id) is not None
        ):
            return [id_in_use(peer, request)]

        if request.sample:
            request = one_sample(request)
            if request.key is not None and len(request.key) > MAX_KEY_CHARACTERS:
                return [error(peer, request, "bad_request", f"key: with its sample {_TOO_LONG}")]

        if request.vector is not None:
            request = self.serving.similar_answers.compact(request)
            problem = self.serving.similar_answers.validate(scope, request)
            if problem is not None:
                return [error(peer, request, "bad_request", problem)]

        if request.prefix or request.prefix_bytes:
            problem = prefix_problem(request)
            if problem is not None:
                return [error(peer, request, "bad_request", problem)]

        self.counters.begins += 1
        policy, entry = self.policy, None
        uncached_tasks = policy.settings.now.uncached_tasks
        if uncached_tasks and request.task in uncached_tasks:
            return self.misses.begin_uncached(scope, peer, request, now)

        if request.key is not None and request.mode != "refresh":
            entry = policy.cache.get(scope, request.key, now)
            if (
                entry is not None
                and (age := now - entry.stored_at) < entry.terms.direct_hit_seconds
                and entry.terms.trust_epoch == policy.trust_epoch
                and not request.stream
                # `is_fresh_for`, without its call where only ``ttl_seconds`` is set
                and (request.ttl_seconds is None or (age < request.ttl_seconds and age < entry.terms.ttl_seconds))
                and (request.max_age_seconds is None or is_fresh_for(request, entry, now))
            ):
                return self.serving.entry(peer, request, entry, now)

        return self.misses.begin(scope, peer, request, entry, now)


def prefix_problem(request: wire.Begin) -> str | None:
    """Return what is wrong with the prefixes of a begin; None if nothing is."""
    if not _HEXADECIMAL.fullmatch("".join(request.prefix)):
        return f"prefix: each digest must be {PREFIX_CHARACTERS} hexadecimal digits in lower case"

    if len(set(request.prefix)) != len(request.prefix):
        return "prefix: a digest is repeated; send one for each prefix, the shortest first"

    lengths = request.prefix_bytes
    if not lengths:
        return None

    if len(lengths) != len(request.prefix):
        return (
            f"prefix_bytes: it has {len(lengths)} numbers for {len(request.prefix)} digests; send one for each, or none"
        )

    if any(map(ge, lengths, lengths[1:])):
        return "prefix_bytes: the numbers must ascend: each prefix is longer than the one before"

    return None


def one_sample(request: wire.Begin) -> wire.Begin:
    """Return the begin of one of several answers, under a key of its own."""
    key = None if request.key is None else sampled(request.key, request.sample)
    group = None if request.group is None else sampled(request.group, request.sample)
    return structs.replace(request, key=key, group=group, sample=0)


class Misses(Struct, frozen=True, eq=False):
    """Answers begins for which memory has no entry, or one that is stale, doubted, or due for an early refresh."""

    status: StoreStatus
    flights: Flights
    lookups: Lookups
    serving: Serving
    endings: Endings
    previous: "PreviousAnswers"
    callers: "NewCallers"

    def begin(  # noqa: C901, PLR0912 - the order of the questions is the point
        self, scope: str, peer: Peer, request: wire.Begin, entry: Entry | None, now: float
    ) -> list[Effect]:
        """Answer a begin, for which memory may have an ``entry``."""
        if entry is not None:
            if self.status.doubts(entry):
                entry = None
            elif now - entry.stored_at < entry.terms.direct_hit_seconds and is_fresh_for(request, entry, now):
                return self.serving.entry_if_room(peer, request, entry, now)

        flight = None
        if request.key is not None:
            flight = self.flights.find(scope, request.key)
            if entry is not None or self.previous.failures.known:
                effects = self.previous.answer(scope, request.key, flight, peer, request, entry, now)
                if effects is not None:
                    return effects

        if request.has_prefix and self.callers.wants_prefix(request):
            return [self.callers.ask_for_prefix(peer, request)]

        if request.key is not None:
            if self.lookups.concerns(flight, request):
                return self.lookups.begin(scope, flight, peer, request, now)

            if (request.embeds or request.vector is not None) and flight is None and entry is None:
                effects = self.serving.similar(scope, peer, request, now)
                if effects is not None:
                    return effects

            self.serving.count_miss(peer, request, now)

        if request.mode == "only_if_cached":
            return [self.endings.reject(peer, request, NOT_CACHED)]

        if self.flights.draining:
            return [self.endings.reject(peer, request, DRAINING)]

        if flight is not None:
            return self.callers.join(flight, peer, request, now)

        if entry is not None:
            entry = self.previous.allowed(request, entry, now)

        return self.callers.lead(scope, peer, request, now, entry)

    def begin_uncached(self, scope: str, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Answer a begin of a task whose answers are never stored: entries from an earlier policy are ignored."""
        if request.mode == "only_if_cached":
            return [self.endings.reject(peer, request, NOT_CACHED)]

        return self.begin(scope, peer, structs.replace(request, mode="refresh"), None, now)


class PreviousAnswers(Struct, frozen=True, eq=False):
    """Answers begins by an entry near or past the end of its lifetime, or by a remembered failure."""

    flights: Flights
    freshness: FreshnessPolicy
    failures: Failures
    serving: Serving
    callers: "NewCallers"
    counters: Counters

    def answer(
        self,
        scope: str,
        key: str,
        flight: Flight | None,
        peer: Peer,
        request: wire.Begin,
        entry: Entry | None,
        now: float,
    ) -> list[Effect] | None:
        """Answer a begin from what is known of its key; None if a call is needed."""
        may_lead = flight is None and request.mode == "use" and not self.flights.draining
        if entry is not None and is_fresh_for(request, entry, now):
            if may_lead and self.freshness.draws_early_refresh(request, entry, now):
                return self.callers.lead(scope, peer, request, now, entry)

            return self.serving.entry_if_room(peer, request, entry, now)

        if self.failures.known and request.mode != "refresh":
            failure = self.failures.find(scope, key, request.context, now)
            if failure is not None:
                self.counters.failed += 1
                self.counters.failed_again += 1
                return [SendReply(peer.id, wire.Failed(request.id, "fatal", failure.message, failure.detail))]

        if may_lead or entry is None or not self.freshness.accepts_stale(request, entry, now):
            return None

        return self.serving.entry_if_room(peer, request, entry, now, stale=True)

    def allowed(self, request: wire.Begin, entry: Entry, now: float) -> Entry | None:
        """Return an entry that is stale for the begin, if it accepts that."""
        return entry if self.freshness.accepts_stale(request, entry, now) else None


class NewCallers(Struct, frozen=True, eq=False):
    """Lets the caller of a key start its flight, or join it."""

    flights: Flights
    grants: Grants
    limits: TableLimits
    endings: Endings
    serving: Serving

    def wants_prefix(self, request: wire.Begin) -> bool:
        """Return whether a begin that memory cannot answer is to be repeated with the prefixes that its caller offers."""
        return (
            not request.prefix
            and request.mode != "only_if_cached"
            and not self.flights.draining
            and self.grants.admission.wants_prefix(request)
        )

    def ask_for_prefix(self, peer: Peer, request: wire.Begin) -> Effect:
        """End a begin by asking for its prefixes."""
        self.endings.counters.prefixes_wanted += 1
        return SendReply(peer.id, wire.PrefixWanted(request.id))

    def lead(
        self, scope: str, peer: Peer, request: wire.Begin, now: float, previous: Entry | None = None
    ) -> list[Effect]:
        """Let a caller make the call of a key without a flight; if it cannot, it gets the ``previous`` answer, if any."""
        charge, flight = begin_bytes(request), None
        full = self.limits.full_memory(peer.uid, charge)
        if full is None and request.key is not None:
            flight = self.limits.start_flight(scope, request.key, peer.uid)
            if flight is None:
                full = "flights"

        if full is not None:
            if previous is None:
                return self.endings.reject_full(peer, request, full)

            return self.serving.previous(peer, request, previous, now)

        deadline = now + self.endings.wait_seconds(request)
        applicant = Applicant(flight, peer, request, charge, request.id, now, deadline, previous=previous, scope=scope)
        rejection, effects = self.grants.admit(applicant, now)
        if rejection is not None:
            effects += self.serving.without_lease(applicant, rejection, now)
            if flight is not None:
                self.flights.finish(flight)

        return effects

    def join(self, flight: Flight, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Let a caller wait for a flight's answer, and follow its stream."""
        wait_seconds = self.endings.wait_seconds(request)
        if wait_seconds <= 0:
            return [self.endings.time_out(peer, request, 0.0)]

        charge = begin_bytes(request)
        full = self.limits.full_for_waiter(peer.uid, charge)
        if full is not None:
            return self.endings.reject_full(peer, request, full)

        waiter = self.flights.join(flight, peer, request, charge, now, wait_seconds)
        waiter.mark_pending()
        effects: list[Effect] = [SendReply(peer.id, wire.Pending(request.id))]
        if flight.lease is not None and flight.lease.wants_notice:
            effects.append(flight.lease.notify())

        if flight.stream is not None and flight.lease is not None and request.stream:
            effects += self.serving.follow(waiter, flight.lease, flight.stream, now)

        return effects
