"""The daemon's own metrics: each moves with what its description counts."""

from typing import get_args

import pytest

from sidecard.core.backends.registry import OTHER_BACKENDS
from sidecard.core.events import Absent, StoreGauges, StoreMeasured
from sidecard.core.names import OTHER
from sidecard.core.operations.metrics import DROPPED
from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings
from sidecard_client.protocol import wire
from tests.host import Host, packed

USAGE = wire.Usage(model="m", cost_dollars=0.5)


def moved(host: Host, before: dict[str, float]) -> dict[str, float]:
    """Return by how much each of the calls' metrics has moved."""
    now = host.samples()
    return {
        name: value - before.get(name, 0.0)
        for name, value in now.items()
        if value != before.get(name, 0.0) and not any(part in name for part in ("_bucket", "uptime", "memory_bytes"))
    }


def test_one_answer_counts_as_led_shared_and_hit() -> None:
    """Once for its holder, once shared, once from memory."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    before = host.samples()
    lease = alice.leads("key", task="rag", backends=("cloud",))
    bob.waits("key", task="rag")
    host.passes(2.0)
    alice.completes(lease, "answer", usage=USAGE)
    bob.asks(wire.Begin("key", task="rag", id=2))

    assert moved(host, before) == {
        # Of requests, the engine counts only these; the rest is the shell's to count.
        "sidecard_requests_total op=begin outcome=hit": 1,
        "sidecard_cache_hits_total freshness=fresh task=rag": 1,
        "sidecard_cache_misses_total task=rag": 2,
        "sidecard_shared_total task=rag": 1,
        "sidecard_leases_total backend=cloud outcome=done": 1,
        "sidecard_saved_seconds_total by=cache task=rag": 2.0,
        "sidecard_saved_dollars_total by=cache task=rag": 0.5,
        "sidecard_saved_dollars_total by=sharing task=rag": 0.5,
        "sidecard_spent_dollars_total backend=cloud model=m": 0.5,
        "sidecard_cache_entries": 1,
        "sidecard_cache_bytes": host.stats().cache_bytes,
        "sidecard_breaker_state backend=cloud state=closed": 1,
        "sidecard_upstream_seconds_count backend=cloud": 1,
        "sidecard_upstream_seconds_sum backend=cloud": 2.0,
        "sidecard_wait_seconds_count task=rag": 1,
        "sidecard_wait_seconds_sum task=rag": 2.0,
    }


def test_gauges_follow_what_is_in_progress() -> None:
    """They return to 0."""
    host = Host(backends={"local": BackendSettings(locality="local", max_concurrent=1)})
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    before = host.samples()
    lease = alice.leads("key", backends=("local",))
    bob.waits("key")
    carol.waits("other", backends=("local",))
    assert {name: value for name, value in moved(host, before).items() if "misses" not in name} == {
        "sidecard_flights": 2,
        "sidecard_waiters": 2,
        "sidecard_permits backend=local": 1,
        "sidecard_queued backend=local": 1,
    }
    alice.dies()
    bob.dies()
    carol.dies()
    samples = host.samples()
    assert [samples[f"sidecard_{name}"] for name in ("flights", "waiters", "permits backend=local")] == [0, 0, 0]
    assert samples["sidecard_peers"] == before["sidecard_peers"] - 3
    assert lease


@pytest.mark.parametrize("kind", get_args(wire.FailureKind))
def test_leases_are_counted_by_outcome(kind: wire.FailureKind) -> None:
    """As their holders report."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("cloud").lease, kind)
    assert host.samples()[f"sidecard_leases_total backend=cloud outcome={kind}"] == 1


