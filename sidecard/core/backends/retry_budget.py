"""The host's retry budget: how many calls all workers together may repeat.

Finagle's: a share of the calls made plus a floor, over a sliding window. While a backend is down, the retries of all workers
together add at most that share to its load, instead of multiplying it.
"""

import math
from collections.abc import Callable

from sidecard.core.backends.windows import SlidingSum
from sidecard.core.settings import LiveSettings

_MAX_DOUBLINGS = 32


class RetryBudget:
    """Count calls and retries of the last ``window_seconds``, to the second."""

    def __init__(self, settings: LiveSettings, jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self._calls = SlidingSum()
        self._retries = SlidingSum()

    def deposit(self, now: float) -> None:
        """Count the first attempt of a call."""
        if self._calls.add(1, now):
            self._expire(now)

    def withdraw(self, now: float) -> bool:
        """Take a retry from the budget; return whether there was one."""
        self._expire(now)
        settings = self._settings.now.retries
        allowed = settings.floor_per_second * settings.window_seconds + settings.share * self._calls.total
        if self._retries.total + 1 > allowed:
            return False

        self._retries.add(1, now)
        return True

    def backoff_seconds(self, retries: int) -> float:
        """Return the pause before a call's retry number ``retries``, from 1 on: jittered exponential back-off."""
        settings = self._settings.now.retries
        longest = settings.backoff_seconds * math.exp2(min(retries - 1, _MAX_DOUBLINGS))
        return min(settings.max_backoff_seconds, longest) * (0.5 + 0.5 * self._jitter())

    def _expire(self, now: float) -> None:
        for counted in (self._calls, self._retries):
            counted.expire(self._settings.now.retries.window_seconds, float(int(now)))
