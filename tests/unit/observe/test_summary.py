"""The flat summary: the blueprint's names, measured."""

from typing import Any

import msgspec
import pytest

from sidecard.core.settings import BudgetSettings
from sidecard.observe.summary import summary
from sidecard_client.protocol import wire
from tests.host import Host

NAMES = (
    "status reasons version boot_id uptime_seconds ledger_seconds total_requests cache_hits shared_requests upstream_calls "
    "cache_hit_rate deduplication_rate avg_latency_reduction average_saved_seconds average_upstream_seconds rejected_requests failed_calls timed_out_requests passed_requests unstored_answers served_seconds "
    "billed_seconds saved_seconds saved_by_cache_seconds saved_by_sharing_seconds waited_seconds served_dollars billed_dollars "
    "saved_dollars saved_by_cache_dollars saved_by_sharing_dollars saved_by_prefix_dollars saved_by_prefix_tokens rejected failed timeouts left reelections retries lost expired view_hits "
    "peers flights leases waiters queued cache_entries cache_bytes cache_max_bytes view_entries view_bytes store tasks backends models budgets"
)
NAMES_OF_BACKENDS = (
    "state locality cause retry_after_seconds permits limit queued max_queue latency_seconds prefix_affinity "
    "cached_prompt_share warm_prefixes held recent_calls recent_failures recent_slow opened calls seconds dollars prompt_tokens "
    "completion_tokens saved_dollars cached_prompt_tokens processed_prompt_tokens saved_by_prefix_dollars"
)
SPENDING = wire.BackendSpending(3, 1.5, 0.5, 10, 20, 0.25)


def summary_of(host: Host, **backends: wire.BackendSpending) -> dict[str, Any]:
    """Return the summary of a host as JSON has it; ``backends`` are known from its ledger."""
    health = wire.Health(0, "ok", [], "1", "boot", 0.0)
    report = host.report()
    report.backends.update(backends)
    encoded = msgspec.json.encode(summary(host.stats(), report, health, wire.Breakers(0, host.breakers())))
    decoded: dict[str, Any] = msgspec.json.decode(encoded)
    return decoded


def test_names_of_the_summary_are_a_contract() -> None:
    """Dashboards and clients of the blueprint read them."""
    one = summary_of(Host(), old=SPENDING)
    assert list(one) == NAMES.split()
    assert list(one["backends"]["old"]) == NAMES_OF_BACKENDS.split()


def test_an_empty_daemon_has_rates_of_zero() -> None:
    """Without a division by zero."""
    empty = summary_of(Host())
    assert (empty["total_requests"], empty["cache_hit_rate"], empty["avg_latency_reduction"]) == (0, 0.0, 0.0)
    assert empty["average_upstream_seconds"] == empty["average_saved_seconds"] == 0.0
    assert empty["status"] == "ok"


def test_a_backend_of_an_earlier_run_has_no_state() -> None:
    """Its calls are known from the ledger."""
    old = summary_of(Host(), old=SPENDING)["backends"]["old"]
    assert (old["state"], old["locality"], old["cause"], old["limit"], old["permits"]) == (None, None, "", None, 0)
    assert (old["calls"], old["dollars"], old["recent_calls"]) == (3, 0.5, 0)
    assert (old["prefix_affinity"], old["cached_prompt_share"], old["warm_prefixes"], old["held"]) == (
        "off",
        None,
        0,
        0,
    )


def test_rates_are_computed_from_the_ledger() -> None:
    """One call of 2 s at $0.5, one caller that shared it, two hits."""
    host = Host(budgets={"day": BudgetSettings(dollars=1.0)})
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag", backends=("cloud",))
    bob.waits("key", task="rag")
    host.passes(2.0)
    alice.completes(lease, "because", usage=wire.Usage(model="m", cost_dollars=0.5))
    for _ in range(2):
        alice.asks(wire.Begin("key", task="rag"))

    one = summary_of(host)
    assert [one[name] for name in ("total_requests", "cache_hits", "shared_requests", "upstream_calls")] == [4, 2, 1, 1]
    assert (one["cache_hit_rate"], one["deduplication_rate"]) == (0.5, 0.25)
    assert one["avg_latency_reduction"] == pytest.approx(4 / 8)
    assert [one[f"{sum_}_dollars"] for sum_ in ("served", "billed", "saved")] == [2.0, 0.5, 1.5]
    assert one["average_upstream_seconds"] == 2.0
    assert one["budgets"]["day"]["spent_dollars"] == 0.5
    assert one["tasks"]["rag"]["calls"] == 4
    cloud = one["backends"]["cloud"]
    assert (cloud["state"], cloud["calls"], cloud["dollars"]) == ("closed", 1, 0.5)
