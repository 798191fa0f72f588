"""Other backends and retries in conversation, one sentence a test."""

import pytest

from sidecard.core.settings import BackendSettings, BreakerSettings, RetrySettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Cancel, Failed, Lease, Ok, Pending, Rejected, Shared, Timeout
from tests.backends import ONE, held, limited, touchy
from tests.host import Host


def test_next_gives_the_same_caller_another_backend_in_the_same_flight() -> None:
    """Who waits goes on waiting, and gets the other's answer."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("local", "cloud"))
    bob.waits("key")
    alice.fails(lease, next=True)
    second = alice.gets(Lease)

    assert (second.backend, second.attempt, second.id) == ("cloud", 2, 98)
    assert bob.receives() == []
    alice.completes(second.lease, "answer")
    assert bob.gets(Shared).backend == "cloud"
    assert host.stats().next_backends == 1


def test_next_gives_no_backend_twice_and_then_says_ok() -> None:
    """The failure stands, and the flight goes to the next caller."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("a", "b", "c"))
    bob.waits("key", backends=("a",))
    seen = []
    for _ in range(2):
        alice.fails(lease, next=True)
        reply = alice.gets(Lease)
        seen.append(reply.backend)
        lease = reply.lease

    alice.fails(lease, next=True)
    assert seen == ["b", "c"]
    assert alice.receives() == [Ok(98)]
    assert bob.gets(Lease).attempt == 4


def test_next_on_a_full_backend_waits_for_it() -> None:
    """Pending, then the lease; the flight's waiters stay all the while."""
    host = Host(backends={"b": ONE})
    holder, other = held(host, "b")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("a", "b"))
    bob.waits("key")
    alice.fails(lease, next=True)
    assert alice.receives() == [Pending(98)]
    assert (host.stats().queued, host.stats().waiters, host.stats().leases) == (1, 1, 1)
    holder.completes(other, "answer")
    second = alice.gets(Lease)
    assert (second.backend, second.id, second.attempt) == ("b", 98, 2)
    alice.completes(second.lease, "answer")

    assert isinstance(bob.receives()[0], Shared)


def test_next_that_waits_ends_by_its_deadline_and_the_flight_goes_on() -> None:
    """A timeout of the chain; the longest-waiting caller is next, as after any failure."""
    host = Host(backends={"b": ONE}, lease_seconds=600.0)
    held(host, "b")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("a", "b"), wait_seconds=8.0)
    bob.waits("key", backends=("a",))
    alice.fails(lease, next=True)
    alice.receives()
    host.passes(8.0)

    assert alice.receives() == [Timeout(98, 8.0)]
    assert bob.gets(Lease).backend == "a"
    assert host.stats().timeouts == 0, "the begin has had its end by its first lease"


def test_next_that_is_refused_while_it_waits_fails_the_flight_like_its_call() -> None:
    """Its breaker opens: rejected; who waited shares the failure where no election is left."""
    host = Host(
        backends={"b": BackendSettings(max_concurrent=1, breaker=BreakerSettings(min_calls=1))}, max_elections=0
    )
    holder, other = held(host, "b")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("a", "b"))
    bob.waits("key")
    alice.fails(lease, next=True, message="a is down")
    assert alice.receives() == [Pending(98)]
    holder.fails(other)

    assert alice.gets(Rejected).reason == "breaker_open"
    assert bob.receives() == [Failed(1, "transient", "a is down")]


