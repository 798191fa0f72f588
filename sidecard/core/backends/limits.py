"""Limits of a backend: calls at a time, and requests and tokens per minute."""

from math import sqrt

from sidecard.core.backends.windows import SlidingSum

MINUTE_SECONDS = 60

SMOOTHING = 0.2
TOLERANCE = 1.5
WARM_UP_SAMPLES = 10
LONG_WINDOW_SAMPLES = 600
INITIAL_LIMIT = 4
"""Precedent: Netflix' Gradient2, which starts at 20 for services that answer in milliseconds; a local model has a few slots."""


class MinuteLimit:
    """At most ``per_minute`` within any minute, to the second; 0 means no limit.

    A token bucket would allow twice as much within the minute after a pause, which a provider's own limit then rejects; the
    sums of 60 seconds do not.
    """

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._spent = SlidingSum()

    def spend(self, amount: float, now: float) -> None:
        """Count ``amount``."""
        if self.per_minute and amount:
            self._spent.add(amount, now)

    def has_room(self, expected: float, now: float) -> bool:
        """Return whether ``expected`` more may be spent now."""
        if not self.per_minute:
            return True

        self._expire(now)
        return self._spent.total + expected <= self.per_minute

    def untouched(self, now: float) -> bool:
        """Return whether nothing was spent within the minute."""
        self._expire(now)
        return not self._spent.seconds

    def room_at(self, expected: float, now: float) -> float:
        """Return when, without further spending, there is room for ``expected``, or at least nothing spent."""
        if self.has_room(expected, now):
            return now

        spent = self._spent.total
        at = now
        for second, amount in self._spent.seconds:
            spent -= amount
            at = second + MINUTE_SECONDS + 1
            if spent + expected <= self.per_minute:
                break

        return at

    def _expire(self, now: float) -> None:
        # A second ends one second after it began, so this is never too early.
        self._spent.expire(MINUTE_SECONDS + 1, now)


class AdaptiveLimit:
    """A limit between 1 and ``maximum`` that follows how the backend handles its load.

    Netflix' Gradient2 (concurrency-limits, 2018): if the latest sample exceeds the long-term mean by more than `TOLERANCE`,
    the backend queues internally, and the limit falls; otherwise it grows by the square root of itself.
    A sample is the time to the first chunk, or the time per token: total time follows the answer's length, not the load.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._limit = float(min(INITIAL_LIMIT, maximum))
        self._mean = 0.0
        self._samples = 0

    @property
    def limit(self) -> int:
        """Maximum number of calls in progress."""
        return int(self._limit)

    def sample(self, seconds: float, in_progress: int) -> None:
        """Learn from a call that ended while ``in_progress`` calls, including itself, were running."""
        if seconds <= 0:
            return

        self._samples += 1
        if self._samples <= WARM_UP_SAMPLES:
            self._mean += (seconds - self._mean) / self._samples
        else:
            self._mean += (seconds - self._mean) * 2 / (LONG_WINDOW_SAMPLES + 1)

        if self._mean > 2 * seconds:
            self._mean *= 0.95  # the backend became much faster: do not take 600 samples to believe it

        if in_progress < self._limit / 2:
            return  # without load, a sample carries no information about the limit

        gradient = max(0.5, min(1.0, TOLERANCE * self._mean / seconds))
        wanted = self._limit * gradient + sqrt(self._limit)
        self._limit = max(1.0, min(self._maximum, (1 - SMOOTHING) * self._limit + SMOOTHING * wanted))
