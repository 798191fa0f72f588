"""Hits from views are accounted for as hits over the socket are."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from sidecard.core.events import PeerLost, RequestReceived
from sidecard.core.operations.view_hits import PART_ITEMS, PART_ROWS
from sidecard.core.settings import SharedWith
from sidecard_client.protocol import wire
from tests.host import Actor, Host
from tests.view_files import Reader, ViewFiles, reader_of

USAGE = wire.Usage(model="m", prompt_tokens=7, cost_dollars=0.25)
LATE = "sidecard_dropped_total what=view_hits"


def world(**settings: Any) -> tuple[Host, Reader]:
    """Return a host, and a reader of a view in which ``key`` (a call of 2 s and $0.25) is publication 1 and ``free`` is 2."""
    host = Host(shared_namespaces={"team": SharedWith(everyone=True)}, **settings)
    reader = reader_of(ViewFiles(host), host.peer(pid=7))
    app = host.peer(pid=7)
    lease = app.leads("key", task="rag", backends=("cloud",))
    host.passes(2.0)
    app.completes(lease, [1, 2, 3], usage=USAGE)
    app.completes(app.leads("free"), {"text": "answer"})
    for number in range(2):
        app.asks(wire.Begin("key", id=number, task="rag"))
        app.asks(wire.Begin("free", id=number))

    host.logged.clear()
    return host, reader


def socket_hits(app: Actor, count: int, kind: str, key: str, task: str) -> None:
    """Hit an entry over the socket."""
    for number in range(count):
        request = (
            wire.Get(id=number, key=key)
            if kind == "gets"
            else wire.Begin(key, id=number, task=task, stream=kind == "streams")
        )
        app.asks(request)

    app.receives()


@pytest.mark.parametrize("kind", ["hits", "streams", "gets"])
def test_counters_ledger_metrics_and_rows_are_those_of_the_socket(kind: str) -> None:
    """Except for the counts of views themselves; of requests, the engine counts those that no reply shows."""
    by_socket, _ = world(log_calls=True)
    app = by_socket.peer(pid=7)
    by_view, reader = world(log_calls=True)
    for host in (by_socket, by_view):
        host.passes(3.0)

    socket_hits(app, 5, kind, "key", "rag")
    socket_hits(app, 2, kind, "free", "general")
    now = by_view.now
    reported: dict[str, Any] = {kind: ((1, 4, now, now), (2, 2, now, now), (1, 1, now, now))}
    reader.actor.asks(wire.RecordHits(id=901, **reported))
    assert reader.actor.receives() == []
    stats = [msgspec.structs.asdict(host.stats()) for host in (by_socket, by_view)]
    different = {name for name in stats[0] if stats[0][name] != stats[1][name]}
    assert different == ({"peers"} if kind == "gets" else {"peers", "view_hits"})
    assert stats[1]["view_hits"] == (0 if kind == "gets" else 7)
    reports = [host.report() for host in (by_socket, by_view)]
    ledgers = [[report.total, *report.tasks.values()] for report in reports]
    assert [[ledger.view_hits for ledger in of] for of in ledgers] == [
        [0, 0, 0],
        [0, 0, 0] if kind == "gets" else [7, 2, 5],
    ]
    assert [replace(ledger, view_hits=0) for ledger in ledgers[1]] == ledgers[0]
    assert replace(reports[1], total=reports[0].total, tasks=reports[0].tasks) == reports[0]
    key = lambda record: (record.key, record.age_seconds)  # noqa: E731 - short
    assert sorted(by_view.logged, key=key) == sorted(by_socket.logged, key=key)
    assert len(by_view.logged) == (0 if kind == "gets" else 7)
    requests = by_view.engine.metrics.requests
    assert (requests[wire.Get, wire.Hit], requests[wire.Begin, wire.End]) == {
        "hits": (0, 0),
        "streams": (0, 7),
        "gets": (7, 0),
    }[kind]
    entries = [host.engine._cache.peek("1000:default", "key") for host in (by_socket, by_view)]
    assert entries[0] is not None
    assert entries[1] is not None
    assert entries[0].recent_hits == entries[1].recent_hits == 3


def test_rows_are_spread_over_the_time_between_first_and_last() -> None:
    """Instants before the publication or after the report are moved to these."""
    host, reader = world(log_calls=True)
    host.passes(4.0)
    reader.reports(
        (1, 3, host.now - 2.0, host.now - 1.0), (2, 2, -5.0, float("inf")), (2, 1, float("nan"), float("nan"))
    )
    assert [(record.key, record.age_seconds, record.ago_seconds) for record in host.logged] == [
        ("key", 2.0, 2.0),
        ("key", 2.5, 1.5),
        ("key", 3.0, 1.0),
        ("free", 0.0, 4.0),
        ("free", 4.0, 0.0),
        ("free", 0.0, 4.0),
    ]
    assert {(record.source, record.namespace, record.uid, record.pid) for record in host.logged} == {
        ("cache", "1000:default", 1000, 7)
    }


def test_a_report_keeps_a_view_from_being_idle() -> None:
    """Hits over the socket do not: nobody reads the view."""
    host, reader = world()
    (view,) = host.engine._publisher.views.by_scope.values()
    before = view.used_at
    host.passes(3.0)
    host.peer().asks(wire.Begin("free", id=1))
    assert view.used_at == before
    reader.reports((1, 1, host.now, host.now))
    assert view.used_at == host.now


def test_late_hits_count_for_a_second() -> None:
    """Clients report within a quarter of that; the entry is gone, but its facts are kept."""
    host, reader = world()
    reader.actor.asks(wire.Delete(id=1, key="key"))
    reader.actor.receives()
    before = host.report().total
    host.now += 1.0
    reader.reports((1, 3, host.now - 1.5, host.now - 1.2))
    total = host.report().total
    assert total.hits - before.hits == 3
    assert total.saved_by_cache_seconds - before.saved_by_cache_seconds == 6.0
    assert total.saved_by_cache_dollars - before.saved_by_cache_dollars == 0.75
    host.now += 0.01
    reader.reports((1, 3, host.now, host.now))
    assert host.report().total.hits == total.hits
    assert host.samples()[LATE] == 3


def test_hits_after_a_withdrawal_of_all_count_too() -> None:
    """A reload loses no hit."""
    host, reader = world()
    host.reads(ttl_seconds=7.0, shared_namespaces={"team": SharedWith(everyone=True)})
    before = host.stats().hits
    reader.reports((1, 3, host.now, host.now), (2, 1, host.now, host.now))
    assert host.stats().hits == before + 4


def test_a_stop_retires_all_views_when_the_drain_is_over() -> None:
    """Until then, they are read: calls in progress may take long. Hits that were read before count."""
    host, reader = world()
    host.drains()
    assert isinstance(reader.finds("key", "rag"), dict)
    host.gives_up_draining()
    assert reader.finds("key", "rag") == "retired"
    before = host.stats().view_hits
    reader.reports((1, 3, host.now, host.now))
    assert host.stats().view_hits == before + 3


def test_hits_on_what_another_scope_published_or_nobody_did_are_dropped_and_counted() -> None:
    """Another uid's publications, and numbers that never were."""
    host, _ = world()
    mallory = host.peer(1002, 1002)
    hits = host.stats().hits
    mallory.asks(wire.RecordHits(id=1, hits=((1, 10, 0.0, 0.0), (999, 1, 0.0, 0.0)), gets=((1, 5, 0.0, 0.0),)))
    assert mallory.receives() == []
    assert host.stats().hits == hits
    assert host.samples()[LATE] == 16


