"""The wall clock, as the engine knows it."""


class WallClock:
    """Converts instants of the engine to the wall clock's.

    One object serves the whole engine: ``offset_seconds`` changes when the host's clock is set.
    """

    def __init__(self, offset_seconds: float = 0.0) -> None:
        self.offset_seconds = offset_seconds

    def at(self, now: float) -> float:
        """Return the wall clock's time at an instant of the engine."""
        return now + self.offset_seconds
