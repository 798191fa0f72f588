"""Work that one event causes and that takes longer than a turn: it is done in batches, each by an event `WorkContinued`.

An event makes its outcome visible at once (a purge hides its entries), and leaves a `Job` to do the rest. The driver continues
jobs in turns of the daemon's own, beside those of the peers, for as long as `Engine.has_work` is true.

Any event may happen between two batches, the loss of the requester's connection included.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sidecard.core.effects import Effect


class Job(Protocol):
    """Work in batches."""

    @property
    def has_work(self) -> bool:
        """Whether a further batch is needed."""

    def do_batch(self, now: float) -> "list[Effect]":
        """Do a batch of at most about 1 ms, effects included. All invariants hold after it."""


class Jobs:
    """The jobs that are not done yet: they take turns, a batch each.

    ``standing`` jobs get work without `add`: they are asked whether they have any.
    """

    def __init__(self, standing: Sequence[Job]) -> None:
        self._standing = standing
        self._jobs: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """Have a job done."""
        self._jobs.append(job)

    @property
    def has_work(self) -> bool:
        """Whether some job needs a further batch."""
        return bool(self._jobs) or any(job.has_work for job in self._standing)

    def do_batch(self, now: float) -> "list[Effect]":
        """Do a batch of the next job."""
        self._jobs.extend(job for job in self._standing if job.has_work and job not in self._jobs)
        if not self._jobs:
            return []

        job = self._jobs.popleft()
        effects = job.do_batch(now) if job.has_work else []
        if job.has_work:
            self._jobs.append(job)

        return effects
