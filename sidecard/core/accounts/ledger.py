"""The ledger: what calls requested, cost and saved per task, and what each backend billed.

Booked when an answer is served, from the measured time and the reported cost of that very entry. Billed, saved by the cache
and saved by sharing are separate sums.
"""

from collections.abc import Collection
from typing import Any, get_args

from msgspec import Struct, structs

from sidecard.core.accounts.histogram import CALL_BOUNDS, Buckets
from sidecard.core.backends.breaker import BreakerMemory
from sidecard.core.backends.budgets import BudgetMemory
from sidecard.core.cache.entry import Entry
from sidecard.core.records import NO_USAGE
from sidecard.core.sums import repaired, saturated
from sidecard_client.protocol.wire import BackendSpending, Ledger, RejectionReason, Usage

LEDGER_VERSION = 1

MAX_MODELS = 512
"""Pairs of backend and model with sums of their own; peers choose both names."""

OTHER = "(other)"
"""The name under which tasks beyond `EngineSettings.max_tasks` are booked, and backends and models beyond their bounds."""


REJECTED: dict[RejectionReason, str] = {reason: f"rejected_{reason}" for reason in get_args(RejectionReason)}
"""By reason, the name of its sum."""

FAILURES = frozenset({"transient", "fatal", "lost", "expired"})
"""Outcomes of leases that count as failed calls."""


class LedgerSnapshot(Struct, frozen=True):
    """What is kept over a restart: all sums, budgets and breakers. ``began_at`` is an instant of the wall clock, in seconds."""

    began_at: float
    tasks: dict[str, dict[str, float]]
    backends: dict[str, BackendSpending]
    models: dict[str, BackendSpending]
    budgets: dict[str, BudgetMemory]
    breakers: dict[str, BreakerMemory] = {}
    version: int = LEDGER_VERSION


class TaskLedger:
    """The sums of one task in this run: all attributes but ``earlier`` and ``waits``. They grow without bound and are read saturated."""

    def __init__(self) -> None:
        self.earlier: dict[str, float] = {}
        """The sums of earlier runs."""
        self.waits = Buckets(CALL_BOUNDS)
        """Seconds that callers of this run waited for an answer or a permit, whatever the outcome."""
        self.hits = 0
        self.misses = 0
        self.shared = 0
        self.stale_hits = 0
        """Hits by stale answers."""
        self.similar_hits = 0
        """Hits by answers to similar requests; ``saved_by_similar`` is what they saved."""
        self.led = 0
        """Begins that got a lease."""
        self.failed = 0
        self.timeouts = 0
        self.rejected_breaker_open = 0
        self.rejected_budget = 0
        self.rejected_busy = 0
        self.rejected_draining = 0
        self.rejected_not_cached = 0
        self.rejected_saturated = 0
        self.rejected_sovereign = 0
        self.upstream_calls = 0
        self.billed_seconds = 0.0
        self.billed_dollars = 0.0
        self.saved_by_cache_seconds = 0.0
        self.saved_by_cache_dollars = 0.0
        self.saved_by_similar_seconds = 0.0
        self.saved_by_similar_dollars = 0.0
        self.saved_by_sharing_seconds = 0.0
        self.saved_by_sharing_dollars = 0.0
        self.waited_seconds = 0.0

    def sums(self) -> dict[str, float]:
        """Return the sums of all runs by name."""
        earlier = self.earlier
        return {name: saturated(value + earlier.get(name, type(value)(0))) for name, value in self._own().items()}

    def sums_of_this_run(self) -> dict[str, float]:
        """Return this run's sums, for counters that start at 0 with the daemon.

        A killed daemon loses its latest bookings. A counter that continued from the earlier sum would have decreased, which
        Prometheus takes for a restart from 0: it would count the whole ledger once more.
        """
        return {name: saturated(value) for name, value in self._own().items()}

    def add(self, sums: dict[str, float]) -> None:
        """Add an earlier run's sums; unknown names are ignored."""
        for name, own in self._own().items():
            kind = type(own)
            self.earlier[name] = saturated(self.earlier.get(name, kind(0)) + repaired(sums.get(name, 0), kind))

    def _own(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name not in {"earlier", "waits"}}

    @property
    def used(self) -> bool:
        """Whether any begin had an answer, a lease, or an end without one."""
        sums = self.sums()
        return any(sums[name] for name in ("hits", "shared", "led", "upstream_calls", "timeouts", *REJECTED.values()))

    def count_rejection(self, reason: RejectionReason) -> None:
        """Book a begin that ended in a rejection."""
        name = REJECTED[reason]
        setattr(self, name, getattr(self, name) + 1)

    def count_hit(self, entry: Entry) -> None:
        """Book a hit: the cache saved all of the entry's call."""
        self.hits += 1
        self.saved_by_cache_seconds += entry.seconds
        self.saved_by_cache_dollars += entry.terms.usage.cost_dollars or 0.0

    def count_similar_hit(self, entry: Entry) -> None:
        """Book a hit by a similar request's answer, at the cost of that request's call."""
        self.count_hit(entry)
        self.similar_hits += 1
        self.saved_by_similar_seconds += entry.seconds
        self.saved_by_similar_dollars += entry.dollars

    def count_shared(self, seconds: float, dollars: float, waited_seconds: float) -> float:
        """Book a shared answer: sharing saved its cost, and its time less the wait; return the seconds saved.

        A wait that was longer than the call itself (a first holder was lost) saved nothing, and no more than the call's time
        is booked as waited, so that the sums stay comparable.
        """
        saved_seconds = max(0.0, seconds - waited_seconds)
        self.shared += 1
        self.saved_by_sharing_seconds += saved_seconds
        self.saved_by_sharing_dollars += dollars
        self.waited_seconds += seconds - saved_seconds
        return saved_seconds

    def count_call(self, seconds: float, dollars: float) -> None:
        """Book an answered call."""
        self.upstream_calls += 1
        self.billed_seconds += seconds
        self.billed_dollars += dollars


