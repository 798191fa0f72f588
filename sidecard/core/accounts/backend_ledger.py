"""What each backend, and each of its models, billed and saved."""

from collections.abc import Callable

from sidecard.core.accounts.ledger import origin
from sidecard.core.names import OTHER, UNKNOWN_UID, Hold, NameMemory, NameTable, never
from sidecard.core.records import NO_USAGE, cached_tokens
from sidecard.core.sums import repaired, saturated
from sidecard_client.protocol.wire import BackendSpending, Usage

MAX_MODELS = 512
"""Pairs of backend and model with sums of their own; peers choose both names."""

_SUMS = BackendSpending.__struct_fields__


class BackendLedger:
    """The sums of a backend, or of one of its models. They grow without bound and are read saturated."""

    hold: Hold = 0

    def __init__(self) -> None:
        self.uid = UNKNOWN_UID
        self.used_at = self.seen = 0.0
        self.calls = 0
        self.seconds = 0.0
        self.dollars = 0.0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.saved_dollars = 0.0
        self.cached_prompt_tokens = 0
        self.processed_prompt_tokens = 0
        self.saved_by_prefix_dollars = 0.0

    def count_call(self, seconds: float, usage: Usage, calls: int, saved_by_prefix: float) -> None:
        """Book an answered call, or a further answer of one."""
        self.calls += calls
        self.seconds += seconds
        if usage is not NO_USAGE:
            self.dollars += usage.cost_dollars or 0.0
            self.prompt_tokens += usage.prompt_tokens or 0
            self.completion_tokens += usage.completion_tokens or 0
            if usage.cached_prompt_tokens is not None:
                cached = cached_tokens(usage)
                self.cached_prompt_tokens += cached
                self.processed_prompt_tokens += (usage.prompt_tokens or 0) - cached
                self.saved_by_prefix_dollars += saved_by_prefix

    def add(self, spending: BackendSpending) -> None:
        """Add an earlier run's sums, or those of a forgotten name."""
        for name in _SUMS:
            own = getattr(self, name)
            setattr(self, name, saturated(own + repaired(getattr(spending, name), type(own))))

    def spending(self) -> BackendSpending:
        """Return the sums."""
        return BackendSpending(**{name: saturated(getattr(self, name)) for name in _SUMS})

    @property
    def activity(self) -> float:
        """See `Named`: calls set ``used_at``."""
        return self.saved_dollars


class SpendingTable:
    """A bounded number of ledgers, and one for all other names."""

    def __init__(self, bound: int, kept: Callable[[str], bool] = never) -> None:
        self.names: NameTable[str, BackendLedger] = NameTable(bound, self._absorb, kept)
        self._other: BackendLedger | None = None

    def of(self, name: str, uid: int, now: float) -> BackendLedger:
        """Return the ledger of a name, creating it for a uid; if there is no room, that of `OTHER`."""
        ledger = self.names.items.get(name)
        if ledger is None and name != OTHER:
            ledger = self.names.enter(name, BackendLedger, uid, now)

        return self._common() if ledger is None else ledger

    def add(
        self, spent: dict[str, BackendSpending], names: dict[str, NameMemory], wall_offset: float, now: float
    ) -> None:
        """Add an earlier run's sums."""
        for name, spending in spent.items():
            self.of(name, *origin(names.get(name), wall_offset, now)).add(spending)

    def spending(self) -> dict[str, BackendSpending]:
        """Return the sums by name."""
        spent = {name: ledger.spending() for name, ledger in sorted(self.names.items.items())}
        return spent if self._other is None else {OTHER: self._other.spending(), **spent}

    def _common(self) -> BackendLedger:
        if self._other is None:
            self._other = BackendLedger()

        return self._other

    def _absorb(self, _: str, ledger: BackendLedger) -> None:
        self._common().add(ledger.spending())


class BackendLedgers:
    """One ledger per backend and one per backend and model; ``kept`` tells configured backends."""

    def __init__(self, max_backends: int, kept: Callable[[str], bool] = never) -> None:
        self.by_backend = SpendingTable(max_backends, kept)
        self.by_model = SpendingTable(MAX_MODELS)
        """By ``backend/model``."""

    def count_call(
        self,
        backend: str,
        seconds: float,
        usage: Usage,
        uid: int = UNKNOWN_UID,
        now: float = 0.0,
        calls: int = 1,
        saved_by_prefix: float = 0.0,
    ) -> None:
        """Book an answered call, or a further answer of one; ``saved_by_prefix`` in dollars."""
        ledger = self.by_backend.of(backend, uid, now)
        ledger.used_at = now
        ledger.count_call(seconds, usage, calls, saved_by_prefix)
        if usage.model is not None:
            ledger = self.by_model.of(f"{backend}/{usage.model}", uid, now)
            ledger.used_at = now
            ledger.count_call(seconds, usage, calls, saved_by_prefix)

    def count_saved(self, backend: str, model: str | None, dollars: float, uid: int, now: float) -> None:
        """Book an answer that was served again."""
        self.by_backend.of(backend, uid, now).saved_dollars += dollars
        if model is not None:
            self.by_model.of(f"{backend}/{model}", uid, now).saved_dollars += dollars
