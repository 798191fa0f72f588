"""Entry operations without flights, access to namespaces, and status replies."""

import pytest

from sidecard.core import notes
from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES, TAG_OVERHEAD_BYTES, TERMS_OVERHEAD_BYTES
from sidecard.core.settings import SharedWith
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Deleted, Get, Miss, Put, Stored
from tests.host import Actor, Host, packed, unpacked


def put(actor: Actor, key: str, value: object, **fields: object) -> None:
    """Store an entry and expect that it is taken."""
    actor.asks(Put(key, packed(value), id=1, **fields))  # type: ignore[arg-type]  # fields are named by the tests
    assert actor.receives() == [Stored(1, stored=True)]


@pytest.mark.parametrize("value", ["text", b"\x00\xff", {"a": [1, 2.5, None]}, [], None, 2**64 - 1, True])
def test_get_after_put_returns_equal_value(value: object) -> None:
    """A get after a put returns an equal value, of any msgpack type."""
    alice = Host().peer()
    put(alice, "key", value)
    alice.asks(Get("key", id=2))

    (hit,) = alice.receives()
    assert unpacked(hit) == value
    assert isinstance(hit, wire.Hit)


def test_get_of_unknown_key_is_a_miss() -> None:
    """A get of an unknown key is a miss, not an error."""
    alice = Host().peer()
    alice.asks(Get("key", id=2))

    assert alice.receives() == [Miss(2)]


def test_get_of_answer_in_sharing_window_is_a_miss() -> None:
    """A get does not return an answer that only the sharing window keeps."""
    host = Host(ttl_seconds=0.0)
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    alice.asks(Get("key", id=2))

    assert alice.receives() == [Miss(2)]


def test_delete_counts_removed_entries() -> None:
    """A delete counts one entry, then none."""
    alice = Host().peer()
    put(alice, "key", 1)
    alice.asks(wire.Delete("key", id=2))
    alice.asks(wire.Delete("key", id=3))

    assert alice.receives() == [Deleted(2, 1), Deleted(3, 0)]


def test_put_of_too_large_value_is_rejected_and_noted() -> None:
    """A put above the entry limit stores nothing and emits a note."""
    host = Host(cache_max_bytes=8000)
    alice = host.peer()
    alice.asks(Put("key", packed("x" * 2000), id=1))

    assert alice.receives() == [Stored(1, stored=False)]
    assert host.notes == [notes.EntryRefused("key", 2003, 1000)]
    assert host.stats().refused_too_large == 1
    assert host.samples()["sidecard_refused_too_large_total"] == 1


def test_put_too_large_for_namespace_notes_the_limit() -> None:
    """A put above its namespace's entry limit emits a note with that limit."""
    host = Host(namespace_max_bytes={"team": 8000})
    alice = host.peer()
    alice.asks(Put("key", packed("x" * 2000), id=1, namespace="team"))

    assert alice.receives() == [Stored(1, stored=False)]
    assert host.notes == [notes.EntryRefused("key", 2003, 1000)]


def test_namespaces_are_private_to_a_uid() -> None:
    """A namespace of another uid is another place, and cannot be named."""
    host = Host()
    put(host.peer(uid=1000), "key", "secret")
    mallory = host.peer(uid=1001)
    mallory.asks(Get("key", id=1))
    mallory.asks(Get("key", namespace="1000:default", id=2))

    miss, denied = mallory.receives()
    assert miss == Miss(1)
    assert isinstance(denied, wire.Error)
    assert denied.code == "denied"


@pytest.mark.parametrize(
    "request_", [Begin("key", id=1, namespace="1000:default"), wire.Delete("key", "1000:default", id=1)]
)
def test_another_uids_namespace_is_denied_by_every_op(request_: wire.AnyRequest) -> None:
    """Every operation denies another uid's namespace."""
    mallory = Host().peer(uid=1001)
    mallory.asks(request_)

    (denied,) = mallory.receives()
    assert isinstance(denied, wire.Error)
    assert denied.code == "denied"


def test_operator_may_name_another_uids_namespace() -> None:
    """An operator may use ``UID:NAME``; a malformed name is denied."""
    host = Host()
    put(host.peer(uid=1000), "key", "value")
    root = host.peer(uid=0, operator=True)
    root.asks(Get("key", namespace="1000:default", id=1))
    root.asks(Get("key", namespace="x:default", id=2))
    hit, denied = root.receives()

    assert unpacked(hit) == "value"
    assert isinstance(denied, wire.Error)


def test_shared_namespace_is_one_place() -> None:
    """A shared namespace is one place for its users; other uids have a private one of that name."""
    host = Host(shared_namespaces={"team": SharedWith(uids=frozenset({1000}), gids=frozenset({50}))})
    put(host.peer(uid=1000), "key", "value", namespace="team")
    member, stranger = host.peer(uid=2000, gid=50), host.peer(uid=3000)
    member.asks(Get("key", namespace="team", id=1))
    stranger.asks(Get("key", namespace="team", id=1))

    assert unpacked(member.receives()[0]) == "value"
    assert stranger.receives() == [Miss(1)]


