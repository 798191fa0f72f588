"""The simulated provider behind a real engine in virtual time: hours of work in a second."""

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median
from typing import Any

from msgspec import Struct

from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from tests.bench.prefixes.agents.provider import BURST_SECONDS, Answered, Ideal, Provider, Turn, is_first
from tests.host import Actor, Host, packed

WAIT_SECONDS = 3600.0


class Sent(Struct, frozen=True):
    """One call."""

    wanted_at: float
    answered: Answered
    readable_tokens: int
    """What a schedule could have read at most."""

    @property
    def first_output_seconds(self) -> float:
        """From the moment that it was wanted to its first output."""
        return self.answered.first_output_at - self.wanted_at


class Outcome(Struct, frozen=True):
    """A workload, served in one way."""

    calls: int
    read_tokens: int
    readable_tokens: int
    prompt_tokens: int
    dollars: float
    median_first_output_seconds: float
    longest_first_output_seconds: float

    @property
    def reached(self) -> float:
        """Share of the cacheable tokens that were read from the cache."""
        return self.read_tokens / self.readable_tokens


def outcome_of(sent: Sequence[Sent]) -> Outcome:
    """Sum up calls."""
    seconds = [one.first_output_seconds for one in sent]
    answers = [one.answered for one in sent]
    return Outcome(
        len(sent),
        sum(one.read_tokens for one in answers),
        sum(one.readable_tokens for one in sent),
        sum(one.read_tokens + one.written_tokens + one.plain_tokens for one in answers),
        sum(one.dollars for one in answers),
        median(seconds),
        max(seconds),
    )


class Simulation:
    """Workers with turns, an engine, and a provider, on one clock."""

    def __init__(self, work: Sequence[Sequence[Turn]], backend: BackendSettings, *, tells: bool = True) -> None:
        self._host = Host(backends={"cloud": backend}, lease_seconds=WAIT_SECONDS)
        self._provider = Provider()
        self._ideal = Ideal()
        self._tells = tells
        """Whether holders report the first output, as those of streams do."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._sent: list[Sent] = []
        self._waiting: dict[int, tuple[Actor, Callable[[wire.Lease], None]]] = {}
        for turns in work:
            self._work(turns)

    def run(self) -> list[Sent]:
        """Run until every call has its answer."""
        while self._events or self._waiting:
            times = [self._events[0][0]] if self._events else []
            deadline = self._host.engine.next_deadline()
            times += [] if deadline is None else [deadline]
            self._host.passes(max(0.0, min(times) - self._host.now))
            while self._events and self._events[0][0] <= self._host.now:
                heapq.heappop(self._events)[2]()
                self._deliver()

            self._deliver()

        return self._sent

    def _work(self, turns: Sequence[Turn]) -> None:
        """Let one worker do its turns, one after another; the first turn of each task waits for its burst."""
        actor, left = self._host.peer(), iter(turns)
        started_at = self._host.now
        bursts = count()

        def go_on() -> None:
            turn = next(left, None)
            if turn is None:
                return

            after = started_at + next(bursts) * BURST_SECONDS if is_first(turn) else self._host.now
            self._at(max(after, self._host.now) + turn.pause_seconds, lambda: self._want(actor, turn, go_on))

        go_on()

    def _want(self, actor: Actor, turn: Turn, then: Callable[[], None]) -> None:
        wanted_at = self._host.now
        readable = self._ideal.readable(turn, wanted_at)

        def send(lease: wire.Lease) -> None:
            answered = self._provider.call(turn, self._host.now)
            self._sent.append(Sent(wanted_at, answered, readable))
            if self._tells and lease.prefix:
                self._at(answered.first_output_at, lambda: actor.asks(wire.Started(lease.lease)))

            def end() -> None:
                actor.asks(wire.Complete(lease.lease, packed("done"), id=2))
                then()

            self._at(answered.ends_at, end)

        self._waiting[actor.peer.id] = actor, send
        begin: dict[str, Any] = {"prefix": turn.prefix, "prefix_bytes": turn.prefix_bytes}
        actor.asks(wire.Begin(None, id=1, backends=("cloud",), wait_seconds=WAIT_SECONDS, **begin))

    def _deliver(self) -> None:
        for actor, send in list(self._waiting.values()):
            for reply in actor.receives():
                if isinstance(reply, wire.Lease):
                    del self._waiting[actor.peer.id]
                    send(reply)
                else:
                    assert isinstance(reply, wire.Pending | wire.Stored), reply

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))
