"""What ``GET /v1/summary`` says: how the daemon is doing, in one flat map."""

from typing import Literal

from msgspec import Struct, structs

from sidecard_client.protocol.wire import (
    BackendSpending,
    BackendState,
    Breakers,
    BreakerState,
    BudgetState,
    Health,
    Ledger,
    Locality,
    Report,
    Stats,
    StoreState,
)


class BackendSummary(Struct, frozen=True):
    """One backend: how it stands, and what it was asked for since the ledger began.

    ``state`` and ``locality`` are null for a backend that only the ledger knows, of an earlier run.
    """

    state: BreakerState | None = None
    locality: Locality | None = None
    cause: str = ""
    """Why the breaker is not closed, as a sentence; empty where it is."""
    retry_after_seconds: float | None = None
    permits: int = 0
    """Calls in progress."""
    limit: int | None = None
    """Most calls in progress; null is no limit."""
    queued: int = 0
    max_queue: int = 0
    latency_seconds: float | None = None
    """Of its answers, the older ones fading; null before the first."""
    recent_calls: int = 0
    """In the breaker's window, as are the two that follow."""
    recent_failures: int = 0
    recent_slow: int = 0
    opened: int = 0
    """Times that the breaker opened in this run."""
    calls: int = 0
    """Since the ledger began, as are all that follow."""
    seconds: float = 0.0
    dollars: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    saved_dollars: float = 0.0


class Summary(Struct, frozen=True):
    """Rates are shares of 1, times are seconds, money is dollars.

    What is told of the ledger counts since the ledger began (``ledger_seconds``), which outlives a run where there is a
    state directory; the other counts are since the run began (``uptime_seconds``).
    """

    status: Literal["ok", "draining"]
    reasons: list[str]
    """What is not fine, as sentences."""
    version: str
    boot_id: str
    """Names the run."""
    uptime_seconds: float
    ledger_seconds: float

    total_requests: int
    """Ledger: calls that ended in an answer, or that were to be made."""
    cache_hits: int
    shared_requests: int
    """Answered by another caller's call."""
    upstream_calls: int
    """Calls that a backend answered."""
    cache_hit_rate: float
    """``cache_hits / total_requests``"""
    deduplication_rate: float
    """``shared_requests / total_requests``"""
    avg_latency_reduction: float
    """``saved_seconds / served_seconds``, measured: 0.4 means that callers waited 40 % less than without the daemon."""
    average_saved_seconds: float
    """Per call."""
    average_upstream_seconds: float
    """Per call that a backend answered."""
    served_seconds: float
    """``served = billed + saved``, but for the time that sharing callers spent waiting."""
    billed_seconds: float
    saved_seconds: float
    saved_by_cache_seconds: float
    saved_by_sharing_seconds: float
    waited_seconds: float
    served_dollars: float
    """``served = billed + saved``"""
    billed_dollars: float
    saved_dollars: float
    saved_by_cache_dollars: float
    saved_by_sharing_dollars: float

    rejected: int
    """This run's, as are those that follow."""
    failed: int
    timeouts: int
    left: int
    reelections: int
    retries: int
    lost: int
    """Leases whose holder's connection ended."""
    expired: int
    """Leases that nobody renewed."""

    peers: int
    """Now, as are those that follow."""
    flights: int
    leases: int
    waiters: int
    queued: int
    cache_entries: int
    cache_bytes: int
    cache_max_bytes: int
    store: StoreState

    tasks: dict[str, Ledger]
    backends: dict[str, BackendSummary]
    models: dict[str, BackendSpending]
    """By ``backend/model``."""
    budgets: dict[str, BudgetState]


def summary(stats: Stats, report: Report, health: Health, breakers: Breakers) -> Summary:
    """Return what four answers that were given together say."""
    total = report.total
    return Summary(
        status=health.status,
        reasons=health.reasons,
        version=stats.version,
        boot_id=stats.boot_id,
        uptime_seconds=stats.uptime_seconds,
        ledger_seconds=report.ledger_seconds,
        total_requests=total.calls,
        cache_hits=total.hits,
        shared_requests=total.shared,
        upstream_calls=total.upstream_calls,
        cache_hit_rate=total.hit_rate,
        deduplication_rate=total.deduplication_rate,
        avg_latency_reduction=total.average_latency_reduction,
        average_saved_seconds=total.average_saved_seconds,
        average_upstream_seconds=total.billed_seconds / total.upstream_calls if total.upstream_calls else 0.0,
        served_seconds=total.served_seconds,
        billed_seconds=total.billed_seconds,
        saved_seconds=total.saved_by_cache_seconds + total.saved_by_sharing_seconds,
        saved_by_cache_seconds=total.saved_by_cache_seconds,
        saved_by_sharing_seconds=total.saved_by_sharing_seconds,
        waited_seconds=total.waited_seconds,
        served_dollars=total.served_dollars,
        billed_dollars=total.billed_dollars,
        saved_dollars=total.saved_by_cache_dollars + total.saved_by_sharing_dollars,
        saved_by_cache_dollars=total.saved_by_cache_dollars,
        saved_by_sharing_dollars=total.saved_by_sharing_dollars,
        rejected=stats.rejected,
        failed=stats.failed,
        timeouts=stats.timeouts,
        left=stats.left,
        reelections=stats.reelections,
        retries=stats.retries,
        lost=stats.lost,
        expired=stats.expired,
        peers=stats.peers,
        flights=stats.flights,
        leases=stats.leases,
        waiters=stats.waiters,
        queued=stats.queued,
        cache_entries=stats.cache_entries,
        cache_bytes=stats.cache_bytes,
        cache_max_bytes=stats.cache_max_bytes,
        store=stats.store,
        tasks=report.tasks,
        backends=_backends(breakers.backends, report.backends),
        models=report.models,
        budgets=report.budgets,
    )


def _backends(states: dict[str, BackendState], spendings: dict[str, BackendSpending]) -> dict[str, BackendSummary]:
    """Return those of this run in their order, then those that only the ledger knows."""
    return {
        name: _backend(states.get(name), spendings.get(name)) for name in [*states, *sorted(spendings.keys() - states)]
    }


def _backend(state: BackendState | None, spending: BackendSpending | None) -> BackendSummary:
    spent = {} if spending is None else structs.asdict(spending)
    if state is None:
        return BackendSummary(**spent)

    return BackendSummary(
        state=state.state,
        locality=state.locality,
        cause=state.cause,
        retry_after_seconds=state.retry_after_seconds,
        permits=state.permits,
        limit=state.limit,
        queued=state.queued,
        max_queue=state.max_queue,
        latency_seconds=state.latency_seconds,
        recent_calls=state.calls,
        recent_failures=state.failures,
        recent_slow=state.slow,
        opened=state.opened,
        **spent,
    )
