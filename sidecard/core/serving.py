"""Answers that nobody had to fetch again: their replies, and how they are booked."""

from msgspec import Raw

from sidecard.core.accounts import Accounts
from sidecard.core.answers import FRESH
from sidecard.core.counters import Counters
from sidecard.core.entries import Entry
from sidecard_client import wire


class Serving:
    """Serves entries, and answers that have just come."""

    def __init__(self, accounts: Accounts, count: Counters) -> None:
        self._spending = accounts.spending
        self._books = accounts.tasks
        self._count = count

    def entry(self, request: wire.Begin, entry: Entry, now: float) -> wire.Hit | wire.Shared:
        """Serve an entry to a begin that has not waited for a call."""
        age = now - entry.stored_at
        book = self._books.of(request.task)
        terms, dollars = entry.terms, entry.dollars
        if dollars:
            self._spending.save(terms.backend, terms.usage.model, dollars)

        if age < terms.ttl_seconds:
            book.hit(entry)
            self._count.hits += 1
            kind: type[wire.Hit | wire.Shared] = wire.Hit
        else:
            book.share(entry.seconds, dollars, 0.0)
            self._count.shared += 1
            kind = wire.Shared

        return kind(request.id, Raw(entry.value), age, FRESH, entry.seconds, dollars, terms.backend, terms.usage)

    def answer(
        self,
        request: wire.Begin,
        answer: Raw,
        seconds: float,
        backend: str,
        usage: wire.Usage,
        waited_seconds: float,
        age_seconds: float = 0.0,
    ) -> wire.Shared:
        """Serve the answer of somebody else's call, which took ``seconds``, to a begin that has waited for it."""
        dollars = usage.cost_dollars or 0.0
        saved_seconds = self._books.of(request.task).share(seconds, dollars, waited_seconds)
        self._count.shared += 1
        if dollars:
            self._spending.save(backend, usage.model, dollars)

        return wire.Shared(request.id, answer, age_seconds, FRESH, saved_seconds, dollars, backend, usage)


def hit(request: wire.Get, entry: Entry, now: float) -> wire.Hit | wire.Miss:
    """Serve an entry to a reader; what is only shared by the window was never stored as far as readers know."""
    age, terms = now - entry.stored_at, entry.terms
    if age >= terms.ttl_seconds:
        return wire.Miss(request.id)

    return wire.Hit(request.id, Raw(entry.value), age, FRESH, entry.seconds, entry.dollars, terms.backend, terms.usage)