def test_purge_by_namespace_covers_every_uid() -> None:
    """A purge of ``NAME`` covers every uid's namespace of that name; ``UID:NAME`` covers one."""
    host = Host()
    for uid in (1000, 1001):
        for namespace in ("a", "b"):
            put(host.peer(uid=uid), "key", 1, namespace=namespace)
    root = host.peer(uid=0, operator=True)
    root.asks(wire.Purge(namespace="a", id=1))
    root.asks(wire.Purge(namespace="1001:b", id=2))
    root.asks(wire.Purge(id=3))

    assert root.receives() == [Deleted(1, 2), Deleted(2, 1), Deleted(3, 1)]
    assert host.stats().cache_bytes == 0


def test_purge_by_tag_counts_removed_entries() -> None:
    """A purge by tag removes and counts the entries that bear the tag."""
    host = Host()
    alice, root = host.peer(), host.peer(uid=0, operator=True)
    put(alice, "tagged", 1, tags=("weather",))
    put(alice, "plain", 1)
    root.asks(wire.Purge(tag="weather", id=1))

    assert root.receives() == [Deleted(1, 1)]
    assert host.stats().cache_entries == 1


def test_purge_and_config_are_for_operators() -> None:
    """Purge and config are denied to other peers, with a message that says who may use them."""
    alice = Host().peer()
    alice.asks(wire.Purge(id=1))
    alice.asks(wire.GetConfig(id=2))

    for reply in alice.receives():
        assert isinstance(reply, wire.Error)
        assert reply.code == "denied"
        assert "operators" in reply.message


def test_config_shows_settings_and_origins_to_operators() -> None:
    """Config shows an operator the settings and origins of the daemon."""
    root = Host().peer(uid=0, operator=True)
    root.asks(wire.GetConfig(id=1))

    assert root.receives() == [wire.Settings(1, {"cache.max_bytes": 1}, {"cache.max_bytes": "default"})]


def test_ping_reports_version_run_and_uptime() -> None:
    """Ping reports version, run and uptime on the engine's clock."""
    host = Host()
    host.passes(5.0)
    alice = host.peer()
    alice.asks(wire.Ping(id=3))

    assert alice.receives() == [wire.Pong(3, "0", wire.PROTOCOL_VERSION, "boot", 5.0)]


def test_health_lists_problems() -> None:
    """Health lists problems as sentences; without problems the list is empty."""
    host = Host(max_flights=1)
    alice = host.peer()
    alice.asks(wire.GetHealth(id=1))
    host.peer().leads("key")
    alice.asks(Begin("other", id=2))
    alice.asks(wire.GetHealth(id=3))
    host.drains()
    alice.asks(wire.GetHealth(id=4))
    fine, _, full, draining = alice.receives()

    assert isinstance(fine, wire.Health)
    assert isinstance(full, wire.Health)
    assert isinstance(draining, wire.Health)
    assert (fine.status, fine.reasons) == ("ok", [])
    assert len(full.reasons) == 1
    assert draining.status == "draining"


def test_report_is_per_task_and_in_total() -> None:
    """The report has the four sums of each task and in total."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key", task="rag")
    host.passes(2.0)
    alice.completes(lease, "answer", usage=wire.Usage(cost_dollars=0.25))
    alice.asks(Begin("key", id=2, task="chat"))
    report = host.report()

    assert report.tasks["rag"].billed_dollars == 0.25
    assert report.tasks["chat"].saved_by_cache_dollars == 0.25
    assert (report.total.served_dollars, report.total.served_seconds) == (0.5, 4.0)
    assert report.total.average_latency_reduction == 0.5


def test_next_deadline_of_idle_engine_is_none() -> None:
    """An idle engine has no deadline."""
    host = Host()
    alice = host.peer()
    assert host.engine.next_deadline() is None
    alice.completes(alice.leads("key"), "answer")
    host.passes(400.0)

    assert host.engine.next_deadline() is None


def test_entry_with_own_usage_or_tags_is_charged_for_them() -> None:
    """An entry is charged for a usage and tags of its own; shared terms cost nothing more."""
    host = Host()
    alice = host.peer()
    put(alice, "key", 1)
    plain = host.stats().cache_bytes
    put(alice, "key", 1, tags=("weather",))

    assert plain == len("key") + 1 + ENTRY_OVERHEAD_BYTES
    assert host.stats().cache_bytes == plain + TERMS_OVERHEAD_BYTES + TAG_OVERHEAD_BYTES + sum(
        map(len, ("weather", "default", "general"))
    )


def test_lost_peer_leaves_no_table_behind() -> None:
    """A lost peer leaves nothing in the engine's tables."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    alice.dies()

    assert not host.engine._flights._peers
