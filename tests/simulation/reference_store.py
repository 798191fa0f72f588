"""A store of many hosts in its simplest form, and the network to it, on a virtual clock."""

import random
from collections.abc import Callable
from heapq import heappop, heappush

from msgspec import structs

from sidecard.core.effects import StoreEffect, StorePurge, StoreRead, StoreRelease, StoreRemove, StoreWrite
from sidecard.core.events import (
    Absent,
    Answer,
    ClaimedRemotely,
    EntriesPurged,
    Found,
    InvalidationsMissed,
    KeyChanged,
    Removed,
    StoreAnswered,
    StoreEvent,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.records import Record
from sidecard.core.scopes import covers

CLAIM_SECONDS = 3.0
LONGEST_DELAY_SECONDS = 0.05
"""Of one message; a question takes two."""

Place = tuple[str, str]


class Clock:
    """Virtual time, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sequence = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, instant: float, action: Callable[[], None]) -> None:
        """Schedule an action."""
        self._sequence += 1
        heappush(self._heap, (instant, self._sequence, action))

    def run(self, until: float) -> None:
        """Let time pass."""
        while self._heap and self._heap[0][0] <= until:
            instant, _, action = heappop(self._heap)
            self.now = max(self.now, instant)
            action()

        self.now = until


class Server:
    """Entries and claims."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[Place, tuple[Record, float]] = {}
        self.claims: dict[Place, tuple[str, float]] = {}
        self.lines: list[Line] = []

    def ask(self, ask: StoreRead, token: str) -> Answer:
        """Look, and claim."""
        place, now = (ask.scope, ask.key), self.clock.now
        if ask.read_entry and (record := self._live(place)) is not None:
            return Found(record)

        claim, until = self.claims.get(place, ("", 0.0))
        if until > now and claim != token:
            return ClaimedRemotely(until - now)

        if token:
            self.claims[place] = token, now + CLAIM_SECONDS

        return Absent(token)

    def write(self, line: "Line", wish: StoreWrite) -> None:
        """Take an entry, if its claim is current, or no other host was faster."""
        place = wish.scope, wish.key
        claim, _ = self.claims.get(place, ("", 0.0))
        if (wish.claim and claim != wish.claim) or (not wish.claim and not wish.replace and self._live(place)):
            return

        self.entries[place] = wish.record, self.clock.now
        if wish.claim:
            del self.claims[place]

        self.notify(line, KeyChanged(*place, "stored"))

    def release(self, line: "Line", release: StoreRelease) -> None:
        """Take a claim back."""
        place = release.scope, release.key
        if self.claims.get(place, ("", 0.0))[0] == release.claim:
            del self.claims[place]
            self.notify(line, KeyChanged(*place, "unshared" if release.unshared else "released"))

    def remove(self, line: "Line", place: Place) -> int:
        """Remove an entry and its claim."""
        count = int(self._live(place) is not None)
        self.entries.pop(place, None)
        self.claims.pop(place, None)
        self.notify(line, KeyChanged(*place, "removed"))
        return count

    def purge(self, line: "Line", namespace: str | None) -> int:
        """Remove what a purge covers, with its claims."""
        self.notify(line, EntriesPurged(namespace, None))
        places = [place for place in {*self.entries, *self.claims} if covers(namespace, place[0])]
        count = sum(self._live(place) is not None for place in places)
        for place in places:
            self.entries.pop(place, None)
            self.claims.pop(place, None)

        self.notify(line, EntriesPurged(namespace, None))
        return count

    def notify(self, sender: "Line", news: KeyChanged | EntriesPurged) -> None:
        """Notify every host; the sender only that it may ask again."""
        for line in self.lines:
            if line is not sender:
                line.hear(news)
            elif isinstance(news, KeyChanged):
                line.hear(structs.replace(news, how="released"))

    def _live(self, place: Place) -> Record | None:
        record, stored_at = self.entries.get(place, (None, 0.0))
        if record is None:
            return None

        aged = structs.replace(record, age_seconds=self.clock.now - stored_at)
        return aged if aged.remaining_seconds > 0 else None


class Line:
    """One host's way to the server: slow, in order, and sometimes cut."""

    def __init__(self, server: Server, name: str, chance: random.Random, tell: Callable[[StoreEvent], None]) -> None:
        self._server = server
        self._clock = server.clock
        self._name = name
        self._chance = chance
        self._tell = tell
        self._up = True
        self._cuts = 0
        self._sequence = 0
        self._busy = {"ask": 0.0, "answer": 0.0, "write": 0.0, "news": 0.0}
        self._open: dict[int, StoreRead | StoreRemove | StorePurge] = {}
        self._unwritten: list[StoreWrite | StoreRemove | StorePurge] = []
        self._claims: dict[Place, str] = {}
        server.lines.append(self)

    def perform(self, effect: StoreEffect) -> None:
        """Do what the engine wants."""
        match effect:
            case StoreRead():
                self._ask(effect)
            case StoreRelease(scope, key):
                self._claims.pop((scope, key), None)
                self._later("ask", lambda: self._server.release(self, effect))
            case StoreWrite() | StoreRemove() | StorePurge():
                if isinstance(effect, StoreWrite) and effect.claim:
                    self._claims.pop((effect.scope, effect.key), None)
                elif not isinstance(effect, StoreWrite) and effect.ticket:
                    self._open[effect.ticket] = effect

                self._unwritten.append(effect)
                self._write()

    def cut(self) -> None:
        """Lose the connection: what is under way is lost, what was asked is not answered."""
        self._up = False
        self._cuts += 1
        self._tell(StoreStateChanged("down", "It is cut."))
        for ticket in list(self._open):
            self._answer(ticket, Unavailable())

    def mend(self) -> None:
        """Connect again."""
        self._up = True
        self._tell(InvalidationsMissed())
        self._tell(StoreStateChanged("up"))
        self._write()

    def renew(self) -> None:
        """Keep the claims, as long as the host lives."""
        for place, token in self._claims.items():
            if self._up and self._server.claims.get(place, ("", 0.0))[0] == token:
                self._server.claims[place] = token, self._clock.now + CLAIM_SECONDS

    def hear(self, news: KeyChanged | EntriesPurged) -> None:
        """Apply another host's change."""
        self._later("news", lambda: self._tell(news))

    def _ask(self, ask: StoreRead) -> None:
        self._open[ask.ticket] = ask
        place = ask.scope, ask.key
        pending = self._pending(place) if ask.read_entry else None
        if isinstance(pending, Found) or (pending is not None and not (ask.claim and self._up)):
            self._clock.at(self._clock.now, lambda: self._answer(ask.ticket, pending))
            return

        if not self._up:
            self._clock.at(self._clock.now, lambda: self._answer(ask.ticket, Unavailable()))
            return

        if pending is not None:
            ask = structs.replace(ask, read_entry=False)

        token = ""
        if ask.claim:
            self._sequence += 1
            token = f"{self._name}-{self._sequence}"

        def reach() -> None:
            answer = self._server.ask(ask, token)
            self._later("answer", lambda: self._asked(ask, answer))

        self._later("ask", reach)

    def _asked(self, ask: StoreRead, answer: Answer) -> None:
        place = ask.scope, ask.key
        if isinstance(answer, Absent) and answer.claim:
            self._claims[place] = answer.claim

        if isinstance(answer, Found) and self._pending(place) is not None:
            self._ask(ask)
        else:
            self._answer(ask.ticket, answer)

    def _pending(self, place: Place) -> Answer | None:
        for wish in reversed(self._unwritten):
            if isinstance(wish, StorePurge):
                if covers(wish.namespace, place[0]):
                    return Absent()
            elif (wish.scope, wish.key) == place:
                if isinstance(wish, StoreRemove):
                    return Absent()

                return Found(structs.replace(wish.record, age_seconds=self._clock.now - wish.made_at))

        return None

    def _write(self) -> None:
        """Write what is wanted, in order, as long as the connection holds."""
        if not self._up or not self._unwritten:
            return

        wish = self._unwritten[0]

        def reach() -> None:
            if not self._unwritten or self._unwritten[0] is not wish:
                return

            self._unwritten.pop(0)
            match wish:
                case StoreWrite():
                    self._server.write(self, wish)
                case StoreRemove(ticket, scope, key):
                    self._answer(ticket, Removed(self._server.remove(self, (scope, key))))
                case StorePurge(ticket, namespace):
                    self._answer(ticket, Removed(self._server.purge(self, namespace)))

            self._write()

        self._later("write", reach)

    def _answer(self, ticket: int, answer: Answer) -> None:
        if self._open.pop(ticket, None) is not None:
            self._tell(StoreAnswered(ticket, answer))

    def _later(self, way: str, action: Callable[[], None]) -> None:
        if not self._up:
            return

        instant = max(self._busy[way], self._clock.now + self._chance.uniform(0.0, LONGEST_DELAY_SECONDS))
        self._busy[way] = instant
        cuts = self._cuts
        self._clock.at(instant, lambda: action() if self._up and self._cuts == cuts else None)
