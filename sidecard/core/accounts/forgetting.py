"""Forget names that are neither configured nor used for ``limits.forget_seconds``: of backends, tasks, models and labels."""

from typing import Final

from sidecard.core.accounts.backend_ledger import BackendLedgers
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, EmitNote
from sidecard.core.settings import LiveSettings

CHECK_SECONDS: Final = 60.0
"""A table of a thousand names takes less than a millisecond to check."""


class Forgetting:
    """Checks all tables of names, at most every `CHECK_SECONDS`, or eight times within a shorter ``forget_seconds``."""

    def __init__(
        self,
        settings: LiveSettings,
        backends: Backends,
        tasks: TaskLedgers,
        spending: BackendLedgers,
        metrics: DaemonMetrics,
    ) -> None:
        self.changes = 0
        """Grows whenever a table has forgotten names."""
        self._settings = settings
        self._backends = backends
        self._tables = (
            backends.table,
            tasks.table,
            spending.by_backend.names,
            spending.by_model.names,
            metrics.backends,
            metrics.models,
        )
        self._due_at = 0.0

    def forget_unused(self, now: float) -> list[Effect]:
        """Check the tables if that is due; return notes of breakers that time alone has changed."""
        if now < self._due_at:
            return []

        seconds = self._settings.now.forget_seconds
        self._due_at = now + min(CHECK_SECONDS, seconds / 8)
        # A breaker that no one probes any more is closed by time, and then its name is idle.
        self._backends.forget_expired(now)
        effects: list[Effect] = [EmitNote(note) for note in self._backends.advance(now)]
        self.changes += sum(table.forget_unused(seconds, now) for table in self._tables)
        return effects
