"""Long random schedules: what peers do in any order, for as long as one likes.

``SIDECARD_SIMULATION_STEPS`` sets how many steps in all (50,000), ``SIDECARD_SIMULATION_SEED`` which ones.
"""

import os
import random
from collections.abc import Callable

import pytest

from sidecard.core.events import DrainExpired, DrainRequested, Peer
from sidecard_client.protocol import wire
from tests.laws.model_trial import Trial
from tests.laws.model_worlds import WORLDS
from tests.simulation.lives import live

_STEPS = int(os.environ.get("SIDECARD_SIMULATION_STEPS", "50000"))
_STEPS_OF_LIVES = (100, 250, 900)
_PIDS = (0, 1, 1, 2, 3)
_MODES: tuple[wire.Mode, ...] = ("use", "refresh", "only_if_cached")
_FAILURES: tuple[wire.FailureKind, ...] = ("transient", "cancelled", "fatal", "ignored")
_UIDS = (1000, 1000, 1000, 1000, 1000, 1000, 1001, 0)


class Schedule:
    """A random life of one daemon: peers join, ask, vanish, and time passes."""

    def __init__(self, world: str, seed: str) -> None:
        self.chance = random.Random(seed)
        self.trial = Trial(WORLDS[world])
        self.keys = (
            [f"key-{number}" for number in range(40)] if world == "small cache" else ["hot", "hot", "hot", "cold"]
        )
        self.namespaces = ["default"] * 16 + ["team"] * 3 + ["1000:default", "*:team"]
        self.moves: dict[Callable[[], None], int] = {
            self.begin: 40,
            self.report: 15,
            self.wait: 10,
            self.cancel: 4,
            self.join: 5,
            self.lose: 3,
            self.touch: 8,
            self.purge: 1,
        }

    def run(self, steps: int) -> None:
        """Live for a number of steps, the last tenth of them while the daemon drains, then end."""
        for step in range(steps):
            if step == steps - steps // 10:
                self.trial.happen(DrainRequested())
                self.moves[self.give_up_draining] = 2

            (move,) = self.chance.choices(list(self.moves), list(self.moves.values()))
            move() if self.trial.peers else self.join()

        self.trial.end()

    def peer(self) -> Peer:
        """Choose a peer."""
        return self.chance.choice(self.trial.peers)

    def join(self) -> None:
        """A connection comes, if there are not too many."""
        if len(self.trial.peers) < 8:
            self.trial.join(self.chance.choice(_UIDS), self.chance.choice(_PIDS))

    def lose(self) -> None:
        """A connection ends, often that of somebody whom others wait for."""
        waited_for = [lease.peer for lease in self.trial.model.leases if lease.flight and lease.flight.waiters]
        self.trial.lose(self.chance.choice(waited_for) if waited_for and self.chance.random() < 0.5 else self.peer())

    def begin(self) -> None:
        """A peer asks whether it must call, under one of few ids, so that some are in use already."""
        chance = self.chance
        request = wire.Begin(
            None if chance.random() < 0.05 else chance.choice(self.keys),
            id=chance.randrange(12),
            namespace=chance.choice(self.namespaces),
            task=chance.choice(["general", "rag", "code"]),
            backends=chance.choice([(), (), ("local",), ("local", "cloud"), ("a", "b", "c")]),
            wait_seconds=chance.choice([None, None, None, 0.0, 1.0, 7.5, 40.0, 300.0]),
            ttl_seconds=chance.choice([None, None, None, 0.0, 3.5, 50.0]),
            stale_seconds=chance.choice([None, None, None, 0.0, 6.5]),
            mode=chance.choices(_MODES, [10, 2, 1])[0],
        )
        self.trial.ask(self.peer(), request)

    def report(self) -> None:
        """A lease comes back in some way: mostly a current one from its holder, sometimes an old or a stolen one."""
        trial, chance = self.trial, self.chance
        current = trial.model.leases
        if current and chance.random() < 0.85:
            # Those that somebody waits for are where most of the law is.
            weights = [1 if lease.flight is None else 1 + 3 * len(lease.flight.waiters) for lease in current]
            (chosen,) = chance.choices(current, weights)
            holder, lease = chosen.peer, chosen.name
        elif trial.granted:
            holder, lease = chance.choice(trial.granted[-30:])
        else:
            holder, lease = self.peer(), "boot-0"

        if chance.random() < 0.1 or holder not in trial.peers:
            holder = self.peer()

        request_id = trial.next_id()
        kind = chance.choices(["complete", "fail", "renew"], [3, 4, 4])[0]
        if kind == "complete":
            usage = None if chance.random() < 0.5 else wire.Usage(cost_dollars=chance.choice([None, 0.25, 1.5]))
            request: wire.AnyRequest = wire.Complete(
                lease,
                trial.next_value(chance.choice([0, 0, 400, 1500])),
                id=request_id,
                usage=usage,
                ttl_seconds=chance.choice([None, None, None, 0.0, 2.5, 100.0]),
                store=chance.random() < 0.8,
                tags=chance.choice([(), (), ("red",), ("red", "blue")]),
            )
        elif kind == "fail":
            failure = chance.choices(_FAILURES, [6, 2, 1, 1])[0]
            message = f"message {request_id}"
            request = wire.Fail(
                lease,
                failure,
                message,
                id=request_id,
                next=chance.random() < 0.3,
                ttl_seconds=chance.choice([None, None, None, 4.5, 60.0]),
            )
        else:
            request = wire.Renew(lease, id=request_id)

        trial.ask(holder, request)

    def cancel(self) -> None:
        """A peer takes a begin back that it may or may not have made."""
        peer, target = self.peer(), self.chance.randrange(12)
        waiters = self.trial.model.waiters()
        if waiters and self.chance.random() < 0.4:
            waiter = self.chance.choice(waiters)
            peer, target = waiter.peer, waiter.begin.id

        self.trial.ask(peer, wire.Cancel(target, id=self.trial.next_id()))

    def touch(self) -> None:
        """A peer reads, writes or deletes an entry."""
        trial, chance = self.trial, self.chance
        place = (chance.choice(self.keys), chance.choice(self.namespaces))
        request_id = trial.next_id()
        kind = chance.choice(["get", "get", "put", "delete"])
        if kind == "put":
            ttl_seconds = chance.choice([None, None, 0.0, 1.5, 30.0])
            tags = chance.choice([(), ("red",)])
            value = trial.next_value(chance.choice([0, 300, 1000]))
            request: wire.AnyRequest = wire.Put(
                place[0], value, place[1], id=request_id, ttl_seconds=ttl_seconds, tags=tags
            )
        else:
            request = wire.Get(*place, id=request_id) if kind == "get" else wire.Delete(*place, id=request_id)

        trial.ask(self.peer(), request)

    def purge(self) -> None:
        """A peer purges, if it may."""
        namespace = self.chance.choice([None, "default", "team", "1000:default", "elsewhere"])
        tag = self.chance.choice([None, "red", "blue"])
        self.trial.ask(self.peer(), wire.Purge(namespace, tag, id=self.trial.next_id()))

    def wait(self) -> None:
        """Time passes: a little, to the next deadline, or far; the tick comes on time, late, early, or not yet."""
        trial, chance = self.trial, self.chance
        deadline = trial.engine.next_deadline()
        how = chance.choices(["little", "to the deadline", "far"], [9, 3, 1])[0]
        if how == "little" or deadline is None:
            trial.now += chance.choice([0.0, 0.125, 0.5, 1.0, 3.25])
        elif how == "to the deadline":
            trial.now = max(trial.now, deadline)
        else:
            trial.now += chance.choice([15.0, 60.5, 500.0])

        if chance.random() < 0.7:
            trial.tick()

        if chance.random() < 0.1:
            trial.check_report()

    def give_up_draining(self) -> None:
        """There is no time left."""
        self.trial.happen(DrainExpired())


@pytest.mark.timeout(0)
@pytest.mark.parametrize("world", WORLDS)
def test_engine_obeys_the_law_on_long_random_schedules(world: str) -> None:
    """Engine and model agree on every reply, the referee never whistles, and at the end nothing is left."""
    live(Schedule, world, _STEPS // len(WORLDS), _STEPS_OF_LIVES)
