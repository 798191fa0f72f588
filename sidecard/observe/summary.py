"""The reply to ``GET /v1/summary``: the daemon's state in one flat map."""

from typing import Any, Literal

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
    """State of one backend, and its use since the ledger began.

    ``state`` and ``locality`` are null for a backend of an earlier run, known only from the ledger.
    """

    state: BreakerState | None = None
    locality: Locality | None = None
    cause: str = ""
    """Why the breaker is not closed, as a sentence; empty if it is closed."""
    retry_after_seconds: float | None = None
    permits: int = 0
    """Calls in progress."""
    limit: int | None = None
    """Limit of calls in progress; null is no limit."""
    queued: int = 0
    max_queue: int = 0
    latency_seconds: float | None = None
    """Moving average of its calls; null before the first."""
    recent_calls: int = 0
    """In the breaker's window, as the next two."""
    recent_failures: int = 0
    recent_slow: int = 0
    opened: int = 0
    """How often the breaker opened in this run."""
    calls: int = 0
    """Since the ledger began, as all following."""
    seconds: float = 0.0
    dollars: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    saved_dollars: float = 0.0


class Summary(Struct, frozen=True):
    """Rates are shares of 1, times are seconds, money is dollars.

    Ledger figures count since the ledger began (``ledger_seconds``), which survives restarts with a state directory. The
    other counts start with the run (``uptime_seconds``).
    """

    status: Literal["ok", "draining"]
    reasons: list[str]
    """Problems, as sentences."""
    version: str
    boot_id: str
    """Identifies the run."""
    uptime_seconds: float
    ledger_seconds: float

    total_requests: int
    """Ledger: calls that ended with an answer, or that were granted a lease."""
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
    """``served = billed + saved``, except for the time that sharing callers waited."""
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
    """In this run, as the following counts."""
    failed: int
    timeouts: int
    left: int
    reelections: int
    retries: int
    lost: int
    """Leases whose holder's connection ended."""
    expired: int
    """Leases that were not renewed."""

    peers: int
    """Now, as the following figures."""
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


_OF_STATS = (
    "version", "boot_id", "uptime_seconds", "rejected", "failed", "timeouts", "left", "reelections", "retries", "lost",
    "expired", "peers", "flights", "leases", "waiters", "queued", "cache_entries", "cache_bytes", "cache_max_bytes", "store",
)  # fmt: skip
_OF_TOTAL = (
    "upstream_calls", "average_saved_seconds", "served_seconds", "billed_seconds", "saved_by_cache_seconds",
    "saved_by_sharing_seconds", "waited_seconds", "served_dollars", "billed_dollars", "saved_by_cache_dollars",
    "saved_by_sharing_dollars",
)  # fmt: skip
_OF_STATE = (
    "state", "locality", "cause", "retry_after_seconds", "permits", "limit", "queued", "max_queue", "latency_seconds", "opened",
)  # fmt: skip
"""Fields that a summary takes over under the same name."""


def summary(stats: Stats, report: Report, health: Health, breakers: Breakers) -> Summary:
    """Return the summary of four replies of the same moment."""
    total = report.total
    return Summary(
        status=health.status,
        reasons=health.reasons,
        ledger_seconds=report.ledger_seconds,
        total_requests=total.calls,
        cache_hits=total.hits,
        shared_requests=total.shared,
        cache_hit_rate=total.hit_rate,
        deduplication_rate=total.deduplication_rate,
        avg_latency_reduction=total.average_latency_reduction,
        average_upstream_seconds=total.billed_seconds / total.upstream_calls if total.upstream_calls else 0.0,
        saved_seconds=total.saved_by_cache_seconds + total.saved_by_sharing_seconds,
        saved_dollars=total.saved_by_cache_dollars + total.saved_by_sharing_dollars,
        tasks=report.tasks,
        backends=_backends(breakers.backends, report.backends),
        models=report.models,
        budgets=report.budgets,
        **_fields(stats, _OF_STATS),
        **_fields(total, _OF_TOTAL),
    )


def _fields(source: Struct, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _backends(states: dict[str, BackendState], spendings: dict[str, BackendSpending]) -> dict[str, BackendSummary]:
    """Return this run's backends in their order, then those known only from the ledger."""
    return {
        name: _backend(states.get(name), spendings.get(name)) for name in [*states, *sorted(spendings.keys() - states)]
    }


def _backend(state: BackendState | None, spending: BackendSpending | None) -> BackendSummary:
    spent = {} if spending is None else structs.asdict(spending)
    if state is None:
        return BackendSummary(**spent)

    return BackendSummary(
        recent_calls=state.calls,
        recent_failures=state.failures,
        recent_slow=state.slow,
        **_fields(state, _OF_STATE),
        **spent,
    )
