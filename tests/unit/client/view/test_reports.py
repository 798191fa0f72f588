"""Hits are added up by publication, and reported once, within the limits of a message."""

import pytest

from sidecard_client.protocol import wire
from sidecard_client.view import reports as module
from sidecard_client.view.reports import HitReports


def test_hits_are_added_up_by_publication_and_kind() -> None:
    """Each item has the number of hits, and the times of the first and the last, in whatever order threads append them."""
    reports = HitReports()
    reports.calls.extend([(1, 10.0), (2, 11.0), (1, 13.0), (1, 12.0), (2, 10.5)])
    reports.streams.append((1, 14.0))
    reports.gets.append((3, 15.0))
    assert reports.take("default") is None, "nothing was collected"
    reports.collect()
    assert reports.take("team") == wire.RecordHits(
        namespace="team",
        hits=((1, 3, 10.0, 13.0), (2, 2, 10.5, 11.0)),
        streams=((1, 1, 14.0, 14.0),),
        gets=((3, 1, 15.0, 15.0),),
    )
    reports.collect()
    assert reports.take("team") is None, "no hit is reported twice"


def test_collected_hits_that_were_not_taken_are_kept() -> None:
    """While the daemon does not read, hits are added to those before."""
    reports = HitReports()
    for at in (1.0, 2.0, 3.0):
        reports.calls.append((7, at))
        reports.collect()

    assert reports.take("default") == wire.RecordHits(hits=((7, 3, 1.0, 3.0),))


def test_report_is_a_message_that_the_daemon_accepts() -> None:
    """It passes the checks of its own type."""
    reports = HitReports()
    reports.calls.append((1, 10.0))
    reports.collect()
    report = reports.take("default")
    assert report is not None
    assert wire.unpack_request(wire.pack(report)) == report


@pytest.mark.parametrize("kinds", [("calls",), ("calls", "streams", "gets")])
def test_messages_keep_their_limits(kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hits have gathered: no message has too many items or hits, and together they have all."""
    monkeypatch.setattr(module, "MAX_HIT_ITEMS", 4)
    monkeypatch.setattr(module, "MAX_REPORTED_HITS", 10)
    reports = HitReports()
    for kind in kinds:
        for publication, count in ((1, 25), (2, 1), (3, 10), (4, 3), (5, 1), (6, 1), (7, 1)):
            getattr(reports, kind).extend([(publication, 1.0)] * count)

    reports.collect()
    totals: dict[tuple[str, int], int] = {}
    while (report := reports.take("default")) is not None:
        items = [(kind, item) for kind in ("hits", "streams", "gets") for item in getattr(report, kind)]
        assert 0 < len(items) <= 4
        assert sum(count for _, (_, count, _, _) in items) <= 10
        for kind, (publication, count, first_at, last_at) in items:
            assert count > 0
            assert first_at == last_at == 1.0
            totals[kind, publication] = totals.get((kind, publication), 0) + count

    assert sum(totals.values()) == 42 * len(kinds)
    assert totals["hits", 1] == 25


def test_hit_that_is_taken_back_while_others_are_collected_is_not_reported() -> None:
    """Interleaving: 1. the reporter counts three hits; 2. a thread takes one back; 3. the reporter has two."""

    class Taken(module.Booked):
        """Hits, one of which is taken back once they were counted."""

        def __len__(self) -> int:
            length = super().__len__()
            self.pop()
            return length

    reports = HitReports()
    reports.calls = Taken([(1, 1.0), (1, 2.0), (1, 3.0)])
    reports.collect()
    assert reports.take("default") == wire.RecordHits(hits=((1, 2, 1.0, 2.0),))
