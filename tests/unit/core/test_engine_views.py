"""Views: what is published, what withdraws it, and who receives it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sidecard.core.effects import OpenView, Publish, RetireView, SendView, Withdraw, WithdrawAll
from sidecard.core.events import (
    ClocksStepped,
    EntriesPurged,
    InvalidationsMissed,
    KeyChanged,
    SecondsPassed,
    StoreStateChanged,
    ViewFailed,
)
from sidecard.core.notes import ViewUnavailable
from sidecard.core.settings import SharedWith, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.view import bucket_of, digest_of, slots_for
from tests.host import Host, packed
from tests.view_files import Reader, ViewFiles, reader_of

TEAM = {"team": SharedWith(uids=frozenset({1000, 1001}))}
SETTINGS: dict[str, Any] = {
    "shared_namespaces": TEAM,
    "tasks": {"early": TaskSettings(early_refresh=1.0), "never": TaskSettings(cache="never")},
    "namespace_max_bytes": {"small": 20_000},
}


class World:
    """A user with a view, and an operator."""

    def __init__(self, namespace: str = "default", **settings: Any) -> None:
        self.host = Host(**(SETTINGS | settings))
        self.files = ViewFiles(self.host)
        self.namespace = namespace
        self.app = self.host.peer()
        self.operator = self.host.peer(0, 0, operator=True)
        self.reader: Reader = reader_of(self.files, self.host.peer(), namespace)

    def stores(self, key: str = "key", value: Any = "answer", **fields: Any) -> None:
        """Store an answer by a call."""
        names = {"task", "ttl_seconds"} & fields.keys()
        begin = {name: fields.pop(name) for name in names}
        self.app.completes(self.app.leads(key, namespace=self.namespace, **begin), value, **fields)

    def hits(self, key: str = "key", times: int = 2, **fields: Any) -> None:
        """Read an answer by begins."""
        for number in range(times):
            self.app.asks(wire.Begin(key, id=10 + number, namespace=self.namespace, **fields))

        self.app.receives()

    def finds(self, key: str = "key", task: str | None = "general") -> dict[str, Any] | str:
        """Read the view."""
        return self.reader.finds(key, task)

    def publishes(self, key: str = "key", **fields: Any) -> None:
        """Store an answer and request it twice, so that it is published."""
        self.stores(key, **fields)
        self.hits(key, **{name: fields[name] for name in ("task",) if name in fields})
        assert isinstance(self.finds(key, None), dict)


def asks(request: wire.AnyRequest) -> Callable[[World], None]:
    """Return a change: a request of the app, or of the operator if it is a purge."""
    return lambda world: (world.operator if isinstance(request, wire.Purge) else world.app).asks(request)


def fills_the_namespace(world: World) -> None:
    """Store more answers than fit, and request them often, until the first one is evicted."""
    for number in range(400):
        world.stores(f"other-{number}")
        world.hits(f"other-{number}", times=3)
        if world.host.engine._cache.peek("1000:small", "key") is None:
            return


def expires(world: World) -> None:
    """Let the entry expire: its time to live, and the sharing window."""
    world.host.passes(301.0)


def refresh(world: World) -> None:
    """Replace the answer by a call."""
    lease = world.app.leads("key", namespace="small", mode="refresh")
    world.app.completes(lease, "newer")


ENDINGS: dict[str, Callable[[World], None]] = {
    "delete": asks(wire.Delete(id=1, key="key", namespace="small")),
    "put": asks(wire.Put(id=1, key="key", namespace="small", value=packed(1))),
    "put that is too large": asks(wire.Put(id=1, key="key", namespace="small", value=packed("x" * 3000))),
    "put that is not kept": asks(wire.Put(id=1, key="key", namespace="small", value=packed(1), ttl_seconds=0.0)),
    "refresh": refresh,
    "purge of all": asks(wire.Purge(id=1)),
    "purge of the namespace": asks(wire.Purge(id=1, namespace="small")),
    "purge of the scope": asks(wire.Purge(id=1, namespace="1000:small")),
    "purge of its tag": asks(wire.Purge(id=1, tag="red")),
    "purge of its task": asks(wire.Purge(id=1, task="general")),
    "purge by another host": lambda world: world.host.happens(EntriesPurged(None, "red")),
    "changed by another host": lambda world: world.host.happens(KeyChanged("1000:small", "key", "stored")),
    "removed by another host": lambda world: world.host.happens(KeyChanged("1000:small", "key", "removed")),
    "invalidations missed": lambda world: world.host.happens(InvalidationsMissed()),
    "evicted": fills_the_namespace,
    "expired": expires,
    "task is not cached any more": lambda world: world.host.reads(**SETTINGS, ttl_seconds=5.0),
    "any other setting": lambda world: world.host.reads(**SETTINGS, wait_seconds=7.0),
    "caching is off": lambda world: world.host.reads(**SETTINGS, cache_max_bytes=0),
    "less memory for views": lambda world: world.host.reads(**SETTINGS, view_bytes=1024 * 1024),
    "views are off": lambda world: world.host.reads(**SETTINGS, view_bytes=0),
    "smaller records only": lambda world: world.host.reads(**SETTINGS, view_max_entry_bytes=10),
    "shared namespaces": lambda world: world.host.reads(**(SETTINGS | {"shared_namespaces": {}})),
    "the host slept": lambda world: world.host.happens(ClocksStepped(2.0, 0.0)),
}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_published_entry_is_withdrawn_before_the_change_is_acknowledged(ending: str, batched: bool) -> None:
    """`Host` rejects changes of views behind a reply. In batches, a purge hides its entries before it removes them."""
    world = World("small", store="shared" if "host" in ending or "missed" in ending else "none")
    world.host.engine._store.changed(StoreStateChanged("down"))  # so that calls do not wait for it
    if batched:
        world.host.engine._cache.inline_entries = 0

    world.publishes(tags=("red",))
    ENDINGS[ending](world)
    assert isinstance(world.finds(), str)


def test_an_entry_is_withdrawn_before_it_expires_without_a_tick() -> None:
    """At its time to live it becomes `Shared`: the file itself tells its readers."""
    world = World(ttl_seconds=10.0, sharing_window_seconds=60.0)
    world.publishes()
    world.host.now += 9.5
    assert isinstance(world.finds(), dict)
    world.host.now += 0.5
    assert world.finds() == "expired"
    world.app.asks(wire.Begin("key", id=3))
    assert isinstance(world.app.gets(wire.Shared), wire.Shared)


def test_a_wall_clock_that_is_set_withdraws_nothing() -> None:
    """Entries age by the boot clock."""
    world = World()
    world.publishes()
    world.host.happens(ClocksStepped(0.0, 5000.0))
    assert isinstance(world.finds(), dict)


def test_a_reload_that_changes_nothing_withdraws_nothing() -> None:
    """As after a SIGHUP for the log level."""
    world = World()
    world.publishes()
    world.host.reads(**SETTINGS)
    assert isinstance(world.finds(), dict)


def test_the_second_hit_publishes() -> None:
    """The record has what the socket's `Hit` has."""
    world = World()
    usage = wire.Usage(model="m", prompt_tokens=3, cost_dollars=0.5)
    lease = world.app.leads("key", task="rag", backends=("cloud",))
    world.host.passes(2.0)
    world.app.completes(lease, {"text": "answer"}, usage=usage)
    world.hits(times=1, task="rag")
    assert world.finds("key", "rag") == "absent"
    world.hits(times=1, task="rag")
    found = world.finds("key", "rag")
    assert found == {
        "publication": 1,
        "stored_at": world.host.now,
        "seconds": 2.0,
        "dollars": 0.5,
        "backend": "cloud",
        "task": "rag",
        "meta": {"model": "m", "prompt_tokens": 3, "cost_dollars": 0.5},
        "value": {"text": "answer"},
    }
    world.app.asks(wire.Begin("key", id=3, task="rag"))
    hit = world.app.gets(wire.Hit)
    assert (hit.saved_seconds, hit.saved_dollars, hit.backend) == (2.0, 0.5, "cloud")
    stats = world.host.stats()
    assert (stats.views, stats.view_entries, stats.view_publications, stats.view_withdrawals) == (1, 1, 1, 0)


