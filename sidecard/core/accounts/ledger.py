"""What calls asked for, cost and saved: four sums per task that are never mixed, and what each backend was asked for.

Booked at the moment an answer is given, from the measured time and reported cost of the very entry that was served.
"""

from msgspec import Struct

from sidecard.core.accounts.histogram import CALL_BOUNDS, Histogram
from sidecard.core.backends.breaker import BreakerMemory
from sidecard.core.backends.budgets import BudgetMemory
from sidecard.core.cache.entry import Entry
from sidecard_client.protocol.wire import BackendSpending, Ledger, Usage

LEDGER_VERSION = 1

MAX_MODELS = 512
"""Pairs of backend and model with sums of their own; peers choose both names."""

OTHER = "(other)"
"""Where the calls of tasks beyond `EngineSettings.max_tasks` are booked, and of backends and models beyond their bounds."""


class LedgerSnapshot(Struct, frozen=True):
    """All sums, and what else is kept over a restart. ``began_at`` is an instant of the wall clock, in seconds."""

    began_at: float
    tasks: dict[str, dict[str, float]]
    backends: dict[str, BackendSpending]
    models: dict[str, BackendSpending]
    budgets: dict[str, BudgetMemory]
    breakers: dict[str, BreakerMemory] = {}
    version: int = LEDGER_VERSION


class TaskLedger:
    """The running sums of one task. Each attribute is defined by the method that raises it."""

    SUMS = (
        "billed_dollars",
        "billed_seconds",
        "hits",
        "led",
        "misses",
        "saved_by_cache_dollars",
        "saved_by_cache_seconds",
        "saved_by_sharing_dollars",
        "saved_by_sharing_seconds",
        "saved_by_similar_dollars",
        "saved_by_similar_seconds",
        "shared",
        "similar_hits",
        "stale_hits",
        "upstream_calls",
        "waited_seconds",
    )
    __slots__ = (*SUMS, "restored", "waits")

    def __init__(self) -> None:
        self.restored: dict[str, float] = {}
        """What of the sums is of earlier runs."""
        self.waits = Histogram(CALL_BOUNDS)
        """Seconds that callers of this run waited, for an answer or for a permit, whatever they got in the end."""
        self.hits = 0
        self.misses = 0
        self.shared = 0
        self.stale_hits = 0
        """Of the hits, those of answers beyond their time."""
        self.similar_hits = 0
        """Of the hits, those of answers to similar requests; ``saved_by_similar`` is what they saved."""
        self.led = 0
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
        """Return all sums by name."""
        return {name: getattr(self, name) for name in self.SUMS}

    def sums_of_this_run(self) -> dict[str, float]:
        """Return all sums without what was restored.

        What a killed daemon booked last is lost, and a counter that went on from there would have gone back: to
        Prometheus that is a restart from 0, and all of the ledger would be counted once more.
        """
        return {name: value - self.restored.get(name, 0) for name, value in self.sums().items()}

    def add(self, sums: dict[str, float]) -> None:
        """Add an earlier run's sums; names that are none of ours are passed by."""
        for name in self.SUMS:
            mine, more = getattr(self, name), sums.get(name, 0)
            setattr(self, name, type(mine)(mine + more))
            self.restored[name] = self.restored.get(name, 0) + more

    @property
    def used(self) -> bool:
        """Whether there is more than waits and misses that led to nothing."""
        return bool(self.hits or self.shared or self.led or self.upstream_calls)

    def hit(self, entry: Entry) -> None:
        """A stored answer was served: the cache saved all of its call."""
        self.hits += 1
        self.saved_by_cache_seconds += entry.seconds
        self.saved_by_cache_dollars += entry.dollars

    def hit_similar(self, entry: Entry) -> None:
        """The stored answer to a similar request was served: that request's call stands for the one that was saved."""
        self.hit(entry)
        self.similar_hits += 1
        self.saved_by_similar_seconds += entry.seconds
        self.saved_by_similar_dollars += entry.dollars

    def share(self, seconds: float, dollars: float, waited_seconds: float) -> float:
        """Another caller's answer was served: sharing saved its cost, and its time less the time waited for it.

        A wait that was longer than the call itself (a first holder was lost) saved nothing and costs no more than the call
        here, so that the sums stay comparable. Returns the seconds saved.
        """
        saved_seconds = max(0.0, seconds - waited_seconds)
        self.shared += 1
        self.saved_by_sharing_seconds += saved_seconds
        self.saved_by_sharing_dollars += dollars
        self.waited_seconds += seconds - saved_seconds
        return saved_seconds

    def bill(self, seconds: float, dollars: float) -> None:
        """A backend was asked and answered."""
        self.upstream_calls += 1
        self.billed_seconds += seconds
        self.billed_dollars += dollars


