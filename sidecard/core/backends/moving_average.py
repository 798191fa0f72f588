"""An exponentially weighted moving average over time."""

HALF_LIFE_SECONDS = 60.0


class MovingAverage:
    """The mean of samples, each of which weighs half as much after every `HALF_LIFE_SECONDS`."""

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
