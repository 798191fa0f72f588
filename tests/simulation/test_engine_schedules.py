"""Long random schedules of peers on an engine whose every reply is predicted."""

import random
from unittest.mock import patch

import pytest
from msgspec import Raw

from sidecard.core.cache.view import views
from sidecard.core.events import Peer, ViewReleased
from sidecard.core.settings import SharedWith
from sidecard_client.protocol import wire
from tests.laws.model_trial import ModelTrial
from tests.laws.worlds import MODEL_WORLDS, prompt, prompt_of, without_holds
from tests.simulation.schedules import EngineSchedule, live, steps

_STEPS = steps(20_000)
_STEPS_OF_LIVES = (100, 250, 900)
_MODES: tuple[wire.Mode, ...] = ("use", "refresh", "only_if_cached")
_KEYS = {"small cache": 40, "small views": 9}
_SMALL_VIEW_BYTES = 8192
"""Room for a few entries."""
_FAILURES: tuple[wire.FailureKind, ...] = ("transient", "cancelled", "fatal", "ignored")


class Schedule(EngineSchedule[ModelTrial]):
    """A random life of one daemon."""

    DRAINS_IN_LIVES_OF = _STEPS_OF_LIVES
    FAR_SECONDS = (15.0, 60.5, 500.0)
    MAX_PEERS = 8
    UIDS = (1000, 1000, 1000, 1000, 1000, 1000, 1001, 0)
    PIDS = (0, 1, 1, 2, 3)

    def __init__(self, world: str, seed: str) -> None:
        chance, settings = random.Random(seed), MODEL_WORLDS[world]
        self.has_prompts = chance.random() < 0.5
        super().__init__(ModelTrial(without_holds(settings) if self.has_prompts else settings), chance)
        self.keys = [f"key-{number}" for number in range(_KEYS.get(world, 0))] or ["hot", "hot", "hot", "cold"]
        # Bounds make most stored answers unusable, so half of the lives have none.
        bounded = self.chance.random() < 0.5
        self.ttls = [None, None, None, 0.0, 3.5, 50.0] if bounded else [None]
        self.max_ages = [None, None, None, 0.0, 2.0, 20.0] if bounded else [None]
        self.shared: dict[str, SharedWith] = {}
        """The namespaces that are shared from the next reload on."""
        self.read: dict[Peer, list[tuple[str, int, float]]] = {}
        """Hits that peers have read from views and not reported: namespace, publication, instant."""
        self.namespaces = ["default"] * 16 + ["team"] * 3 + ["1000:default", "*:team"]
        self.moves |= {
            self.begin: 40,
            self.report: 15,
            self.wait: 10,
            self.cancel: 4,
            self.touch: 8,
            self.purge: 2,
            self.trial.work: 8,
            self.view: 3,
            self.read_view: 15,
            self.report_hits: 5,
            self.release_view: 3,
            self.share: 1,
        }
        self.touches = ["get", "get", "put", "delete"]
        self.sizes = [0, 300, 1000]
        if world == "small views":
            # So many publications that they make room for one another.
            self.moves |= {self.touch: 300, self.purge: 12, self.view: 8, self.wait: 25}
            self.touches += ["get"] * 16 + ["put"] * 3
            self.sizes = [200, 500, 650]

    def run(self, steps: int) -> None:
        """Live with views that have room for a few entries."""
        with patch.object(views, "MIN_VIEW_BYTES", _SMALL_VIEW_BYTES):
            super().run(steps)

    def lose(self) -> None:
        """End a connection, often that of a holder with waiters."""
        holders = [lease.peer for lease in self.trial.model.leases if lease.flight and lease.flight.waiters]
        self.trial.lose(self.chance.choice(holders) if holders and self.chance.random() < 0.5 else self.peer())

    def begin(self) -> None:
        """A peer begins under one of few ids, so that some are in use already."""
        chance = self.chance
        request = wire.Begin(
            None if chance.random() < 0.05 else chance.choice(self.keys),
            id=chance.randrange(12),
            namespace=chance.choice(self.namespaces),
            task=chance.choice(["general", "rag", "code"]),
            backends=chance.choice([(), (), ("local",), ("local", "cloud"), ("a", "b", "c")]),
            wait_seconds=chance.choice([None, None, None, 0.0, 1.0, 7.5, 40.0, 300.0]),
            ttl_seconds=chance.choice(self.ttls),
            stale_seconds=chance.choice([None, None, None, 0.0, 6.5]),
            max_age_seconds=chance.choice(self.max_ages),
            mode=chance.choices(_MODES, [10, 2, 1])[0],
            context=chance.choice(["", "", "", "a", "b"]),
            wanted=chance.random() < 0.5,
            **(prompt(chance) if self.has_prompts else prompt_of(())),
        )
        self.trial.ask(self.peer(), request)

    def report(self) -> None:
        """Complete, fail or renew a lease: mostly a current one by its holder, sometimes an old or a stolen one."""
        trial, chance = self.trial, self.chance
        current = trial.model.leases
        if current and chance.random() < 0.85:
            # Most laws are about leases with waiters.
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
                not_stored=chance.choice(["", "", "length", "a new word"]),
                tags=chance.choice([(), (), ("red",), ("red", "blue")]),
            )
        elif kind == "fail":
            failure = chance.choices(_FAILURES, [6, 2, 1, 3])[0]
            message = f"message {request_id}"
            request = wire.Fail(
                lease,
                failure,
                message,
                id=request_id,
                next=chance.random() < 0.3,
                ttl_seconds=chance.choice([None, None, None, 4.5, 60.0]),
                answered=chance.random() < 0.5,
                invalid=chance.random() < 0.7,
                detail=chance.choice([wire.NO_VALUE, Raw(b"\xa7refused")]),
                usage=wire.Usage(cost_dollars=chance.choice([None, 0.125])),
            )
        else:
            request = wire.Renew(lease, id=request_id)

        trial.ask(holder, request)

    def cancel(self) -> None:
        """A peer cancels a begin that it may or may not have made."""
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
        kind = chance.choice(self.touches)
        if kind == "put":
            ttl_seconds = chance.choice([None, None, 0.0, 1.5, 30.0])
            tags = chance.choice([(), ("red",)])
            value = trial.next_value(chance.choice(self.sizes))
            request: wire.AnyRequest = wire.Put(
                place[0], value, place[1], id=request_id, ttl_seconds=ttl_seconds, tags=tags
            )
        else:
            max_age_seconds = chance.choice([None, None, 0.0, 5.0])
            get = wire.Get(*place, id=request_id, max_age_seconds=max_age_seconds)
            request = get if kind == "get" else wire.Delete(*place, id=request_id)

        trial.ask(self.peer(), request)

    def purge(self) -> None:
        """A peer purges, authorized or not."""
        namespace = self.chance.choice([None, "default", "team", "1000:default", "elsewhere"])
        tag = self.chance.choice([None, "red", "blue"])
        self.trial.ask(self.peer(), wire.Purge(namespace, tag, id=self.trial.next_id()))

    def view(self) -> None:
        """A peer asks for a view."""
        self.trial.ask(self.peer(), wire.GetView(self.chance.choice(self.namespaces), id=self.trial.next_id()))

    def release_view(self) -> None:
        """No process has the file of a retired view any more."""
        retired = self.trial.checker.views.retired
        if retired:
            self.trial.happen(ViewReleased(self.chance.choice(list(retired))))

    def read_view(self) -> None:
        """A peer reads an entry of its view."""
        peer, now = self.peer(), self.trial.now
        for view in self.trial.checker.views.views_of(peer):
            found = [one for _, one in self.trial.checker.views.readable(now) if one.view is view]
            if found:
                number = self.chance.choice(found).record.publication
                self.read.setdefault(peer, []).append((view.namespace, number, now))

    def report_hits(self) -> None:
        """A peer reports what it has read, sometimes too late, and perhaps what another has read."""
        chance = self.chance
        if not self.read:
            return

        reader = chance.choice(list(self.read))
        read = self.read.pop(reader)
        namespace = read[0][0]
        items = [
            (number, chance.choice([1, 1, 3]), at, self.trial.now) for name, number, at in read if name == namespace
        ]
        peer = reader if reader in self.trial.peers and chance.random() < 0.9 else self.peer()
        parts = [tuple(items[part::3]) for part in range(3)]
        self.trial.ask(peer, wire.RecordHits(namespace, *parts, id=self.trial.next_id()))

    def share(self) -> None:
        """A reload shares a namespace, or ends that."""
        if self.trial.settings.shared_namespaces or self.shared:
            self.shared, shared = self.trial.settings.shared_namespaces, self.shared
            self.trial.share(shared)

    def wait(self) -> None:
        """Let time pass, and sometimes check the ledger."""
        super().wait()
        if self.chance.random() < 0.1:
            self.trial.check_report()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("world", MODEL_WORLDS)
def test_engine_schedules_reply_as_the_model_predicts(world: str) -> None:
    """Engine and model agree on every reply, no law is broken, and nothing is left at the end."""
    live(Schedule, world, _STEPS // len(MODEL_WORLDS), _STEPS_OF_LIVES)