def test_a_published_entry_is_not_published_again() -> None:
    """Further hits over the socket cost one check."""
    world = World()
    world.publishes()
    world.hits(times=5)
    assert sum(isinstance(effect, Publish) for effect in world.files.effects) == 1


@pytest.mark.parametrize("get", [False, True])
def test_streams_and_gets_publish_too(get: bool) -> None:
    """A `get` publishes for the entry's task."""
    world = World()
    world.stores(task="rag")
    for number in range(2):
        request = wire.Get(id=number, key="key") if get else wire.Begin("key", id=number, task="rag", stream=True)
        world.app.asks(request)

    assert isinstance(world.finds("key", "rag"), dict)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"task": "early"}, {}),
        ({"value": "x" * 3000}, {"compress_min_bytes": 1000}),
        ({"value": "x" * 3000}, {"view_max_entry_bytes": 2000}),
        ({"value": "x" * 70_000}, {"view_max_entry_bytes": 10**6, "view_bytes": 520 * 1024}),
    ],
)
def test_only_plain_small_entries_are_published(fields: dict[str, Any], settings: dict[str, Any]) -> None:
    """Not those that are refreshed early, compressed, or too large for the setting or for a quarter of the view."""
    world = World(**settings)
    world.stores(**fields)
    world.hits(times=4, task=fields.get("task", "general"))
    assert world.finds("key", None) == "absent"
    assert world.host.stats().hits == 4


