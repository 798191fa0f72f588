"""Requests that were passed to the upstream unshared: how many, by reason, API family and task, until the sender takes them."""

import threading
from collections import Counter
from collections.abc import Callable

from sidecard_client.protocol.wire import DEFAULT_TASK, MAX_PASSED, Passed


class PassedCounts:
    """Counts of one client. Thread-safe. ``changed`` is called after each change."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._counts = Counter[tuple[str, str, str]]()

    def add(self, reason: str, family: str, task: str) -> None:
        """Count a request. Once there are `MAX_PASSED` / 2 kinds, others are counted by reason alone."""
        with self._lock:
            kind = (reason, family, task)
            if kind not in self._counts and len(self._counts) >= MAX_PASSED // 2:
                kind = (reason, "", DEFAULT_TASK)

            self._counts[kind] += 1

        self._changed()

    def take(self) -> tuple[Passed, ...]:
        """Return the counts since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter[tuple[str, str, str]]()

        return tuple(
            Passed(reason=reason, family=family, task=task, count=count)
            for (reason, family, task), count in counts.items()
        )

    def reset(self) -> None:
        """Start from zero, in the child of a fork."""
        self._lock = threading.Lock()
        self._counts = Counter[tuple[str, str, str]]()
