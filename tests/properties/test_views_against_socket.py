"""Whatever a client reads from a view, a begin over the socket gets at the same instant; and views stay within their bounds."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecard.core.cache.entry import PUBLISHED
from sidecard.core.cache.view.views import MAX_FILES, budget_of
from sidecard.core.effects import RetireView, StoreRead
from sidecard.core.events import (
    Absent,
    ClocksStepped,
    EntriesPurged,
    Event,
    InvalidationsMissed,
    KeyChanged,
    SettingsRead,
    StoreStateChanged,
    Tick,
    Unavailable,
    WorkContinued,
)
from sidecard.core.settings import EngineSettings, SharedWith, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.view import UNIT_BYTES, slot_offset
from tests.host import Actor, Host, packed
from tests.thoroughness import cases
from tests.view_files import Reader, ViewFiles

TASKS = {
    "never": TaskSettings(cache="never"),
    "early": TaskSettings(early_refresh=1.0),
    "stale": TaskSettings(ttl_seconds=4.0, stale_seconds=6.0),
}
TEAM = {"team": SharedWith(uids=frozenset({1000, 1001}))}
PLAIN = EngineSettings(
    cache_max_bytes=3 * 1024 * 1024,
    view_bytes=600 * 1024,
    ttl_seconds=20.0,
    sharing_window_seconds=8.0,
    tasks=TASKS,
    shared_namespaces=TEAM,
    namespace_max_bytes={"small": 12_000},
    store="shared",
)
CHANGES: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"ttl_seconds": 5.0},
    {"tasks": {}},
    {"tasks": {"rag": TaskSettings(cache="never"), "general": TaskSettings(ttl_seconds=0.0)}},
    {"shared_namespaces": {}},
    {"shared_namespaces": {"team": SharedWith(uids=frozenset({1001}))}},
    {"shared_namespaces": {"team": SharedWith(everyone=True), "default": SharedWith(uids=frozenset({1000, 1001}))}},
    {"view_bytes": 0},
    {"view_bytes": 300 * 1024},
    {"view_max_entry_bytes": 500},
    {"cache_max_bytes": 0},
    {"cache_max_bytes": 1200 * 1024},
    {"compress_min_bytes": 1000},
]
NAMES = st.sampled_from(["default", "default", "team", "small"])
ALL_KEYS = [f"key-{number}" for number in range(5)]
KEYS = st.sampled_from(ALL_KEYS)
TASK_NAMES = st.sampled_from(["general"] * 6 + ["rag", "never", "early", "stale"])
ACTORS = st.sampled_from([0, 0, 0, 1, 2, 3])
SIZES = st.sampled_from([1, 20, 300, 1200, 20_000, 50_000, 70_000])
TAGS = st.sampled_from([(), (), ("red",)])
COUNTS = st.integers(1, 3)
LIFETIMES = st.sampled_from([None, 0.0, 2.0])
PURGED = st.sampled_from([None, "default", "team", "small", "1000:default"])
EVENTS = st.sampled_from(
    [
        InvalidationsMissed(),
        InvalidationsMissed(),
        StoreStateChanged("down", "no answer"),
        StoreStateChanged("up"),
        ClocksStepped(1.0, 0.0),
        ClocksStepped(0.0, 5.0),
        WorkContinued(),
        WorkContinued(),
    ]
)
Step = tuple[str, dict[str, Any]]
USAGES = st.sampled_from([None, wire.Usage(model="m", prompt_tokens=7, cost_dollars=0.5)])


class Trial:
    """Apps of three users and an operator, with views, a store that other hosts use too, and an operator who changes everything."""

    def __init__(self, *, batched: bool) -> None:
        """Start empty, with views of two users."""
        self.settings = PLAIN
        self.host = Host(**{name: getattr(PLAIN, name) for name in PLAIN.__struct_fields__ if name != "uncached_tasks"})
        if batched:
            self.host.engine._cache.inline_entries = 0
            self.host.engine._cache.sweep_steps = 1

        self.files = ViewFiles(self.host)
        self.actors = [self.connect(number) for number in range(4)]
        self.readers: list[Reader] = []
        self.values = 0
        self.ids = 0
        for actor, namespace in ((0, "default"), (0, "team"), (0, "small"), (2, "team")):
            self.ask_view(actor, namespace)
            self.call_often(
                ALL_KEYS[:3],
                stream=False,
                namespace=namespace,
                actor=actor,
                task="general",
                size=20,
                tags=(),
                usage=None,
            )

    def connect(self, number: int) -> Actor:
        """Connect the app of a number."""
        uid = (1000, 1000, 1001, 0)[number]
        return self.host.peer(uid, uid, pid=10 + number, operator=uid == 0)

    def next_id(self) -> int:
        """Return the next request's id."""
        self.ids += 1
        return self.ids

    def settle(self) -> None:
        """Perform the views' effects, and let the store answer that it has nothing, or that it is down."""
        self.files.perform()
        while self.host.wanted:
            for effect in self.host.wants():
                if isinstance(effect, StoreRead):
                    down = self.host.engine._store.state == "down"
                    self.host.answers(effect.ticket, Unavailable() if down else Absent("claim"))

            self.files.perform()

    def ask_view(self, actor: int, namespace: str) -> None:
        """Ask for a view by a connection of its own."""
        peer = self.connect(actor)
        peer.asks(wire.GetView(id=1, namespace=namespace))
        self.files.perform()
        (reply,) = peer.receives()
        if isinstance(reply, wire.View):
            self.readers.append(Reader(self.files, peer, namespace, reply))
        else:
            assert isinstance(reply, wire.Error)
            assert reply.code == "unavailable"
            peer.dies()

    def close_view(self, which: int) -> None:
        """End a connection that has received a view."""
        if not self.readers:
            return

        self.readers.pop(which % len(self.readers)).actor.dies()
        self.files.release_retired({reader.reply.view for reader in self.readers})

    def call(self, actor: int, namespace: str, key: str, task: str, size: int, tags: Any, usage: Any) -> None:
        """Begin, and complete if there is a lease."""
        peer = self.actors[actor]
        peer.asks(wire.Begin(key, namespace=namespace, task=task, id=self.next_id(), mode="use"))
        self.settle()
        for reply in peer.receives():
            if isinstance(reply, wire.Lease):
                self.values += 1
                value = [self.values, "x" * size]
                peer.asks(wire.Complete(reply.lease, packed(value), id=self.next_id(), tags=tags, usage=usage))

        self.settle()
        peer.receives()

    def call_often(self, keys: list[str], stream: bool, **fields: Any) -> None:
        """Begin so often that the answer is published."""
        for key in keys:
            self.call(key=key, **fields)
            self.hit(fields["actor"], fields["namespace"], key, fields["task"], 2, stream)

    def hit(self, actor: int, namespace: str, key: str, task: str, times: int, stream: bool) -> None:
        """Begin several times, if there is an answer."""
        for _ in range(times):
            request = wire.Begin(
                key, namespace=namespace, task=task, id=self.next_id(), mode="only_if_cached", stream=stream
            )
            self.actors[actor].asks(request)
            self.settle()

        self.actors[actor].receives()

    def get(self, actor: int, namespace: str, key: str, times: int) -> None:
        """Read several times."""
        for _ in range(times):
            self.actors[actor].asks(wire.Get(id=self.next_id(), namespace=namespace, key=key))
            self.settle()

        self.actors[actor].receives()

    def put(self, actor: int, namespace: str, key: str, task: str, size: int, tags: Any, ttl: float | None) -> None:
        """Write an entry."""
        self.values += 1
        self.actors[actor].asks(
            wire.Put(
                id=self.next_id(),
                namespace=namespace,
                key=key,
                value=packed([self.values, "x" * size]),
                task=task,
                tags=tags,
                ttl_seconds=ttl,
            )
        )
        self.settle()

    def delete(self, actor: int, namespace: str, key: str) -> None:
        """Remove an entry."""
        self.actors[actor].asks(wire.Delete(id=self.next_id(), namespace=namespace, key=key))
        self.settle()

    def purge(self, namespace: str | None, tag: str | None, task: str | None, remote: bool) -> None:
        """Remove many, here or on another host."""
        if remote:
            self.host.happens(EntriesPurged(namespace, tag, task))
        else:
            self.actors[3].asks(wire.Purge(id=self.next_id(), namespace=namespace, tag=tag, task=task))

        self.settle()

    def change_remotely(self, namespace: str, key: str, how: Any) -> None:
        """Another host changes a key."""
        for scope in (f"1000:{namespace}", f"*:{namespace}"):
            self.host.happens(KeyChanged(scope, key, how))

        self.settle()

    def disturb(self, event: Event) -> None:
        """Invalidations of other hosts may be lost; the store fails, or is back; the host sleeps, or works."""
        self.host.happens(event)
        self.settle()

    def reload(self, change: dict[str, Any]) -> None:
        """Read the settings again; they differ from the first ones by a change."""
        self.settings = msgspec.structs.replace(PLAIN, **change)
        self.host.happens(SettingsRead(self.settings))
        self.settle()
        for reader in [reader for reader in self.readers if reader.reply.view in self.files.retired]:
            # As clients do, by a new connection.
            if self.values % 2:
                self.readers.remove(reader)
                reader.actor.dies()
                self.files.release_retired({reader.reply.view for reader in self.readers})

            self.ask_view((1000, None, 1001, 0).index(reader.actor.peer.uid), reader.namespace)

    def wait(self, seconds: float, ticks: bool) -> None:
        """Let time pass; the tick may be late."""
        self.host.now += seconds
        if ticks:
            self.host.happens(Tick())
            self.settle()

    def report(self, which: int, number: int, count: int) -> None:
        """Report hits, perhaps of publications that never were."""
        if not self.readers:
            return

        reader = self.readers[which % len(self.readers)]
        before = self.host.stats()
        item = (number, count, self.host.now - 1.0, self.host.now)
        reader.reports(item, streams=(item,), gets=(item,))
        assert reader.actor.receives() == []
        after = self.host.stats()
        assert after.begins - before.begins == after.hits - before.hits == after.view_hits - before.view_hits
        assert after.hits - before.hits in {0, 2 * count}

    def every_hit_of_a_view_is_one_of_the_socket(self) -> None:
        """The same value, age, savings and metadata; and a peer that may read the file may read the entry."""
        for reader in self.readers:
            for key in ALL_KEYS:
                found = reader.finds(key, None)
                if isinstance(found, str):
                    continue

                request = wire.Begin(
                    key, namespace=reader.namespace, task=found["task"], mode="only_if_cached", id=self.next_id()
                )
                reader.actor.asks(request)
                hit = reader.actor.gets(wire.Hit)
                assert msgspec.msgpack.decode(hit.value) == found["value"]
                assert hit.age_seconds == self.host.now - found["stored_at"]
                assert (hit.saved_seconds, hit.saved_dollars, hit.backend) == (
                    found["seconds"],
                    found["dollars"],
                    found["backend"],
                )
                assert msgspec.to_builtins(hit.meta) == (found["meta"] or {})
                assert not hit.stale
                reader.actor.asks(wire.Get(id=self.next_id(), namespace=reader.namespace, key=key))
                assert msgspec.msgpack.decode(reader.actor.gets(wire.Hit).value) == found["value"]

    def views_stay_within_their_bounds(self) -> None:
        """Files, bytes, slots and records."""
        self.files.perform()
        stats = self.host.stats()
        publisher = self.host.engine._publisher
        cache = self.host.engine._cache
        assert cache.reserved_bytes >= stats.view_bytes
        live = {view.number: view.size for view in publisher.scopes.values()}
        files = self.files.sizes
        assert len(files) <= MAX_FILES
        assert live.items() <= files.items()
        assert stats.view_bytes == sum(files.values())
        assert sum(live.values()) <= budget_of(self.settings)
        assert not self.files.retired & live.keys()
        assert stats.view_entries == sum(len(view.space.by_key) for view in publisher.scopes.values())
        assert stats.view_publications == stats.view_withdrawals + stats.view_entries
        for view in publisher.scopes.values():
            arena_end = slot_offset(view.space.slot_count)
            for publication in sorted(view.space.by_key.values(), key=lambda each: each.offset):
                assert publication.offset >= arena_end
                assert publication.offset % UNIT_BYTES == 0
                arena_end = publication.offset + publication.length
                assert publication.entry.alive
                assert publication.entry.state & PUBLISHED
                assert cache.peek(view.scope, publication.key) is publication.entry

            assert arena_end <= view.size

        published = sum(bool(entry.state & PUBLISHED) for table in cache._tables.values() for entry in table.values())
        assert published == stats.view_entries

    def end(self) -> None:
        """When all connections have ended, no retired file counts."""
        for reader in self.readers:
            reader.actor.dies()

        self.host.reads(view_bytes=0)
        self.files.perform()
        self.files.release_retired()
        assert self.host.stats().view_bytes == 0
        assert sum(isinstance(effect, RetireView) for effect in self.files.effects) == len(self.files.memory)


