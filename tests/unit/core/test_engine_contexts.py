"""Which callers share a failure, what they receive of it, and with which status a closed backend rejects."""

import pytest
from msgspec import UNSET, Raw

from sidecard.core.flights.failures import MAX_REMEMBERED
from sidecard.core.settings import BackendSettings, BreakerSettings, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Failed, Lease, Rejected, Shared
from tests.host import Host, packed

REFUSED = {"status": 400, "body": b"unknown service_tier"}
DEEP = Raw(b"\x91" * 100 + b"\xc0")
LARGE = packed(b"x" * wire.MAX_DETAIL_BYTES)


def test_fatal_failure_is_shared_between_equal_contexts_alone() -> None:
    """Equal ones fail with the holder, at once and completely; the longest-waiting of the others leads."""
    host = Host()
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    lease = alice.leads("key", context="flex tier")
    bob.waits("key")
    carol.waits("key", context="flex tier")
    dave.waits("key")
    alice.fails(lease, "fatal", message="refused", detail=packed(REFUSED))
    assert carol.receives() == [Failed(1, "fatal", "refused", packed(REFUSED))]
    second = bob.gets(Lease)
    assert (second.attempt, second.waiters) == (2, 0)
    assert dave.receives() == []
    bob.completes(second.lease, "answer")
    assert dave.gets(Shared).value == packed("answer")


def test_fatal_failure_of_every_context_reaches_each_of_them() -> None:
    """Beyond `max_elections` the callers of other contexts make their own calls at the same time: none fails with another."""
    host = Host(max_elections=2)
    callers = [host.peer() for _ in range(6)]
    lease = callers[0].leads("key", context="0")
    for number, caller in enumerate(callers[1:], 1):
        caller.waits("key", context=str(number))

    for number in (1, 2):
        callers[number - 1].fails(lease, "fatal", detail=packed(number))
        lease = callers[number].gets(Lease).lease

    callers[2].fails(lease, "fatal", detail=packed(2))
    for caller in callers[3:]:
        failed = caller.gets(Failed)
        assert (failed.kind, failed.detail) == ("ignored", UNSET)

    assert host.stats().flights == 0


@pytest.mark.parametrize(("one", "other"), [("", "a"), ("a", ""), ("a", "b")])
def test_caller_without_a_context_has_the_empty_one(one: str, other: str) -> None:
    """Callers of older versions fail together, and not with others."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", context=one)
    bob.waits("key", context=other)
    alice.fails(lease, "fatal")
    bob.gets(Lease)


def test_draining_daemon_rejects_the_callers_that_a_fatal_failure_does_not_concern() -> None:
    """It grants no further lease, and the others have their end."""
    host = Host()
    alice, bob, carol = (host.peer() for _ in range(3))
    lease = alice.leads("key", context="a")
    bob.waits("key", context="a")
    carol.waits("key")
    host.drains()
    alice.fails(lease, "fatal")
    assert bob.gets(Failed).kind == "fatal"
    assert carol.gets(Rejected).reason == "draining"


def test_followers_of_another_context_get_no_fatal_failure() -> None:
    """Their stream is broken, which may pass; the response to the holder's request is not theirs."""
    host = Host()
    alice, bob, carol = (host.peer() for _ in range(3))
    lease = alice.leads("key", context="a", stream=True)
    bob.waits("key", context="a", stream=True)
    carol.waits("key", stream=True)
    alice.appends(lease, "piece")
    alice.fails(lease, "fatal", message="refused", detail=packed(REFUSED))
    assert bob.reads() == (["piece"], Failed(1, "fatal", "refused", packed(REFUSED)))
    pieces, end = carol.reads()
    assert isinstance(end, Failed)
    assert (pieces, end.kind, end.detail) == (["piece"], "transient", UNSET)
    assert "refused" not in end.message


