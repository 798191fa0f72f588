"""Planted bugs of the engine that the random schedules must find: see `tests.simulation.mutants` for those of the whole host.

Each was found by the oracle that its group names, and by no other one, when the oracles were reduced; the table is in
`tests.laws`. ``steps`` is at least five times what the first find took.
"""

from typing import Any, NamedTuple
from unittest.mock import patch

from msgspec import UNSET, structs

from sidecard.core.accounts.charges import flight_bytes
from sidecard.core.accounts.ledger import TaskLedger
from sidecard.core.backends.admission import Admission
from sidecard.core.backends.affinity import Affinity
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.breaker import Breaker, BreakerPass, CallResult
from sidecard.core.backends.budgets import Budget
from sidecard.core.backends.limits import MinuteLimit
from sidecard.core.backends.prompt_caches.cache import PromptUse
from sidecard.core.backends.prompt_caches.provider import ProviderCache
from sidecard.core.backends.prompt_caches.slots import SlotModel
from sidecard.core.cache import freshness
from sidecard.core.cache.entry import Entry, Insertion, Terms
from sidecard.core.cache.eviction import GreedyDual
from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.events import Answer, ClaimedRemotely, KeyChanged, Peer
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import CallFailure
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.requests import fail
from sidecard.core.flights.store import answers
from sidecard.core.flights.store.answers import LookupAnswers, StoreEvents
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.streams import FOLLOWER_BYTES, SharedStream, Streams
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import bound_of
from tests.simulation.mutants import (
    Original,
    Replacement,
    batch_without_the_last,
    found_though_hidden,
    no_effects,
    nothing,
    purged_twice,
)


class ScheduleMutant(NamedTuple):
    """One bug, and the world and the number of steps within which its schedules find it."""

    schedule: str
    world: str
    steps: int
    replacements: tuple[Replacement, ...]


def _never(_: Original) -> Original:
    return lambda *_, **__: float("inf")


def _always(_: Original) -> Original:
    return lambda *_, **__: True


# Breakers, limits and budgets ---------------------------------------------------------------------------------------------


def _keep_probe_without_outcome(record_probe: Original) -> Original:
    def mutant(self: Breaker, breaker_pass: BreakerPass, result: CallResult, now: float) -> Any:
        return [] if result == "nothing" else record_probe(self, breaker_pass, result, now)

    return mutant


def _keep_half_open_after_neutral_probes(record_probe: Original) -> Original:
    def mutant(self: Breaker, breaker_pass: BreakerPass, result: CallResult, now: float) -> Any:
        return record_probe(self, breaker_pass, "nothing" if result == "neutral" else result, now)

    return mutant


def _close_after_one_probe(record_probe: Original) -> Original:
    def mutant(self: Breaker, breaker_pass: BreakerPass, result: CallResult, now: float) -> Any:
        if result != "success":
            return record_probe(self, breaker_pass, result, now)

        self._probes_out.remove(breaker_pass.issued_at)
        return [self._apply("probes_passed", now)]

    return mutant


def _trim_by_count_alone(_: Original) -> Original:
    def mutant(self: Breaker) -> None:
        while len(self._window) > self._settings.window_calls:
            self._count(self._window.popleft()[1], -1)

    return mutant


def _judge_failures_alone(judge_window: Original) -> Original:
    def mutant(self: Breaker, now: float) -> Any:
        return [] if self.failures == 0 else judge_window(self, now)

    return mutant


def _admit_while_half_open(admits: Original) -> Original:
    def mutant(self: Breaker) -> bool:
        return self.state == "half_open" or bool(admits(self))

    return mutant


def _one_too_many(limit: Any) -> Any:
    return property(lambda backend: limit.fget(backend) and limit.fget(backend) + 1)


def _withdraw_and_stay_queued(withdraw: Original) -> Original:
    def mutant(self: Flights, applicant: Applicant, now: float) -> None:
        queues, applicant.queues = applicant.queues, ()
        withdraw(self, applicant, now)
        del queues

    return mutant


def _process_for_ever(stop_processing: Original) -> Original:
    def mutant(self: ProviderCache, use: PromptUse) -> Any:
        return [] if use.output_at is None else stop_processing(self, use)

    return mutant


def _stay_busy_after_failures(end: Original) -> Original:
    def mutant(self: SlotModel, use: PromptUse, now: float, *, processed: bool) -> Any:
        return end(self, use, now, processed=processed) if processed else ()

    return mutant


