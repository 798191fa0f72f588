"""Prices, bookings, and what survives a restart."""

from typing import Any

import msgspec
import pytest
from msgspec import structs

from sidecard.core.accounts.backend_ledger import MAX_MODELS, BackendLedgers
from sidecard.core.accounts.billing import Billing, Price, no_price
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import LEDGER_VERSION, LedgerSnapshot, TaskLedgers
from sidecard.core.backends.budgets import Budgets
from sidecard.core.backends.registry import Backends
from sidecard.core.names import OTHER
from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings, EngineSettings, TaskSettings
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Usage
from tests.backends import PARTS
from tests.host import Host

PRICED = BackendSettings(input_dollars_per_million_tokens=2.0, output_dollars_per_million_tokens=10.0)


CACHING = structs.replace(
    PRICED, cached_input_dollars_per_million_tokens=0.2, cache_write_dollars_per_million_tokens=2.5
)


def table(model: str, prompt_tokens: int, completion_tokens: int, cached: int = 0, _written: int = 0) -> float | None:
    """Price one model, at a dollar a token, and half of it for a cached one."""
    return prompt_tokens + completion_tokens - cached / 2 if model == "known" else None


def accounts(price: Price = no_price) -> Billing:
    """Return empty billing."""
    wall = WallClock()
    return Billing(TaskLedgers(8), BackendLedgers(8), Budgets({}, wall), DaemonMetrics(8, wall), price, wall, 0.0)


@pytest.mark.parametrize(
    ("backend", "usage", "dollars"),
    [
        ("mine", Usage(prompt_tokens=1000, completion_tokens=100), 0.003),
        ("mine", Usage(model="known", prompt_tokens=1000), 0.002),
        ("mine", Usage(prompt_tokens=1000, cost_dollars=0.5), 0.5),
        ("mine", Usage(prompt_tokens=1000, cost_dollars=0.0), 0.0),
        ("mine", Usage(model="known"), None),
        ("mine", None, None),
        ("cloud", Usage(model="known", prompt_tokens=3, completion_tokens=4), 7.0),
        ("cloud", Usage(model="other", prompt_tokens=3), None),
        ("cloud", Usage(prompt_tokens=3), None),
        ("default", Usage(model="known", prompt_tokens=3), 3.0),
        ("local", Usage(model="known", prompt_tokens=3), None),
        ("mine", Usage(prompt_tokens=1000, cached_prompt_tokens=400, cache_write_prompt_tokens=100), 0.002),
        ("caching", Usage(prompt_tokens=1000, cached_prompt_tokens=400, cache_write_prompt_tokens=100), 0.00133),
        ("caching", Usage(prompt_tokens=1000, cached_prompt_tokens=9999), 0.0002),
        ("cloud", Usage(model="known", prompt_tokens=3, cached_prompt_tokens=2), 2.0),
    ],
)
def test_priced_uses_the_reported_cost_then_the_backends_price_then_the_models(
    backend: str, usage: Usage | None, dollars: float | None
) -> None:
    """A remote model's price never applies to a local backend."""
    backends = Backends(EngineSettings(backends={"mine": PRICED, "caching": CACHING}), PARTS)
    priced = accounts(table).priced(backends.of(backend), usage)

    assert priced.cost_dollars == (None if dollars is None else pytest.approx(dollars))


def test_priced_changes_only_the_cost() -> None:
    """The other fields of the usage stay."""
    backends = Backends(EngineSettings(backends={"mine": PRICED}), PARTS)
    usage = Usage(model="m", prompt_tokens=500_000, completion_tokens=0, first_chunk_seconds=0.5)

    assert accounts().priced(backends.of("mine"), usage) == msgspec.structs.replace(usage, cost_dollars=1.0)


def billed(host: Host, **usage: Any) -> None:
    """Book one call of two seconds on ``cloud``."""
    alice = host.peer()
    lease = alice.calls("cloud", task="rag").lease
    host.passes(2.0)
    alice.completes(lease, "answer", usage=Usage(**usage))
    alice.dies()


def test_an_answer_is_booked_to_its_task_backend_and_model() -> None:
    """With its time, its cost and its tokens."""
    host = Host()
    billed(host, model="m", prompt_tokens=10, completion_tokens=5, cost_dollars=0.5)
    billed(host, model="n", prompt_tokens=1, cost_dollars=0.25)
    report = host.report()

    assert report.tasks["rag"].billed_dollars == 0.75
    assert report.backends == {"cloud": wire.BackendSpending(2, 4.0, 0.75, 11, 5, 0.0)}
    assert report.models == {
        "cloud/m": wire.BackendSpending(1, 2.0, 0.5, 10, 5, 0.0),
        "cloud/n": wire.BackendSpending(1, 2.0, 0.25, 1, 0, 0.0),
    }


