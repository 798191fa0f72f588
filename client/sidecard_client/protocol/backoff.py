"""Exponential back-off with jitter, for everything in client and daemon that tries again.

Pure: time is the argument ``now`` (monotonic seconds), randomness is a callable.
"""

from collections.abc import Callable

_MAX_DOUBLINGS = 64


def backoff_seconds(failures: int, first_seconds: float, max_seconds: float) -> float:
    """Return the delay after ``failures`` failures in a row, counted from 1: doubled each time, up to ``max_seconds``."""
    return min(max_seconds, first_seconds * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))


class Backoff:
    """When to try again. A delay is shortened by up to ``jitter_share`` of itself.

    ``jitter`` is uniform in [0, 1). With it, programs that lost the same server at the same moment return apart.
    """

    __slots__ = ("_first_seconds", "_jitter", "_jitter_share", "_max_seconds", "failures", "retry_at")

    def __init__(
        self,
        first_seconds: float,
        max_seconds: float,
        *,
        jitter: Callable[[], float] | None = None,
        jitter_share: float = 0.0,
    ) -> None:
        self.failures = 0
        """In a row."""
        self.retry_at = float("-inf")
        """The instant from which on the next try is due."""
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._jitter = jitter
        self._jitter_share = jitter_share

    def __repr__(self) -> str:
        """Show the failures and the instant of the next try."""
        return f"<Backoff failures={self.failures} retry_at={self.retry_at:g}>"

    def failed(self, now: float, *, extra_seconds: float = 0.0) -> float:
        """Count a failure; return the seconds until the next try. ``extra_seconds`` (``Retry-After``) are never jittered."""
        self.failures += 1
        delay_seconds = backoff_seconds(self.failures, self._first_seconds, self._max_seconds)
        if self._jitter is not None:
            delay_seconds *= 1.0 - self._jitter_share * self._jitter()

        delay_seconds += extra_seconds
        self.retry_at = now + delay_seconds
        return delay_seconds

    def reset(self) -> None:
        """Forget all failures: a try succeeded."""
        self.failures = 0
        self.retry_at = float("-inf")

    def remaining_seconds(self, now: float) -> float:
        """Return the seconds until the next try is due; 0 or less once it is."""
        return self.retry_at - now
