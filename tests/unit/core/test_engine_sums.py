"""The sums of the largest numbers that messages may carry: every reply stays valid, over restarts too."""

from typing import Any

import msgspec
import pytest

from sidecard.core.accounts.ledger import LedgerSnapshot
from sidecard.core.settings import BackendSettings, BudgetSettings
from sidecard.core.sums import MAX_COUNT
from sidecard_client.protocol import wire
from tests.host import Actor, Host

LARGEST = wire.Usage(model="m", prompt_tokens=2**53, completion_tokens=2**53, cost_dollars=wire.MAX_DOLLARS)
SETTINGS: dict[str, Any] = {"budgets": {"day": BudgetSettings(10.0)}, "backends": {"cloud": BackendSettings()}}


def records(peer: Actor, **fields: object) -> wire.Recorded:
    """Record one measurement."""
    peer.asks(wire.RecordMetrics(metrics=(wire.Measurement(**fields),), acknowledge=True))  # type: ignore[arg-type] # a table of keywords
    return peer.gets(wire.Recorded)


def test_the_largest_usage_saturates_over_restarts() -> None:
    """More than 2**63 - 1 tokens: `report` can be encoded, and so can the ledger."""
    host = Host(**SETTINGS)
    for _run in range(3):
        peer = host.peer()
        for _call in range(600):
            peer.completes(peer.calls("cloud").lease, 1, usage=LARGEST)

        written = msgspec.json.encode(host.engine.ledger_snapshot())
        host = Host(**SETTINGS)
        host.engine.restore_ledger(msgspec.json.decode(written, type=LedgerSnapshot))

    report = host.report()
    assert report.backends["cloud"].prompt_tokens == report.models["cloud/m"].completion_tokens == MAX_COUNT
    assert report.backends["cloud"].calls == report.total.upstream_calls == 1800
    assert report.total.billed_dollars == report.budgets["day"].spent_dollars == 1800 * wire.MAX_DOLLARS
    assert msgspec.msgpack.decode(wire.pack(report), type=wire.Report) == report


def test_a_price_makes_no_call_dearer_than_a_report_may() -> None:
    """Clients decode the cost of an entry as they do what they report."""
    dear = BackendSettings(input_dollars_per_million_tokens=1e6, output_dollars_per_million_tokens=1e6)
    host = Host(backends={"dear": dear})
    alice = host.peer()
    lease = alice.leads("key", backends=("dear",))
    alice.completes(lease, "answer", usage=wire.Usage(prompt_tokens=2**53, completion_tokens=2**53))
    alice.asks(wire.Begin("key", id=2))
    hit = alice.gets(wire.Hit)

    assert hit.meta.cost_dollars == wire.MAX_DOLLARS
    assert isinstance(wire.unpack_reply(wire.pack(hit)), wire.Hit)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "counter", "value": 1.1e15}, "counter 'm': value 1100000000000000.0 is not within 0 to 1e+15"),
        ({"kind": "counter", "value": -1.0}, "counter 'm': value -1.0 is not within 0 to 1e+15"),
        ({"kind": "counter", "value": float("nan")}, "counter 'm': value nan is not within 0 to 1e+15"),
        ({"kind": "histogram", "value": float("inf")}, "histogram 'm': value inf is not within -1e+15 to 1e+15"),
        ({"kind": "histogram", "bounds": (1.0,), "counts": (2**53 + 1, 0)}, f"histogram 'm': count {2**53 + 1} is not within 0 to 2**53"),
        ({"kind": "histogram", "bounds": (1.0,), "counts": (1,)}, "histogram 'm': counts has 1 numbers, and has to have one more than bounds: 2"),
        ({"kind": "histogram", "bounds": (2.0, 1.0)}, "histogram 'm': bounds is not a rising sequence of at most 64 finite numbers"),
    ],
)  # fmt: skip
def test_a_measurement_that_is_out_of_range_is_explained(fields: dict[str, object], problem: str) -> None:
    """With the metric, the field, its value and the range; the next batch starts without."""
    peer = Host().peer()
    assert records(peer, name="m", **fields) == wire.Recorded(0, 1, problem)
    assert records(peer, name="ok", kind="counter", value=1e15) == wire.Recorded(0, 0)


def test_the_largest_measurements_saturate() -> None:
    """Counters, buckets, and gauges, whose sum may be infinite only if one of them is."""
    host = Host()
    peers = [host.peer() for _number in range(4)]
    for peer in peers:
        for name, fields in {
            "c": {"kind": "counter", "value": 1e15},
            "h": {"kind": "histogram", "value": 1e15, "bounds": (1.0,), "counts": (2**53, 2**53)},
            "g": {"kind": "gauge", "value": 1e308},
        }.items():
            assert records(peer, name=name, **fields).dropped == 0

    peers[0].asks(wire.GetMetrics())
    families = peers[0].gets(wire.Metrics).families
    values = {sample.name: sample.value for family in families for sample in family.samples}
    assert values["c_total"] == values["h_sum"] == 1e15
    assert values["h_count"] == values["h_bucket"] == 2**53
    assert values["g"] == pytest.approx(1.797e308, rel=1e-3)


def test_dropped_updates_of_clients_saturate() -> None:
    """A client says how many updates it has dropped."""
    host = Host()
    peer = host.peer()
    for _repetition in range(1200):
        peer.asks(wire.RecordMetrics(dropped=2**53))

    peer.asks(wire.GetMetrics())
    metrics = peer.gets(wire.Metrics)
    assert wire.unpack_reply(wire.pack(metrics)) == metrics


def test_one_claim_of_tokens_closes_no_limit_per_minute() -> None:
    """Once it has left the minute, calls are admitted as before."""
    host = Host(backends={"cloud": BackendSettings(tokens_per_minute=100_000.0)})
    for tokens in (2**53, 100):
        peer = host.peer()
        peer.completes(peer.calls("cloud").lease, 1, usage=wire.Usage(prompt_tokens=tokens))
        host.passes(62.0)

    for _call in range(20):
        host.peer().calls("cloud")