def test_remembered_failure_is_served_to_equal_contexts_alone() -> None:
    """Several contexts of one key are remembered; an answer ends them all."""
    host = Host(tasks={"rag": TaskSettings(failure_ttl_seconds=60.0)})
    alice, bob = host.peer(), host.peer()
    for context in ("a", "b"):
        alice.fails(alice.leads("key", task="rag", context=context), "fatal", message=context, detail=packed(context))
        alice.receives()

    for context in ("a", "b"):
        bob.asks(wire.Begin("key", task="rag", context=context, id=2))
        assert bob.receives() == [Failed(2, "fatal", context, packed(context))]

    for asked, failure in ((None, "b"), ("a", "a"), ("c", None)):
        bob.asks(wire.Explain("rag", key="key", context=asked))
        assert bob.gets(wire.Explained).failure == failure

    bob.completes(bob.leads("key", task="rag"), "answer")
    host.passes(0.0)
    for context in ("a", "b"):
        bob.asks(wire.Begin("key", task="rag", context=context, mode="refresh", id=2))
        bob.fails(bob.gets(Lease).lease, "cancelled")
        bob.receives()

    assert not host.engine._failures.known
    assert not host.engine._failures._contexts


def test_remembered_failures_are_bounded_over_all_contexts() -> None:
    """The oldest leaves first, with its memory."""
    host = Host()
    alice = host.peer()
    for number in range(MAX_REMEMBERED + 10):
        alice.fails(alice.leads("key", context=str(number)), "fatal", ttl_seconds=60.0, detail=packed("x" * 50))
        alice.receives()

    failures = host.engine._failures
    assert len(failures.known) == sum(map(len, failures._contexts.values())) == MAX_REMEMBERED
    alice.leads("key", context="9")
    alice.asks(wire.Begin("key", context="10"))
    assert alice.gets(Failed).kind == "fatal"
    failures.forget("1000:default", "key")
    assert host.engine.memory.requests.of(1000) < 5_000


@pytest.mark.parametrize("detail", [DEEP, LARGE, wire.NO_VALUE], ids=["deep", "large", "none"])
def test_detail_that_may_not_be_forwarded_is_dropped(detail: Raw) -> None:
    """The failure is reported all the same."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    alice.fails(lease, "fatal", message="refused", detail=detail)
    assert alice.receives() == [wire.Ok(98)]
    assert bob.receives() == [Failed(1, "fatal", "refused")]


def test_waiters_of_the_last_transient_failure_get_its_detail() -> None:
    """Whatever their context: the request did not cause it."""
    host = Host(max_elections=0)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", context="a")
    bob.waits("key")
    alice.fails(lease, message="503", detail=packed("overloaded"), status=503)
    assert bob.receives() == [Failed(1, "transient", "503", packed("overloaded"))]


def test_waiters_of_a_call_that_closes_its_backend_get_its_response() -> None:
    """1. A call is refused with Retry-After, which closes the backend; 2. a waiter is elected, and has no backend."""
    host = Host()
    alice, bob, carol = (host.peer() for _ in range(3))
    lease = alice.leads("key", context="a")
    bob.waits("key")
    carol.waits("key")
    alice.fails(lease, message="429", detail=packed("slow down"), status=429, retry_after_seconds=7.0)
    for waiter in (bob, carol):
        assert waiter.receives() == [Failed(1, "transient", "429", packed("slow down"))]

    assert host.stats().failed == 2


def test_waiter_with_a_stale_answer_gets_it_when_its_backend_is_closed() -> None:
    """The answer of before is worth more than the refusal."""
    host = Host(ttl_seconds=1.0, stale_seconds=60.0, sharing_window_seconds=0.0)
    alice, bob = host.peer(), host.peer()
    alice.completes(alice.leads("key"), "old")
    host.passes(2.0)
    lease = alice.leads("key", mode="refresh")
    bob.asks(wire.Begin("key", mode="refresh", id=2))
    assert bob.receives() == [wire.Pending(2)]
    alice.fails(lease, detail=packed("slow down"), status=429, retry_after_seconds=7.0)
    assert bob.gets(Failed).detail == packed("slow down")  # a refresh accepts no stale answer
    bob.asks(wire.Begin("key", id=3))
    rejected = bob.gets(Rejected)
    assert (rejected.stale_value, rejected.status) == (packed("old"), 429)


def test_waiter_that_accepts_a_stale_answer_gets_that_and_no_refusal() -> None:
    """1. A caller waits; 2. an entry is written, and becomes stale; 3. the call closes its backend."""
    host = Host(stale_seconds=60.0, sharing_window_seconds=0.0)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    alice.asks(wire.Put("key", packed("old"), ttl_seconds=1.0, id=5))
    host.passes(2.0)
    alice.fails(lease, detail=packed("slow down"), status=429, retry_after_seconds=7.0)
    rejected = bob.gets(Rejected)
    assert (rejected.reason, rejected.stale_value, rejected.status) == ("breaker_open", packed("old"), 429)


def test_caller_whose_backend_is_closed_gets_no_refusal_of_another_context() -> None:
    """A fatal failure has not closed it."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", context="a")
    bob.waits("key")
    host.sets("default", "open")
    alice.fails(lease, "fatal", detail=packed(REFUSED))
    assert bob.gets(Rejected).reason == "breaker_open"


