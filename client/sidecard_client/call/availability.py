"""Whether to ask the daemon: the client's own breaker on the socket.

Pure: time is the argument ``now`` (monotonic seconds), jitter is a callable.
Not thread-safe by itself: a client with threads guards `admit`, `succeeded` and `failed` by a lock,
and may read `up` without one.

===========  ============================================  ===============================================
state        a caller                                      ends by
===========  ============================================  ===============================================
up           asks the daemon                               `failed` -> down
down         goes on without it until `Backoff.retry_at`   time -> probing
probing      one caller asks, the others go on without it  `succeeded` -> up, `failed` -> down (doubled)
===========  ============================================  ===============================================
"""

from collections.abc import Callable

from sidecard_client.protocol.backoff import Backoff

FIRST_BACK_OFF_SECONDS = 0.1
"""Short enough that a daemon restarted by systemd (``RestartSec=100ms``) is used again immediately."""

MAX_BACK_OFF_SECONDS = 5.0
"""While the daemon hangs, one caller loses ``daemon_timeout`` every 5 s: at 0.5 s, 10 % of one thread."""


class Availability:
    """The breaker of one socket path.

    ``jitter`` returns a number in [0, 1). It shortens each back-off by up to a quarter, so that the processes of a host do
    not probe in step. ``probe_seconds``: after this time without a result, another caller may probe, since a prober can be
    killed, or be a thread that does not exist in a forked child.
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
        """Return whether this caller may ask the daemon. The first one after the back-off becomes the prober."""
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
        """Record a reply of the daemon. Returns whether the daemon was down before it."""
        was_down = not self.up
        self.up = True
        self._backoff.reset()
        self._probe_ends_at = None
        return was_down

    def failed(self, now: float) -> bool:
        """Record that the daemon did not reply. Returns whether the daemon was up before.

        While the daemon is down, only the prober's failure doubles the back-off:
        1. 125 threads wait; 2. the daemon hangs; 3. 125 failures are recorded. That is one outage, not 125.
        """
        if self.up:
            self.up = False
            self._backoff.failed(now)
            return True

        if self._probe_ends_at is not None:
            self._probe_ends_at = None
            self._backoff.failed(now)

        return False