class TaskLedgers:
    """One ledger per task, bounded in number."""

    def __init__(self, max_tasks: int) -> None:
        self._max_tasks = max_tasks
        self._ledgers: dict[str, TaskLedger] = {}

    def of(self, task: str) -> TaskLedger:
        """Return the task's ledger, creating it; beyond the bound, that of `OTHER`."""
        ledgers = self._ledgers
        return ledgers.get(task) or ledgers.setdefault(bounded(task, ledgers, self._max_tasks), TaskLedger())

    def sums(self) -> dict[str, dict[str, float]]:
        """Return the sums of each task by name."""
        return {task: ledger.sums() for task, ledger in self._ledgers.items()}

    def add(self, sums: dict[str, dict[str, float]]) -> None:
        """Add an earlier run's sums."""
        for task, task_sums in sums.items():
            self.of(task).add(task_sums)

    def items(self) -> list[tuple[str, TaskLedger]]:
        """Return the ledgers, sorted by task."""
        return sorted(self._ledgers.items())

    def total(self) -> Ledger:
        """Return the sums over all tasks."""
        return summarize(*self._ledgers.values())

    def by_task(self) -> dict[str, Ledger]:
        """Return the sums of each task that has had a begin."""
        return {task: summarize(ledger) for task, ledger in self.items() if ledger.used}


class BackendLedger(Struct, eq=False):
    """The sums of a backend, or of one of its models. They grow without bound and are read saturated."""

    calls: int = 0
    seconds: float = 0.0
    dollars: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    saved_dollars: float = 0.0

    def count_call(self, seconds: float, usage: Usage) -> None:
        """Book an answered call."""
        self.calls += 1
        self.seconds += seconds
        if usage is not NO_USAGE:
            self.dollars += usage.cost_dollars or 0.0
            self.prompt_tokens += usage.prompt_tokens or 0
            self.completion_tokens += usage.completion_tokens or 0

    def add(self, spending: BackendSpending) -> None:
        """Add an earlier run's sums."""
        for name in self.__struct_fields__:
            own = getattr(self, name)
            setattr(self, name, saturated(own + repaired(getattr(spending, name), type(own))))

    def spending(self) -> BackendSpending:
        """Return the sums."""
        return BackendSpending(**{name: saturated(value) for name, value in structs.asdict(self).items()})


