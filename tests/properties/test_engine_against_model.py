"""The engine against the reference model, on schedules that hypothesis invents and shrinks.

Longer schedules without shrinking are in `tests/simulation`.
"""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from msgspec import Raw

from sidecard.core.events import Peer
from sidecard_client.protocol import wire
from tests.laws.model_trial import ModelTrial
from tests.laws.worlds import MODEL_WORLDS
from tests.properties.trial_machine import PICKS, TrialMachine, long_runs, with_peers

KEYS = st.sampled_from(["a", "a", "a", "b"])
NAMESPACES = st.sampled_from(["default"] * 8 + ["team", "team", "1000:default"])
TTLS = st.sampled_from([None, 0.0, 2.5, 40.0])
TAGS = st.sampled_from([(), ("red",), ("red", "blue")])
BEGIN_IDS = st.integers(1, 6)
WHO = st.sampled_from(["the holder"] * 8 + ["somebody", "with an old one"])
"""The peer that presents a lease."""
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
    max_age_seconds=st.sampled_from([None, None, None, 0.0, 5.0]),
    mode=st.sampled_from(["use"] * 6 + ["refresh", "only_if_cached"]),
    context=st.sampled_from(["", "", "a", "b"]),
    wanted=st.booleans(),
)


class EngineMachine(TrialMachine):
    """Peers of three users on one engine."""

    trial: ModelTrial

    @initialize(world=st.sampled_from(sorted(MODEL_WORLDS)))
    def start(self, world: str) -> None:
        """Start with callers of one user connected, two of them from one process."""
        self.trial = ModelTrial(MODEL_WORLDS[world])
        for pid in (1, 1, 2, 3):
            self.trial.join(1000, pid)

    @rule(uid=st.sampled_from([1000, 1000, 1001, 0]), pid=st.integers(0, 2))
    def join(self, uid: int, pid: int) -> None:
        """Accept a connection."""
        if len(self.trial.peers) < 6:
            self.trial.join(uid, pid)

    @with_peers
    @rule(pick=PICKS)
    def hang_up(self, pick: int) -> None:
        """Close a connection; what was sent on it is still read."""
        self.trial.hang_up(self.peer(pick))

    @with_peers
    @rule(pick=PICKS, begin=BEGINS)
    def begin(self, pick: int, begin: wire.Begin) -> None:
        """Begin."""
        self.trial.ask(self.peer(pick), begin)

    @with_peers
    @rule(begins=st.lists(st.tuples(PICKS, BEGINS), min_size=2, max_size=6))
    def crowd(self, begins: list[tuple[int, wire.Begin]]) -> None:
        """Begin many times in one step."""
        for pick, begin in begins:
            self.begin(pick, begin)

    def _lease(self, pick: int, who: str) -> tuple[Peer, str]:
        """Choose a lease and the peer that presents it."""
        current = [(lease.peer, lease.name) for lease in self.trial.model.leases]
        leases = self.trial.granted if who == "with an old one" else current
        if not leases:
            return self.peer(pick), "boot-0"

        holder, lease = leases[pick % len(leases)]
        return (self.peer(pick) if who == "somebody" or holder not in self.trial.peers else holder), lease

    @with_peers
    @rule(
        pick=PICKS,
        who=WHO,
        size=st.sampled_from([0, 1200]),
        dollars=st.sampled_from([None, 0.25]),
        ttl_seconds=TTLS,
        store=st.booleans(),
        not_stored=st.sampled_from(["", "length", "a new word"]),
        tags=TAGS,
    )
    def complete(self, pick: int, who: str, size: int, dollars: float | None, **fields: Any) -> None:
        """Complete a lease, in time or late, as its holder or not."""
        peer, lease = self._lease(pick, who)
        usage = None if dollars is None else wire.Usage(cost_dollars=dollars)
        value = self.trial.next_value(size)
        self.trial.ask(peer, wire.Complete(lease, value, id=self.trial.next_id(), usage=usage, **fields))

    @with_peers
    @rule(
        pick=PICKS,
        who=WHO,
        kind=st.sampled_from(["transient", "cancelled", "fatal", "ignored"]),
        next=st.booleans(),
        ttl_seconds=st.sampled_from([None, None, 0.0, 12.0]),
        answered=st.booleans(),
        invalid=st.booleans(),
        detail=st.sampled_from([wire.NO_VALUE, Raw(b"\xa7refused")]),
    )
    def fail(self, pick: int, who: str, kind: wire.FailureKind, **fields: Any) -> None:
        """Fail a lease, in time or late, as its holder or not."""
        peer, lease = self._lease(pick, who)
        fail = wire.Fail(lease, kind, "why", id=self.trial.next_id(), **fields)
        self.trial.ask(peer, fail)

    @with_peers
    @rule(pick=PICKS, who=WHO)
    def renew(self, pick: int, who: str) -> None:
        """Renew a lease, in time or late, as its holder or not."""
        peer, lease = self._lease(pick, who)
        self.trial.ask(peer, wire.Renew(lease, id=self.trial.next_id()))

    @with_peers
    @rule(pick=PICKS, begin_id=BEGIN_IDS)
    def cancel(self, pick: int, begin_id: int) -> None:
        """Cancel a begin."""
        self.trial.ask(self.peer(pick), wire.Cancel(begin_id, id=self.trial.next_id()))

    @with_peers
    @rule(pick=PICKS, key=KEYS, namespace=NAMESPACES, op=st.sampled_from([wire.Get, wire.Delete]))
    def read_or_delete(self, pick: int, key: str, namespace: str, op: type[wire.Get | wire.Delete]) -> None:
        """Read or delete an entry."""
        self.trial.ask(self.peer(pick), op(key, namespace, id=self.trial.next_id()))

    @with_peers
    @rule(pick=PICKS, key=KEYS, namespace=NAMESPACES, ttl_seconds=TTLS, tags=TAGS)
    def put(self, pick: int, key: str, namespace: str, **fields: Any) -> None:
        """Write an entry."""
        value = self.trial.next_value()
        self.trial.ask(self.peer(pick), wire.Put(key, value, namespace, id=self.trial.next_id(), **fields))

    @with_peers
    @rule(
        pick=PICKS,
        namespace=st.sampled_from([None, "default", "team", "1000:default"]),
        tag=st.sampled_from([None, "red", "blue"]),
    )
    def purge(self, pick: int, namespace: str | None, tag: str | None) -> None:
        """Purge, authorized or not."""
        self.trial.ask(self.peer(pick), wire.Purge(namespace, tag, id=self.trial.next_id()))

    @rule()
    def look_at_the_ledger(self) -> None:
        """Check the sums of the report."""
        self.trial.check_report()