class TaskLedgers:
    """A book per task, bounded in number."""

    def __init__(self, max_tasks: int) -> None:
        self._max_tasks = max_tasks
        self._books: dict[str, TaskLedger] = {}

    def of(self, task: str) -> TaskLedger:
        """Return the task's book, opening it; beyond the bound, the book of `OTHER`."""
        book = self._books.get(task)
        if book is None:
            name = task if len(self._books) < self._max_tasks else OTHER
            book = self._books.setdefault(name, TaskLedger())

        return book

    def sums(self) -> dict[str, dict[str, float]]:
        """Return the sums of each task by name."""
        return {task: book.sums() for task, book in self._books.items()}

    def add(self, sums: dict[str, dict[str, float]]) -> None:
        """Add an earlier run's sums."""
        for task, task_sums in sums.items():
            self.of(task).add(task_sums)

    def books(self) -> list[tuple[str, TaskLedger]]:
        """Return the books by task."""
        return sorted(self._books.items())

    def total(self) -> Ledger:
        """Return the sums over all tasks."""
        return summarise(*self._books.values())

    def tasks(self) -> dict[str, Ledger]:
        """Return the sums of each task that has had an answer or a lease."""
        return {task: summarise(book) for task, book in self.books() if book.used}


class BackendLedger:
    """The running sums of a backend, or of a model of it."""

    __slots__ = ("calls", "completion_tokens", "dollars", "prompt_tokens", "saved_dollars", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.dollars = 0.0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.saved_dollars = 0.0

    def bill(self, seconds: float, usage: Usage) -> None:
        """The backend has answered."""
        self.calls += 1
        self.seconds += seconds
        self.dollars += usage.cost_dollars or 0.0
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0

    def add(self, spending: BackendSpending) -> None:
        """Add an earlier run's sums."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(spending, name))

    def spending(self) -> BackendSpending:
        """Return the sums."""
        return BackendSpending(**{name: getattr(self, name) for name in self.__slots__})


class BackendLedgers:
    """A book per backend and one per backend and model, both bounded in number."""

    def __init__(self, max_backends: int) -> None:
        self._max_backends = max_backends
        self._backends: dict[str, BackendLedger] = {}
        self._models: dict[str, BackendLedger] = {}

    def bill(self, backend: str, seconds: float, usage: Usage) -> None:
        """A backend has answered."""
        self._book(self._backends, backend, self._max_backends).bill(seconds, usage)
        if usage.model is not None:
            self._book(self._models, f"{backend}/{usage.model}", MAX_MODELS).bill(seconds, usage)

    def save(self, backend: str, model: str | None, dollars: float) -> None:
        """An answer of the backend was served once more."""
        self._book(self._backends, backend, self._max_backends).saved_dollars += dollars
        if model is not None:
            self._book(self._models, f"{backend}/{model}", MAX_MODELS).saved_dollars += dollars

    def backends(self) -> dict[str, BackendSpending]:
        """Return the sums of each backend."""
        return {name: book.spending() for name, book in sorted(self._backends.items())}

    def models(self) -> dict[str, BackendSpending]:
        """Return the sums by ``backend/model``."""
        return {name: book.spending() for name, book in sorted(self._models.items())}

    def add(self, backends: dict[str, BackendSpending], models: dict[str, BackendSpending]) -> None:
        """Add an earlier run's sums."""
        for name, spending in backends.items():
            self._book(self._backends, name, self._max_backends).add(spending)

        for name, spending in models.items():
            self._book(self._models, name, MAX_MODELS).add(spending)

    @staticmethod
    def _book(books: dict[str, BackendLedger], name: str, most: int) -> BackendLedger:
        book = books.get(name)
        if book is None:
            book = books.setdefault(name if len(books) < most else OTHER, BackendLedger())

        return book


def summarise(*books: TaskLedger) -> Ledger:
    """Add books up. Rates of nothing are 0."""
    hits = sum(book.hits for book in books)
    shared = sum(book.shared for book in books)
    calls = hits + shared + sum(book.led for book in books)
    billed_seconds = sum(book.billed_seconds for book in books)
    billed_dollars = sum(book.billed_dollars for book in books)
    cache_seconds = sum(book.saved_by_cache_seconds for book in books)
    cache_dollars = sum(book.saved_by_cache_dollars for book in books)
    sharing_seconds = sum(book.saved_by_sharing_seconds for book in books)
    sharing_dollars = sum(book.saved_by_sharing_dollars for book in books)
    waited_seconds = sum(book.waited_seconds for book in books)
    served_seconds = billed_seconds + cache_seconds + sharing_seconds + waited_seconds
    saved_seconds = cache_seconds + sharing_seconds
    return Ledger(
        calls=calls,
        hits=hits,
        shared=shared,
        upstream_calls=sum(book.upstream_calls for book in books),
        hit_rate=_ratio(hits, calls),
        deduplication_rate=_ratio(shared, calls),
        average_latency_reduction=_ratio(saved_seconds, served_seconds),
        average_saved_seconds=_ratio(saved_seconds, calls),
        served_seconds=served_seconds,
        billed_seconds=billed_seconds,
        saved_by_cache_seconds=cache_seconds,
        saved_by_sharing_seconds=sharing_seconds,
        waited_seconds=waited_seconds,
        served_dollars=billed_dollars + cache_dollars + sharing_dollars,
        billed_dollars=billed_dollars,
        saved_by_cache_dollars=cache_dollars,
        saved_by_sharing_dollars=sharing_dollars,
        similar_hits=sum(book.similar_hits for book in books),
        saved_by_similar_seconds=sum(book.saved_by_similar_seconds for book in books),
        saved_by_similar_dollars=sum(book.saved_by_similar_dollars for book in books),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
