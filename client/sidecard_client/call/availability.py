"""Whether the daemon is worth asking: the client's own breaker on the socket.

Pure: time is the argument ``now`` (monotonic seconds), jitter is a callable.
Not thread-safe by itself: a shell with threads guards `admit`, `succeeded` and `failed` by a lock,
and may read `up` without one.

===========  ==========================================  =======================
state        a caller                                    leaves by
===========  ==========================================  =======================
up           asks the daemon                             `failed` -> down
down         goes on without it until ``retry_at``       time -> probing
probing      one caller asks, the others go on without   `succeeded` -> up, `failed` -> down (doubled)
===========  ==========================================  =======================
"""

from collections.abc import Callable

from sidecard_client.protocol.backoff import Backoff

FIRST_BACK_OFF_SECONDS = 0.1
"""Short enough that a daemon restarted by systemd (``RestartSec=100ms``) is used again immediately."""

MAX_BACK_OFF_SECONDS = 5.0
"""A hanging daemon costs one caller ``daemon_timeout`` this often: 10 % of one thread at 0.5 s."""


class Availability:
    """The breaker of one socket path.

    ``jitter`` returns a number in [0, 1]; a back-off is shortened by up to a quarter of itself by it,
    so that the processes of a host do not probe in step.
    ``probe_seconds`` is how long one prober is waited for before another may probe:
    a prober can be killed, or be a thread that a fork left behind.
    """

    __slots__ = ("_backoff", "_probe_ends_at", "_probe_seconds", "up")

    def __init__(self, jitter: Callable[[], float], *, probe_seconds: float) -> None:
        self.up = True
        self._backoff = Backoff(FIRST_BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS, jitter=jitter, jitter_share=0.25)
        self._probe_seconds = probe_seconds
        self._probe_ends_at: float | None = None

    def __repr__(self) -> str:
        """Show the state in the table's words."""
        if self.up:
            return "<Availability up>"

        if self._probe_ends_at is not None:
            return "<Availability probing>"

        return f"<Availability down, {self._backoff.failures} failures>"

    def admit(self, now: float) -> bool:
        """Say whether this caller asks the daemon; the first one after the back-off becomes the prober."""
        if self.up:
            return True

        if self._probe_ends_at is not None:
            if now < self._probe_ends_at:
                return False
        elif now < self._backoff.retry_at:
            return False

        self._probe_ends_at = now + self._probe_seconds
        return True

    def succeeded(self) -> bool:
        """Take note of an answer. Returns whether the daemon was down before it."""
        was_down = not self.up
        self.up = True
        self._backoff.reset()
        self._probe_ends_at = None
        return was_down

    def failed(self, now: float) -> bool:
        """Take note that no answer came. Returns whether the daemon was up before.

        While the daemon is down only its prober's failure doubles the back-off:
        1. 125 threads wait; 2. the daemon hangs; 3. 125 failures arrive. That is one outage, not 125.
        """
        if self.up:
            self.up = False
            self._backoff.failed(now)
            return True

        if self._probe_ends_at is not None:
            self._probe_ends_at = None
            self._backoff.failed(now)

        return False