def test_lost_and_expired_leases_are_counted() -> None:
    """A waiter takes over."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key", backends=("cloud",))
    bob.waits("key", backends=("cloud",))
    alice.dies()
    host.passes(16.0)
    samples = host.samples()
    assert samples["sidecard_leases_total backend=cloud outcome=lost"] == 1
    assert samples["sidecard_leases_total backend=cloud outcome=expired"] == 1
    assert samples["sidecard_reelections_total"] == 1
    assert samples["sidecard_wait_seconds_count task=general"] == 1


def test_an_answer_that_cannot_be_shared_is_ignored_and_billed() -> None:
    """Its backend succeeded."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.calls("cloud").lease, "ignored", answered=True, usage=USAGE)
    samples = host.samples()
    assert samples["sidecard_leases_total backend=cloud outcome=ignored"] == 1
    assert samples["sidecard_spent_dollars_total backend=cloud model=m"] == 0.5
    assert samples["sidecard_upstream_seconds_count backend=cloud"] == 1


def test_a_breaker_is_in_one_state() -> None:
    """Every state has a sample, so that an alert on any of them has data."""
    host = Host(backends={"cloud": BackendSettings(breaker=BreakerSettings(min_calls=1))})
    states = get_args(wire.BreakerState)

    def state() -> list[str]:
        samples = host.samples()
        return [state for state in states if samples[f"sidecard_breaker_state backend=cloud state={state}"]]

    assert state() == ["closed"]
    host.sets("cloud", "open")
    assert state() == ["forced_open"]
    host.sets("cloud", "close")
    alice = host.peer()
    alice.fails(alice.calls("cloud").lease)
    alice.receives()
    assert state() == ["open"]
    alice.refused("cloud")
    assert host.samples()["sidecard_rejected_total reason=breaker_open"] == 1


def test_a_timeout_is_observed_as_a_wait() -> None:
    """Of the caller's own timeout."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", wait_seconds=3.0)
    host.passes(4.0)
    assert host.samples()["sidecard_wait_seconds_sum task=general"] == 3.0


def test_removed_entries_are_counted_by_reason() -> None:
    """Deleted, and expired."""
    host = Host()
    alice = host.peer()
    alice.asks(wire.Put("a", packed(1), ttl_seconds=1.0))
    alice.asks(wire.Put("b", packed(1)))
    alice.asks(wire.Delete("b"))
    host.passes(5.0)
    samples = host.samples()
    assert samples["sidecard_evicted_total reason=deleted"] == 1
    assert samples["sidecard_evicted_total reason=expired"] == 1
    assert samples["sidecard_evicted_total reason=room"] == 0


def test_budgets_have_limit_and_spending() -> None:
    """One sample per budget."""
    host = Host(budgets={"day": BudgetSettings(dollars=2.0)})
    alice = host.peer()
    alice.completes(alice.calls("cloud").lease, 1, usage=USAGE)
    samples = host.samples()
    assert samples["sidecard_budget_dollars budget=day"] == 2.0
    assert samples["sidecard_budget_spent_dollars budget=day"] == 0.5


def test_store_metrics_need_a_store() -> None:
    """Without one there are none."""
    assert "sidecard_store_up" not in Host().samples()
    host = Host(store="own")
    host.happens(StoreMeasured(StoreGauges(store_pending=3, store_dropped=2)))
    samples = host.samples()
    assert [samples["sidecard_store_up"], samples["sidecard_store_pending"]] == [1, 3]
    assert samples["sidecard_dropped_total what=store"] == 2


def test_a_store_read_is_a_miss_but_no_wait() -> None:
    """It takes a tenth of a millisecond."""
    host = Host(store="own")
    alice = host.peer()
    alice.asks(wire.Begin("key", id=1))
    host.answers(host.asked().ticket, Absent())
    samples = host.samples()
    assert samples["sidecard_cache_misses_total task=general"] == 1
    assert samples["sidecard_wait_seconds_count task=general"] == 0


def test_counters_begin_at_zero_with_the_run() -> None:
    """The restored ledger is no counter: a killed daemon loses its latest bookings, and a counter must not go back."""
    first = Host()
    alice = first.peer()
    alice.completes(alice.leads("key", task="rag"), 1, usage=USAGE)
    alice.asks(wire.Begin("key", task="rag", id=5))
    second = Host()
    second.engine.restore_ledger(first.engine.ledger_snapshot())
    assert second.report().tasks["rag"].hits == 1
    assert second.samples()["sidecard_cache_hits_total freshness=fresh task=rag"] == 0
    bob = second.peer()
    bob.completes(bob.leads("key", task="rag"), 1, usage=USAGE)
    bob.asks(wire.Begin("key", task="rag", id=5))
    assert second.samples()["sidecard_cache_hits_total freshness=fresh task=rag"] == 1
    assert second.report().tasks["rag"].hits == 2


def test_labels_that_peers_choose_are_bounded() -> None:
    """Backends, models and tasks."""
    host = Host(max_backends=2, max_tasks=2)
    alice = host.peer()
    for number in range(600):
        lease = alice.calls(f"cloud{number}", task=f"task{number}").lease
        alice.completes(lease, 1, usage=wire.Usage(model=f"m{number}", cost_dollars=1.0))

    samples = host.samples()
    assert len(samples) < 1500
    assert samples[f"sidecard_leases_total backend={OTHER} outcome=done"] == 598
    assert sum(value for name, value in samples.items() if name.startswith("sidecard_spent_dollars_total")) == 600
    assert OTHER == OTHER_BACKENDS


def test_the_daemons_own_metrics_can_be_disabled() -> None:
    """The apps' metrics are exposed nevertheless."""
    host = Host(metrics=False)
    host.peer().asks(wire.RecordMetrics(metrics=(wire.Measurement(name="docs", kind="counter"),)))
    assert host.samples() == {"docs_total": 1}


