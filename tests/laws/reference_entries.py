"""The half of the reference model that knows entries and the ledger, and how answers are sent."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable

from msgspec import Raw

from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import (
    UNKNOWN,
    Answer,
    Place,
    Refusal,
    Sent,
    Sums,
    purge_covers,
    stale_seconds_of,
    ttl_seconds_of,
)


class ReferenceEntries(ABC):
    """Entries in a dict; nothing is ever evicted unless `forget` says so."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.entries: dict[Place, Answer] = {}
        self.counts: Counter[str] = Counter()
        self.books: dict[str, Sums] = {}
        self.failures: dict[tuple[Place, str], tuple[Refusal, float]] = {}
        """The remembered ones and the end of each, by place and context."""
        self.out: list[Sent] = []
        self.too_large = False
        """The next event stores an answer that is larger than an entry may be: only the cache knows the charge of an entry."""

    @abstractmethod
    def forbid(self, reaches: Callable[[Place], bool], tag: str | None = None) -> None:
        """Forbid the flights of some places to store their answers, or those with ``tag``."""

    def forget(self, place: Place) -> None:
        """Drop an entry that the engine has evicted."""
        del self.entries[place]

    def live(self, now: float) -> dict[Place, Answer]:
        """Return the entries that some caller may be served now."""
        return {place: answer for place, answer in self.entries.items() if answer.is_there(now)}

    def serve(self, answer: Answer, peer: Peer, begin: wire.Begin, now: float) -> None:
        """Answer a begin by an entry."""
        kind = answer.kind_for(begin, now)
        if kind is wire.Shared:
            self.counts["shared"] += 1
            self.tell(wire.Shared, peer, begin, answer, now, self.book(begin).share(answer, 0.0))
        else:
            self.counts["hits"] += 1
            self.counts["stale_hits"] += kind is None
            self.book(begin).hit(answer)
            self.tell(wire.Hit, peer, begin, answer, now, answer.seconds)

    def old(self, place: Place | None, begin: wire.Begin, now: float) -> Answer | None:
        """Return the stale answer that a begin may be served."""
        answer = None if place is None else self.entries.get(place)
        return answer if answer is not None and answer.old_for(begin, now) else None

    def remembered(self, place: Place, context: str, now: float) -> Refusal | None:
        """Return the last failure of a context, if it is remembered."""
        failure, until = self.failures.get((place, context), (None, now))
        return failure if now < until else None

    def forget_failures(self, reaches: Callable[[Place], bool]) -> None:
        """Forget the failures of some places."""
        self.failures = {where: failure for where, failure in self.failures.items() if not reaches(where[0])}

    def store(self, place: Place, answer: Answer, now: float) -> bool:
        """Store an answer; return whether there is an entry now."""
        # An answer that may not be stored still replaces the entry: the meaning of the key has changed.
        self.entries.pop(place, None)
        self.forget_failures(place.__eq__)
        if not answer.is_there(now):
            return False

        if self.too_large:
            self.counts["refused_too_large"] += 1
            return False

        self.counts["stored"] += 1
        self.entries[place] = answer
        return True

    def touch(self, place: Place, peer: Peer, request: wire.Get | wire.Put | wire.Delete, now: float) -> None:
        """Reply to a get, put or delete."""
        answer = self.entries.get(place)
        match request:
            case wire.Get():
                within = (
                    request.max_age_seconds is None or answer is None or now - answer.made < request.max_age_seconds
                )
                if answer is not None and now < answer.expires and within:
                    self.tell(wire.Hit, peer, request, answer, now, answer.seconds)
                else:
                    self.say(peer, wire.Miss(request.id))
            case wire.Put():
                expires = now + ttl_seconds_of(self.settings, wire.DEFAULT_TASK, request.ttl_seconds)
                stale_until = expires + stale_seconds_of(self.settings, wire.DEFAULT_TASK, None)
                answer = Answer(bytes(request.value), now, expires, tags=request.tags, stale_until=stale_until)
                self.say(peer, wire.Stored(request.id, self.store(place, answer, now)))
            case wire.Delete():
                self.forbid(place.__eq__)
                self.forget_failures(place.__eq__)
                self.say(peer, wire.Deleted(request.id, self._remove([place], now)))

    def purge(self, peer: Peer, request: wire.Purge, now: float) -> None:
        """Remove many entries."""
        if not peer.operator:
            self.say(peer, wire.Error(request.id, "denied", UNKNOWN))
            return

        # The tags of a flight's answer are known when it arrives.
        self.forbid(lambda place: purge_covers(request.namespace, place[0]), request.tag)
        self.forget_failures(lambda place: purge_covers(request.namespace, place[0]))
        meant = [
            place
            for place, answer in self.entries.items()
            if purge_covers(request.namespace, place[0]) and (request.tag is None or request.tag in answer.tags)
        ]
        self.say(peer, wire.Deleted(request.id, self._remove(meant, now)))

    def _remove(self, places: list[Place], now: float) -> int:
        count = len(self.live(now).keys() & set(places))
        self.counts["deleted"] += count
        for place in places:
            self.entries.pop(place, None)

        return count

    def tell(
        self,
        kind: type[wire.Hit | wire.Shared],
        peer: Peer,
        request: wire.Request,
        answer: Answer,
        now: float,
        saved_seconds: float,
    ) -> None:
        """Send an answer."""
        age, value, dollars = now - answer.made, Raw(answer.value), answer.dollars
        stale = isinstance(request, wire.Begin) and kind is wire.Hit and answer.kind_for(request, now) is None
        self.say(peer, kind(request.id, value, age, stale, saved_seconds, dollars, answer.backend, answer.usage))

    def book(self, begin: wire.Begin) -> Sums:
        """Return the ledger of a begin's task. The engine may have forgotten it, and booked it to a common one."""
        return self.books.setdefault(begin.task, Sums())

    def say(self, peer: Peer, reply: wire.AnyReply) -> None:
        """Send a reply."""
        self.out.append((peer.id, reply))
