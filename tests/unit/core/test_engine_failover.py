"""Further backends and retries after a failure."""

import pytest

from sidecard.core.settings import BackendSettings, BreakerSettings, RetrySettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Cancel, Failed, Lease, Ok, Pending, Rejected, Shared, Timeout
from tests.backends import ONE, held, limited, touchy
from tests.host import Host


def test_fail_with_next_grants_another_backend_in_same_flight() -> None:
    """A fail with ``next`` gives the caller another backend, and its flight's waiters get that answer."""
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


def test_fail_with_next_tries_each_backend_once() -> None:
    """A fail with ``next`` tries each backend once; then the flight goes to the next caller."""
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


def test_fail_with_next_on_full_backend_queues() -> None:
    """A fail with ``next`` waits for a full backend; the flight's waiters stay."""
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


def test_queued_next_times_out_and_flight_continues() -> None:
    """A queued ``next`` times out, and the longest-waiting caller is elected."""
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


def test_queued_next_rejected_by_opening_breaker_fails_flight() -> None:
    """A queued ``next`` is rejected by an opening breaker; waiters share the failure if no election is left."""
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


def test_canceled_failure_gets_no_next() -> None:
    """A fail of kind ``cancelled`` gets no other backend."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a", "b").lease, "cancelled", next=True)

    assert alice.receives() == [Ok(98)]


def test_queued_next_is_canceled_by_its_begins_id() -> None:
    """A queued ``next`` is canceled by its begin's id, and the flight goes to the next caller."""
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


def test_next_with_id_in_use_is_an_error() -> None:
    """A fail with ``next`` under an id in use is an error and keeps the lease."""
    host = limited()
    alice = host.peer()
    lease = alice.calls("x").lease
    held(host, "a")
    alice.waits("key", 7, backends=("a",))
    alice.fails(lease, next=True, request_id=7)

    assert alice.gets(wire.Error).code == "bad_request"
    alice.completes(lease, "answer")


def test_retry_follows_after_back_off_on_same_backend() -> None:
    """A retry is pending for the jittered back-off, then gets a lease on the same backend."""
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


def test_other_backends_precede_a_retry() -> None:
    """All other backends are tried before a retry; then all may be tried again, in order."""
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
def test_only_transient_failures_are_retried(kind: wire.FailureKind) -> None:
    """Only transient failures are retried."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a").lease, kind, next=True, retry=True)

    assert alice.receives() == [Ok(98)]


def test_spent_retry_budget_allows_no_retry() -> None:
    """A spent retry budget allows no retry, whichever worker has spent it."""
    host = Host(retries=RetrySettings(share=0.0, floor_per_second=0.2))
    for _ in range(2):
        alice = host.peer()
        alice.fails(alice.calls("a").lease, next=True, retry=True)
        assert alice.receives() == [Pending(98)]

    bob = host.peer()
    bob.fails(bob.calls("a").lease, next=True, retry=True)
    assert bob.receives() == [Ok(98)]
    assert host.stats().retries_refused == 1


def test_retry_beyond_deadline_is_not_started() -> None:
    """A retry whose back-off exceeds the caller's waiting time is not started."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a", wait_seconds=0.1).lease, next=True, retry=True)

    assert alice.receives() == [Ok(98)]


def test_retry_at_the_deadline_is_not_started() -> None:
    """It would find its caller gone."""
    host = Host()
    alice = host.peer()
    lease = alice.calls("a", wait_seconds=7.0).lease
    alice.fails(lease, next=True, retry=True, retry_after_seconds=7.0)

    assert alice.receives() == [Ok(98)]


def test_retry_honors_retry_after() -> None:
    """A retry waits for the backend's retry-after and is then the probe."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("a").lease, next=True, retry=True, retry_after_seconds=7.0)
    host.passes(6.9)
    assert alice.receives() == [Pending(98)]
    host.passes(0.1)

    assert isinstance(alice.receives()[0], Lease)
    assert host.breakers()["a"].state == "half_open"


def test_retry_on_open_breaker_is_rejected() -> None:
    """A retry is rejected if its backend's breaker is open by then."""
    host = touchy()
    alice = host.peer()
    alice.fails(alice.calls("a").lease, next=True, retry=True)
    assert alice.receives() == [Pending(98)]
    host.passes(1.0)

    assert alice.gets(Rejected).reason == "breaker_open"


def test_peer_lost_before_retry_passes_flight_on() -> None:
    """A peer lost before its retry passes its flight on immediately."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.leads("key", backends=("a",)), next=True, retry=True)
    bob.waits("key", backends=("a",))
    alice.dies()

    assert isinstance(bob.receives()[0], Lease)