def test_tokens_that_a_backend_read_from_its_cache_are_a_sum_of_their_own() -> None:
    """They are less in what is billed, and in no other sum; an answer that reports none counts as nothing."""
    host = Host(backends={"cloud": CACHING}, price=table)
    billed(host, model="known", prompt_tokens=1000, cached_prompt_tokens=400, cache_write_prompt_tokens=100)
    billed(host, model="known", prompt_tokens=500, cached_prompt_tokens=0)
    billed(host, model="known", prompt_tokens=700)
    report = host.report()

    ledger = report.tasks["rag"]
    assert ledger.saved_by_prefix_tokens == 400
    assert ledger.saved_by_prefix_dollars == pytest.approx(400 * 1.8e-6)
    assert ledger.billed_dollars == ledger.served_dollars == pytest.approx(0.00133 + 0.001 + 0.0014)
    assert (ledger.saved_by_cache_dollars, ledger.saved_by_sharing_dollars) == (0.0, 0.0)
    spending = report.backends["cloud"]
    assert (spending.prompt_tokens, spending.cached_prompt_tokens, spending.processed_prompt_tokens) == (
        2200,
        400,
        1100,
    )
    assert spending.saved_by_prefix_dollars == report.models["cloud/known"].saved_by_prefix_dollars
    assert spending.saved_by_prefix_dollars == ledger.saved_by_prefix_dollars == report.total.saved_by_prefix_dollars


@pytest.mark.parametrize(
    ("backend", "usage", "dollars"),
    [
        (PRICED, {"prompt_tokens": 10, "cached_prompt_tokens": 4}, 0.0),
        (BackendSettings(), {"model": "known", "prompt_tokens": 10, "cached_prompt_tokens": 4}, 2.0),
        (BackendSettings(), {"model": "other", "prompt_tokens": 10, "cached_prompt_tokens": 4}, 0.0),
        (BackendSettings(), {"prompt_tokens": 10, "cached_prompt_tokens": 4, "cost_dollars": 1.0}, 0.0),
        (BackendSettings(locality="local"), {"model": "known", "prompt_tokens": 10, "cached_prompt_tokens": 4}, 0.0),
    ],
    ids=["no price of cached tokens", "price table", "unknown model", "reported cost", "local"],
)
def test_savings_by_prefix_have_dollars_only_where_both_prices_are_known(
    backend: BackendSettings, usage: dict[str, Any], dollars: float
) -> None:
    """The tokens count in any case: the backend has reported them."""
    host = Host(backends={"cloud": backend}, price=table)
    billed(host, **usage)
    total = host.report().total

    assert (total.saved_by_prefix_tokens, total.saved_by_prefix_dollars) == (4, dollars)


def test_hits_and_shared_answers_are_booked_as_saved_by_their_backend() -> None:
    """Each saved the cost of one call."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("cloud",))
    bob.waits("key")
    alice.completes(lease, "answer", usage=Usage(model="m", cost_dollars=0.5))
    bob.asks(wire.Begin("key", id=2))
    report = host.report()

    assert report.backends["cloud"].saved_dollars == 1.0
    assert report.models["cloud/m"].saved_dollars == 1.0
    assert (report.total.saved_by_cache_dollars, report.total.saved_by_sharing_dollars) == (0.5, 0.5)


def test_ledgers_are_bounded() -> None:
    """Peers choose the names of backends and models."""
    ledgers = BackendLedgers(4)
    for number in range(2000):
        ledgers.count_call(f"backend{number}", 1.0, Usage(model=f"model{number}", cost_dollars=1.0))

    backends, models = ledgers.by_backend.spending(), ledgers.by_model.spending()
    assert len(backends) == 5
    assert len(models) <= MAX_MODELS + 1
    assert backends[OTHER].calls == 1996
    assert sum(book.dollars for book in models.values()) == 2000.0
    assert "backend1999" in backends


BREAKERS = BreakerSettings(min_calls=1)
SETTINGS: dict[str, Any] = {
    "backends": {"cloud": BackendSettings(breaker=BREAKERS), "flaky": BackendSettings(breaker=BREAKERS)},
    "budgets": {"daily": BudgetSettings(10.0)},
}


def restarted(host: Host, *, after_seconds: float = 0.0, **settings: Any) -> Host:
    """Return a host whose engine continues from another's snapshot, by way of JSON, on a monotonic clock with another origin."""
    data = msgspec.json.encode(host.engine.ledger_snapshot())
    later = Host(wall_offset_seconds=host.now + 50_000.0 + after_seconds - 100.0, **(settings or SETTINGS))
    later.engine.restore_ledger(msgspec.json.decode(data, type=LedgerSnapshot))
    return later