def _expect_output(choose: Original) -> Original:
    def mutant(self: Affinity[Any], item: Any, caller: Any, fit: Any, now: float) -> Any:
        held = choose(self, item, caller, fit, now)
        if held:
            self._hold_ends.set(item, item.deadline)

        return held

    return mutant


# Cache, ledger and leases -------------------------------------------------------------------------------------------------


def _serve_for_longer(get: Original) -> Original:
    def mutant(self: MemoryCache, scope: str, key: str, now: float) -> Entry | None:
        entry = self.peek(scope, key)
        served: Entry | None = (
            entry if entry is not None and 0 <= now - entry.expires_at < 2 else get(self, scope, key, now)
        )
        return served

    return mutant


def _fresh_for_longer(fresh_seconds_for: Original) -> Original:
    return lambda request, entry: fresh_seconds_for(request, entry) + 2.0


def _accept_any_age(_: Original) -> Any:
    return staticmethod(lambda *_: True)


def _extend_by_window(_: Original) -> Original:
    def mutant(request: wire.Begin, entry: Entry) -> float:
        bound = bound_of(request)
        return entry.terms.fresh_seconds if bound is None else min(bound, entry.terms.fresh_seconds)

    return mutant


def _elect_for_failures_only(continue_flight: Original) -> Original:
    return lambda self, *arguments, **_: continue_flight(self, *arguments)


def _refresh_earlier(draws: Original) -> Original:
    return lambda self, request, entry, now: draws(self, request, entry, now + 8.0)


def _void_without_tags(void: Original) -> Original:
    def mutant(self: Flights, namespace: str | None, tag: str | None = None, task: str | None = None) -> None:
        if tag is None:
            void(self, namespace, tag, task)

    return mutant


def _no_detail(_: Original) -> Original:
    return lambda _: UNSET


def _remember_for_ever(_: Original) -> Original:
    def mutant(self: Failures, scope: str, key: str, context: str, now: float) -> CallFailure | None:
        del now
        failure = self.known.get((scope, key, context))
        return None if failure is None else failure.call

    return mutant


def _remember_for_all(find: Original) -> Original:
    def mutant(self: Failures, scope: str, key: str, context: str, now: float) -> CallFailure | None:
        found: CallFailure | None = find(self, scope, key, context, now) or self.latest(scope, key, now)
        return found

    return mutant


def _count_waiters_only(report_waiters: Original) -> Original:
    def mutant(self: HeldLease) -> Any:
        known = self.knows_waiters
        waiters = report_waiters(self)
        self.knows_waiters |= known
        return waiters

    return mutant


def _ignore_holders_lifetime(ttl_seconds: Original) -> Original:
    return lambda self, task, *requested: ttl_seconds(self, task, *requested[1:])


def _terms_of_first_generation(terms: Original) -> Original:
    return lambda self, *facts, **more: structs.replace(terms(self, *facts, **more), generation=0)


def _leave_old_entry(put: Original) -> Original:
    def mutant(self: MemoryCache, key: str, value: bytes, now: float, terms: Terms, *rest: Any, **options: Any) -> Any:
        return Insertion(None) if terms.lifetime_seconds <= 0 else put(self, key, value, now, terms, *rest, **options)

    return mutant


def _save_below_zero(count_shared: Original) -> Original:
    def mutant(self: TaskLedger, seconds: float, dollars: float, waited_seconds: float) -> float:
        missing = min(0.0, seconds - waited_seconds)
        saved = float(count_shared(self, seconds, dollars, waited_seconds)) + missing
        self.saved_by_sharing_seconds += missing
        self.waited_seconds -= missing
        return saved

    return mutant


def _elect_own_process(next_candidate: Original) -> Original:
    def mutant(self: Flights, flight: Flight, now: float, unresponsive: Peer | None = None) -> Waiter | None:
        del unresponsive
        waiter: Waiter | None = next_candidate(self, flight, now)
        return waiter

    return mutant


def _reuse_names(grant: Original) -> Original:
    def mutant(self: Flights, *arguments: Any) -> Any:
        if self._sequence % 7 == 6:
            self._sequence -= 3

        return grant(self, *arguments)

    return mutant


