"""The flat summary: the blueprint's names, measured."""

import msgspec
import pytest

from sidecard.core.settings import BudgetSettings
from sidecard.observe.summary import Summary, summary
from sidecard_client.protocol import wire
from tests.host import Host


def summary_of(host: Host) -> Summary:
    """Return the summary of a host."""
    health = wire.Health(0, "ok", [], "1", "boot", 0.0)
    return summary(host.stats(), host.report(), health, wire.Breakers(0, host.breakers()))


def test_an_empty_daemon_has_rates_of_zero() -> None:
    """Without a division by zero."""
    empty = summary_of(Host())
    assert (empty.total_requests, empty.cache_hit_rate, empty.avg_latency_reduction) == (0, 0.0, 0.0)
    assert empty.average_upstream_seconds == empty.average_saved_seconds == 0.0
    assert msgspec.json.decode(msgspec.json.encode(empty))["status"] == "ok"


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
    assert (one.total_requests, one.cache_hits, one.shared_requests, one.upstream_calls) == (4, 2, 1, 1)
    assert (one.cache_hit_rate, one.deduplication_rate) == (0.5, 0.25)
    assert one.avg_latency_reduction == pytest.approx(4 / 8)
    assert (one.served_dollars, one.billed_dollars, one.saved_dollars) == (2.0, 0.5, 1.5)
    assert one.average_upstream_seconds == 2.0
    assert one.budgets["day"].spent_dollars == 0.5
    assert one.tasks["rag"].calls == 4
    assert (one.backends["cloud"].state, one.backends["cloud"].calls, one.backends["cloud"].dollars) == (
        "closed",
        1,
        0.5,
    )
