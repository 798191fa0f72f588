"""Breakers, limits, queues, routes, budgets and flights together, on schedules that hypothesis invents and shrinks.

Longer schedules without shrinking are in `tests/simulation/test_backend_schedules.py`.
"""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from sidecard.core.events import Peer
from sidecard_client.protocol import wire
from tests.laws.backend_trial import BackendTrial
from tests.laws.worlds import BACKEND_WORLDS, prompt_of, with_affinity
from tests.properties.trial_machine import PICKS, TrialMachine, long_runs, with_peers

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
PROMPTS = st.sampled_from([(), ("a",), ("a", "ac"), ("a", "ad"), ("a", "ac", "acc"), ("b",)])
"""Prefixes of the prompts of two applications."""


class BackendMachine(TrialMachine):
    """Peers of a few processes on one engine with scarce backends."""

    trial: BackendTrial

    @initialize(world=st.sampled_from(sorted(BACKEND_WORLDS)), affine=st.booleans())
    def start(self, world: str, affine: bool) -> None:
        """Start a daemon with callers of two processes connected."""
        settings = BACKEND_WORLDS[world]
        self.trial = BackendTrial(with_affinity(settings) if affine else settings)
        for pid in (1, 1, 2, 0):
            self.trial.join(1000, pid)

    @rule(what=st.sampled_from(["join", "renew", "begin again", "look", "start"]), pick=PICKS)
    def seldom(self, what: str, pick: int) -> None:
        """Do what changes little: as one rule, because rules are chosen evenly."""
        trial = self.trial
        waiting = list(trial.checker.asked.values())
        match what:
            case "join" if len(trial.peers) < 6:
                trial.join(1000, pick % 3)
            case "renew" if trial.peers:
                peer, lease = self.lease(pick, current=True)
                trial.ask(peer, wire.Renew(lease, id=trial.next_id()))
            case "start" if trial.peers:
                peer, lease = self.lease(pick, current=True)
                trial.ask(peer, wire.Started(lease, id=trial.next_id()))
            case "begin again" if waiting:
                one = waiting[pick % len(waiting)]
                trial.ask(one.peer, wire.Begin("k", id=one.reply_id))
            case _:
                trial.look()

    def lease(self, pick: int, current: bool) -> tuple[Peer, str]:
        """Choose a lease and its holder."""
        if not current and self.trial.granted:
            return self.trial.granted[pick % len(self.trial.granted)]

        leases = [(held.peer, name) for name, held in self.trial.checker.held.items()]
        return leases[pick % len(leases)] if leases else (self.peer(pick), "boot-0")

    @with_peers
    @rule(
        picks=st.lists(PICKS, min_size=1, max_size=4),
        key=st.sampled_from(["k", "l", None, None]),
        backends=BACKENDS,
        route=ROUTES,
        wait_seconds=WAITS,
        mode=st.sampled_from(["use"] * 6 + ["refresh", "only_if_cached"]),
        names=PROMPTS,
    )
    def begin(self, picks: list[int], names: tuple[str, ...], **fields: Any) -> None:
        """Begin for some peers."""
        for pick in picks:
            self.trial.ask(self.peer(pick), wire.Begin(id=self.trial.next_id(), **fields, **prompt_of(names)))

    @with_peers
    @rule(
        picks=st.lists(PICKS, min_size=3, max_size=8),
        backends=BACKENDS,
        key=st.sampled_from([None, None, "k"]),
        names=PROMPTS,
    )
    def crowd(self, picks: list[int], backends: tuple[str, ...], key: str | None, names: tuple[str, ...]) -> None:
        """Begin the same call for many peers."""
        for pick in picks:
            begin = wire.Begin(key, id=self.trial.next_id(), backends=backends, **prompt_of(names))
            self.trial.ask(self.peer(pick), begin)

    @with_peers
    @rule(times=st.integers(1, 4), pick=PICKS, current=st.sampled_from([True, True, True, False]), usage=USAGES)
    def complete(self, times: int, pick: int, current: bool, usage: wire.Usage | None) -> None:
        """Complete some leases, current or not."""
        for number in range(times):
            peer, lease = self.lease(pick + number, current)
            if peer in self.trial.peers:
                self.trial.complete(peer, lease, usage)

    @with_peers
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
        """Fail some leases in the same way."""
        for _ in range(times):
            peer, lease = self.lease(pick, current=True)
            self.trial.ask(peer, wire.Fail(lease, id=self.trial.next_id(), message="why", **fields))

    @with_peers
    @rule(
        pick=PICKS,
        backend=st.sampled_from("aab"),
        times=st.integers(2, 6),
        failing=st.sampled_from([True, True, False]),
    )
    def calls(self, pick: int, backend: str, times: int, failing: bool) -> None:
        """Call a backend several times, which is down, or is not."""
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
        """Let time pass until an open breaker may probe."""
        breaker = self.trial.checker.breaker(backend)
        if breaker.state == "open":
            self.trial.now = max(self.trial.now, breaker.until)
            self.trial.tick()

    @with_peers
    @rule(pick=PICKS, waiting=st.booleans())
    def cancel(self, pick: int, waiting: bool) -> None:
        """Cancel a begin that waits, or whose lease was granted."""
        checker = self.trial.checker
        ones = [(one.peer, one.begin.id) for one in (checker.asked if waiting else checker.held).values()]
        if ones:
            peer, target = ones[pick % len(ones)]
            self.trial.ask(peer, wire.Cancel(target, id=self.trial.next_id()))

    @rule(
        backend=st.sampled_from(["a", "a", "b"]),
        action=st.sampled_from(["open", "auto", "auto", "close", "disable"]),
    )
    def operate(self, backend: str, action: wire.BreakerAction) -> None:
        """Set a breaker."""
        self.trial.operate(backend, action)


TestBackendLaws = pytest.mark.timeout(600)(BackendMachine.TestCase)  # shrinking a failure takes its time
TestBackendLaws.settings = long_runs(70, 60)
