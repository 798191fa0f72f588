"""The counters of `wire.Stats`, each defined there."""

from sidecard_client.protocol.wire import FailureKind, RejectionReason

_NAMES = (
    "begins",
    "completed",
    "deleted",
    "early_refreshes",
    "expired",
    "failed",
    "failed_again",
    "failed_cancelled",
    "failed_fatal",
    "failed_ignored",
    "failed_transient",
    "hits",
    "leases_first",
    "leases_granted",
    "left",
    "lost",
    "misses",
    "next_backends",
    "reelections",
    "refused_too_large",
    "rejected",
    "rejected_breaker_open",
    "rejected_budget",
    "rejected_busy",
    "rejected_draining",
    "rejected_not_cached",
    "rejected_saturated",
    "rejected_sovereign",
    "retries",
    "retries_refused",
    "shared",
    "similar_hits",
    "stale_given",
    "stale_hits",
    "stale_leases",
    "store_hits",
    "store_reads",
    "store_unanswered",
    "stored",
    "timeouts",
    "vectors_wanted",
)


class Counters:
    """Counts since the daemon began; they only grow."""

    __slots__ = _NAMES

    begins: int
    completed: int
    deleted: int
    early_refreshes: int
    expired: int
    failed: int
    failed_again: int
    failed_cancelled: int
    failed_fatal: int
    failed_ignored: int
    failed_transient: int
    hits: int
    leases_first: int
    leases_granted: int
    left: int
    lost: int
    misses: int
    next_backends: int
    reelections: int
    refused_too_large: int
    rejected: int
    rejected_breaker_open: int
    rejected_budget: int
    rejected_busy: int
    rejected_draining: int
    rejected_not_cached: int
    rejected_saturated: int
    rejected_sovereign: int
    retries: int
    retries_refused: int
    shared: int
    similar_hits: int
    stale_given: int
    stale_hits: int
    stale_leases: int
    store_hits: int
    store_reads: int
    store_unanswered: int
    stored: int
    timeouts: int
    vectors_wanted: int

    def __init__(self) -> None:
        for name in _NAMES:
            setattr(self, name, 0)

    def reject(self, reason: RejectionReason) -> None:
        """Count a begin that ended in `Rejected`."""
        self.rejected += 1
        name = f"rejected_{reason}"
        setattr(self, name, getattr(self, name) + 1)

    def fail_lease(self, kind: FailureKind) -> None:
        """Count a lease that ended in `Fail`."""
        name = f"failed_{kind}"
        setattr(self, name, getattr(self, name) + 1)

    def fields(self) -> dict[str, int]:
        """Return all counters by name."""
        return {name: getattr(self, name) for name in _NAMES}
