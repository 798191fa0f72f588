"""What happened in the last hour, in steps of ten seconds: for the curves of the dashboard."""

from collections import deque

from msgspec import Struct, structs

from sidecard_client.protocol import wire

STEP_SECONDS = 10.0
"""How often the listener takes a `Moment`."""

MAX_STEPS = 360
"""An hour of steps; some 40 KB."""


class Moment(Struct, frozen=True):
    """Sums as they stand at one moment. They only grow, but for a ledger that begins anew."""

    at_seconds: float
    """Of the daemon's run, as ``uptime_seconds`` of the summary."""
    hits: float
    """Calls answered from the cache."""
    shared: float
    """Calls answered by another caller's call."""
    upstream: float
    """Calls that their caller was told to make."""
    unanswered: float
    """Calls that were rejected, failed with the call they waited for, waited in vain, or left."""
    saved_seconds: float
    saved_dollars: float


class Curves(Struct, frozen=True):
    """Columns of equal length, oldest first: what was added to each sum of `Moment` in each step.

    ``at_seconds`` is when a step ended. ``last`` is the number of the newest step, to be asked for what comes after it;
    steps are numbered from 1 for each run (``boot_id``), and there is no step 0.
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


_SUMS = tuple(name for name in Moment.__struct_fields__ if name != "at_seconds")


def moment(stats: wire.Stats, report: wire.Report) -> Moment:
    """Return the sums of two answers that were given together."""
    total = report.total
    return Moment(
        at_seconds=stats.uptime_seconds,
        hits=stats.hits,
        shared=stats.shared,
        upstream=stats.leases_first,
        unanswered=stats.rejected + stats.failed + stats.timeouts + stats.left,
        saved_seconds=total.saved_by_cache_seconds + total.saved_by_sharing_seconds,
        saved_dollars=total.saved_by_cache_dollars + total.saved_by_sharing_dollars,
    )


class History:
    """A ring of steps: the newest ``max_steps``, whatever happens."""

    def __init__(self, max_steps: int = MAX_STEPS, step_seconds: float = STEP_SECONDS) -> None:
        self._step_seconds = step_seconds
        self._steps: deque[Moment] = deque(maxlen=max_steps)
        """What was added in each; ``at_seconds`` is the step's end."""
        self._latest: Moment | None = None
        self._last = 0

    def add(self, now: Moment) -> None:
        """Take the sums as they stand. The first ones are what all others are counted from."""
        before, self._latest = self._latest, now
        if before is not None:
            self._steps.append(_added(before, now))
            self._last += 1

    def after(self, number: int, boot_id: str) -> Curves:
        """Return the steps with a number above ``number``; all of them where it is of no step that there was."""
        news = self._last - number if 0 <= number <= self._last else self._last
        steps = list(self._steps)[-news:] if news else []
        columns = {name: [getattr(step, name) for step in steps] for name in Moment.__struct_fields__}
        return Curves(boot_id=boot_id, step_seconds=self._step_seconds, last=self._last, **columns)


def _added(before: Moment, now: Moment) -> Moment:
    # Where a sum has shrunk it was begun anew, and what it is now has been added since.
    return structs.replace(
        now,
        **{
            name: after - old if (after := getattr(now, name)) >= (old := getattr(before, name)) else after
            for name in _SUMS
        },
    )
