"""Batches of inputs: their begins share one permit, and so one place in a queue, one sample of the breaker, one call's bill."""

import pytest

from sidecard.core.accounts.charges import begin_bytes
from sidecard.core.backends import backend
from sidecard.core.flights import grants
from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Lease, Pending, Usage
from tests.host import Actor, Host


def begin_all(actor: Actor, keys: str, batch: int = 7, first_id: int = 1, **fields: object) -> list[wire.AnyReply]:
    """Begin each key of a batch; return the replies."""
    for number, key in enumerate(keys, first_id):
        actor.asks(Begin(key, id=number, batch=batch, **fields))  # type: ignore[arg-type]  # fields of a begin

    return actor.receives()


def leases(replies: list[wire.AnyReply]) -> list[str]:
    """Return the names of leases, which all replies are."""
    return [reply.lease for reply in replies if isinstance(reply, Lease)]


def one_at_a_time(**settings: object) -> Host:
    """Have a backend with one permit."""
    return Host(backends={"default": BackendSettings(max_concurrent=1, **settings)})  # type: ignore[arg-type]  # settings


def test_leases_of_a_batch_share_a_permit() -> None:
    """All begins of a batch get leases where one call is allowed; another caller waits until the last one ends."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    held = leases(begin_all(alice, "abc"))
    assert len(held) == 3
    assert host.breakers()["default"].permits == 1

    bob.waits("d")
    alice.completes(held[0], 1)
    alice.completes(held[1], 2)
    assert bob.receives() == []
    alice.completes(held[2], 3)
    assert isinstance(bob.receives()[0], Lease)
    assert host.breakers()["default"].permits == 1


def test_another_batch_or_peer_needs_its_own_permit() -> None:
    """The number of a batch means nothing to another connection."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    assert len(leases(begin_all(alice, "ab"))) == 2
    assert begin_all(alice, "c", batch=8, first_id=9) == [Pending(9)]
    assert begin_all(bob, "d") == [Pending(1)]


def test_a_waiting_batch_has_one_place_and_is_served_together() -> None:
    """A queue with room for one takes a batch of three, and nobody else; the next permit is for all three."""
    host = one_at_a_time(max_queue=1)
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("x")
    assert begin_all(bob, "abc") == [Pending(1), Pending(2), Pending(3)]
    assert host.breakers()["default"].queued == 1
    carol.asks(Begin("y", id=1))
    assert isinstance(carol.receives()[0], wire.Rejected)

    alice.completes(lease, 0)
    held = leases(bob.receives())
    assert len(held) == 3
    assert (host.breakers()["default"].queued, host.breakers()["default"].permits) == (0, 1)


def test_members_of_a_waiting_batch_leave_one_by_one() -> None:
    """The place is free when the last of them has left."""
    host = one_at_a_time(max_queue=1)
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("x")
    begin_all(bob, "ab")
    bob.asks(wire.Cancel(id=8, target=1))
    assert host.breakers()["default"].queued == 1
    bob.asks(wire.Cancel(id=9, target=2))
    assert host.breakers()["default"].queued == 0
    carol.waits("y")
    alice.completes(lease, 0)
    assert isinstance(carol.receives()[0], Lease)


def test_a_batch_is_one_call_with_its_usage_and_time_divided() -> None:
    """Calls count one, tokens and dollars their sum, seconds the call's once; each entry saves its own share."""
    host = Host()
    alice = host.peer()
    held = leases(begin_all(alice, "abcd"))
    host.passes(2.0)
    for number, lease in enumerate(held):
        alice.completes(lease, number, usage=Usage("m", 10, 1, 0.25))

    total = host.report().total
    assert (total.upstream_calls, total.billed_dollars) == (1, 1.0)
    assert total.billed_seconds == pytest.approx(2.0)
    assert host.report().backends["default"].calls == 1
    alice.asks(Begin("a", id=50))
    (hit,) = alice.receives()
    assert isinstance(hit, wire.Hit)
    assert (hit.saved_seconds, hit.saved_dollars) == (0.5, 0.25)
    assert host.breakers()["default"].dollars_per_call == pytest.approx(1.0)
    assert host.breakers()["default"].latency_seconds == pytest.approx(2.0)


@pytest.mark.parametrize(("fail_first", "calls", "failures"), [(0, 1, 0), (1, 1, 1), (3, 1, 1)])
def test_a_batch_is_one_sample_of_the_breaker(fail_first: int, calls: int, failures: int) -> None:
    """However its leases end, a call is one sample; a failure of one lease is a failure of the call."""
    host = Host(backends={"default": BackendSettings(breaker=BreakerSettings(min_calls=10))})
    alice = host.peer()
    for number, lease in enumerate(leases(begin_all(alice, "abc"))):
        if number < fail_first:
            alice.fails(lease)
        else:
            alice.completes(lease, 1)

    state = host.breakers()["default"]
    assert (state.calls, state.failures, state.permits) == (calls, failures, 0)


def test_a_dead_holder_frees_the_permit_once() -> None:
    """The connection of a batch ends: its permit is free, and its waiters are elected."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    begin_all(alice, "abc")
    bob.waits("b")
    alice.dies()
    assert isinstance(bob.receives()[0], Lease)
    assert host.breakers()["default"].permits == 1
    assert host.stats().leases == 1


def test_a_later_call_of_a_batch_takes_a_permit_of_its_own() -> None:
    """After its call has ended, an elected begin of the same batch gets another permit."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    lease = bob.leads("z", backends=("other",))
    held = leases(begin_all(alice, "az"))
    alice.completes(held[0], 1)
    bob.dies()
    (elected,) = leases(alice.receives())
    assert host.breakers()["default"].permits == 1
    alice.completes(elected, 2)
    assert host.breakers()["default"].permits == 0
    assert host.report().total.upstream_calls == 2
    assert lease != elected


