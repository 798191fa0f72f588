"""Long random schedules of backends that fail, fill up and recover."""

import random

import pytest
from msgspec import structs

from sidecard_client.protocol import wire
from tests.laws.backend_trial import BackendTrial
from tests.laws.worlds import BACKEND_WORLDS, BREAKERS, prompt, prompt_of, with_affinity
from tests.simulation.schedules import EngineSchedule, live, steps

_STEPS = steps(12_000)
_STEPS_OF_LIVES = (100, 250, 400)
_BACKENDS = ((), ("a",), ("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "b", "c"), ("c", "local"), ("local", "a"))
_ROUTES: tuple[wire.Route | None, ...] = (None, None, "order", "cheapest", "fastest", "least_busy", "weighted")
_MODES: tuple[wire.Mode, ...] = ("use", "use", "use", "refresh", "only_if_cached")
_FAILURES: tuple[wire.FailureKind, ...] = ("transient", "transient", "transient", "fatal", "ignored", "cancelled")
_ACTIONS: tuple[wire.BreakerAction, ...] = ("open", "auto", "auto", "close", "disable")


class Schedule(EngineSchedule[BackendTrial]):
    """A random life of one daemon. Backends have moods: how often a call fails, which changes now and then."""

    DRAINS_IN_LIVES_OF = _STEPS_OF_LIVES[-1:]
    FAR_SECONDS = (8.0, 16.0, 61.0)
    MAX_PEERS = 10
    PIDS = (0, 1, 1, 2)

    def __init__(self, world: str, seed: str) -> None:
        chance, settings = random.Random(seed), BACKEND_WORLDS[world]
        self.has_prompts = chance.random() < 0.5
        super().__init__(BackendTrial(with_affinity(settings) if self.has_prompts else settings), chance)
        self.failing = 0.3
        self.moves |= {
            self.begin: 30,
            self.report: 30,
            self.start: 8 if self.has_prompts else 0,
            self.renew: 4,
            self.wait: 12,
            self.cancel: 3,
            self.operate: 1,
            self.change_mood: 2,
            self.reload: 1,
            self.trial.look: 1,
        }

    def begin(self) -> None:
        """One or a few peers begin."""
        chance = self.chance
        request = wire.Begin(
            chance.choice(["k", "l", "m", None, None]),
            backends=chance.choice(_BACKENDS),
            route=chance.choice(_ROUTES),
            wait_seconds=chance.choice([None, None, None, 0.0, 1.5, 20.0]),
            mode=chance.choice(_MODES),
        )
        for _ in range(chance.choice([1, 1, 1, 5])):
            fields = prompt(chance) if self.has_prompts else prompt_of(())
            asked = [asked.reply_id for asked in self.trial.checker.asked.values()]
            in_use = asked and chance.random() < 0.02
            request_id = chance.choice(asked) if in_use else self.trial.next_id()
            begin = wire.Begin(
                request.key,
                id=request_id,
                backends=request.backends,
                route=request.route,
                wait_seconds=request.wait_seconds,
                mode=request.mode,
                **fields,
            )
            self.trial.ask(self.peer(), begin)

    def start(self) -> None:
        """A holder reports its first output; now and then one whose lease has ended, or another peer."""
        current = [(held.peer, name) for name, held in self.trial.checker.held.items()]
        leases = current if current and self.chance.random() < 0.9 else self.trial.granted[-20:]
        if leases:
            peer, lease = self.chance.choice(leases)
            self.trial.ask(
                peer if peer in self.trial.peers else self.peer(), wire.Started(lease, id=self.trial.next_id())
            )

    def report(self) -> None:
        """Complete or fail a lease, mostly a current one."""
        trial, chance = self.trial, self.chance
        current = [(held.peer, name) for name, held in trial.checker.held.items()]
        if current and chance.random() < 0.93:
            peer, lease = chance.choice(current)
        elif trial.granted:
            peer, lease = chance.choice(trial.granted[-40:])
        else:
            return

        if peer not in trial.peers:
            peer = self.peer()

        usage = chance.choice(
            [
                None,
                wire.Usage(cost_dollars=0.125, completion_tokens=40),
                wire.Usage(first_chunk_seconds=0.75, cost_dollars=0.5),
            ]
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
        """A holder renews its lease."""
        current = [(held.peer, name) for name, held in self.trial.checker.held.items()]
        if current:
            peer, lease = self.chance.choice(current)
            self.trial.ask(peer, wire.Renew(lease, id=self.trial.next_id()))

    def cancel(self) -> None:
        """A peer cancels a begin."""
        checker = self.trial.checker
        ones = [(asked.peer, asked.begin.id) for asked in checker.asked.values()]
        ones += [(held.peer, held.begin.id) for held in checker.held.values()]
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
        """Reload other limits, breakers and waits, and now and then sovereign mode."""
        chance, settings = self.chance, self.trial.settings
        backends = {
            name: structs.replace(
                given,
                max_concurrent=chance.randint(1, 3) if given.max_concurrent else 0,
                requests_per_minute=chance.choice([0.0, 3.0, 8.0]) if given.requests_per_minute else 0.0,
                breaker=chance.choice((given.breaker, *BREAKERS)),
                prefix_hold_seconds=chance.choice([0.0, 2.0, 6.0]) if given.prefix_affinity != "off" else None,
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


@pytest.mark.timeout(0)
@pytest.mark.parametrize("world", BACKEND_WORLDS)
def test_backend_schedules_break_no_law(world: str) -> None:
    """No law is broken, every backend recovers, and nothing is left at the end."""
    live(Schedule, world, _STEPS // len(BACKEND_WORLDS), _STEPS_OF_LIVES)
