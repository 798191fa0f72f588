"""The ledger: what calls requested, cost and saved per task, and what each backend billed.

Booked when an answer is served, from the measured time and the reported cost of that very entry. Billed, saved by the cache
and saved by sharing are separate sums.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, cast, get_args

from msgspec import Struct

from sidecard.core.accounts.histogram import CALL_BOUNDS, Buckets
from sidecard.core.backends.breaker import BreakerMemory
from sidecard.core.backends.budgets import BudgetMemory
from sidecard.core.cache.entry import Entry
from sidecard.core.names import OTHER, UNKNOWN_UID, Hold, NameMemory, NameTable, never
from sidecard.core.sums import MAX_SUM, repaired, saturated
from sidecard_client.protocol.wire import (
    NOT_STORED_REASONS,
    PASSED_REASONS,
    BackendSpending,
    Ledger,
    NotStoredReason,
    RejectionReason,
)

LEDGER_VERSION = 1

REJECTED: dict[RejectionReason, str] = {reason: f"rejected_{reason}" for reason in get_args(RejectionReason)}
"""By reason, the name of its sum."""

PASSED: dict[str, str] = {reason: f"passed_{reason}" for reason in PASSED_REASONS}
NOT_STORED: dict[str, str] = {reason: f"not_stored_{reason}" for reason in NOT_STORED_REASONS}

FAILURES = frozenset({"transient", "fatal", "lost", "expired"})
"""Outcomes of leases that count as failed calls."""


class LedgerSnapshot(Struct, frozen=True):
    """What is kept over a restart: all sums, budgets and breakers. ``began_at`` is an instant of the wall clock, in seconds.

    ``names`` are the tables ``tasks``, ``backends`` and ``models``.
    """

    began_at: float
    tasks: dict[str, dict[str, float]]
    backends: dict[str, BackendSpending]
    models: dict[str, BackendSpending]
    budgets: dict[str, BudgetMemory]
    breakers: dict[str, BreakerMemory] = {}
    names: dict[str, dict[str, NameMemory]] = {}
    version: int = LEDGER_VERSION


_NO_SUMS = frozenset({"earlier", "waits", "uid", "used_at", "seen"})


class TaskLedger:
    """The sums of one task in this run: all attributes but those of `_NO_SUMS`. They grow without bound and are read saturated."""

    hold: Hold = 0

    def __init__(self) -> None:
        self.uid = UNKNOWN_UID
        self.used_at = self.seen = 0.0
        self.earlier: dict[str, float] = {}
        """The sums of earlier runs; replaced by each change."""
        self.waits = Buckets(CALL_BOUNDS)
        """Seconds that callers of this run waited for an answer or a permit, whatever the outcome."""
        self.hits = 0
        self.misses = 0
        self.shared = 0
        self.stale_hits = 0
        """Hits by stale answers."""
        self.view_hits = 0
        """Hits that clients read from a view."""
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
        self.saved_by_prefix_tokens = 0
        self.saved_by_prefix_dollars = 0.0
        self.waited_seconds = 0.0
        vars(self).update(dict.fromkeys((*PASSED.values(), *NOT_STORED.values()), 0))

    def sums(self) -> dict[str, float]:
        """Return the sums of all runs by name."""
        earlier = self.earlier
        if not earlier:
            return self.sums_of_this_run()

        return _saturated_all({name: value + earlier.get(name, type(value)(0)) for name, value in self._own().items()})

    def sums_of_this_run(self) -> dict[str, float]:
        """Return this run's sums, for counters that start at 0 with the daemon.

        A killed daemon loses its latest bookings. A counter that continued from the earlier sum would have decreased, which
        Prometheus takes for a restart from 0: it would count the whole ledger once more.
        """
        return _saturated_all(self._own())

    def add(self, sums: dict[str, float]) -> None:
        """Add an earlier run's sums; unknown names are ignored."""
        self.earlier = {
            name: saturated(self.earlier.get(name, type(own)(0)) + repaired(sums.get(name, 0), type(own)))
            for name, own in self._own().items()
        }

    def _own(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name not in _NO_SUMS}

    def absorb(self, ledger: "TaskLedger") -> None:
        """Add the sums of another task, which is forgotten."""
        for name, value in ledger._own().items():  # noqa: SLF001 - of the same class
            setattr(self, name, getattr(self, name) + value)

        self.add(ledger.earlier)
        self.waits.add(CALL_BOUNDS, ledger.waits.counts, ledger.waits.sum)

    @property
    def activity(self) -> float:
        """See `Named`: leases set ``used_at``."""
        return self.hits + self.shared

    def count_rejection(self, reason: RejectionReason) -> None:
        """Book a begin that ended in a rejection."""
        self._count(REJECTED[reason])

    def count_passed(self, reason: str, count: int) -> None:
        """Book requests that a client passed to the upstream."""
        self._count(PASSED.get(reason) or PASSED["other"], count)

    def count_not_stored(self, reason: NotStoredReason) -> None:
        """Book an answer that was not stored."""
        self._count(NOT_STORED[reason])

    def _count(self, name: str, count: int = 1) -> None:
        setattr(self, name, getattr(self, name) + count)

    def count_hit(self, entry: Entry) -> None:
        """Book a hit: the cache saved all of the entry's call."""
        self.hits += 1
        self.saved_by_cache_seconds += entry.seconds
        self.saved_by_cache_dollars += entry.terms.usage.cost_dollars or 0.0

    def count_hits(self, count: int, seconds: float, dollars: float) -> None:
        """Book hits that clients read from a view; each saved a call of so many seconds and dollars."""
        self.hits += count
        self.view_hits += count
        self.saved_by_cache_seconds += count * seconds
        self.saved_by_cache_dollars += count * dollars

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

    def count_call(self, seconds: float, dollars: float, calls: int = 1) -> None:
        """Book an answered call, or a further answer of one."""
        self.upstream_calls += calls
        self.billed_seconds += seconds
        self.billed_dollars += dollars

    def count_prefix(self, tokens: int, dollars: float) -> None:
        """Book prompt tokens that a backend read from its own cache, and how much less they cost."""
        self.saved_by_prefix_tokens += tokens
        self.saved_by_prefix_dollars += dollars


