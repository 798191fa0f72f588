"""The explain operation: a task's policy and a key's state, without making a begin."""

from typing import Any

import pytest

from sidecard.core.operations.policies import policy_of
from sidecard.core.settings import EngineSettings, SharedWith, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Explain, Explained, PolicyValue, Usage
from tests.host import Actor, Host


def explained(actor: Actor, key: str | None = None, **fields: Any) -> Explained:
    """Send an explain; return its reply."""
    actor.asks(Explain(id=1, key=key, **fields))
    return actor.gets(Explained)


def values(policy: dict[str, PolicyValue]) -> dict[str, Any]:
    """Return a policy without its origins."""
    return {name: value.value for name, value in policy.items()}


def test_without_settings_a_policy_has_the_defaults() -> None:
    """By the names of the settings, each with the one that determines it."""
    policy = policy_of(EngineSettings(), "rag", {"cache.ttl_seconds": "default"})
    assert values(policy) == {
        "ttl_seconds": 300.0,
        "stale_seconds": 0.0,
        "cache": "always",
        "normalize": (),
        "early_refresh": 0.0,
        "failure_ttl_seconds": 0.0,
        "backends": ("default",),
        "route": "order",
        "similar": False,
        "similar_threshold": 0.85,
        "similar_max_entries": 10_000,
        "sharing_window_seconds": 60.0,
    }
    assert policy["ttl_seconds"] == PolicyValue(300.0, "cache.ttl_seconds", "default")
    assert policy["cache"] == PolicyValue("always", "tasks.rag.cache", "default")


def test_a_tasks_own_value_wins_and_shows_its_origin() -> None:
    """Zero is a value as well."""
    settings = EngineSettings(
        ttl_seconds=60.0, tasks={"rag": TaskSettings(ttl_seconds=0.0, cache="never", backends=("local",))}
    )
    origins = {"tasks.rag.ttl_seconds": "/etc/file:3", "cache.ttl_seconds": "SIDECARD_CACHE_TTL_SECONDS"}
    policy = policy_of(settings, "rag", origins)
    assert policy["ttl_seconds"] == PolicyValue(0.0, "tasks.rag.ttl_seconds", "/etc/file:3")
    assert policy["cache"].value == "never"
    assert policy["backends"].value == ("local",)
    assert policy_of(settings, "other", origins)["ttl_seconds"] == PolicyValue(
        60.0, "cache.ttl_seconds", "SIDECARD_CACHE_TTL_SECONDS"
    )


def test_without_a_cache_lifetimes_are_0() -> None:
    """The setting that determines them is the cache's size."""
    policy = policy_of(EngineSettings(cache_max_bytes=0, tasks={"rag": TaskSettings(ttl_seconds=9.0)}), "rag", {})
    assert policy["ttl_seconds"] == PolicyValue(0.0, "cache.max_bytes")
    assert policy["stale_seconds"] == PolicyValue(0.0, "cache.max_bytes")


def test_origins_are_shown_to_operators_alone() -> None:
    """They name files of the host; every caller may see the values."""
    host = Host()
    origins = {value.origin for value in explained(host.peer()).policy.values()}
    assert origins == {""}
    origins = {value.origin for value in explained(host.peer(0, 0, operator=True)).policy.values()}
    assert origins == {"default"}


def test_the_policy_follows_a_reload() -> None:
    """As begins do."""
    host = Host()
    alice = host.peer()
    host.reads(tasks={"rag": TaskSettings(normalize=("nfc",))})
    assert explained(alice, task="rag").policy["normalize"].value == ("nfc",)


def test_the_scope_is_the_peers() -> None:
    """Private, or shared; another uid's is denied."""
    host = Host(shared_namespaces={"team": SharedWith(everyone=True)})
    alice = host.peer(uid=1000)
    assert explained(alice).scope == "1000:default"
    assert explained(alice, namespace="team").scope == "*:team"
    alice.asks(Explain(id=1, namespace="1001:default"))
    assert alice.gets(wire.Error).code == "denied"


def test_an_entry_is_shown_with_its_state() -> None:
    """With its remaining time, its cost and its tags."""
    host = Host(ttl_seconds=100.0, stale_seconds=50.0)
    alice = host.peer()
    lease = alice.leads("key", task="rag")
    host.passes(2.0)
    usage = Usage(model="m", cost_dollars=0.25)
    alice.completes(lease, "answer", usage=usage, tags=("t",))
    host.passes(30.0)

    entry = explained(alice, "key", task="rag").entry
    assert entry is not None
    assert (entry.age_seconds, entry.ttl_left_seconds, entry.stale_left_seconds) == (30.0, 70.0, 50.0)
    assert (entry.stale, entry.call_seconds, entry.backend, entry.task) == (False, 2.0, "default", "rag")
    assert (entry.tags, entry.usage) == (("t",), usage)
    assert entry.size_bytes == host.stats().cache_bytes


def test_a_stale_entry_is_shown_as_stale() -> None:
    """With its remaining time; an expired one is not shown."""
    host = Host(ttl_seconds=100.0, stale_seconds=50.0)
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    host.passes(120.0)
    entry = explained(alice, "key").entry
    assert entry is not None
    assert (entry.ttl_left_seconds, entry.stale_left_seconds, entry.stale) == (0.0, 30.0, True)
    host.now += 30.0
    assert explained(alice, "key").entry is None


def test_an_entry_within_the_sharing_window_alone_has_no_remaining_time() -> None:
    """It is no hit and not stale either: the next begin shares it."""
    host = Host(ttl_seconds=0.0)
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    entry = explained(alice, "key").entry
    assert entry is not None
    assert (entry.ttl_left_seconds, entry.stale) == (0.0, False)


def test_explain_changes_nothing() -> None:
    """Neither a counter, nor a hit that would keep the entry from eviction."""
    host = Host(cache_max_bytes=20_000)
    alice = host.peer()
    alice.completes(alice.leads("key"), "answer")
    before = host.stats()
    for _ in range(3):
        explained(alice, "key")

    assert host.stats() == before
    (entry,) = host.engine._policy.cache._tables["1000:default"].values()
    assert entry.recent_hits == 0


def test_another_uids_entry_is_not_shown() -> None:
    """The namespace of the same name is another scope."""
    host = Host()
    alice, mallory = host.peer(uid=1000), host.peer(uid=1001)
    alice.completes(alice.leads("key"), "answer")
    assert explained(mallory, "key").entry is None


@pytest.mark.parametrize("others", [0, 2])
def test_a_flight_is_shown_with_its_waiters(others: int) -> None:
    """The holder is not one of them."""
    host = Host()
    alice = host.peer()
    alice.leads("key", 7)
    for number in range(others):
        alice.waits("key", 20 + number)

    reply = explained(alice, "key")
    assert (reply.entry, reply.waiters) == (None, others)
    assert explained(alice, "other").waiters is None


def test_a_remembered_failure_is_shown() -> None:
    """As a begin would get it."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.leads("key"), "fatal", message="bad prompt", ttl_seconds=60.0)
    alice.receives()
    assert explained(alice, "key").failure == "bad prompt"
    alice.asks(Begin("key", id=2))
    assert alice.gets(wire.Failed).message == "bad prompt"


def test_the_state_of_the_store_is_shown() -> None:
    """The store may have an entry that memory has not."""
    assert explained(Host(store="own").peer(), "key").store == "up"
