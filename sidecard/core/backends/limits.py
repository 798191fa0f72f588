"""How much a backend is asked at once, and per minute."""

from collections import deque
from math import sqrt

MINUTE_SECONDS = 60

SMOOTHING = 0.2
TOLERANCE = 1.5
WARM_UP_SAMPLES = 10
LONG_WINDOW_SAMPLES = 600
INITIAL_LIMIT = 4
"""As Netflix' Gradient2, which starts at 20 for services that answer in milliseconds; a local model has a few slots."""


class MinuteLimit:
    """At most ``per_minute`` within any minute, to the second; 0 is no limit.

    A bucket that refills would let through twice as much within the minute after a pause, which is what a provider's own
    limit then punishes; the sums of 60 seconds do not.
    """

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._seconds: deque[list[float]] = deque()
        """Pairs of a second and what was spent in it, the oldest first."""
        self._spent = 0.0

    def spend(self, amount: float, now: float) -> None:
        """Count ``amount``."""
        if not self.per_minute or not amount:
            return

        second = float(int(now))
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += amount
        else:
            self._seconds.append([second, amount])

        self._spent += amount

    def has_room(self, expected: float, now: float) -> bool:
        """Tell whether ``expected`` more may be spent now."""
        if not self.per_minute:
            return True

        self._expire(now)
        return self._spent + expected <= self.per_minute

    def untouched(self, now: float) -> bool:
        """Tell whether nothing was spent within the minute."""
        self._expire(now)
        return not self._seconds

    def room_at(self, expected: float, now: float) -> float:
        """Return when, if nothing more is spent, there is room for ``expected``, or at least nothing spent."""
        if self.has_room(expected, now):
            return now

        spent = self._spent
        at = now
        for second, amount in self._seconds:
            spent -= amount
            at = second + MINUTE_SECONDS + 1
            if spent + expected <= self.per_minute:
                break

        return at

    def _expire(self, now: float) -> None:
        # A second is over one second after it began, so this is never too early.
        while self._seconds and self._seconds[0][0] + MINUTE_SECONDS + 1 <= now:
            self._spent -= self._seconds.popleft()[1]

        if not self._seconds:
            self._spent = 0.0  # and not what the rounding of sums has left


class AdaptiveLimit:
    """A limit between 1 and ``most`` that follows how the backend takes its load.

    Netflix' Gradient2 (concurrency-limits, 2018): where the latest sample is longer than the long-term mean by more than
    `TOLERANCE`, the backend queues inside, and the limit falls; otherwise it grows by its square root's worth of headroom.
    A sample is the time to the first chunk, or the time per token: total time follows the answer's length, not the load.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(min(INITIAL_LIMIT, most))
        self._mean = 0.0
        self._samples = 0

    @property
    def limit(self) -> int:
        """Most calls in progress."""
        return int(self._limit)

    def sample(self, seconds: float, in_progress: int) -> None:
        """Learn from a call that ended while ``in_progress`` were, itself among them."""
        if seconds <= 0:
            return

        self._samples += 1
        if self._samples <= WARM_UP_SAMPLES:
            self._mean += (seconds - self._mean) / self._samples
        else:
            self._mean += (seconds - self._mean) * 2 / (LONG_WINDOW_SAMPLES + 1)

        if self._mean > 2 * seconds:
            self._mean *= 0.95  # the backend got much faster: do not wait for 600 samples to believe it

        if in_progress < self._limit / 2:
            return  # without load a sample says nothing about the limit

        gradient = max(0.5, min(1.0, TOLERANCE * self._mean / seconds))
        wanted = self._limit * gradient + sqrt(self._limit)
        self._limit = max(1.0, min(self._most, (1 - SMOOTHING) * self._limit + SMOOTHING * wanted))
