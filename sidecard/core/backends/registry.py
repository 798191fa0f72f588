"""All backends by name: the configured ones, and a bounded number of others that callers have named."""

from sidecard.core.backends.backend import TYPICAL_COMPLETION_TOKENS, TYPICAL_PROMPT_TOKENS, Backend, BackendParts
from sidecard.core.backends.breaker import BreakerMemory
from sidecard.core.backends.windows import TrimmedMean
from sidecard.core.names import OTHER, UNKNOWN_UID, NameTable
from sidecard.core.notes import BreakerNote
from sidecard.core.records import NO_USAGE
from sidecard.core.settings import BackendSettings, EngineSettings, settings_of_unnamed
from sidecard_client.protocol.wire import LOCAL_BACKENDS, BreakerState, Usage

OTHER_BACKENDS = OTHER
"""The backend whose breaker and numbers are shared by all names for which there is no room."""

MAX_NAMED = 16
"""Maximum number of backends of one begin. They are looked up one after the other, and none of them may evict another."""


class Backends:
    """Find, create and drop backends."""

    def __init__(self, settings: EngineSettings, parts: BackendParts) -> None:
        self.table: NameTable[str, Backend] = NameTable(
            max(settings.max_backends, len(settings.backends) + 2 * MAX_NAMED), self._count_dropped, newest=MAX_NAMED
        )
        """In the order of the latest use."""
        self._backends = self.table.items
        self._parts = parts
        self._local_max_concurrent = settings.local_max_concurrent
        for name, given in settings.backends.items():
            self._add_configured(name, given)

        self._other: Backend | None = None
        self._opened_by_dropped = 0
        self._changes_of_dropped = 0
        self.prompt_tokens = TrimmedMean()
        self.completion_tokens = TrimmedMean()

    def reconfigure(self, settings: EngineSettings, now: float) -> list[BreakerNote]:
        """Apply other settings. A backend that is no longer configured gets the settings of an unnamed one."""
        notes: list[BreakerNote] = []
        self.table.bound = max(self.table.bound, len(settings.backends) + 2 * MAX_NAMED)
        self._local_max_concurrent = settings.local_max_concurrent
        for name, given in settings.backends.items():
            backend = self._backends.get(name)
            if backend is None:
                self._add_configured(name, given)
            elif (backend.settings, backend.configured) != (given, True):
                notes += backend.reconfigure(given, now, configured=True)

        for name, backend in self._backends.items():
            if backend.configured and name not in settings.backends:
                notes += backend.reconfigure(self._settings_of_unnamed(name), now, configured=False)

        return notes

    def of(self, name: str, uid: int = UNKNOWN_UID, now: float = 0.0) -> Backend:
        """Return the backend of that name for a caller, or `OTHER_BACKENDS` if the table is full of backends in use."""
        backend = self._backends.pop(name, None)
        if backend is None:
            return self._create(name, uid, now)

        self._backends[name] = backend  # at the end, as the latest
        backend.used_at = max(backend.used_at, now)

        return backend

    def all(self) -> dict[str, Backend]:
        """Return all backends, sorted by name."""
        backends = dict(sorted(self._backends.items()))
        if self._other is not None:
            backends[OTHER_BACKENDS] = self._other

        return backends

    @property
    def opened(self) -> int:
        """How often breakers have opened."""
        return self._opened_by_dropped + sum(backend.breaker.opened for backend in self.all().values())

    @property
    def changes(self) -> int:
        """How often breakers have changed their state."""
        return self._changes_of_dropped + sum(backend.breaker.generation for backend in self._backends.values())

    def advance(self, now: float) -> list[BreakerNote]:
        """Make the changes of all breakers that depend on time alone, so that their states are current."""
        return [note for backend in self.all().values() for note in backend.breaker.advance(now)]

    def forget_expired(self, now: float) -> None:
        """Drop the prefixes that backends no longer keep."""
        for backend in self._backends.values():
            if backend.affinity is not None:
                backend.affinity.forget_expired(now)

    def memory(self, wall_offset_seconds: float) -> dict[str, BreakerMemory]:
        """Return what breakers keep over a restart."""
        memories = {name: backend.breaker.memory(wall_offset_seconds) for name, backend in self._backends.items()}
        return {name: memory for name, memory in memories.items() if memory is not None}

    def restore(self, memories: dict[str, BreakerMemory], now: float, wall_offset_seconds: float) -> None:
        """Continue from what the breakers of an earlier run kept."""
        for name, memory in memories.items():
            backend = self.of(name, now=now)
            if backend.name == name:
                backend.breaker.restore(memory, now, wall_offset_seconds)

    def states(self) -> dict[str, BreakerState]:
        """Return the state of each breaker. Call `advance` first."""
        return {name: backend.breaker.state for name, backend in self.all().items()}

    def learn(self, backend: Backend, seconds: float, usage: Usage, now: float) -> None:
        """Add an answer's numbers to the measurements, before its permit is released."""
        backend.latency.add(seconds, now)
        if usage is NO_USAGE:
            return

        backend.learn_usage(seconds, usage, now)
        if not backend.priced:
            return  # its tokens are not paid for, so no one checks them

        if usage.prompt_tokens is not None:
            self.prompt_tokens.add(usage.prompt_tokens, now)

        if usage.completion_tokens is not None:
            self.completion_tokens.add(usage.completion_tokens, now)

    def expected_dollars(self, backend: Backend) -> float | None:
        """Return the expected cost of a backend's next call; None if unknown.

        Backends with a price are compared by the mean tokens of the calls of *all* such backends: a cheap backend gets the easy
        calls, whose tokens would make it look cheaper still. What a backend's cache saves is its own.
        """
        if backend.priced:
            prompts = self.prompt_tokens.value if self.prompt_tokens.known else TYPICAL_PROMPT_TOKENS
            completions = self.completion_tokens.value if self.completion_tokens.known else TYPICAL_COMPLETION_TOKENS
            return backend.price_dollars(prompts, completions, prompts * (backend.cached_share or 0.0))

        if backend.dollars.known:
            return backend.dollars.value

        return None if backend.costs else 0.0

    def expected_age_seconds(self, backend: Backend, now: float) -> float:
        """Return the age of the latest number in `expected_dollars`."""
        if backend.priced:
            return min(self.prompt_tokens.idle_seconds(now), self.completion_tokens.idle_seconds(now))

        return backend.dollars.idle_seconds(now)

    def _create(self, name: str, uid: int, now: float) -> Backend:
        if name not in LOCAL_BACKENDS and not self.table.make_room(uid, now):
            if self._other is None:
                self._other = self._unnamed(OTHER_BACKENDS)

            return self._other

        backend = self._unnamed(name)
        self.table.add(name, backend, uid, now)
        return backend

    def _add_configured(self, name: str, settings: BackendSettings) -> None:
        backend = Backend(name, settings, self._parts, configured=True)
        self.table.add(name, backend, UNKNOWN_UID, 0.0)

    def _count_dropped(self, _: str, dropped: Backend) -> None:
        self._opened_by_dropped += dropped.breaker.opened
        # One more if its leaving changes `memory`.
        self._changes_of_dropped += dropped.breaker.generation + (dropped.breaker.state != "closed")

    def _unnamed(self, name: str) -> Backend:
        return Backend(name, self._settings_of_unnamed(name), self._parts, configured=False)

    def _settings_of_unnamed(self, name: str) -> BackendSettings:
        return settings_of_unnamed(name, self._local_max_concurrent)
