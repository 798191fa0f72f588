"""The host's retry budget: how many calls may be made again, however many workers want to.

Finagle's: a share of the calls made plus a floor, over a sliding window. Where a backend is down, retries of all workers
together then add at most that share to its load, instead of multiplying it.
"""

from collections import deque
from collections.abc import Callable

from sidecard.core.settings import RetrySettings
from sidecard_client.protocol.backoff import backoff_seconds


class RetryBudget:
    """Counts calls and retries of the last ``window_seconds``, to the second."""

    def __init__(self, settings: RetrySettings, jitter: Callable[[], float]) -> None:
        self.settings = settings
        """May be replaced at any time."""
        self._jitter = jitter
        self._seconds: deque[list[float]] = deque()
        """Triples of a second, its calls, and its retries; the oldest first."""
        self._calls = 0.0
        self._retries = 0.0

    def deposit(self, now: float) -> None:
        """A call is made for the first time."""
        self._second(now)[1] += 1
        self._calls += 1

    def withdraw(self, now: float) -> bool:
        """Ask for a retry; where there is one, it is taken."""
        settings, second = self.settings, self._second(now)
        allowed = settings.floor_per_second * settings.window_seconds + settings.share * self._calls
        if self._retries + 1 > allowed:
            return False

        second[2] += 1
        self._retries += 1
        return True

    def backoff_seconds(self, retries: int) -> float:
        """Return how long a call waits before its retry number ``retries``, from 1 on: jittered exponential back-off."""
        settings = self.settings
        longest = backoff_seconds(retries, settings.backoff_seconds, settings.max_backoff_seconds)
        return longest * (0.5 + 0.5 * self._jitter())

    def _second(self, now: float) -> list[float]:
        seconds, current = self._seconds, float(int(now))
        while seconds and seconds[0][0] + self.settings.window_seconds <= current:
            _, calls, retries = seconds.popleft()
            self._calls -= calls
            self._retries -= retries

        if not seconds or seconds[-1][0] != current:
            seconds.append([current, 0.0, 0.0])

        return seconds[-1]
