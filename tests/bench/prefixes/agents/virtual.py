"""The simulated provider behind a real engine in virtual time: hours of work in a second."""

from collections.abc import Callable, Sequence
from itertools import count
from statistics import median

from msgspec import Struct

from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from tests.bench.prefixes.agents.provider import BURST_SECONDS, Answered, Ideal, Provider, Turn, is_first
from tests.bench.prefixes.virtual_time import VirtualTime
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
        self._time = VirtualTime(self._host)
        self._sent: list[Sent] = []
        for turns in work:
            self._work(turns)

    def run(self) -> list[Sent]:
        """Run until every call has its answer."""
        while self._time.goes_on:
            for event in self._time.due():
                event()
                self._time.deliver()

            self._time.deliver()

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
            self._time.at(max(after, self._host.now) + turn.pause_seconds, lambda: self._want(actor, turn, go_on))

        go_on()

    def _want(self, actor: Actor, turn: Turn, then: Callable[[], None]) -> None:
        wanted_at = self._host.now
        readable = self._ideal.readable(turn, wanted_at)

        def send(lease: wire.Lease) -> None:
            answered = self._provider.call(turn, self._host.now)
            self._sent.append(Sent(wanted_at, answered, readable))
            if self._tells and lease.prefix:
                self._time.at(answered.first_output_at, lambda: actor.asks(wire.Started(lease.lease)))

            def end() -> None:
                actor.asks(wire.Complete(lease.lease, packed("done"), id=2))
                then()

            self._time.at(answered.ends_at, end)

        prefix, prefix_bytes = turn.prefix, turn.prefix_bytes
        begin = wire.Begin(
            None, id=1, backends=("cloud",), wait_seconds=WAIT_SECONDS, prefix=prefix, prefix_bytes=prefix_bytes
        )
        self._time.begin(actor, begin, send)