def test_hidden_entries_are_not_published() -> None:
    """A purge in batches has hidden it, and not yet removed it."""
    world = World()
    world.stores(tags=("red",))
    cache, publisher = world.host.engine._cache, world.host.engine._publisher
    entry = cache.peek("1000:default", "key")
    assert entry is not None
    cache.inline_entries = 0
    world.operator.asks(wire.Purge(id=1, tag="red"))
    assert entry.alive
    publisher.publish(entry, "general", world.host.now)
    assert not publisher.changes.pending


def test_doubted_entries_are_not_published() -> None:
    """A store that is down cannot confirm an entry: it is served over the socket, as long as the store is down."""
    world = World(store="shared")
    world.host.engine._store.changed(StoreStateChanged("down"))
    world.stores()
    world.host.happens(InvalidationsMissed())
    world.hits(times=4)
    assert world.host.stats().hits == 4
    assert world.finds() == "absent"


def test_a_get_publishes_no_entry_of_a_task_that_is_not_cached_any_more() -> None:
    """The entry is from before the reload: a `get` is served it, a begin of its task is not."""
    world = World()
    world.stores(task="rag")
    world.host.reads(**(SETTINGS | {"tasks": {"rag": TaskSettings(cache="never")}}))
    for number in range(3):
        world.app.asks(wire.Get(id=number, key="key"))

    assert {type(reply) for reply in world.app.receives()} == {wire.Hit}
    assert world.finds("key", None) == "absent"


def test_after_a_purge_of_others_an_entry_returns_with_its_next_hit() -> None:
    """A purge by a tag withdraws the whole view, because the view does not know tags."""
    world = World()
    world.publishes()
    world.operator.asks(wire.Purge(id=1, tag="red"))
    assert world.finds() == "withdrawn"
    world.hits(times=1)
    assert isinstance(world.finds(), dict)


def test_a_large_view_is_withdrawn_at_once_and_its_entries_return_in_batches() -> None:
    """An entry may leave, and its key's next one be published, before the old one's turn comes."""
    world = World()
    keys = [f"key-{number}" for number in range(1500)]
    for key in keys:
        world.stores(key, key)
        world.hits(key)

    world.operator.asks(wire.Purge(id=1, tag="red"))
    assert world.host.stats().view_entries == 0
    assert {world.finds(key) for key in keys} == {"withdrawn"}
    world.hits(keys[-1], times=1)
    assert world.finds(keys[-1]) == "withdrawn", "it is still marked as published"
    world.app.asks(wire.Delete(id=1, key=keys[-1]))
    world.app.receives()
    world.publishes(keys[-1], value="newer")
    assert world.host.works() >= 2
    assert isinstance(world.finds(keys[-1]), dict)
    for key in keys:
        world.hits(key, times=1)
        assert isinstance(world.finds(key), dict)

    assert world.host.stats().view_entries == 1500


def test_a_purge_of_another_namespace_withdraws_nothing() -> None:
    """Each namespace has a view of its own."""
    world = World()
    world.publishes()
    world.operator.asks(wire.Purge(id=1, namespace="team"))
    assert isinstance(world.finds(), dict)
    assert not any(isinstance(effect, WithdrawAll) for effect in world.files.effects)


def test_withdrawals_in_a_row_are_one_effect() -> None:
    """As when many entries expire at once."""
    world = World()
    for number in range(5):
        world.publishes(f"key-{number}")

    world.host.passes(302.0)
    world.files.perform()
    (withdraw,) = (effect for effect in world.files.effects if isinstance(effect, Withdraw))
    assert len(withdraw.slots) == 5