def shared(uids: tuple[int, ...]) -> dict[str, Any]:
    """Return settings that share ``default`` with these uids."""
    return {"shared_namespaces": {"default": SharedWith(uids=frozenset(uids))} if uids else {}}


@pytest.mark.parametrize(
    ("before", "after"), [((), (1000, 1001)), ((1000, 1001), ()), ((1000, 1001), (1001,))], ids=str
)
def test_hits_before_a_reload_that_shares_a_namespace_or_ends_that_count(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    """The connection has received the view under the namespace's earlier scope."""
    host = Host(**shared(before))
    reader, app = reader_of(ViewFiles(host), host.peer()), host.peer()
    app.completes(app.leads("key"), "answer")
    for number in range(2):
        app.asks(wire.Begin("key", id=number))

    host.reads(**shared(after))
    other = host.peer()
    hits = host.stats().hits
    other.asks(wire.RecordHits(id=1, hits=((1, 5, host.now, host.now),)))
    assert host.stats().hits == hits, "another connection has not received it"
    host.now += 1.0
    reader.reports((1, 3, host.now, host.now))
    assert host.stats().hits == hits + 3
    assert reader.actor.receives() == []


def test_after_the_reload_a_connection_reports_on_no_later_view_of_the_earlier_scope() -> None:
    """It may not read what is published there now."""
    host = Host(**shared((1000, 1001)))
    reader = reader_of(ViewFiles(host), host.peer())
    host.reads(**shared((1001,)))
    reader_of(reader.files, host.peer(1001, 1001))
    app = host.peer(1001, 1001)
    app.completes(app.leads("key"), "answer")
    for number in range(2):
        app.asks(wire.Begin("key", id=number))

    hits = host.stats().hits
    reader.reports((1, 3, host.now, host.now))
    assert host.stats().hits == hits
    assert host.samples()[LATE] == 3


def test_another_uids_namespace_is_denied() -> None:
    """Operators, too, report only their own hits."""
    host, _ = world()
    operator = host.peer(0, 0, operator=True)
    operator.asks(wire.RecordHits(id=1, namespace="1000:default", hits=((1, 1, 0.0, 0.0),)))
    assert operator.gets(wire.Error).code == "denied"


@pytest.mark.parametrize(
    "request_",
    [
        wire.RecordHits(id=1, hits=((1, wire.MAX_REPORTED_HITS, 0.0, 0.0), (2, 1, 0.0, 0.0))),
        wire.RecordHits(id=1, hits=((1, 1, 0.0, 0.0),) * wire.MAX_HIT_ITEMS, gets=((1, 1, 0.0, 0.0),)),
        wire.RecordHits(id=1, streams=((1, 1, 2.0, 1.0),)),
    ],
)
def test_a_report_that_is_too_large_or_wrong_is_rejected_and_books_nothing(request_: wire.RecordHits) -> None:
    """The error names the limit."""
    host, reader = world()
    before = host.stats()
    reader.actor.asks(request_)
    assert reader.actor.gets(wire.Error).code == "bad_request"
    assert host.stats() == before


@pytest.mark.parametrize(
    "item", [[1, 0, 0.0, 0.0], [1, -1, 0.0, 0.0], [-1, 1, 0.0, 0.0], [1, 1, 0.0], [1, 70_000, 0.0, 0.0]]
)
def test_items_out_of_range_are_no_valid_message(item: list[float]) -> None:
    """Counts are from 1, and have a limit of their own."""
    with pytest.raises(msgspec.ValidationError):
        wire.unpack_request(msgspec.msgpack.encode({"op": "hits", "id": 1, "hits": [item]}))


def test_a_large_report_is_booked_in_parts() -> None:
    """Each part is a turn; other requests may come between two."""
    host, reader = world(log_calls=True)
    items = ((1, 1, host.now, host.now),) * (2 * PART_ITEMS + 1)
    request = wire.RecordHits(id=1, hits=items, gets=items[:5])
    event, turns, hits = RequestReceived(reader.actor.peer, request), 0, host.stats().hits
    while host.engine.handle(event, host.now)[:1]:
        turns += 1
        assert len(host.engine.handle(RequestReceived(reader.actor.peer, wire.Ping()), host.now)) == 1

    assert turns >= len(items) // PART_ROWS
    assert host.stats().hits == hits + len(items)


def test_a_lost_peers_report_is_forgotten_where_it_is() -> None:
    """Nothing is kept of it."""
    host, reader = world()
    items = ((1, 1, host.now, host.now),) * (3 * PART_ITEMS)
    host.engine.handle(RequestReceived(reader.actor.peer, wire.RecordHits(id=1, hits=items)), host.now)
    reports = host.engine._views.reports
    assert len(reports.unfinished) == 1
    host.happens(PeerLost(reader.actor.peer))
    assert not reports.unfinished


def test_publications_are_forgotten_a_second_after_their_withdrawal() -> None:
    """In steps, so that the end of a large view stalls no one."""
    host, reader = world()
    app = host.peer()
    for number in range(600):
        app.completes(app.leads(f"key-{number}"), number)
        for begin in range(2):
            app.asks(wire.Begin(f"key-{number}", id=begin))

        app.receives()

    publications = host.engine._publisher.publications
    assert len(publications) == publications.live == 602
    host.passes(400.0)
    assert (len(publications), publications.live) == (602, 0)
    host.now += 2.0
    for number in range(6):
        app.completes(app.leads(f"new-{number}"), number)
        for begin in range(2):
            app.asks(wire.Begin(f"new-{number}", id=begin))

        app.receives()

    assert (len(publications), publications.live) == (6, 6)
    assert reader.finds("new-5")
