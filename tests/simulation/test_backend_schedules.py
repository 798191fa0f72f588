"""Long random schedules of backends that fail, fill up and recover.

``SIDECARD_SIMULATION_STEPS`` sets how many steps in all (24,000), ``SIDECARD_SIMULATION_SEED`` which ones.
"""

import os
import random
from collections.abc import Callable

import pytest
from msgspec import structs

from sidecard.core.events import DrainExpired, DrainRequested, Peer
from sidecard_client.protocol import wire
from tests.laws.backend_trial import BackendTrial
from tests.laws.backend_worlds import BACKEND_WORLDS, BREAKERS
from tests.simulation.lives import live

_STEPS = int(os.environ.get("SIDECARD_SIMULATION_STEPS", "24000"))
_STEPS_OF_LIVES = (100, 250, 400)
_PIDS = (0, 1, 1, 2)
_BACKENDS = ((), ("a",), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "b", "c"), ("c", "local"), ("local", "a"))
_ROUTES: tuple[wire.Route | None, ...] = (None, None, "order", "cheapest", "fastest", "least_busy", "weighted")
_MODES: tuple[wire.Mode, ...] = ("use", "use", "use", "refresh", "only_if_cached")
_FAILURES: tuple[wire.FailureKind, ...] = ("transient", "transient", "transient", "fatal", "ignored", "cancelled")
_ACTIONS: tuple[wire.BreakerAction, ...] = ("open", "auto", "auto", "close", "disable")


class Schedule:
    """A random life of one daemon. Backends have moods: how often a call fails, which changes now and then."""

    def __init__(self, world: str, seed: str) -> None:
        self.chance = random.Random(seed)
        self.trial = BackendTrial(BACKEND_WORLDS[world])
        self.failing = 0.3
        self.moves: dict[Callable[[], None], int] = {
            self.begin: 30,
            self.report: 30,
            self.renew: 4,
            self.wait: 12,
            self.cancel: 3,
            self.join: 5,
            self.lose: 3,
            self.operate: 1,
            self.change_mood: 2,
            self.reload: 1,
            self.trial.look: 1,
        }

    def run(self, steps: int) -> None:
        """Live for a number of steps, in every third life the last tenth of them while the daemon drains, then end."""
        drains_at = steps - steps // 10 if steps == _STEPS_OF_LIVES[-1] else steps
        for step in range(steps):
            if step == drains_at:
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
        if len(self.trial.peers) < 10:
            self.trial.join(1000, self.chance.choice(_PIDS))

    def lose(self) -> None:
        """A connection ends."""
        self.trial.lose(self.peer())

    def begin(self) -> None:
        """One or a few ask whether they must call."""
        chance = self.chance
        request = wire.Begin(
            chance.choice(["k", "l", "m", None, None]),
            backends=chance.choice(_BACKENDS),
            route=chance.choice(_ROUTES),
            wait_seconds=chance.choice([None, None, None, 0.0, 1.5, 20.0]),
            mode=chance.choice(_MODES),
        )
        for _ in range(chance.choice([1, 1, 1, 5])):
            asked = [asked.reply_id for asked in self.trial.witness.asked.values()]
            in_use = asked and chance.random() < 0.02
            request_id = chance.choice(asked) if in_use else self.trial.next_id()
            begin = wire.Begin(
                request.key,
                id=request_id,
                backends=request.backends,
                route=request.route,
                wait_seconds=request.wait_seconds,
                mode=request.mode,
            )
            self.trial.ask(self.peer(), begin)

    def report(self) -> None:
        """A lease comes back in some way, mostly a current one."""
        trial, chance = self.trial, self.chance
        current = [(held.peer, name) for name, held in trial.witness.held.items()]
        if current and chance.random() < 0.93:
            peer, lease = chance.choice(current)
        elif trial.granted:
            peer, lease = chance.choice(trial.granted[-40:])
        else:
            return

        if peer not in trial.peers:
            peer = self.peer()

        usage = chance.choice(
            [None, wire.Usage(cost_dollars=0.125, completion_tokens=40), wire.Usage(first_chunk_seconds=0.75)]
        )
        if chance.random() >= self.failing:
            trial.complete(peer, lease, usage)
            return

        fail = wire.Fail(
            lease,
            chance.choice(_FAILURES),
            "why",
            id=trial.next_id(),
            retry_after_seconds=chance.choice([None] * 12 + [0.0, 3.0, 1e5]),
            next=chance.random() < 0.5,
            retry=chance.random() < 0.5,
            timeout=chance.random() < 0.2,
            answered=chance.random() < 0.5,
            usage=usage,
        )
        trial.ask(peer, fail)

    def renew(self) -> None:
        """A holder shows that it is there."""
        current = [(held.peer, name) for name, held in self.trial.witness.held.items()]
        if current:
            peer, lease = self.chance.choice(current)
            self.trial.ask(peer, wire.Renew(lease, id=self.trial.next_id()))

    def cancel(self) -> None:
        """A peer takes a begin back."""
        witness = self.trial.witness
        ones = [(asked.peer, asked.begin.id) for asked in witness.asked.values()]
        ones += [(held.peer, held.begin.id) for held in witness.held.values()]
        if ones:
            peer, target = self.chance.choice(ones)
            self.trial.ask(peer, wire.Cancel(target, id=self.trial.next_id()))

    def operate(self) -> None:
        """An operator sets a breaker."""
        self.trial.operate(self.chance.choice(["a", "b", "c"]), self.chance.choice(_ACTIONS))

    def change_mood(self) -> None:
        """Backends get better or worse."""
        self.failing = self.chance.choice([0.02, 0.3, 0.6, 0.95])

    def reload(self) -> None:
        """An operator has changed limits, breakers, patience, and now and then whether anything may leave the host."""
        chance, settings = self.chance, self.trial.settings
        backends = {
            name: structs.replace(
                given,
                max_concurrent=chance.randint(1, 3) if given.max_concurrent else 0,
                requests_per_minute=chance.choice([0.0, 3.0, 8.0]) if given.requests_per_minute else 0.0,
                breaker=chance.choice((given.breaker, *BREAKERS)),
            )
            for name, given in settings.backends.items()
            if chance.random() < 0.9
        }
        self.trial.reload(
            structs.replace(
                settings,
                backends=backends,
                lease_seconds=chance.choice([2.0, 3.0, 15.0]),
                wait_seconds=chance.choice([5.0, 90.0, 120.0]),
                sovereign=settings.sovereign != (chance.random() < 0.2),
            )
        )

    def wait(self) -> None:
        """Time passes: a little, to the next deadline, or far; the tick comes on time, late, or not yet."""
        trial, chance = self.trial, self.chance
        deadline = trial.engine.next_deadline()
        how = chance.choices(["little", "to the deadline", "far"], [9, 3, 1])[0]
        if how == "little" or deadline is None:
            trial.now += chance.choice([0.0, 0.125, 0.5, 1.0, 3.25])
        elif how == "to the deadline":
            trial.now = max(trial.now, deadline)
        else:
            trial.now += chance.choice([8.0, 16.0, 61.0])

        if chance.random() < 0.7:
            trial.tick()

    def give_up_draining(self) -> None:
        """There is no time left."""
        self.trial.happen(DrainExpired())


@pytest.mark.timeout(0)
@pytest.mark.parametrize("world", BACKEND_WORLDS)
def test_backends_obey_the_law_on_long_random_schedules(world: str) -> None:
    """The witness never objects, every backend recovers, and at the end nothing is left."""
    live(Schedule, world, _STEPS // len(BACKEND_WORLDS), _STEPS_OF_LIVES)