def test_operators_map_no_other_uids_memory() -> None:
    """Over the socket they read it; a file shows all of it, for as long as they like."""
    host = Host(**SETTINGS)
    operator = host.peer(0, 0, operator=True)
    operator.asks(wire.GetView(id=1, namespace="1000:default"))
    assert operator.gets(wire.Error).code == "denied"
    user = host.peer(1002, 1002)
    user.asks(wire.GetView(id=1, namespace="1000:default"))
    assert user.gets(wire.Error).code == "denied"
    assert host.view_effects == []


def test_each_uid_has_its_own_view_of_a_private_namespace() -> None:
    """A shared one has one for all of its users."""
    host = Host(**SETTINGS)
    files = ViewFiles(host)
    views = {
        (uid, namespace): reader_of(files, host.peer(uid, uid), namespace).reply.view
        for uid in (1000, 1001, 1002)
        for namespace in ("default", "team")
    }
    assert views[1000, "team"] == views[1001, "team"]
    assert len(set(views.values())) == 5


def test_a_change_of_shared_namespaces_retires_all_views() -> None:
    """A peer that lost its access keeps only the old file, which is erased and never written again."""
    world = World("team")
    world.publishes()
    world.host.reads(**(SETTINGS | {"shared_namespaces": {"team": SharedWith(uids=frozenset({1001}))}}))
    assert world.finds() == "retired"
    assert [type(effect) for effect in world.files.effects[-1:]] == [RetireView]
    again = reader_of(world.files, world.host.peer(), "team")
    assert again.reply.view != world.reader.reply.view


def test_the_reply_has_what_a_client_needs() -> None:
    """The daemon's clock, the file's size, and whether calls are logged."""
    world = World(log_calls=True)
    opened, sent = world.files.effects
    assert isinstance(opened, OpenView)
    assert isinstance(sent, SendView)
    assert sent.reply == wire.View(900, 1, 1, 16 * 1024 * 1024, world.host.now, logs_calls=True)
    assert (opened.size, opened.slot_count) == (16 * 1024 * 1024, 32768)


def test_there_is_no_view_while_the_daemon_stops_or_if_it_is_off() -> None:
    """The reason is part of the error."""
    host = Host(view_bytes=0)
    alice = host.peer()
    alice.asks(wire.GetView(id=1))
    error = alice.gets(wire.Error)
    assert (error.code, "cache.view_bytes" in error.message) == ("unavailable", True)
    host = Host()
    host.drains()
    alice = host.peer()
    alice.asks(wire.GetView(id=1))
    assert "stopping" in alice.gets(wire.Error).message


def test_a_file_that_cannot_be_made_is_noted_once_and_tried_again_after_a_minute() -> None:
    """Until then the reply is the reason."""
    world = World()
    world.publishes()
    world.host.happens(ViewFailed(1, "memfd_create: not permitted"))
    assert world.host.stats().view_bytes == world.host.stats().view_entries == 0
    alice = world.host.peer()
    alice.asks(wire.GetView(id=1))
    assert "memfd_create: not permitted" in alice.gets(wire.Error).message
    world.host.passes(61.0)
    alice.asks(wire.GetView(id=2))
    world.host.happens(ViewFailed(2, "memfd_create: not permitted"))
    assert world.host.notes == [ViewUnavailable("memfd_create: not permitted")]


def test_a_connection_receives_a_view_once() -> None:
    """A second request on the connection is refused: the kernel limits descriptors in flight for all peers together."""
    world = World()
    world.reader.actor.asks(wire.GetView(id=5))
    assert "already received it" in world.reader.actor.gets(wire.Error).message


def test_views_take_their_memory_from_the_entries() -> None:
    """Files and publications count toward ``cache.max_bytes``."""
    world = World(cache_max_bytes=8 * 1024 * 1024)
    cache = world.host.engine._cache
    assert cache.reserved_bytes >= world.host.stats().view_bytes == 1024 * 1024
    assert cache.budget <= 7 * 1024 * 1024
    before = cache.reserved_bytes
    for number in range(500):
        world.publishes(f"key-{number}")

    assert cache.reserved_bytes > before
    world.host.reads(**SETTINGS, cache_max_bytes=8 * 1024 * 1024, view_bytes=0)
    world.files.perform()
    world.files.release_retired()
    world.host.now += 5.0
    world.host.happens(InvalidationsMissed())
    world.host.works()
    assert cache.budget >= 7 * 1024 * 1024


