"""Entries without flights, who may see them, and what people look at."""

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
def test_get_after_put_gives_the_equal_value(value: object) -> None:
    """Values are any msgpack-able object and come back equal."""
    alice = Host().peer()
    put(alice, "key", value)
    alice.asks(Get("key", id=2))

    (hit,) = alice.receives()
    assert unpacked(hit) == value
    assert isinstance(hit, wire.Hit)


def test_get_of_nothing_is_a_miss() -> None:
    """A miss is an answer, not an error."""
    alice = Host().peer()
    alice.asks(Get("key", id=2))

    assert alice.receives() == [Miss(2)]


def test_get_does_not_give_what_is_only_shared() -> None:
    """An answer inside the sharing window with caching off was never stored as far as readers know."""
    host = Host(ttl_seconds=0.0)
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    alice.asks(Get("key", id=2))

    assert alice.receives() == [Miss(2)]


def test_delete_counts_what_it_removed() -> None:
    """One, then none."""
    alice = Host().peer()
    put(alice, "key", 1)
    alice.asks(wire.Delete("key", id=2))
    alice.asks(wire.Delete("key", id=3))

    assert alice.receives() == [Deleted(2, 1), Deleted(3, 0)]


def test_put_of_too_large_a_value_is_refused_and_noted() -> None:
    """The caller is told that no entry was made, the operator why."""
    host = Host(cache_max_bytes=8000)
    alice = host.peer()
    alice.asks(Put("key", packed("x" * 2000), id=1))

    assert alice.receives() == [Stored(1, stored=False)]
    assert host.notes == [notes.EntryRefused("key", 2003, 1000)]
    assert host.stats().refused_too_large == 1
    assert host.samples()["sidecard_refused_too_large_total"] == 1


def test_put_of_too_large_a_value_for_its_namespace_is_noted_with_what_would_fit() -> None:
    """A namespace that has a limit takes answers in proportion to that."""
    host = Host(namespace_max_bytes={"team": 8000})
    alice = host.peer()
    alice.asks(Put("key", packed("x" * 2000), id=1, namespace="team"))

    assert alice.receives() == [Stored(1, stored=False)]
    assert host.notes == [notes.EntryRefused("key", 2003, 1000)]


def test_namespaces_are_private_to_a_uid() -> None:
    """The same name is another place for another uid, and nobody can name it."""
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
    """Begin and delete are no way around it."""
    mallory = Host().peer(uid=1001)
    mallory.asks(request_)

    (denied,) = mallory.receives()
    assert isinstance(denied, wire.Error)
    assert denied.code == "denied"


def test_an_operator_may_name_another_uids_namespace() -> None:
    """As ``UID:NAME``; nonsense with a colon stays nonsense."""
    host = Host()
    put(host.peer(uid=1000), "key", "value")
    root = host.peer(uid=0, operator=True)
    root.asks(Get("key", namespace="1000:default", id=1))
    root.asks(Get("key", namespace="x:default", id=2))
    hit, denied = root.receives()

    assert unpacked(hit) == "value"
    assert isinstance(denied, wire.Error)


def test_a_namespace_shared_by_config_is_one_place() -> None:
    """For those it is shared with; others have a private one of the same name."""
    host = Host(shared_namespaces={"team": SharedWith(uids=frozenset({1000}), gids=frozenset({50}))})
    put(host.peer(uid=1000), "key", "value", namespace="team")
    member, stranger = host.peer(uid=2000, gid=50), host.peer(uid=3000)
    member.asks(Get("key", namespace="team", id=1))
    stranger.asks(Get("key", namespace="team", id=1))

    assert unpacked(member.receives()[0]) == "value"
    assert stranger.receives() == [Miss(1)]


def test_purge_by_namespace_means_that_name_of_every_uid() -> None:
    """``UID:NAME`` means one."""
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


def test_purge_by_tag_counts_what_it_removed() -> None:
    """What has the tag, and nothing else; of calls in flight see the policies of tasks."""
    host = Host()
    alice, root = host.peer(), host.peer(uid=0, operator=True)
    put(alice, "tagged", 1, tags=("weather",))
    put(alice, "plain", 1)
    root.asks(wire.Purge(tag="weather", id=1))

    assert root.receives() == [Deleted(1, 1)]
    assert host.stats().cache_entries == 1


def test_purge_and_config_are_for_operators() -> None:
    """Others are told who may."""
    alice = Host().peer()
    alice.asks(wire.Purge(id=1))
    alice.asks(wire.GetConfig(id=2))

    for reply in alice.receives():
        assert isinstance(reply, wire.Error)
        assert reply.code == "denied"
        assert "operators" in reply.message


def test_config_shows_settings_and_origins_to_operators() -> None:
    """As the daemon was given them."""
    root = Host().peer(uid=0, operator=True)
    root.asks(wire.GetConfig(id=1))

    assert root.receives() == [wire.Settings(1, {"cache.max_bytes": 1}, {"cache.max_bytes": "default"})]


def test_ping_tells_version_run_and_uptime() -> None:
    """Time is the engine's own, since it began."""
    host = Host()
    host.passes(5.0)
    alice = host.peer()
    alice.asks(wire.Ping(id=3))

    assert alice.receives() == [wire.Pong(3, "0", wire.PROTOCOL_VERSION, "boot", 5.0)]


def test_health_says_what_is_not_fine() -> None:
    """In sentences; fine means no reasons."""
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
    """The four sums of each task, from what was served."""
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


def test_next_deadline_is_none_when_nothing_can_become_due() -> None:
    """An idle daemon sleeps."""
    host = Host()
    alice = host.peer()
    assert host.engine.next_deadline() is None
    alice.completes(alice.leads("key"), "answer")
    host.passes(400.0)

    assert host.engine.next_deadline() is None


def test_an_entry_with_a_usage_or_tags_of_its_own_is_charged_for_them() -> None:
    """What entries share costs nothing more; what one has to itself does."""
    host = Host()
    alice = host.peer()
    put(alice, "key", 1)
    plain = host.stats().cache_bytes
    put(alice, "key", 1, tags=("weather",))

    assert plain == len("key") + 1 + ENTRY_OVERHEAD_BYTES
    assert host.stats().cache_bytes == plain + TERMS_OVERHEAD_BYTES + TAG_OVERHEAD_BYTES + sum(
        map(len, ("weather", "default", "general"))
    )


def test_a_lost_peer_leaves_nothing_behind() -> None:
    """Tables are bounded by who is connected."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    alice.dies()

    assert not host.engine._flights._peers
