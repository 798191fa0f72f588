"""The last hour in steps of ten seconds, for the charts of the dashboard (fields: ``sidecard docs metrics``)."""

from collections import deque
from typing import Any

from sidecard_client.protocol import wire

STEP_SECONDS = 10.0
"""How often the listener records a step."""

MAX_STEPS = 360
"""An hour of steps; about 40 KB."""

NAMES = ("at_seconds", "hits", "shared", "upstream", "unanswered", "saved_seconds", "saved_dollars")

Totals = dict[str, float]
"""Totals at one moment, by `NAMES`; ``at_seconds`` is the time since the daemon's start."""


def totals(stats: wire.Stats, report: wire.Report) -> Totals:
    """Return the totals of two replies of the same moment. They only grow, except when a ledger is reset."""
    total = report.total
    return {
        "at_seconds": stats.uptime_seconds,
        "hits": stats.hits,
        "shared": stats.shared,
        "upstream": stats.leases_first,
        "unanswered": stats.rejected + stats.failed + stats.timeouts + stats.left,
        "saved_seconds": total.saved_by_cache_seconds + total.saved_by_sharing_seconds,
        "saved_dollars": total.saved_by_cache_dollars + total.saved_by_sharing_dollars,
    }


class History:
    """A ring buffer of the growth of totals in the newest ``max_steps`` steps."""

    def __init__(self, max_steps: int = MAX_STEPS, step_seconds: float = STEP_SECONDS) -> None:
        self._step_seconds = step_seconds
        self._steps: deque[Totals] = deque(maxlen=max_steps)
        self._latest: Totals = {}
        self._last = 0

    def add(self, now: Totals) -> None:
        """Add a step that ends with these totals. The first call only sets the starting point."""
        before, self._latest = self._latest, now
        if before:
            self._steps.append(_growth(before, now))
            self._last += 1

    def after(self, number: int, boot_id: str) -> dict[str, Any]:
        """Return columns of the steps after step ``number``; of all steps if there was no such step.

        ``last`` is the number of the newest step. Steps are numbered from 1 in each run (``boot_id``).
        """
        count = self._last - number if 0 <= number <= self._last else self._last
        steps = list(self._steps)[-count:] if count else []
        columns = {name: [step[name] for step in steps] for name in self._latest or NAMES}
        return {"boot_id": boot_id, "step_seconds": self._step_seconds, "last": self._last, **columns}


def _growth(before: Totals, now: Totals) -> Totals:
    # A total that shrank was reset, and has grown from 0 since.
    growth = {name: value - before[name] if value >= before[name] else value for name, value in now.items()}
    return growth | {"at_seconds": now["at_seconds"]}