class BackendLedgers:
    """One ledger per backend and one per backend and model, both bounded in number."""

    def __init__(self, max_backends: int) -> None:
        self._max_backends = max_backends
        self._backends: dict[str, BackendLedger] = {}
        self._models: dict[str, BackendLedger] = {}

    def count_call(self, backend: str, seconds: float, usage: Usage) -> None:
        """Book an answered call."""
        ledger = self._backends.get(backend) or _ledger(self._backends, backend, self._max_backends)
        ledger.count_call(seconds, usage)
        if usage.model is not None:
            self._of_model(backend, usage.model).count_call(seconds, usage)

    def count_saved(self, backend: str, model: str | None, dollars: float) -> None:
        """Book an answer that was served again."""
        _ledger(self._backends, backend, self._max_backends).saved_dollars += dollars
        if model is not None:
            self._of_model(backend, model).saved_dollars += dollars

    def backends(self) -> dict[str, BackendSpending]:
        """Return the sums of each backend."""
        return {name: ledger.spending() for name, ledger in sorted(self._backends.items())}

    def models(self) -> dict[str, BackendSpending]:
        """Return the sums by ``backend/model``."""
        return {name: ledger.spending() for name, ledger in sorted(self._models.items())}

    def add(self, backends: dict[str, BackendSpending], models: dict[str, BackendSpending]) -> None:
        """Add an earlier run's sums."""
        for name, spending in backends.items():
            _ledger(self._backends, name, self._max_backends).add(spending)

        for name, spending in models.items():
            _ledger(self._models, name, MAX_MODELS).add(spending)

    def _of_model(self, backend: str, model: str) -> BackendLedger:
        return _ledger(self._models, f"{backend}/{model}", MAX_MODELS)


def _ledger(ledgers: dict[str, BackendLedger], name: str, bound: int) -> BackendLedger:
    return ledgers.get(name) or ledgers.setdefault(bounded(name, ledgers, bound), BackendLedger())


def bounded(name: str, table: Collection[str], bound: int) -> str:
    """Return the name under which to enter a table: `OTHER` if the name is new and the table has reached its bound."""
    return name if name in table or len(table) < bound else OTHER


def summarize(*ledgers: TaskLedger) -> Ledger:
    """Return the sums of several ledgers, with rates; a rate of nothing is 0."""
    total = TaskLedger()
    for ledger in ledgers:
        total.add(ledger.sums())

    sums = total.sums()
    calls = saturated(int(sums["hits"] + sums["shared"] + sums["led"]))
    saved_seconds = sums["saved_by_cache_seconds"] + sums["saved_by_sharing_seconds"]
    served_seconds = saturated(sums["billed_seconds"] + saved_seconds + sums["waited_seconds"])
    rejected = {reason: int(sums[name]) for reason, name in REJECTED.items() if sums[name]}
    own: dict[str, Any] = {name: value for name, value in sums.items() if name in Ledger.__struct_fields__}
    return Ledger(
        **own,
        calls=calls,
        rejected=saturated(sum(rejected.values())),
        rejected_by_reason=rejected,
        hit_rate=_ratio(sums["hits"], calls),
        deduplication_rate=_ratio(sums["shared"], calls),
        average_latency_reduction=_ratio(saved_seconds, served_seconds),
        average_saved_seconds=_ratio(saved_seconds, calls),
        served_seconds=served_seconds,
        served_dollars=saturated(
            sums["billed_dollars"] + sums["saved_by_cache_dollars"] + sums["saved_by_sharing_dollars"]
        ),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