def test_a_full_view_keeps_what_is_new() -> None:
    """With more hot entries than room, not every hit over the socket publishes: what is there stays for ten seconds."""
    world = World(cache_max_bytes=64 * 1024 * 1024, view_bytes=520 * 1024)
    for number in range(40):
        world.stores(f"key-{number}", value=[number, "x" * 20_000])

    for _ in range(4):
        for number in range(40):
            world.hits(f"key-{number}", times=1)

    published = world.host.stats().view_publications
    assert 5 <= published == world.host.stats().view_entries <= 12
    world.host.passes(11.0)
    for number in range(40):
        world.hits(f"key-{number}", times=1)

    assert published < world.host.stats().view_publications <= 2 * published + 1


def test_a_full_view_that_is_withdrawn_has_room_at_once() -> None:
    """What would have been overwritten is gone, so nothing has to wait for it."""
    world = World(cache_max_bytes=64 * 1024 * 1024, view_bytes=520 * 1024)
    for number in range(40):
        world.stores(f"key-{number}", value=[number, "x" * 20_000])
        world.hits(f"key-{number}")

    assert world.finds("key-39") == "absent"
    world.operator.asks(wire.Purge(id=1, tag="red"))
    world.hits("key-39", times=1)
    assert isinstance(world.finds("key-39"), dict)


def test_a_full_view_has_room_again_when_what_is_new_leaves() -> None:
    """Answers that change often would otherwise keep an empty view closed."""
    world = World(cache_max_bytes=64 * 1024 * 1024, view_bytes=520 * 1024)
    for number in range(40):
        world.stores(f"key-{number}", value=[number, "x" * 20_000])
        world.hits(f"key-{number}")

    for number in range(39):
        world.app.asks(wire.Delete(id=1, key=f"key-{number}"))

    world.app.receives()
    assert world.host.stats().view_entries == 0
    world.hits("key-39", times=1)
    assert isinstance(world.finds("key-39"), dict)


def test_a_view_with_much_free_space_is_never_full() -> None:
    """The ring meets an answer that stays, while most others have left: it is overwritten, and returns with its next hit."""
    world = World(cache_max_bytes=64 * 1024 * 1024, view_bytes=520 * 1024)
    world.publishes("stays")
    for number in range(40):
        world.publishes(f"key-{number}", value=[number, "x" * 20_000])
        world.app.asks(wire.Delete(id=1, key=f"key-{number}"))
        world.app.receives()
        world.hits("stays", times=1)
        assert isinstance(world.finds("stays"), dict)


def test_what_late_hits_need_is_forgotten_within_seconds() -> None:
    """Even if nothing is published any more."""
    world = World()
    world.publishes()
    world.host.passes(400.0)
    publications = world.host.engine._publisher.publications
    assert (len(publications), publications.live) == (1, 0)
    world.host.passes(2.0)
    world.host.happens(SecondsPassed())
    assert len(publications) == 0


def test_values_are_copied_as_they_are() -> None:
    """Whatever msgpack the holder sent."""
    world = World()
    world.app.asks(wire.Complete(world.app.leads("key"), msgspec.Raw(b"\xd9\x02ok"), id=99))
    world.app.receives()
    world.hits()
    found = world.finds()
    assert isinstance(found, dict)
    assert found["value"] == "ok"


def test_an_entry_whose_slots_are_taken_waits() -> None:
    """A bucket has four slots: the fifth key of one gets the oldest's after ten seconds."""
    world = World(cache_max_bytes=64 * 1024 * 1024, view_bytes=520 * 1024)
    slots = slots_for(world.reader.reply.size)
    bucket = bucket_of(digest_of("key-0"), slots)
    keys = [key for key in map("key-{}".format, range(2000)) if bucket_of(digest_of(key), slots) == bucket][:6]
    for key in keys:
        world.stores(key)
        world.hits(key, times=4)

    assert [isinstance(world.finds(key), dict) for key in keys] == [True] * 4 + [False] * 2
    world.host.passes(10.0)
    world.hits(keys[4], times=1)
    assert [isinstance(world.finds(key), dict) for key in keys] == [False, True, True, True, True, False]