TestEngineAgainstModel = pytest.mark.timeout(600)(EngineMachine.TestCase)  # shrinking a failure takes its time
TestEngineAgainstModel.settings = long_runs(80, 50)


def test_late_tick_ends_a_lease_before_the_wait_of_a_caller_that_has_hung_up() -> None:
    """Both are due. The lease ends first, and its end counts the caller as one that has left."""
    trial = ModelTrial(MODEL_WORLDS["cached, not shared afterwards"])
    peer = trial.join(1000, 1)
    trial.hang_up(peer)
    for request_id in (1, 2):
        trial.ask(peer, wire.Begin("a", id=request_id))

    trial.now += 61.0
    trial.tick()


@pytest.mark.parametrize(
    ("renewals", "wait_seconds", "ends_by"),
    [("", 3.0, "left"), ("before", 4.0, "left"), ("after", 4.0, "timeouts")],
    ids=["never renewed", "renewed before the wait", "renewed after the wait began"],
)
def test_of_a_lease_and_a_wait_due_at_one_instant_the_one_set_first_ends_first(
    renewals: str, wait_seconds: float, ends_by: str
) -> None:
    """A caller that has hung up has left if the lease ends first, and has timed out if its own wait does."""
    trial = ModelTrial(MODEL_WORLDS["many elections"])
    peer = trial.join(1000, 1)
    (lease,) = trial.ask(peer, wire.Begin("a", id=1))
    assert isinstance(lease, wire.Lease)
    trial.now += 1.0
    if renewals == "before":
        trial.ask(peer, wire.Renew(lease.lease, id=3))

    trial.ask(peer, wire.Begin("a", id=2, wait_seconds=wait_seconds))
    if renewals == "after":
        trial.ask(peer, wire.Renew(lease.lease, id=3))

    trial.hang_up(peer)
    trial.now += wait_seconds
    trial.tick()
    assert {name: trial.model.counts[name] for name in ("expired", "left", "timeouts")} == {
        "expired": 1,
        "left": 0,
        "timeouts": 0,
    } | {ends_by: 1}
