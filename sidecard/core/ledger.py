"""What calls asked for, cost and saved: four sums per task that are never mixed.

Booked at the moment an answer is given, from the measured time and reported cost of the very entry that was served.
"""

from sidecard.core.entries import Entry
from sidecard_client.wire import Ledger

OTHER_TASKS = "(other)"
"""Where the calls of tasks beyond `EngineSettings.max_tasks` are booked."""


class TaskBook:
    """The running sums of one task. Each attribute is defined by the method that raises it."""

    __slots__ = (
        "billed_dollars",
        "billed_seconds",
        "hits",
        "led",
        "saved_by_cache_dollars",
        "saved_by_cache_seconds",
        "saved_by_sharing_dollars",
        "saved_by_sharing_seconds",
        "shared",
        "upstream_calls",
        "waited_seconds",
    )

    def __init__(self) -> None:
        self.hits = 0
        self.shared = 0
        self.led = 0
        self.upstream_calls = 0
        self.billed_seconds = 0.0
        self.billed_dollars = 0.0
        self.saved_by_cache_seconds = 0.0
        self.saved_by_cache_dollars = 0.0
        self.saved_by_sharing_seconds = 0.0
        self.saved_by_sharing_dollars = 0.0
        self.waited_seconds = 0.0

    def hit(self, entry: Entry) -> None:
        """A stored answer was served: the cache saved all of its call."""
        self.hits += 1
        self.saved_by_cache_seconds += entry.seconds
        self.saved_by_cache_dollars += entry.dollars

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


class Books:
    """A book per task, bounded in number."""

    def __init__(self, max_tasks: int) -> None:
        self._max_tasks = max_tasks
        self._books: dict[str, TaskBook] = {}

    def of(self, task: str) -> TaskBook:
        """Return the task's book, opening it; beyond the bound, the book of `OTHER_TASKS`."""
        book = self._books.get(task)
        if book is None:
            name = task if len(self._books) < self._max_tasks else OTHER_TASKS
            book = self._books.setdefault(name, TaskBook())

        return book

    def total(self) -> Ledger:
        """Return the sums over all tasks."""
        return summarise(*self._books.values())

    def tasks(self) -> dict[str, Ledger]:
        """Return the sums of each task."""
        return {task: summarise(book) for task, book in sorted(self._books.items())}


def summarise(*books: TaskBook) -> Ledger:
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
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