def test_remembered_detail_is_charged() -> None:
    """It stays in memory after its call."""
    host = Host()
    alice = host.peer()
    for key, detail in (("a", wire.NO_VALUE), ("b", packed(b"x" * 30_000))):
        before = host.engine.memory.requests.of(1000)
        alice.fails(alice.leads(key), "fatal", ttl_seconds=60.0, detail=detail)
        charged = host.engine.memory.requests.of(1000) - before
        alice.receives()
        assert (charged > 30_000) is (key == "b")


@pytest.mark.parametrize("status", [429, 503, 529])
def test_closed_backend_rejects_with_the_status_of_its_refusal(status: int) -> None:
    """As long as its Retry-After lasts, and while it is probed; afterwards, and for other causes, there is none."""
    host = Host(backends={"b": BackendSettings(breaker=BreakerSettings(min_calls=1))})
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.calls("b").lease, retry_after_seconds=20.0, status=status)
    alice.receives()
    rejected = bob.refused("b")
    assert (rejected.reason, rejected.status, rejected.retry_after_seconds) == ("breaker_open", status, 20.0)
    host.passes(20.0)
    probe = alice.calls("b").lease
    rejected = bob.refused("b")
    assert (rejected.reason, rejected.status, rejected.retry_after_seconds) == ("breaker_open", status, 1.0)
    alice.fails(probe, status=status)
    alice.receives()
    assert bob.refused("b").status is UNSET


@pytest.mark.parametrize("status", [None, 100, 200, 399, 600, 999])
def test_status_that_refuses_nothing_is_not_passed_on(status: int | None) -> None:
    """Another caller's app would take it for an answer."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.calls("b").lease, retry_after_seconds=20.0, status=status)
    assert bob.refused("b").status is UNSET


def test_status_is_that_of_the_backend_which_reopens_first() -> None:
    """Of several closed ones; a backend that is closed for another reason has none."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    for name, seconds, status in (("a", 30.0, 429), ("b", 10.0, 529)):
        alice.fails(alice.calls(name).lease, retry_after_seconds=seconds, status=status)
        alice.receives()

    assert bob.refused("a", "b").status == 529
    assert bob.refused("a").status == 429
    host.sets("b", "open")
    assert bob.refused("b").status is UNSET
    assert bob.refused("a", "b").status == 429


def test_status_is_none_of_a_backend_that_is_forbidden_anyway() -> None:
    """It does not keep the caller from the other one."""
    host = Host(backends={"near": BackendSettings(locality="local"), "far": BackendSettings(locality="remote")})
    alice, bob = host.peer(), host.peer()
    for name, seconds, status in (("far", 5.0, 429), ("near", 30.0, 529)):
        alice.fails(alice.calls(name).lease, retry_after_seconds=seconds, status=status)
        alice.receives()

    assert bob.refused("far", "near").status == 429
    host.reads(
        sovereign=True,
        backends={"near": BackendSettings(locality="local"), "far": BackendSettings(locality="remote")},
    )
    assert bob.refused("far", "near").status == 529


def test_status_of_a_refusal_survives_a_restart() -> None:
    """With the pause that it explains."""
    host, later = Host(), Host()
    alice = host.peer()
    alice.fails(alice.calls("b").lease, retry_after_seconds=20.0, status=429)
    later.engine.restore_ledger(host.engine.ledger_snapshot())
    assert later.peer().refused("b").status == 429


def test_longest_pause_of_a_batch_gives_its_status() -> None:
    """The calls of a batch share a permit, which is returned once."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    leases = [alice.calls("b", request_id=number, batch=1).lease for number in (1, 2, 3)]
    for lease, seconds, status in zip(leases, (5.0, 9.0, 1.0), (429, 529, 503), strict=True):
        alice.fails(lease, retry_after_seconds=seconds, status=status)

    assert bob.refused("b").status == 529
