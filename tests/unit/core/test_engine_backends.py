"""Choice of backends: routes, budgets and limits."""

import pytest

from sidecard.core import notes
from sidecard.core.settings import BackendSettings, BudgetSettings, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Cancel, Complete, Ok, Rejected, Timeout, Usage
from tests.backends import ONE, held, touchy
from tests.host import Host, packed


def test_lease_names_skipped_backends_with_reasons() -> None:
    """A lease names the skipped backends, the reasons, and the route."""
    host = Host(backends={"full": ONE})
    held(host, "full")
    host.sets("down", "open")
    lease = host.peer().calls("down", "full", "c", route="order")

    assert (lease.backend, lease.route) == ("c", "order")
    assert lease.passed_over == {"down": "breaker_open", "full": "saturated"}


def test_task_backends_and_route_apply_to_begins_without_any() -> None:
    """A task's backends and route apply to begins that name none."""
    host = Host(tasks={"rag": TaskSettings(backends=("cloud", "local"), route="cheapest")})
    lease = host.peer().calls(task="rag")

    assert (lease.backend, lease.route) == ("local", "cheapest")


def test_sovereign_mode_grants_no_lease_on_remote_backends() -> None:
    """Sovereign mode rejects remote backends immediately, as next backend, and while queued."""
    host = Host(sovereign=True, backends={"near": BackendSettings(locality="local", max_concurrent=1)})
    alice = host.peer()
    assert alice.refused("cloud") == Rejected(1, "sovereign", None, {"cloud": "sovereign"})
    lease = alice.calls("cloud", "near")
    assert (lease.backend, lease.passed_over) == ("near", {"cloud": "sovereign"})
    alice.fails(lease.lease, next=True)
    assert alice.receives() == [Ok(98)]
    held(host, "near")
    alice.waits("key", backends=("cloud", "near"), wait_seconds=3.0)
    host.passes(3.0)

    assert alice.receives() == [Timeout(1, 3.0)]


def test_spent_hard_budget_rejects_paid_backends_until_period_ends() -> None:
    """A spent hard budget rejects paid backends until its period ends; a free local backend still serves."""
    host = Host(budgets={"hourly": BudgetSettings(1.0, period_seconds=3600.0, hard=True)})
    alice = host.peer()
    alice.completes(alice.calls("cloud").lease, "answer", usage=Usage(cost_dollars=1.0))
    assert alice.refused("cloud") == Rejected(1, "budget", 3500.0, {"cloud": "budget"})
    lease = alice.calls("cloud", "local")
    assert (lease.backend, lease.passed_over) == ("local", {"cloud": "budget"})
    (note,) = (note for note in host.notes if isinstance(note, notes.BudgetSpent))
    assert note == notes.BudgetSpent("hourly", 1.0, 1.0, hard=True, resets_in_seconds=3500.0)
    host.passes(3500.0)

    alice.calls("cloud")
    assert host.stats().rejected_budget == 1


def test_an_outlier_locks_no_later_period() -> None:
    """After one answer of 300 dollars, another uid's calls within a budget of 10 go on in every later period."""
    host = Host(budgets={"hourly": BudgetSettings(10.0, period_seconds=3600.0, hard=True)})
    alice, bob = host.peer(uid=1000), host.peer(uid=2000)
    alice.completes(alice.calls("cloud").lease, "answer", usage=Usage(cost_dollars=300.0))
    assert bob.refused("cloud").reason == "budget"
    for _ in range(3):
        host.passes(3600.0)
        for _ in range(4):
            bob.completes(bob.calls("cloud").lease, "answer", usage=Usage(cost_dollars=0.5))


def test_health_names_a_budget_that_rejects_before_it_is_spent() -> None:
    """A budget at 97 % that no call fits into rejects all calls."""
    host = Host(budgets={"hourly": BudgetSettings(10.0, period_seconds=3600.0, hard=True)})
    alice = host.peer()
    for cost in (3.3, 3.2, 3.2):
        alice.completes(alice.calls("cloud").lease, "answer", usage=Usage(cost_dollars=cost))

    alice.asks(wire.GetHealth())
    assert alice.gets(wire.Health).reasons == []
    alice.refused("cloud")
    alice.asks(wire.GetHealth())
    (reason,) = alice.gets(wire.Health).reasons
    assert reason == (
        "The budget 'hourly' rejects calls: 9.7 of 10 dollars are spent, and the expected cost of a call does not fit."
    )
    state = host.report().budgets["hourly"]
    assert (state.rejected, state.rejecting) == (1, True)
    assert host.samples()["sidecard_budget_rejecting budget=hourly"] == 1