class TaskLedgers:
    """One ledger per task, bounded in number; ``kept`` tells configured tasks."""

    def __init__(self, max_tasks: int, kept: Callable[[str], bool] = never) -> None:
        self.table: NameTable[str, TaskLedger] = NameTable(max_tasks, self._absorb, kept)
        self._ledgers = self.table.items
        self._other: TaskLedger | None = None
        self._summaries: dict[str, _TaskSummary] = {}
        """Those of the last report: few tasks change between two."""

    def of(self, task: str, uid: int = UNKNOWN_UID, now: float = 0.0) -> TaskLedger:
        """Return the task's ledger, creating it for a uid; if there is no room, that of `OTHER`."""
        return self._ledgers.get(task) or self._create(task, uid, now)

    def sums(self) -> dict[str, dict[str, float]]:
        """Return the sums of each task by name."""
        return {task: ledger.sums() for task, ledger in self.items()}

    def add(
        self, sums: dict[str, dict[str, float]], names: dict[str, NameMemory], wall_offset: float, now: float
    ) -> None:
        """Add an earlier run's sums."""
        for task, task_sums in sums.items():
            self.of(task, *origin(names.get(task), wall_offset, now)).add(task_sums)

    def items(self) -> list[tuple[str, TaskLedger]]:
        """Return the ledgers, sorted by task."""
        items = sorted(self._ledgers.items())
        return items if self._other is None else [(OTHER, self._other), *items]

    def total(self) -> Ledger:
        """Return the sums over all tasks."""
        parts = [TaskLedger().sums(), *(summary.sums for _, summary in self._summarized())]
        return summarize(_saturated_all({name: sum(part[name] for part in parts) for name in parts[0]}))

    def by_task(self) -> dict[str, Ledger]:
        """Return the sums of each task that has had a begin."""
        return {task: summary.ledger for task, summary in self._summarized() if summary.used}

    def _summarized(self) -> "list[tuple[str, _TaskSummary]]":
        """Return the summaries of all tasks, sorted; those of tasks that have not changed are reused."""
        before, now = self._summaries, dict[str, _TaskSummary]()
        for task, ledger in self.items():
            state = tuple(vars(ledger).values())
            summary = before.get(task)
            if summary is None or summary.state != state:
                sums = ledger.sums()
                summary = _TaskSummary(state, sums, summarize(sums), any(sums[name] for name in _OF_BEGINS))

            now[task] = summary

        self._summaries = now
        return list(now.items())

    def _create(self, task: str, uid: int, now: float) -> TaskLedger:
        ledger = None if task == OTHER else self.table.enter(task, TaskLedger, uid, now)
        return self._common() if ledger is None else ledger

    def _common(self) -> TaskLedger:
        if self._other is None:
            self._other = TaskLedger()

        return self._other

    def _absorb(self, _: str, ledger: TaskLedger) -> None:
        self._common().absorb(ledger)


def origin(memory: NameMemory | None, wall_offset_seconds: float, now: float) -> tuple[int, float]:
    """Return the uid that a kept name is charged to, and when it was used."""
    return (UNKNOWN_UID, now) if memory is None else (memory.uid, min(now, memory.used_at - wall_offset_seconds))


class _TaskSummary(NamedTuple):
    """What a report says of a task whose ledger is in a ``state``."""

    state: tuple[object, ...]
    sums: dict[str, float]
    ledger: Ledger
    used: bool
    """Any begin had an answer, a lease, or an end without one, or any request was passed."""


_OF_BEGINS = ("hits", "shared", "led", "upstream_calls", "timeouts", *REJECTED.values(), *PASSED.values())


def known_reason(reason: str) -> NotStoredReason:
    """Return why an answer was not stored as one of the known reasons."""
    return cast("NotStoredReason", reason) if reason in NOT_STORED else "other"


def _saturated_all(sums: dict[str, float]) -> dict[str, float]:
    """Return sums, bounded; much faster than to bound each if none needs it."""
    values: Collection[float] = sums.values()
    if min(values) >= -MAX_SUM and max(values) <= MAX_SUM:
        return sums

    return {name: saturated(value) for name, value in sums.items()}


def summarize(sums: Mapping[str, float]) -> Ledger:
    """Return sums with rates; a rate of nothing is 0."""
    calls = saturated(int(sums["hits"] + sums["shared"] + sums["led"]))
    saved_seconds = sums["saved_by_cache_seconds"] + sums["saved_by_sharing_seconds"]
    served_seconds = saturated(sums["billed_seconds"] + saved_seconds + sums["waited_seconds"])
    rejected = {reason: int(sums[name]) for reason, name in REJECTED.items() if sums[name]}
    passed = {reason: int(sums[name]) for reason, name in PASSED.items() if sums[name]}
    not_stored = {reason: int(sums[name]) for reason, name in NOT_STORED.items() if sums[name]}
    own: dict[str, Any] = {name: value for name, value in sums.items() if name in Ledger.__struct_fields__}
    return Ledger(
        **own,
        calls=calls,
        rejected=saturated(sum(rejected.values())),
        rejected_by_reason=rejected,
        passed=saturated(sum(passed.values())),
        passed_by_reason=passed,
        not_stored=saturated(sum(not_stored.values())),
        not_stored_by_reason=not_stored,
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
