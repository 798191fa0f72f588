"""Statistics over a window of time or of samples: moving averages, trimmed means and sliding sums."""

from collections import deque

HALF_LIFE_SECONDS = 60.0

TRIMMED_SAMPLES = 16
"""Samples of a `TrimmedMean`."""

TRIMMED_OUTLIERS = 2
"""The largest of them that do not count, once there are as many others."""


class MovingAverage:
    """The mean of samples, whose weights halve every `HALF_LIFE_SECONDS`."""

    __slots__ = ("_at", "_weight", "value")

    def __init__(self) -> None:
        self.value = 0.0
        """The mean; 0 before the first sample."""
        self._weight = 0.0
        self._at = 0.0

    @property
    def known(self) -> bool:
        """Whether there has been a sample."""
        return self._weight > 0

    def add(self, sample: float, now: float) -> None:
        """Add a sample."""
        weight = self._weight * 0.5 ** ((now - self._at) / HALF_LIFE_SECONDS) + 1.0
        self.value += (sample - self.value) / weight
        self._weight = weight
        self._at = now

    def idle_seconds(self, now: float) -> float:
        """Return the time since the last sample."""
        return now - self._at


class TrimmedMean:
    """The mean of the latest `TRIMMED_SAMPLES` samples without the largest ones.

    Peers report the samples, so one false report must not decide: with two samples, the larger one no longer counts.
    """

    __slots__ = ("_at", "_samples", "value")

    def __init__(self) -> None:
        self.value = 0.0
        """The mean; 0 before the first sample."""
        self._samples: deque[float] = deque(maxlen=TRIMMED_SAMPLES)
        self._at = 0.0

    @property
    def known(self) -> bool:
        """Whether there has been a sample."""
        return bool(self._samples)

    def add(self, sample: float, now: float) -> None:
        """Add a sample."""
        self._samples.append(sample)
        self._at = now
        counted = sorted(self._samples)
        del counted[max((len(counted) + 1) // 2, len(counted) - TRIMMED_OUTLIERS) :]
        self.value = sum(counted) / len(counted)

    def idle_seconds(self, now: float) -> float:
        """Return the time since the last sample."""
        return now - self._at


class SlidingSum:
    """The sum of amounts within a sliding window, to the second."""

    def __init__(self) -> None:
        self.total = 0.0
        self.seconds: deque[list[float]] = deque()
        """Pairs of a second and the amount in it, oldest first."""

    def add(self, amount: float, now: float) -> bool:
        """Add an amount to the current second; return whether it is the first in this second. ``now`` never steps back."""
        self.total += amount
        if self.seconds:
            latest = self.seconds[-1]
            if now < latest[0] + 1.0:
                latest[1] += amount
                return False

        self.seconds.append([float(int(now)), amount])
        return True

    def expire(self, window_seconds: float, now: float) -> None:
        """Drop the seconds that began a window ago or earlier."""
        while self.seconds and self.seconds[0][0] + window_seconds <= now:
            self.total -= self.seconds.popleft()[1]

        if not self.seconds:
            self.total = 0.0  # without the rounding errors of past sums