def test_record_is_acknowledged_on_request() -> None:
    """Without the request there is no reply."""
    host = Host()
    alice = host.peer()
    measurements = (wire.Measurement(name="docs", kind="counter"), wire.Measurement(name="", kind="counter"))
    alice.asks(wire.RecordMetrics(metrics=measurements, id=1))
    assert alice.receives() == []
    alice.asks(wire.RecordMetrics(metrics=measurements, id=2, acknowledge=True))
    assert alice.receives() == [wire.Recorded(2, 1)]


def test_gauges_are_dropped_with_the_connection() -> None:
    """Counters stay."""
    host = Host()
    alice = host.peer()
    alice.asks(wire.RecordMetrics(metrics=(wire.Measurement(name="queue", kind="gauge", value=3.0),)))
    assert host.samples()["queue"] == 3.0
    alice.dies()
    assert "queue" not in host.samples()


def test_every_kind_of_drop_is_exposed_from_the_start() -> None:
    """An alert on growth needs the 0 before the 1."""
    assert all(f"sidecard_dropped_total what={what}" in Host().samples() for what in DROPPED)


def test_a_traced_call_is_an_exemplar_of_its_bucket() -> None:
    """At the wall clock's time."""
    host = Host(wall_offset_seconds=1000.0)
    alice = host.peer()
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    alice.completes(alice.calls("cloud", trace=trace).lease, 1)
    alice.asks(wire.GetMetrics())
    families = alice.gets(wire.Metrics).families
    exemplars = [sample.exemplar for family in families for sample in family.samples if sample.exemplar]
    assert exemplars == [wire.Exemplar({"trace_id": "ab" * 16}, 0.0, 1100.0)]


def test_a_shared_answer_has_the_holders_span() -> None:
    """The waiter knows its own."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", trace="00-a-b-01")
    bob.waits("key", trace="00-c-d-01")
    alice.completes(lease, 1)
    assert bob.gets(wire.Shared).trace == "00-a-b-01"


def test_the_log_level_is_set_by_operators_alone() -> None:
    """Other peers are denied."""
    host = Host()
    alice, root = host.peer(), host.peer(0, operator=True)
    alice.asks(wire.SetLog("debug"))
    assert alice.gets(wire.Error).code == "denied"
    root.asks(wire.SetLog("debug"))
    assert root.receives() == [wire.Ok(0)]
    assert host.levels == ["debug"]