def step(weight: int, name: str, **fields: st.SearchStrategy[Any]) -> list[st.SearchStrategy[Step]]:
    """Return the steps that are a call of one of the trial's methods, as often as its weight says."""
    return [st.tuples(st.just(name), st.fixed_dictionaries(fields))] * weight


STEPS = st.one_of(
    step(1, "ask_view", actor=ACTORS, namespace=NAMES)
    + step(1, "close_view", which=st.integers(0, 100))
    + step(1, "call", actor=ACTORS, namespace=NAMES, key=KEYS, task=TASK_NAMES, size=SIZES, tags=TAGS, usage=USAGES)
    + step(
        6,
        "call_often",
        actor=ACTORS,
        namespace=NAMES,
        keys=st.lists(KEYS, min_size=1, max_size=5),
        task=TASK_NAMES,
        size=SIZES,
        tags=TAGS,
        usage=USAGES,
        stream=st.booleans(),
    )
    + step(1, "hit", actor=ACTORS, namespace=NAMES, key=KEYS, task=TASK_NAMES, times=COUNTS, stream=st.booleans())
    + step(1, "get", actor=ACTORS, namespace=NAMES, key=KEYS, times=COUNTS)
    + step(1, "put", actor=ACTORS, namespace=NAMES, key=KEYS, task=TASK_NAMES, size=SIZES, tags=TAGS, ttl=LIFETIMES)
    + step(1, "delete", actor=ACTORS, namespace=NAMES, key=KEYS)
    + step(
        1,
        "purge",
        namespace=PURGED,
        tag=st.sampled_from([None, "red"]),
        task=st.sampled_from([None, "rag"]),
        remote=st.booleans(),
    )
    + step(1, "change_remotely", namespace=NAMES, key=KEYS, how=st.sampled_from(["stored", "removed"]))
    + step(2, "disturb", event=EVENTS)
    + step(1, "reload", change=st.sampled_from(CHANGES))
    + step(2, "wait", seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 5.0, 12.0]), ticks=st.booleans())
    + step(1, "report", which=st.integers(0, 100), number=st.integers(1, 40), count=st.integers(1, 9))
)


@pytest.mark.timeout(600)  # shrinking a failure takes its time
@settings(max_examples=cases(30), deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(batched=st.booleans(), steps=st.lists(STEPS, min_size=30, max_size=60))
def test_a_view_never_serves_what_the_socket_would_not_serve(batched: bool, steps: list[Step]) -> None:
    """Whatever happens: purges, other hosts, reloads, sleep, expiry, eviction, and other users."""
    trial = Trial(batched=batched)
    for name, fields in steps:
        getattr(trial, name)(**fields)
        trial.every_hit_of_a_view_is_one_of_the_socket()
        trial.views_stay_within_their_bounds()

    trial.end()