def test_budget_spent_while_queued_moves_callers_to_other_backends() -> None:
    """A returned permit is not granted if the budget was spent meanwhile."""
    host = Host(
        backends={"cloud": ONE}, budgets={"cloud": BudgetSettings(1.0, backend="cloud", hard=True)}, lease_seconds=600.0
    )
    holder, lease = held(host, "cloud")
    bob, carol = host.peer(), host.peer()
    bob.waits("key", backends=("cloud",))
    carol.waits("other", backends=("cloud",))
    holder.completes(lease, "answer", usage=Usage(cost_dollars=2.0))

    assert bob.gets(Rejected).reason == carol.gets(Rejected).reason == "budget"


def test_soft_budget_notes_once_per_period_and_rejects_nothing() -> None:
    """A soft budget emits one note in each period and rejects nothing."""
    host = Host(budgets={"soft": BudgetSettings(1.0, period_seconds=3600.0)})
    alice = host.peer()
    for _ in range(3):
        alice.completes(alice.calls("cloud").lease, "answer", usage=Usage(cost_dollars=1.0))

    assert sum(isinstance(note, notes.BudgetSpent) for note in host.notes) == 1
    host.passes(3600.0)
    alice.completes(alice.calls("cloud").lease, "answer", usage=Usage(cost_dollars=1.0))
    assert sum(isinstance(note, notes.BudgetSpent) for note in host.notes) == 2


@pytest.mark.parametrize("way", ["complete", "fail", "retry_after", "lost", "cancelled", "expired"])
def test_budget_reservation_is_released_once_whatever_the_outcome(way: str) -> None:
    """A call's reservation is released once and completely, whatever the outcome."""
    host = Host(budgets={"all": BudgetSettings(10.0, hard=True)})
    alice = host.peer()
    alice.completes(alice.calls("cloud").lease, "answer", usage=Usage(cost_dollars=0.5))
    lease = alice.calls("cloud", request_id=2).lease
    assert host.report().budgets["all"].reserved_dollars == 0.5
    match way:
        case "complete":
            alice.completes(lease, "answer")
        case "fail":
            alice.fails(lease)
        case "retry_after":
            alice.fails(lease, retry_after_seconds=5.0)
        case "lost":
            alice.dies()
        case "cancelled":
            alice.asks(Cancel(2, id=3))
        case _:
            host.passes(15.0)

    assert host.report().budgets["all"].reserved_dollars == 0.0


def test_late_complete_is_billed_once() -> None:
    """A late answer is billed once: the backend did the work. Its lease is stale, and the breaker ignores it."""
    host = touchy(budgets={"all": BudgetSettings(10.0)})
    alice = host.peer()
    lease = alice.calls("a").lease
    host.passes(15.0)
    for _ in range(2):
        alice.asks(Complete(lease, packed("answer"), id=3, usage=Usage(cost_dollars=0.5)))
        assert alice.gets(wire.StaleLease).id == 3

    report = host.report()
    assert (report.backends["a"].calls, report.budgets["all"].spent_dollars) == (1, 0.5)
    assert host.breakers()["a"].calls == 0


def test_unconfigured_backends_are_bounded() -> None:
    """A thousand invented backend names leave a bounded number of backends."""
    host = Host(max_backends=50)
    alice = host.peer()
    for number in range(1000):
        alice.completes(alice.calls(f"invented{number}").lease, "answer")

    assert len(host.breakers()) == 50
    assert len(host.report().backends) <= 51


def test_unconfigured_local_backend_has_four_permits() -> None:
    """An unconfigured local backend takes four calls at a time; a remote one has no limit."""
    host = Host()
    for _ in range(4):
        held(host, "local")

    host.peer().waits("key", backends=("local",))
    for _ in range(50):
        held(host, "cloud")


def test_adaptive_limit_falls_under_load() -> None:
    """An adaptive limit falls with the time per token, whatever the answers' length."""
    host = Host(backends={"a": BackendSettings(max_concurrent=8, adaptive=True)})

    def round_of_calls(seconds_per_token: float, tokens: int) -> None:
        limit = host.breakers()["a"].limit or 0
        calls = [held(host, "a") for _ in range(limit)]
        host.passes(seconds_per_token * tokens)
        for caller, lease in calls:
            caller.completes(lease, "answer", usage=Usage(completion_tokens=tokens))
            caller.dies()

    for number in range(20):
        round_of_calls(0.01, 100 if number % 2 else 1000)

    assert host.breakers()["a"].limit == 8
    for _ in range(4):
        round_of_calls(0.1, 100)

    assert (host.breakers()["a"].limit or 0) < 6
