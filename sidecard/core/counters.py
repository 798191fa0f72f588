"""The counters of `wire.Stats`, each defined there."""

from sidecard_client.protocol.wire import RejectionReason


class Counters:
    """Counts since the start of the daemon; they only grow."""

    def __init__(self) -> None:
        self.begins = 0
        self.completed = 0
        self.deleted = 0
        self.early_refreshes = 0
        self.expired = 0
        self.failed = 0
        self.failed_again = 0
        self.failed_cancelled = 0
        self.failed_fatal = 0
        self.failed_ignored = 0
        self.failed_transient = 0
        self.hits = 0
        self.leases_first = 0
        self.leases_granted = 0
        self.left = 0
        self.lost = 0
        self.misses = 0
        self.next_backends = 0
        self.reelections = 0
        self.refused_too_large = 0
        self.prefixes_wanted = 0
        self.rejected = 0
        self.rejected_breaker_open = 0
        self.rejected_budget = 0
        self.rejected_busy = 0
        self.rejected_draining = 0
        self.rejected_not_cached = 0
        self.rejected_saturated = 0
        self.rejected_sovereign = 0
        self.retries = 0
        self.retries_refused = 0
        self.shared = 0
        self.similar_hits = 0
        self.stale_given = 0
        self.stale_hits = 0
        self.stale_leases = 0
        self.store_hits = 0
        self.store_reads = 0
        self.store_unanswered = 0
        self.stored = 0
        self.timeouts = 0
        self.vectors_wanted = 0
        self.view_hits = 0
        self.view_publications = 0
        self.view_withdrawals = 0

    def reject(self, reason: RejectionReason) -> None:
        """Count a begin that ended in `Rejected`; called by `Endings.reject` alone."""
        self.rejected += 1
        self._increment(f"rejected_{reason}")

    def end_without_answer(self, outcome: str) -> None:
        """Count the end of a lease whose answer is not shared, by its `sidecard.core.notes.Outcome`."""
        self._increment(outcome if outcome in {"expired", "lost"} else f"failed_{outcome}")

    def fields(self) -> dict[str, int]:
        """Return all counters by name."""
        return dict(vars(self))

    def _increment(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)
