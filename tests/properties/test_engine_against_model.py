"""The engine against the naive model and the referee, on schedules that hypothesis invents and shrinks.

Longer schedules without shrinking are in `tests/simulation`.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sidecard.core.events import DrainExpired, DrainRequested, Peer
from sidecard_client.protocol import wire
from tests.laws.model_trial import Trial
from tests.laws.model_worlds import WORLDS

PICKS = st.integers(0, 40)
"""An index into whatever there is to choose from, taken modulo its length."""

KEYS = st.sampled_from(["a", "a", "a", "b"])
NAMESPACES = st.sampled_from(["default"] * 8 + ["team", "team", "1000:default"])
TTLS = st.sampled_from([None, 0.0, 2.5, 40.0])
TAGS = st.sampled_from([(), ("red",), ("red", "blue")])
BEGIN_IDS = st.integers(1, 6)
WHO = st.sampled_from(["the holder"] * 8 + ["somebody", "with an old one"])
"""Who presents a lease."""
BEGINS = st.builds(
    wire.Begin,
    st.one_of(*[KEYS] * 9, st.none()),
    id=BEGIN_IDS,
    namespace=NAMESPACES,
    task=st.sampled_from(["general", "rag", "code"]),
    backends=st.sampled_from([(), ("x",), ("x", "y")]),
    wait_seconds=st.sampled_from([None, None, None, 0.0, 3.0, 200.0]),
    ttl_seconds=TTLS,
    stale_seconds=st.sampled_from([None, None, None, 0.0, 6.0]),
    mode=st.sampled_from(["use"] * 6 + ["refresh", "only_if_cached"]),
)


_somebody = precondition(lambda machine: machine.trial.peers)


class EngineMachine(RuleBasedStateMachine):
    """Peers of three users on one engine."""

    trial: Trial

    @initialize(world=st.sampled_from(sorted(WORLDS)))
    def start(self, world: str) -> None:
        """Start a daemon with callers of one user connected, two of them from one process."""
        self.trial = Trial(WORLDS[world])
        for pid in (1, 1, 2, 3):
            self.trial.join(1000, pid)

    def peer(self, pick: int) -> Peer:
        """Choose a connected peer."""
        return self.trial.peers[pick % len(self.trial.peers)]

    @rule(uid=st.sampled_from([1000, 1000, 1001, 0]), pid=st.integers(0, 2))
    def join(self, uid: int, pid: int) -> None:
        """A connection comes."""
        if len(self.trial.peers) < 6:
            self.trial.join(uid, pid)

    @_somebody
    @rule(pick=PICKS)
    def lose(self, pick: int) -> None:
        """A connection ends."""
        self.trial.lose(self.peer(pick))

    @_somebody
    @rule(pick=PICKS, begin=BEGINS)
    def begin(self, pick: int, begin: wire.Begin) -> None:
        """A peer asks whether it must call."""
        self.trial.ask(self.peer(pick), begin)

    @_somebody
    @rule(begins=st.lists(st.tuples(PICKS, BEGINS), min_size=2, max_size=6))
    def crowd(self, begins: list[tuple[int, wire.Begin]]) -> None:
        """Many ask at once."""
        for pick, begin in begins:
            self.begin(pick, begin)

    def _lease(self, pick: int, who: str) -> tuple[Peer, str]:
        """Choose a lease and who presents it."""
        current = [(lease.peer, lease.name) for lease in self.trial.model.leases]
        leases = self.trial.granted if who == "with an old one" else current
        if not leases:
            return self.peer(pick), "boot-0"

        holder, lease = leases[pick % len(leases)]
        return (self.peer(pick) if who == "somebody" or holder not in self.trial.peers else holder), lease

    @_somebody
    @rule(
        pick=PICKS,
        who=WHO,
        size=st.sampled_from([0, 1200]),
        dollars=st.sampled_from([None, 0.25]),
        ttl_seconds=TTLS,
        store=st.booleans(),
        tags=TAGS,
    )
    def complete(self, pick: int, who: str, size: int, dollars: float | None, **fields: Any) -> None:
        """An answer comes, in time or late, from its holder or not."""
        peer, lease = self._lease(pick, who)
        usage = None if dollars is None else wire.Usage(cost_dollars=dollars)
        value = self.trial.next_value(size)
        self.trial.ask(peer, wire.Complete(lease, value, id=self.trial.next_id(), usage=usage, **fields))

    @_somebody
    @rule(
        pick=PICKS,
        who=WHO,
        kind=st.sampled_from(["transient", "cancelled", "fatal", "ignored"]),
        next_=st.booleans(),
        ttl_seconds=st.sampled_from([None, None, 0.0, 12.0]),
    )
    def fail(self, pick: int, who: str, kind: wire.FailureKind, next_: bool, ttl_seconds: float | None) -> None:
        """A failure comes, in time or late, from its holder or not."""
        peer, lease = self._lease(pick, who)
        fail = wire.Fail(lease, kind, "why", id=self.trial.next_id(), next=next_, ttl_seconds=ttl_seconds)
        self.trial.ask(peer, fail)

    @_somebody
    @rule(pick=PICKS, who=WHO)
    def renew(self, pick: int, who: str) -> None:
        """A heartbeat comes, in time or late, from its holder or not."""
        peer, lease = self._lease(pick, who)
        self.trial.ask(peer, wire.Renew(lease, id=self.trial.next_id()))

    @_somebody
    @rule(pick=PICKS, begin_id=BEGIN_IDS)
    def cancel(self, pick: int, begin_id: int) -> None:
        """A peer takes a begin back."""
        self.trial.ask(self.peer(pick), wire.Cancel(begin_id, id=self.trial.next_id()))

    @_somebody
    @rule(pick=PICKS, key=KEYS, namespace=NAMESPACES, op=st.sampled_from([wire.Get, wire.Delete]))
    def read_or_delete(self, pick: int, key: str, namespace: str, op: type[wire.Get | wire.Delete]) -> None:
        """A peer reads or deletes an entry."""
        self.trial.ask(self.peer(pick), op(key, namespace, id=self.trial.next_id()))

    @_somebody
    @rule(pick=PICKS, key=KEYS, namespace=NAMESPACES, ttl_seconds=TTLS, tags=TAGS)
    def put(self, pick: int, key: str, namespace: str, **fields: Any) -> None:
        """A peer writes an entry."""
        value = self.trial.next_value()
        self.trial.ask(self.peer(pick), wire.Put(key, value, namespace, id=self.trial.next_id(), **fields))

    @_somebody
    @rule(
        pick=PICKS,
        namespace=st.sampled_from([None, "default", "team", "1000:default"]),
        tag=st.sampled_from([None, "red", "blue"]),
    )
    def purge(self, pick: int, namespace: str | None, tag: str | None) -> None:
        """A peer purges, if it may."""
        self.trial.ask(self.peer(pick), wire.Purge(namespace, tag, id=self.trial.next_id()))

    @rule(seconds=st.sampled_from([0.125, 1.0, 3.0, 15.0, 500.0]), ticks=st.booleans())
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

    @precondition(lambda machine: not machine.trial.model.draining)
    @rule(sure=st.integers(0, 9))
    def drain(self, sure: int) -> None:
        """The daemon is asked to stop, in a tenth of the cases that hypothesis thinks of it."""
        if sure == 9:
            self.trial.happen(DrainRequested())

    @precondition(lambda machine: machine.trial.model.draining)
    @rule()
    def give_up_draining(self) -> None:
        """There is no time left."""
        self.trial.happen(DrainExpired())

    @rule()
    def look_at_the_ledger(self) -> None:
        """The sums of the report are right at any time."""
        self.trial.check_report()

    def teardown(self) -> None:
        """Lose everybody and let all time pass: nothing is left."""
        if not self.trial.broken:
            self.trial.end()


TestEngineAgainstModel = pytest.mark.timeout(600)(EngineMachine.TestCase)  # shrinking a failure takes its time
TestEngineAgainstModel.settings = settings(
    max_examples=250,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