def running() -> Host:
    """Return a host with state to keep."""
    host = Host(wall_offset_seconds=50_000.0, **SETTINGS)
    billed(host, model="m", prompt_tokens=10, completion_tokens=5, cost_dollars=2.5)
    alice = host.peer()
    alice.fails(alice.calls("flaky").lease)
    host.sets("held", "open")
    alice.dies()
    return host


def test_sums_budgets_and_breakers_survive_a_restart() -> None:
    """They pass through the written snapshot."""
    host = running()
    later = restarted(host, after_seconds=4.0)
    report, before = later.report(), host.report()

    assert report.total == before.total
    assert report.tasks == before.tasks
    assert (report.backends, report.models) == (before.backends, before.models)
    assert report.budgets["daily"].spent_dollars == 2.5
    assert report.ledger_seconds == pytest.approx(before.ledger_seconds + 4.0)
    assert {name: state for name, state in report.breakers.items() if state != "closed"} == {
        "flaky": "open",
        "held": "forced_open",
    }
    assert later.breakers()["flaky"].retry_after_seconds == pytest.approx(6.0)
    assert host.engine.ledger_snapshot().version == LEDGER_VERSION


def test_bookings_after_a_restart_are_added() -> None:
    """The next snapshot has both runs."""
    later = restarted(running())
    billed(later, cost_dollars=1.0)
    last = restarted(later)

    assert last.report().total.billed_dollars == 3.5
    assert last.report().backends["cloud"].calls == 2
    assert last.report().budgets["daily"].spent_dollars == 3.5


def test_savings_by_similar_requests_survive_a_restart() -> None:
    """A ledger of a version without similarity is read as one without such savings."""
    similar: dict[str, Any] = {"tasks": {"general": TaskSettings(similar=True)}}
    host = Host(**similar)
    alice = host.peer()
    lease = alice.leads("a", vector=(1.0, 0.0), group="g")
    host.passes(2.0)
    alice.completes(lease, 1, usage=Usage(model="m", cost_dollars=0.5))
    alice.asks(wire.Begin("b", id=2, vector=(1.0, 0.0), group="g"))
    assert alice.gets(wire.Hit).similarity == 1.0
    total = restarted(host, **similar).report().total
    assert (total.similar_hits, total.saved_by_similar_seconds, total.saved_by_similar_dollars) == (1, 2.0, 0.5)

    snapshot = host.engine.ledger_snapshot()
    older = {name: value for name, value in snapshot.tasks["general"].items() if "similar" not in name}
    later = Host(**similar)
    later.engine.restore_ledger(msgspec.structs.replace(snapshot, tasks={"general": older}))
    assert (later.report().total.hits, later.report().total.similar_hits) == (1, 0)
    assert later.samples()["sidecard_cache_hits_total freshness=similar task=general"] == 0


def test_a_restart_in_the_next_period_resets_a_budget() -> None:
    """Spending of an earlier period does not count."""
    later = restarted(running(), after_seconds=86400.0)

    assert later.report().budgets["daily"].spent_dollars == 0.0
    assert later.report().total.billed_dollars == 2.5


def test_a_restart_with_other_settings_restores_what_still_exists() -> None:
    """Removed budgets are dropped; backends that are no longer configured are kept."""
    later = restarted(running(), budgets={"other": BudgetSettings(1.0)})

    assert later.report().budgets["other"].spent_dollars == 0.0
    assert later.report().backends["cloud"].dollars == 2.5
    assert later.breakers()["held"].state == "forced_open"


def test_ledger_changes_differ_when_the_snapshot_differs() -> None:
    """Every booking and every change of a breaker changes the value."""
    host = Host(**SETTINGS)
    snapshots = {host.engine.ledger_changes: host.engine.ledger_snapshot()}
    alice = host.peer()

    def changed() -> None:
        changes = host.engine.ledger_changes
        assert changes not in snapshots
        snapshots[changes] = host.engine.ledger_snapshot()

    lease = alice.leads("key", backends=("cloud",))
    changed()
    alice.asks(wire.Renew(lease, id=2))
    host.stats()
    assert host.engine.ledger_changes in snapshots
    alice.completes(lease, "answer", usage=Usage(cost_dollars=1.0))
    changed()
    alice.asks(wire.Begin("key", id=3))
    alice.gets(wire.Hit)
    changed()
    lease = alice.leads("other", 4, backends=("cloud",))
    changed()
    alice.fails(lease, "ignored", answered=True, usage=Usage(cost_dollars=1.0))
    changed()
    host.sets("flaky", "open")
    changed()