def test_cancelled_asks_for_no_next() -> None:
    """Whoever gave up wants none."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a", "b").lease, "cancelled", next=True)

    assert alice.receives() == [Ok(98)]


def test_a_chain_may_be_cancelled_by_its_begins_id() -> None:
    """The client knows that id; the flight goes to the next, and nothing more is said."""
    host = Host(backends={"b": ONE})
    held(host, "b")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", 5, backends=("a", "b"))
    bob.waits("key", backends=("a",))
    alice.fails(lease, next=True)
    alice.receives()
    alice.asks(Cancel(5, id=6))

    assert alice.receives() == [Ok(6)]
    assert bob.gets(Lease).backend == "a"
    assert host.stats().queued == 0


def test_an_id_in_use_is_no_id_for_a_next() -> None:
    """The lease stays as it was."""
    host = limited()
    alice = host.peer()
    lease = alice.calls("x").lease
    held(host, "a")
    alice.waits("key", 7, backends=("a",))
    alice.fails(lease, next=True, request_id=7)

    assert alice.gets(wire.Error).code == "bad_request"
    alice.completes(lease, "answer")


def test_a_retry_comes_after_a_back_off_on_the_same_backend() -> None:
    """Pending, half a second of back-off less its jitter, then a lease; the flight goes on meanwhile."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("cloud",))
    bob.waits("key")
    waits = []
    for attempt in (2, 3, 4):
        alice.fails(lease, next=True, retry=True)
        assert alice.receives() == [Pending(98)]
        before = host.now
        host.passes((host.engine.next_deadline() or 0.0) - host.now)
        waits.append(host.now - before)
        again = alice.gets(Lease)
        assert (again.backend, again.attempt) == ("cloud", attempt)
        lease = again.lease

    assert waits == pytest.approx([0.375, 0.75, 1.5])
    assert host.stats().retries == 3
    alice.completes(lease, "answer")
    assert isinstance(bob.receives()[0], Shared)


def test_other_backends_come_before_a_retry() -> None:
    """Only where none is left is the budget asked; then any of them may be, and again in order."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a", "b").lease, next=True, retry=True)
    second = alice.gets(Lease)
    assert second.backend == "b"
    alice.fails(second.lease, next=True, retry=True)
    assert alice.receives() == [Pending(98)]
    host.passes(1.0)

    third = alice.gets(Lease)
    assert third.backend == "a"
    alice.fails(third.lease, next=True)
    assert alice.gets(Lease).backend == "b"
    assert (host.stats().next_backends, host.stats().retries) == (2, 1)


@pytest.mark.parametrize("kind", ["fatal", "ignored", "cancelled"])
def test_nothing_but_a_transient_failure_is_retried(kind: wire.FailureKind) -> None:
    """What would fail again is not made again."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a").lease, kind, next=True, retry=True)

    assert alice.receives() == [Ok(98)]


def test_a_spent_retry_budget_says_ok() -> None:
    """It is the host's: what one worker has taken another does not get."""
    host = Host(retries=RetrySettings(share=0.0, floor_per_second=0.2))
    for _ in range(2):
        alice = host.peer()
        alice.fails(alice.calls("a").lease, next=True, retry=True)
        assert alice.receives() == [Pending(98)]

    bob = host.peer()
    bob.fails(bob.calls("a").lease, next=True, retry=True)
    assert bob.receives() == [Ok(98)]
    assert host.stats().retries_refused == 1


def test_a_retry_that_cannot_come_in_time_is_none() -> None:
    """The caller will not wait for so long."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a", wait_seconds=0.1).lease, next=True, retry=True)

    assert alice.receives() == [Ok(98)]


def test_a_retry_waits_for_what_the_backend_asked_for() -> None:
    """And is then the probe."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a").lease, next=True, retry=True, retry_after_seconds=7.0)
    host.passes(6.9)
    assert alice.receives() == [Pending(98)]
    host.passes(0.1)

    assert isinstance(alice.receives()[0], Lease)
    assert host.breakers()["a"].state == "half_open"


def test_a_retry_whose_backend_is_open_by_then_is_refused() -> None:
    """The failure that the caller has stands."""
    host = touchy()
    alice = host.peer()
    alice.fails(alice.calls("a").lease, next=True, retry=True)
    assert alice.receives() == [Pending(98)]
    host.passes(1.0)

    assert alice.gets(Rejected).reason == "breaker_open"


def test_a_peer_that_dies_while_it_waits_for_a_retry_leaves_its_flight_to_the_next() -> None:
    """At once, not after the back-off."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.leads("key", backends=("a",)), next=True, retry=True)
    bob.waits("key", backends=("a",))
    alice.dies()

    assert isinstance(bob.receives()[0], Lease)
