"""The last hour in steps of ten seconds, for the charts of the dashboard."""

from collections import deque

from msgspec import Struct, structs

from sidecard_client.protocol import wire

STEP_SECONDS = 10.0
"""How often the listener takes a `Totals`."""

MAX_STEPS = 360
"""An hour of steps; some 40 KB."""


class Totals(Struct, frozen=True):
    """Totals at one moment. They only grow, except when a ledger is reset."""

    at_seconds: float
    """Since the daemon's start, as ``uptime_seconds`` of the summary."""
    hits: float
    """Calls answered from the cache."""
    shared: float
    """Calls answered by another caller's call."""
    upstream: float
    """Calls that were granted a lease."""
    unanswered: float
    """Calls that were rejected, failed with the flight they waited for, timed out, or left."""
    saved_seconds: float
    saved_dollars: float


class Curves(Struct, frozen=True):
    """Columns of equal length, oldest first: the growth of each total of `Totals` in each step.

    ``at_seconds`` is the end of a step. ``last`` is the number of the newest step, for a later request of the steps after it.
    Steps are numbered from 1 in each run (``boot_id``).
    """

    boot_id: str
    step_seconds: float
    last: int
    at_seconds: list[float]
    hits: list[float]
    shared: list[float]
    upstream: list[float]
    unanswered: list[float]
    saved_seconds: list[float]
    saved_dollars: list[float]


_TOTALS = tuple(name for name in Totals.__struct_fields__ if name != "at_seconds")


def totals(stats: wire.Stats, report: wire.Report) -> Totals:
    """Return the totals of two replies of the same moment."""
    total = report.total
    return Totals(
        at_seconds=stats.uptime_seconds,
        hits=stats.hits,
        shared=stats.shared,
        upstream=stats.leases_first,
        unanswered=stats.rejected + stats.failed + stats.timeouts + stats.left,
        saved_seconds=total.saved_by_cache_seconds + total.saved_by_sharing_seconds,
        saved_dollars=total.saved_by_cache_dollars + total.saved_by_sharing_dollars,
    )


class History:
    """A ring buffer of the newest ``max_steps`` steps."""

    def __init__(self, max_steps: int = MAX_STEPS, step_seconds: float = STEP_SECONDS) -> None:
        self._step_seconds = step_seconds
        self._steps: deque[Totals] = deque(maxlen=max_steps)
        """The growth in each step; ``at_seconds`` is the step's end."""
        self._latest: Totals | None = None
        self._last = 0

    def add(self, now: Totals) -> None:
        """Add a step that ends with these totals. The first call only sets the starting point."""
        before, self._latest = self._latest, now
        if before is not None:
            self._steps.append(_growth(before, now))
            self._last += 1

    def after(self, number: int, boot_id: str) -> Curves:
        """Return the steps after step ``number``; all of them if there was no such step."""
        count = self._last - number if 0 <= number <= self._last else self._last
        steps = list(self._steps)[-count:] if count else []
        columns = {name: [getattr(step, name) for step in steps] for name in Totals.__struct_fields__}
        return Curves(boot_id=boot_id, step_seconds=self._step_seconds, last=self._last, **columns)


def _growth(before: Totals, now: Totals) -> Totals:
    # A total that shrank was reset, and has grown from 0 since.
    return structs.replace(
        now,
        **{
            name: after - old if (after := getattr(now, name)) >= (old := getattr(before, name)) else after
            for name in _TOTALS
        },
    )
