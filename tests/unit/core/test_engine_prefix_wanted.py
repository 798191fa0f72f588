"""Begins whose callers offer the prefixes of their prompts."""

import pytest

from sidecard.core.settings import BackendSettings, TaskSettings
from sidecard_client.protocol.wire import Begin, Hit, Lease, Pending, PrefixWanted, Rejected, Shared
from tests.host import Host

BACKENDS = {"local": BackendSettings(prefix_affinity="slots"), "cloud": BackendSettings()}
PREFIX = ("0" * 32, "1" * 32)


def test_a_prefix_is_requested_once_and_only_for_a_call() -> None:
    """A hit needs none; a begin that waits for another caller's call does, for it may make the next one."""
    host = Host(backends=BACKENDS)
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin("a", id=1, backends=("local",), has_prefix=True))
    assert alice.receives() == [PrefixWanted(1)]
    alice.asks(Begin("a", id=2, backends=("local",), has_prefix=True, prefix=PREFIX))
    (lease,) = alice.receives()
    assert isinstance(lease, Lease)

    bob.asks(Begin("a", id=1, backends=("local",), has_prefix=True))
    assert bob.receives() == [PrefixWanted(1)]
    bob.asks(Begin("a", id=2, backends=("local",), prefix=PREFIX))
    assert bob.receives() == [Pending(2)]
    alice.completes(lease.lease, "A")
    assert isinstance(bob.gets(Shared), Shared)

    bob.asks(Begin("a", id=3, backends=("local",), has_prefix=True))
    assert isinstance(bob.gets(Hit), Hit)
    stats = host.stats()
    assert (stats.begins, stats.prefixes_wanted, stats.hits, stats.shared, stats.leases_first) == (5, 2, 1, 1, 1)


@pytest.mark.parametrize(
    ("begin", "wanted"),
    [
        (Begin("a", id=1, has_prefix=True), False),
        (Begin("a", id=1, backends=("cloud",), has_prefix=True), False),
        (Begin("a", id=1, backends=("local",)), False),
        (Begin("a", id=1, backends=("cloud", "local"), has_prefix=True), True),
        (Begin(None, id=1, backends=("local",), has_prefix=True), True),
        (Begin("a", id=1, task="rag", has_prefix=True), True),
        (Begin("a", id=1, backends=("local",), has_prefix=True, mode="refresh"), True),
    ],
)
def test_a_prefix_is_requested_for_backends_that_schedule_by_it(begin: Begin, wanted: bool) -> None:
    """Which may be those of the task. A caller that does not offer it is never asked."""
    host = Host(backends=BACKENDS, tasks={"rag": TaskSettings(backends=("local",))})
    alice = host.peer()
    alice.asks(begin)
    (reply,) = alice.receives()

    assert isinstance(reply, PrefixWanted if wanted else Lease)


def test_no_prefix_is_requested_where_no_call_follows() -> None:
    """A begin that is rejected anyway is rejected at once."""
    host = Host(backends=BACKENDS)
    alice = host.peer()
    alice.asks(Begin("a", id=1, backends=("local",), has_prefix=True, mode="only_if_cached"))
    assert isinstance(alice.gets(Rejected), Rejected)
    host.drains()
    alice.asks(Begin("a", id=2, backends=("local",), has_prefix=True))

    assert isinstance(alice.gets(Rejected), Rejected)
    assert host.stats().prefixes_wanted == 0