def _renew_for_twice_as_long(_: Original) -> Original:
    def mutant(self: Flights, lease: HeldLease, now: float) -> None:
        self.timers.set(lease, now + 2 * self._settings.now.lease_seconds)

    return mutant


# Memory --------------------------------------------------------------------------------------------------------------------


def _join_without_charge(join: Original) -> Original:
    def mutant(self: Flights, flight: Flight, peer: Peer, request: wire.Begin, _: int, *rest: float) -> Any:
        return join(self, flight, peer, request, 0, *rest)

    return mutant


def _keep_charge_of_lease(end_lease: Original) -> Original:
    def mutant(self: Flights, lease: HeldLease, **options: Any) -> None:
        end_lease(self, lease, **options)
        self._memory.charge(lease.peer.uid, lease.memory_bytes)

    return mutant


def _charge_twice(start: Original) -> Original:
    def mutant(self: Flights, scope: str, key: str, uid: int) -> Any:
        self._memory.charge(uid, flight_bytes(scope, key))
        return start(self, scope, key, uid)

    return mutant


def _release_to_another_uid(withdraw: Original) -> Original:
    def mutant(self: Flights, applicant: Applicant, now: float) -> None:
        withdraw(self, applicant, now)
        self._memory.charge(applicant.peer.uid, 1)
        self._memory.charge(applicant.peer.uid + 1, -1)

    return mutant


def _keep_charge_of_gets(take_gets: Original) -> Original:
    def mutant(self: Lookups, flight: Flight) -> Any:
        with patch.object(self.limits.memory.__class__, "release", nothing(take_gets)):
            return take_gets(self, flight)

    return mutant


def _close_without_release(close: Original) -> Original:
    def mutant(self: Streams, follower: Any) -> None:
        close(self, follower)
        if follower is not None:
            self.memory.charge(follower.peer.uid, FOLLOWER_BYTES)

    return mutant


# Streams and stores -------------------------------------------------------------------------------------------------------


def _store_without_last_chunk(packed: Original) -> Original:
    def mutant(self: SharedStream) -> Any:
        return packed(self if len(self.chunks) < 2 else SharedStream(self.uid, self.chunks[:-1]))

    return mutant


def _drop_without_discharge(_: Original) -> Original:
    def mutant(_: Streams, stream: SharedStream) -> None:
        stream.holders -= 1

    return mutant


def _keep_what_others_removed(key_changed: Original) -> Original:
    def mutant(self: StoreEvents, event: KeyChanged, now: float) -> Any:
        if event.how != "removed":
            return key_changed(self, event, now)

        flight = self.flights.find(event.scope, event.key)
        return [] if flight is None else self.lookups.ask_again(flight, now)

    return mutant


def _ignore_claims_of_others(conclude: Original) -> Original:
    def mutant(self: LookupAnswers, flight: Flight, answer: Answer, now: float) -> Any:
        return (
            self.compute_here(flight, now)
            if isinstance(answer, ClaimedRemotely)
            else conclude(self, flight, answer, now)
        )

    return mutant


def _forget_claims(_: Original) -> Original:
    def mutant(self: Lookups) -> Any:
        self.flights.unused_claims.clear()
        return []

    return mutant


def _find_voided(_: Original) -> Original:
    def mutant(self: Flights, scope: str, key: str) -> Flight | None:
        return self._flights.get((scope, key))

    return mutant


def _keep_permit_of_replaced(end: Original) -> Original:
    def mutant(self: Leases, lease: HeldLease, outcome: str, *rest: Any, **options: Any) -> Any:
        if lease.flight in self.flights._replaced:
            self.flights.end_lease(lease, answered=True)
            return []

        return end(self, lease, outcome, *rest, **options)

    return mutant


def mutants_of(schedule: str, *mutants: tuple[str, str, int, *tuple[Replacement, ...]]) -> dict[str, ScheduleMutant]:
    """Return mutants of a schedule by name: each with its world, its steps and what it replaces."""
    return {name: ScheduleMutant(schedule, world, steps, tuple(replaced)) for name, world, steps, *replaced in mutants}