def test_another_backend_after_a_failure_is_shared_too() -> None:
    """Each lease of a failed call asks for the next backend; there they share a permit again."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1), "b": BackendSettings(max_concurrent=1)})
    alice = host.peer()
    held = leases(begin_all(alice, "xyz", backends=("a", "b")))
    for number, lease in enumerate(held):
        alice.fails(lease, request_id=20 + number, next=True)

    assert len(leases(alice.receives())) == 3
    assert (host.breakers()["a"].permits, host.breakers()["b"].permits) == (0, 1)


def test_a_batch_takes_one_request_of_a_minute_s_limit() -> None:
    """Rate limits count upstream calls."""
    host = Host(backends={"default": BackendSettings(requests_per_minute=1)})
    alice, bob = host.peer(), host.peer()
    assert len(leases(begin_all(alice, "abc"))) == 3
    bob.waits("d")


def test_a_batch_probes_a_half_open_breaker_once() -> None:
    """All leases of a batch are one probe."""
    settings = BackendSettings(breaker=BreakerSettings(min_calls=1, open_seconds=10))
    host = Host(backends={"default": settings})
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.leads("x"))
    host.passes(11)
    alice.receives()
    held = leases(begin_all(alice, "abc"))
    assert len(held) == 3
    bob.asks(Begin("d", id=1))
    assert isinstance(bob.receives()[0], wire.Rejected)
    for lease in held:
        alice.completes(lease, 1)

    assert host.breakers()["default"].state == "closed"


def test_batch_whose_leases_overlap_gives_its_permit_back() -> None:
    """No begin joins a permit of which a lease has ended, so others get it when the rest have ended."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    first, second = leases(begin_all(alice, "ab"))
    bob.waits("x")
    alice.completes(first, 1)
    assert begin_all(alice, "c", first_id=5) == [Pending(5)]
    alice.completes(second, 2)
    assert alice.receives() == []
    assert isinstance(bob.receives()[0], Lease)


def test_calls_of_a_batch_on_two_backends_end_in_any_order() -> None:
    """A call that ends after a later one of its batch releases its own permit."""
    host = Host()
    alice = host.peer()
    (older,) = leases(begin_all(alice, "a", backends=("one",)))
    (later,) = leases(begin_all(alice, "b", first_id=2, backends=("two",)))
    alice.completes(later, 1)
    alice.completes(older, 2)
    assert (host.breakers()["one"].permits, host.breakers()["two"].permits) == (0, 0)


def test_permits_are_shared_by_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permit has so many leases, and so many waiting begins get one at the same moment; the rest keep their place."""
    monkeypatch.setattr(backend, "MAX_SHARING", 4)
    monkeypatch.setattr(grants, "MAX_TOGETHER", 3)
    host = one_at_a_time(max_queue=1)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("x")
    begin_all(bob, "abcdef")
    alice.completes(lease, 0)
    held = leases(bob.receives())
    assert (len(held), host.breakers()["default"].queued) == (3, 1)
    assert len(leases(begin_all(bob, "g", first_id=10))) == 1
    assert begin_all(bob, "h", first_id=11) == [Pending(11)]


def test_waiting_begin_whose_time_is_over_gets_no_lease_with_its_batch() -> None:
    """A begin past its deadline gets no lease: 1. its deadline passes; 2. a permit returns; 3. the tick ends its wait."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("x")
    begin_all(bob, "a")
    begin_all(bob, "b", first_id=2, wait_seconds=1.0)
    host.now += 2.0
    alice.completes(lease, 0)
    assert [type(reply) for reply in bob.receives()] == [Lease]


def test_batch_does_not_bypass_the_budget_of_another_task() -> None:
    """A begin joins a permit only if all budgets that limit its task were asked for that permit."""
    host = Host(budgets={"poor": BudgetSettings(task="poor", dollars=1.0, hard=True)})
    alice = host.peer()
    alice.completes(alice.leads("spent", task="poor"), 1, usage=Usage(cost_dollars=2.0))
    assert len(leases(begin_all(alice, "ab", task="rich"))) == 2
    (rejected,) = begin_all(alice, "c", first_id=3, task="poor")
    assert isinstance(rejected, wire.Rejected)
    assert rejected.reason == "budget"


def test_tokens_of_a_batch_count_if_its_last_lease_has_no_answer() -> None:
    """A minute's tokens are those of all answers, whichever lease ends last."""
    host = Host(backends={"default": BackendSettings(tokens_per_minute=100)})
    alice = host.peer()
    first, last = leases(begin_all(alice, "ab"))
    alice.completes(first, 1, usage=Usage(prompt_tokens=200))
    alice.fails(last, kind="ignored")
    alice.receives()
    assert begin_all(alice, "c", batch=0, first_id=3) == [Pending(3)]


def test_batches_are_forgotten_with_their_begins() -> None:
    """Tables by batch have at most a row for each waiting begin and lease, and are charged to the uid."""
    host = one_at_a_time()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("x")
    for number in range(1, 9):
        bob.asks(Begin(f"k{number}", id=number, batch=number))

    plain, batched = Begin("k"), Begin("k", batch=1)
    assert begin_bytes(batched) > begin_bytes(plain)
    bob.dies()
    alice.completes(lease, 0)
    assert host.breakers()["default"].queued == 0
    assert not any(host.stats().memory_by_kind.values())
