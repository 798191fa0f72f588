"""Breaker, limit, queue, routes, budgets and flights together, on schedules that hypothesis invents and shrinks.

Longer schedules without shrinking are in `tests/simulation/test_backend_schedules.py`.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sidecard.core.events import DrainExpired, DrainRequested, Peer
from sidecard_client.protocol import wire
from tests.laws.backend_trial import BackendTrial
from tests.laws.backend_worlds import BACKEND_WORLDS

PICKS = st.integers(0, 40)
"""An index into whatever there is to choose from, taken modulo its length."""

BACKENDS = st.sampled_from([("a",), ("a",), ("a", "b"), ("b", "a"), ("b",), ("a", "b", "c"), ("c", "local"), ()])
ROUTES = st.sampled_from([None, None, "order", "cheapest", "fastest", "least_busy", "weighted"])
WAITS = st.sampled_from([None, None, None, 0.0, 2.0, 30.0])
USAGES = st.sampled_from(
    [
        None,
        wire.Usage(cost_dollars=0.25),
        wire.Usage(cost_dollars=1.5, prompt_tokens=100, completion_tokens=50),
        wire.Usage(first_chunk_seconds=0.75, completion_tokens=300),
    ]
)

_somebody = precondition(lambda machine: machine.trial.peers)


class BackendMachine(RuleBasedStateMachine):
    """Peers of a few processes on one engine with scarce backends."""

    trial: BackendTrial

    @initialize(world=st.sampled_from(sorted(BACKEND_WORLDS)))
    def start(self, world: str) -> None:
        """Start a daemon with callers of two processes connected."""
        self.trial = BackendTrial(BACKEND_WORLDS[world])
        for pid in (1, 1, 2, 0):
            self.trial.join(1000, pid)

    @rule(what=st.sampled_from(["join", "renew", "begin again", "look"]), pick=PICKS)
    def seldom(self, what: str, pick: int) -> None:
        """What changes little, and should not take much of the schedule: rules are chosen evenly."""
        trial = self.trial
        waiting = list(trial.witness.asked.values())
        match what:
            case "join" if len(trial.peers) < 6:
                trial.join(1000, pick % 3)
            case "renew" if trial.peers:
                peer, lease = self.lease(pick, current=True)
                trial.ask(peer, wire.Renew(lease, id=trial.next_id()))
            case "begin again" if waiting:
                one = waiting[pick % len(waiting)]
                trial.ask(one.peer, wire.Begin("k", id=one.reply_id))
            case _:
                trial.look()

    def peer(self, pick: int) -> Peer:
        """Choose a connected peer."""
        return self.trial.peers[pick % len(self.trial.peers)]

    def lease(self, pick: int, current: bool) -> tuple[Peer, str]:
        """Choose a lease and its holder."""
        if not current and self.trial.granted:
            return self.trial.granted[pick % len(self.trial.granted)]

        leases = [(held.peer, name) for name, held in self.trial.witness.held.items()]
        return leases[pick % len(leases)] if leases else (self.peer(pick), "boot-0")

    @_somebody
    @rule(pick=PICKS)
    def lose(self, pick: int) -> None:
        """A connection ends."""
        self.trial.lose(self.peer(pick))

    @_somebody
    @rule(
        picks=st.lists(PICKS, min_size=1, max_size=4),
        key=st.sampled_from(["k", "l", None, None]),
        backends=BACKENDS,
        route=ROUTES,
        wait_seconds=WAITS,
        mode=st.sampled_from(["use"] * 6 + ["refresh", "only_if_cached"]),
    )
    def begin(self, picks: list[int], **fields: Any) -> None:
        """Some ask whether they must call."""
        for pick in picks:
            self.trial.ask(self.peer(pick), wire.Begin(id=self.trial.next_id(), **fields))

    @_somebody
    @rule(picks=st.lists(PICKS, min_size=3, max_size=8), backends=BACKENDS, key=st.sampled_from([None, None, "k"]))
    def crowd(self, picks: list[int], backends: tuple[str, ...], key: str | None) -> None:
        """Many want the same at once."""
        for pick in picks:
            self.trial.ask(self.peer(pick), wire.Begin(key, id=self.trial.next_id(), backends=backends))

    @_somebody
    @rule(times=st.integers(1, 4), pick=PICKS, current=st.sampled_from([True, True, True, False]), usage=USAGES)
    def complete(self, times: int, pick: int, current: bool, usage: wire.Usage | None) -> None:
        """An answer comes, in time or late, and then those of others."""
        for number in range(times):
            peer, lease = self.lease(pick + number, current)
            if peer in self.trial.peers:
                self.trial.complete(peer, lease, usage)

    @_somebody
    @rule(
        times=st.integers(1, 4),
        pick=PICKS,
        kind=st.sampled_from(["transient", "transient", "transient", "fatal", "ignored", "cancelled"]),
        retry_after_seconds=st.sampled_from([None, None, None, 0.0, 5.0, 1e6]),
        next=st.booleans(),
        retry=st.booleans(),
        timeout=st.booleans(),
        answered=st.booleans(),
        usage=USAGES,
    )
    def fail(self, times: int, pick: int, **fields: Any) -> None:
        """A failure comes, and the same again for others."""
        for _ in range(times):
            peer, lease = self.lease(pick, current=True)
            self.trial.ask(peer, wire.Fail(lease, id=self.trial.next_id(), message="why", **fields))

    @_somebody
    @rule(
        pick=PICKS,
        backend=st.sampled_from("aab"),
        times=st.integers(2, 6),
        failing=st.sampled_from([True, True, False]),
    )
    def calls(self, pick: int, backend: str, times: int, failing: bool) -> None:
        """A backend is asked again and again, and is down, or is not."""
        peer = self.peer(pick)
        for _ in range(times):
            begin = wire.Begin(None, id=self.trial.next_id(), backends=(backend,), wait_seconds=0.0)
            (said,) = self.trial.ask(peer, begin)
            if not isinstance(said, wire.Lease):
                break

            if failing:
                self.trial.ask(peer, wire.Fail(said.lease, id=self.trial.next_id()))
            else:
                self.trial.complete(peer, said.lease)

    @rule(backend=st.sampled_from("aab"))
    def cool_down(self, backend: str) -> None:
        """Time passes until an open breaker may probe."""
        breaker = self.trial.witness.breaker(backend)
        if breaker.state == "open":
            self.trial.now = max(self.trial.now, breaker.until)
            self.trial.tick()

    @_somebody
    @rule(pick=PICKS, waiting=st.booleans())
    def cancel(self, pick: int, waiting: bool) -> None:
        """A peer takes a begin back that waits, or whose lease was granted."""
        witness = self.trial.witness
        ones = [(one.peer, one.begin.id) for one in (witness.asked if waiting else witness.held).values()]
        if ones:
            peer, target = ones[pick % len(ones)]
            self.trial.ask(peer, wire.Cancel(target, id=self.trial.next_id()))

    @rule(
        backend=st.sampled_from(["a", "a", "b"]),
        action=st.sampled_from(["open", "auto", "auto", "close", "disable"]),
    )
    def operate(self, backend: str, action: wire.BreakerAction) -> None:
        """An operator sets a breaker."""
        self.trial.operate(backend, action)

    @rule(seconds=st.sampled_from([0.125, 1.0, 3.0, 10.0, 70.0]), ticks=st.booleans())
    def wait(self, seconds: float, ticks: bool) -> None:
        """Time passes, and the tick comes or is late."""
        self.trial.now += seconds
        if ticks:
            self.trial.tick()

    @rule()
    def wait_for_the_deadline(self) -> None:
        """Time passes to the very instant that the engine named."""
        self.trial.now = max(self.trial.now, self.trial.engine.next_deadline() or 0.0)
        self.trial.tick()

    @precondition(lambda machine: not machine.trial.witness.draining)
    @rule(sure=st.integers(0, 19))
    def drain(self, sure: int) -> None:
        """The daemon is asked to stop, in a few of the cases that hypothesis thinks of it."""
        if sure == 19:
            self.trial.happen(DrainRequested())

    @precondition(lambda machine: machine.trial.witness.draining)
    @rule()
    def give_up_draining(self) -> None:
        """There is no time left."""
        self.trial.happen(DrainExpired())

    def teardown(self) -> None:
        """Every backend recovers; then all are lost, all time passes, and nothing is left."""
        if not self.trial.broken:
            self.trial.end()


TestBackendsUnderTheLaw = pytest.mark.timeout(600)(BackendMachine.TestCase)  # shrinking a failure takes its time
TestBackendsUnderTheLaw.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
