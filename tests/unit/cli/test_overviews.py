"""What people read of stats, report and settings."""

import msgspec

from sidecard.cli import overviews
from sidecard_client import wire
from tests.host import Host


def test_report_without_calls_says_so() -> None:
    """No table of zeros."""
    assert overviews.of_report(Host().report()) == "no calls yet, in 0 s"


def test_report_has_a_row_per_task_and_the_total() -> None:
    """One call of 2 s and one hit: half of the time asked for was saved."""
    host = Host()
    peer = host.peer()
    lease = peer.leads("key", task="rag")
    host.passes(2)
    peer.completes(lease, "answer", usage=wire.Usage(cost_dollars=0.5))
    peer.asks(wire.Begin("key", task="rag"))
    text = overviews.of_report(host.report())
    rows = [line.split() for line in text.split("\n")]
    assert ["rag", "2", "1", "0", "1", "50.0", "%", "0.0", "%", "50.0", "%"] in rows
    assert ["all", "tasks", "4", "s", "2", "s", "2", "s", "0", "s", "0", "s", "1", "s"] in rows
    assert ["all", "tasks", "$1.00", "$0.50", "$0.50", "$0.00"] in rows


def test_report_without_costs_says_how_to_have_them() -> None:
    """Zero dollars would look like a measurement."""
    host = Host()
    peer = host.peer()
    peer.completes(peer.leads("key"), "answer")
    text = overviews.of_report(host.report())
    assert "usage=" in text
    assert "$" not in text


def test_stats_show_every_field_of_the_wire() -> None:
    """A counter that is added to the protocol may not be missing here."""
    shown = {"version", "boot_id", "uptime_seconds", "draining", "peers", "flights", "leases", "waiters"}
    shown |= {"cache_entries", "cache_bytes", "cache_max_bytes"}  # in words, in the table of this moment
    text = overviews.of_stats(Host().stats())
    words = text.split()
    fields = {field.name for field in msgspec.structs.fields(wire.Stats)} - {"id"}
    assert [name for name in sorted(fields - shown) if name not in words] == []


def test_settings_show_where_they_come_from() -> None:
    """Nothing set is a dash, and no word that might be a value."""
    rows = overviews.of_settings({"a.b": 7, "c.d": None}, {"a.b": "flag --set"}).split("\n")
    assert [row.split() for row in rows] == [["setting", "value", "from"], ["a.b", "7", "flag", "--set"], ["c.d", "-"]]
