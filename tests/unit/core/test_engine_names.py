"""Names that peers invent: the flood of one uid costs others nothing, and totals stay."""

from collections import defaultdict
from typing import Any

import msgspec

from sidecard.core.accounts.ledger import LedgerSnapshot
from sidecard.core.backends.registry import OTHER_BACKENDS
from sidecard.core.events import SecondsPassed
from sidecard.core.settings import BackendSettings, BudgetSettings, TaskSettings
from sidecard_client.protocol import wire
from tests.host import Host


def test_a_flood_of_broken_backends_of_one_uid_leaves_others_their_breakers() -> None:
    """Each is open for an hour. Nevertheless, later names of all uids have a breaker of their own."""
    host = Host(max_backends=64)
    for number in range(300):
        mallory = host.peer(uid=1)
        mallory.fails(mallory.calls(f"gone{number}").lease, retry_after_seconds=3600.0)

    for uid in (2, 3, 1):
        peer = host.peer(uid=uid)
        peer.fails(peer.calls(f"mine{uid}").lease, retry_after_seconds=100.0)
        host.peer(uid=uid).calls(f"another{uid}")
        host.peer(uid=uid).refused(f"mine{uid}")

    assert OTHER_BACKENDS not in host.breakers()
    assert len(host.breakers()) <= 64


def test_calls_in_progress_of_one_uid_leave_others_room() -> None:
    """Names in use stay, so others get room beyond the bound, and only the flood shares a breaker."""
    host = Host(max_backends=64)
    for number in range(100):
        host.peer(uid=1).calls(f"busy{number}")

    bob = host.peer(uid=2)
    bob.fails(bob.calls("mine").lease, retry_after_seconds=100.0)
    assert host.breakers()["mine"].state == "open"
    assert host.breakers()[OTHER_BACKENDS].state == "closed"
    assert len(host.breakers()) <= 64 + 16 + 1


def test_the_idle_names_of_who_has_most_make_room() -> None:
    """In the order of their latest use; a uid with few names keeps them."""
    host = Host(max_backends=64)
    for number in range(5):
        peer = host.peer(uid=2)
        peer.completes(peer.calls(f"bob{number}").lease, 1)

    for number in range(200):
        host.passes(1.0)
        peer = host.peer(uid=1)
        peer.completes(peer.calls("used again and again").lease, 1)
        peer.completes(peer.calls(f"junk{number}").lease, 1)

    known = host.breakers().keys()
    assert {f"bob{number}" for number in range(5)} | {"used again and again", "junk199"} <= known
    assert "junk0" not in known


def test_a_uid_with_more_names_takes_no_room_from_one_with_fewer() -> None:
    """If all of its own are in use, its further names share a backend, and the other's idle ones stay."""
    host = Host(max_backends=64)
    for number in range(10):
        peer = host.peer(uid=2)
        peer.completes(peer.calls(f"bob{number}").lease, 1)

    for number in range(100):
        host.peer(uid=1).calls(f"busy{number}")

    assert {f"bob{number}" for number in range(10)} <= host.breakers().keys()
    assert host.breakers()[OTHER_BACKENDS].permits == 100 - 54


def used(host: Host, name: str, uid: int = 1000, **fields: Any) -> None:
    """Make a call of a task, a backend and a model of one name."""
    peer = host.peer(uid=uid)
    lease = peer.leads(name, backends=(name,), task=name)
    peer.completes(lease, 1, usage=wire.Usage(model=name, prompt_tokens=1, cost_dollars=1.0), **fields)


def names_of(host: Host) -> set[str]:
    """Return the names that reports have."""
    report = host.report()
    return report.tasks.keys() | report.backends.keys() | {name.partition("/")[0] for name in report.models}


def sums_of(host: Host) -> dict[str, float]:
    """Return the sum of each family of counters."""
    sums: dict[str, float] = defaultdict(float)
    for sample, value in host.samples().items():
        family = sample.partition(" ")[0]
        if family.endswith(("_total", "_count", "_sum")) and "requests" not in family:
            sums[family] += value

    return dict(sums)


def test_a_flood_of_names_keeps_every_sum() -> None:
    """Each family of metrics stays monotonic, and the report's totals are those of all calls."""
    host = Host(max_backends=40, max_tasks=8)
    used(host, "bob", uid=2)
    before = sums_of(host)
    for number in range(700):
        used(host, f"junk{number}")
        if number % 50 == 0:
            after = sums_of(host)
            assert all(after[family] >= value for family, value in before.items())
            before = after

    report = host.report()
    assert {"bob", "junk699", OTHER_BACKENDS} <= report.tasks.keys() & report.backends.keys()
    assert "bob/bob" in report.models
    assert len(report.tasks) <= 9
    for table in (report.backends, report.models):
        assert sum(spending.calls for spending in table.values()) == 701
        assert sum(spending.dollars for spending in table.values()) == 701.0

    assert report.total.upstream_calls == sum(task.upstream_calls for task in report.tasks.values()) == 701
    assert sums_of(host)["sidecard_spent_dollars_total"] == sums_of(host)["sidecard_leases_total"] == 701
    samples = host.samples()
    spent = {sample for sample in samples if sample.startswith("sidecard_spent_dollars_total")}
    assert len(spent) <= 41
    assert samples["sidecard_leases_total backend=bob outcome=done"] == 1
    assert samples["sidecard_spent_dollars_total backend=bob model=bob"] == 1.0


def test_unused_names_are_forgotten_in_time() -> None:
    """Names that are used, configured or in progress stay; the rest is in the totals, over a restart too."""
    settings: dict[str, Any] = {
        "forget_seconds": 1000.0,
        "ttl_seconds": 10_000.0,
        "lease_seconds": 10_000.0,
        "tasks": {"configured": TaskSettings()},
        "backends": {"configured": BackendSettings()},
        "budgets": {"day": BudgetSettings(100.0, period_seconds=1e6)},
    }
    host = Host(wall_offset_seconds=50_000.0, **settings)
    for name in ("gone", "hit", "configured", "recent"):
        used(host, name)

    host.peer().calls("busy")
    host.passes(600.0)
    used(host, "late")
    host.peer().asks(wire.Begin("hit", task="hit"))
    later = Host(wall_offset_seconds=50_000.0 + 600.0, **settings)
    later.engine.restore_ledger(
        msgspec.json.decode(msgspec.json.encode(host.engine.ledger_snapshot()), type=LedgerSnapshot)
    )
    for some, left in ((host, 500.0), (later, 500.0)):
        before, sums = some.report(), sums_of(some)
        some.passes(left)
        changes = some.engine.ledger_changes
        some.happens(SecondsPassed())
        assert some.engine.ledger_changes > changes
        report = some.report()
        assert {"gone", "recent"} & names_of(some) == set()
        assert {"configured", "late", OTHER_BACKENDS} <= report.tasks.keys() & report.backends.keys()
        assert report.total == before.total
        assert report.budgets["day"].spent_dollars == before.budgets["day"].spent_dollars == 5.0
        assert sum(spending.calls for spending in report.models.values()) == 5
        assert sums_of(some) == sums
        assert {"gone", "recent"} & some.engine.ledger_snapshot().names["models"].keys() == set()

    assert "hit" in host.report().tasks
    assert "busy" in host.breakers()
    host.passes(10_000.0)
    used(host, "gone")
    assert host.report().tasks["gone"].upstream_calls == 1