SCHEDULE_MUTANTS: dict[str, ScheduleMutant] = {
    **mutants_of(
        "backends",
        (
            "a probe without an outcome stays out",
            "tight limits",
            2_000,
            (Breaker, "_record_probe", _keep_probe_without_outcome),
        ),
        (
            "neutral probes leave the breaker half-open",
            "tight limits",
            20_000,
            (Breaker, "_record_probe", _keep_half_open_after_neutral_probes),
        ),
        (
            "one successful probe closes the breaker",
            "three probes",
            2_000,
            (Breaker, "_record_probe", _close_after_one_probe),
        ),
        (
            "the window of a breaker does not end in time",
            "tight limits",
            2_000,
            (Breaker, "_trim", _trim_by_count_alone),
        ),
        ("slow calls alone open no breaker", "short windows", 2_000, (Breaker, "_judge_window", _judge_failures_alone)),
        ("Retry-After opens no breaker", "tight limits", 2_000, (Breaker, "honor_retry_after", no_effects)),
        ("a half-open breaker admits all calls", "tight limits", 2_000, (Breaker, "admits", _admit_while_half_open)),
        ("a backend takes one call too many", "tight limits", 2_000, (Backend, "limit", _one_too_many)),
        ("the limit per minute always has room", "rates", 2_000, (MinuteLimit, "has_room", _always)),
        ("a returned permit serves no queue", "tight limits", 2_000, (Queues, "permit_released", no_effects)),
        (
            "callers are not queued at a backend that has closed again",
            "rates",
            60_000,
            (Queues, "_enqueue_others", nothing),
        ),
        (
            "a caller that leaves stays in the queue",
            "tight limits",
            2_000,
            (Flights, "withdraw", _withdraw_and_stay_queued),
        ),
        (
            "an applicant's memory is released to another uid",
            "tight limits",
            2_000,
            (Flights, "withdraw", _release_to_another_uid),
        ),
        ("a hard budget admits every call", "budgets", 2_000, (Budget, "admits", _always)),
        ("a budget forgets what was spent", "budgets", 2_000, (Budget, "spend", nothing)),
        ("a budget keeps what ended calls reserved", "budgets", 2_000, (Admission, "release_reservation", nothing)),
        ("the first output lets no caller proceed", "three probes", 20_000, (Queues, "first_output", no_effects)),
        ("the end of a call lets no held caller proceed", "three probes", 20_000, (Affinity, "ended", nothing)),
        (
            "a failed call processes its prompt for ever",
            "three probes",
            20_000,
            (ProviderCache, "_stop_processing", _process_for_ever),
        ),
        ("a failed call keeps its slot", "three probes", 20_000, (SlotModel, "end", _stay_busy_after_failures)),
        ("no alarm ends a hold", "three probes", 20_000, (Affinity, "next_end_of_hold", _never)),
        (
            "a hold lasts as long as its caller waits",
            "three probes",
            20_000,
            (Affinity, "_hold_if_it_gains", _expect_output),
        ),
        ("a caller that left is still held", "three probes", 20_000, (Affinity, "leave", nothing)),
        (
            "a caller whose hold has ended takes no other backend",
            "three probes",
            100_000,
            (Queues, "_offer_others", no_effects),
        ),
    ),
    **mutants_of(
        "engine",
        (
            "an expired entry is served",
            "nothing cached, answers shared",
            10_000,
            (MemoryCache, "get", _serve_for_longer),
            (freshness, "fresh_seconds_for", _fresh_for_longer),
        ),
        (
            "a stale answer is served beyond the begin's own limit",
            "stale answers",
            2_000,
            (FreshnessPolicy, "accepts_stale", _accept_any_age),
        ),
        ("a caller's own bound is ignored", "defaults", 6_000, (freshness, "bound_of", nothing)),
        (
            "the sharing window serves bounded callers",
            "nothing cached, answers shared",
            6_000,
            (freshness, "fresh_seconds_for", _extend_by_window),
        ),
        (
            "a rejected answer releases all waiters",
            "many elections",
            6_000,
            (Election, "continue_flight", _elect_for_failures_only),
        ),
        (
            "an entry is refreshed too early",
            "stale answers",
            5_750,
            (FreshnessPolicy, "draws_early_refresh", _refresh_earlier),
        ),
        (
            "a purge by tag lets flights in progress store",
            "stale answers",
            40_000,
            (Flights, "void", _void_without_tags),
        ),
        ("a failure is remembered for ever", "one election, few tasks", 2_000, (Failures, "find", _remember_for_ever)),
        ("a fatal failure is shared with every context", "defaults", 6_000, (CallFailure, "concerns", _always)),
        (
            "a remembered failure is served to every context",
            "stale answers",
            8_000,
            (Failures, "find", _remember_for_all),
        ),
        ("a failure's detail is lost", "defaults", 2_000, (fail, "_valid_detail", _no_detail)),
        (
            "a holder without waiters hears of no further ones",
            "defaults",
            20_000,
            (HeldLease, "report_waiters", _count_waiters_only),
        ),
        ("answers that are not stored are not counted", "defaults", 2_000, (TaskLedger, "count_not_stored", nothing)),
        ("a batch of a purge is applied twice", "defaults", 4_000, (MemoryCache, "_unlink", purged_twice)),
        ("a lookup finds hidden entries", "defaults", 20_000, (MemoryCache, "get", found_though_hidden)),
        ("a purge misses the last entry of a batch", "defaults", 8_000, (GreedyDual, "walk", batch_without_the_last)),
        ("new entries have no purge's number", "defaults", 41_000, (CachePolicy, "_terms", _terms_of_first_generation)),
        (
            "the lifetime that a holder asks for is ignored",
            "defaults",
            2_000,
            (CachePolicy, "ttl_seconds", _ignore_holders_lifetime),
        ),
        (
            "an answer that is dead at once leaves the older one",
            "defaults",
            6_000,
            (MemoryCache, "put", _leave_old_entry),
        ),
        ("a long wait saves less than nothing", "neither", 2_000, (TaskLedger, "count_shared", _save_below_zero)),
        ("late answers are not billed", "defaults", 2_000, (Flights, "take_ended", nothing)),
        (
            "a waiter of an unresponsive process is elected first",
            "many elections",
            2_000,
            (Flights, "next_candidate", _elect_own_process),
        ),
        ("the name of a lease is used twice", "defaults", 2_000, (Flights, "grant", _reuse_names)),
        ("a renewed lease lasts twice as long", "defaults", 2_000, (Flights, "renew", _renew_for_twice_as_long)),
        ("a begin joins a voided flight", "defaults", 2_000, (Flights, "find", _find_voided)),
        ("a voided flight stores its answer", "defaults", 2_000, (Flight, "may_store", _always)),
        ("a replaced flight stores its answer", "defaults", 52_000, (Flight, "replaced", nothing)),
        ("a replaced flight keeps its permit", "defaults", 2_000, (Leases, "_end", _keep_permit_of_replaced)),
        ("a hung call keeps its lease", "short calls", 2_000, (HeldLease, "overdue_at", _never)),
        ("a waiter is not charged", "defaults", 2_000, (Flights, "join", _join_without_charge)),
        ("a lease stays charged", "defaults", 2_000, (Flights, "end_lease", _keep_charge_of_lease)),
        ("a flight is charged twice", "defaults", 2_000, (Flights, "start", _charge_twice)),
        ("elections are not counted", "cached, not shared afterwards", 2_000, (Flight, "count_election", nothing)),
    ),
    **mutants_of(
        "streams",
        ("a slow reader is never resumed", "defaults", 2_000, (Streams, "resume", no_effects)),
        (
            "a stream is stored without its last chunk",
            "defaults",
            2_000,
            (SharedStream, "packed", _store_without_last_chunk),
        ),
        ("a follower stays charged", "defaults", 2_000, (Streams, "close", _close_without_release)),
        ("the bytes of a stream stay reserved", "defaults", 2_000, (Streams, "drop", _drop_without_discharge)),
        (
            "readers of a broken stream wait for the next one",
            "defaults",
            2_000,
            (Election, "interrupt_stream", no_effects),
        ),
        (
            "a fatal failure is shared with every reader of a broken stream",
            "defaults",
            20_000,
            (CallFailure, "concerns", _always),
        ),
    ),
    **mutants_of(
        "stores",
        (
            "an entry that another host removed is kept",
            "removals",
            2_000,
            (StoreEvents, "key_changed", _keep_what_others_removed),
        ),
        ("another host's claim is ignored", "calm", 2_000, (LookupAnswers, "_conclude", _ignore_claims_of_others)),
        ("a found record answers whoever waits", "calm", 2_000, (answers, "accepts_found", _always)),
        ("gets stay charged", "calm", 2_000, (Lookups, "_take_gets", _keep_charge_of_gets)),
        ("unused claims are not released", "calm", 2_000, (Lookups, "release_claims", _forget_claims)),
    ),
}
