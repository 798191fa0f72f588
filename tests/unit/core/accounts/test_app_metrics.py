"""The apps' metrics: what is summed, what is dropped, and what is rejected."""

import math
from collections import Counter

import pytest

from sidecard.core.accounts.app_metric import PIECE_LABELS
from sidecard.core.accounts.app_metric_room import MAX_EXPOSED_BYTES, TOTAL_PER_METRIC
from sidecard.core.accounts.app_metrics import FORGET_SECONDS, MAX_METRICS, MAX_SESSIONS, PART_WORK, AppMetrics
from sidecard.core.accounts.histogram import DEFAULT_BOUNDS
from sidecard.core.accounts.memory import MemoryAccounts
from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings, LiveSettings
from sidecard_client.protocol.wire import Measurement, RecordMetrics, pack

INF = math.inf


def peer(number: int, pid: int | None = None, uid: int = 1000) -> Peer:
    """Return a peer."""
    return Peer(number, uid, uid, 100 + number if pid is None else pid, operator=False)


ONE, TWO = peer(1), peer(2)


def counted(name: str, value: float = 1.0, **labels: str) -> Measurement:
    """Return a counter's measurement."""
    return Measurement(name=name, kind="counter", value=value, labels=labels)


def gauge(name: str, value: float, aggregate: str = "sum", **labels: str) -> Measurement:
    """Return a gauge's measurement."""
    return Measurement(name=name, kind="gauge", value=value, labels=labels, aggregate=aggregate)  # type: ignore[arg-type]


class Metrics(AppMetrics):
    """The metrics under test, with short method names."""

    def __init__(self, max_series: int = 100, max_memory_bytes: int = 128 * 1024 * 1024) -> None:
        self.dropped: Counter[str] = Counter()
        live = LiveSettings(EngineSettings(max_series=max_series, spare_share=0.0))
        self.memory = MemoryAccounts(max_memory_bytes).app_metrics
        self.now = 0.0
        super().__init__(live, self.dropped, self.memory)

    def report(self, who: Peer, *measurements: Measurement, **fields: object) -> int:
        """Record measurements."""
        request = RecordMetrics(metrics=measurements, **fields)  # type: ignore[arg-type]
        while (dropped := self.record_part(who, request, self.now).dropped) is None:
            pass

        return dropped

    def samples(self) -> dict[str, float]:
        """Return every sample by its name and labels."""
        return {
            sample.name + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): sample.value
            for source in self.sources()
            for family in source.pieces
            for sample in family.samples
        }


def test_counters_of_all_workers_are_summed_and_outlive_them() -> None:
    """A counter keeps the counts of disconnected workers."""
    metrics = Metrics()
    metrics.report(ONE, counted("docs", 3), counted("docs", 2, kind="pdf"))
    metrics.report(TWO, counted("docs", 4))
    metrics.peer_lost(ONE)
    assert metrics.samples() == {"docs_total": 7, "docs_total kind=pdf": 2}


def test_a_counter_is_the_same_with_and_without_its_suffix() -> None:
    """It is exposed with the suffix."""
    metrics = Metrics()
    metrics.report(ONE, counted("docs_total"), counted("docs"))
    assert metrics.samples() == {"docs_total": 2}


def test_gauges_are_dropped_with_their_worker() -> None:
    """A disconnected worker's values no longer count."""
    metrics = Metrics()
    metrics.report(ONE, gauge("queue", 3))
    metrics.report(TWO, gauge("queue", 4))
    metrics.report(TWO, gauge("queue", 5))
    assert metrics.samples() == {"queue": 8}
    metrics.peer_lost(TWO)
    assert metrics.samples() == {"queue": 3}
    metrics.peer_lost(ONE)
    assert metrics.samples() == {}


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("sum", {"queue": 9}),
        ("max", {"queue": 6}),
        ("min", {"queue": 3}),
        ("last", {"queue": 3}),
        ("each", {"queue worker=101": 3, "queue worker=102": 6}),
    ],
)
def test_gauges_of_several_workers_are_aggregated_as_declared(aggregate: str, expected: dict[str, float]) -> None:
    """``last`` is the worker that reported last, even if it reported first as well."""
    metrics = Metrics()
    metrics.report(ONE, gauge("queue", 1, aggregate))
    metrics.report(TWO, gauge("queue", 6, aggregate))
    metrics.report(ONE, gauge("queue", 3, aggregate))
    assert metrics.samples() == expected


def test_the_latest_value_of_two_connections_of_one_worker_counts() -> None:
    """Two series with one name and equal labels would break the scrape."""
    metrics = Metrics()
    metrics.report(peer(1, pid=7), gauge("queue", 1, "each"))
    metrics.report(peer(2, pid=7), gauge("queue", 2, "each"))
    assert metrics.samples() == {"queue worker=7": 2}


def test_gauges_may_be_any_number() -> None:
    """The sum of both infinities is not a number."""
    metrics = Metrics()
    metrics.report(ONE, gauge("a", INF))
    metrics.report(TWO, gauge("a", -INF))
    assert math.isnan(metrics.samples()["a"])


def histogram(value: float, bounds: tuple[float, ...] = (), counts: tuple[int, ...] = ()) -> Measurement:
    """Return a histogram's measurement."""
    return Measurement(name="took", kind="histogram", value=value, bounds=bounds, counts=counts)


def test_observations_are_counted_singly_and_by_bucket() -> None:
    """As a shell script and as a client send them."""
    metrics = Metrics()
    metrics.report(ONE, histogram(7.0, (1.0, 5.0, 10.0), (1, 0, 1, 2)), histogram(0.5), histogram(11.0))
    assert metrics.samples() == {
        "took_bucket le=1.0": 2,
        "took_bucket le=5.0": 2,
        "took_bucket le=10.0": 3,
        "took_bucket le=+Inf": 6,
        "took_count": 6,
        "took_sum": 18.5,
    }


def test_observations_of_other_buckets_are_added_at_their_upper_bound() -> None:
    """Two versions of an app may run side by side: no bucket gets values above its bound."""
    metrics = Metrics()
    metrics.report(ONE, histogram(0.0, (1.0, 10.0), (0, 0, 1)), histogram(20.0, (0.5, 3.0, 10.0), (1, 1, 1, 1)))
    assert metrics.samples() == {
        "took_bucket le=1.0": 1,
        "took_bucket le=10.0": 3,
        "took_bucket le=+Inf": 5,
        "took_count": 5,
        "took_sum": 20,
    }


@pytest.mark.parametrize(
    "measurement",
    [
        counted("1docs"),
        counted("do cs"),
        counted("d" * 202),
        counted(""),
        counted("döcs"),
        counted("sidecard_docs"),
        counted("docs", -1),
        counted("docs", math.nan),
        counted("docs", INF),
        counted("docs", 1, **{"1": "x"}),
        counted("docs", 1, __name="x"),
        counted("docs", 1, le="x"),
        counted("docs", 1, worker="x"),
        counted("docs", 1, kind="x" * 257),
        counted("docs", 1, **{f"l{n}": "x" for n in range(17)}),
        histogram(math.nan),
        histogram(1.0, (2.0, 1.0), (1, 1, 1)),
        histogram(1.0, (1.0, 1.0), (1, 1, 1)),
        histogram(1.0, (1.0, INF), (1, 1, 1)),
        histogram(1.0, (1.0,), (1, 1, 1)),
        histogram(1.0, (1.0,), (1, -1)),
        histogram(1.0, (), (1,)),
        histogram(1.0, tuple(map(float, range(65)))),
    ],
)
def test_invalid_measurements_are_dropped_and_counted(measurement: Measurement) -> None:
    """The other measurements of the batch are recorded."""
    metrics = Metrics()
    assert metrics.report(ONE, counted("fine"), measurement, counted("fine")) == 1
    assert metrics.samples() == {"fine_total": 2}
    assert metrics.dropped == {"invalid": 1}


@pytest.mark.parametrize("taken", ["took", "took_sum", "took_bucket", "took_count"])
def test_no_two_metrics_are_exposed_under_one_name(taken: str) -> None:
    """A scraper would reject the whole page."""
    metrics = Metrics()
    metrics.report(ONE, histogram(1.0))
    assert metrics.report(ONE, gauge(taken, 1)) == 1
    assert metrics.dropped == {"invalid": 1}


def test_a_label_without_a_value_is_ignored() -> None:
    """To Prometheus these are one series, which must not occur twice."""
    metrics = Metrics()
    metrics.report(ONE, counted("docs"), counted("docs", 1, kind=""))
    assert metrics.samples() == {"docs_total": 2}


def test_a_batch_that_is_sent_twice_counts_once() -> None:
    """1. recorded; 2. the connection is lost before the acknowledgement; 3. sent again."""
    metrics = Metrics()
    for sequence, value in ((1, 5), (1, 5), (2, 7), (1, 5), (2, 7)):
        metrics.report(ONE, counted("docs", value), session="a", sequence=sequence, dropped=1)

    metrics.report(TWO, counted("docs", 1), session="b", sequence=1)
    metrics.report(peer(3, uid=7), counted("docs", 1), session="a", sequence=1)
    assert metrics.samples() == {"docs_total": 14}
    assert metrics.dropped == {"client": 2}


def test_sessions_are_bounded() -> None:
    """The session that was silent longest is dropped."""
    metrics = Metrics()
    for number in range(MAX_SESSIONS + 1):
        metrics.report(ONE, session=str(number), sequence=1)

    assert len(metrics._sessions) == MAX_SESSIONS


def test_label_sets_beyond_the_bound_are_summed_under_one_label() -> None:
    """Totals stay correct."""
    metrics = Metrics(max_series=2)
    for user in "abcd":
        metrics.report(
            ONE, counted("docs", 1, user=user), Measurement(name="took", kind="histogram", labels={"u": user})
        )

    samples = metrics.samples()
    assert {name: value for name, value in samples.items() if name.startswith("docs")} == {
        "docs_total user=a": 1,
        "docs_total user=b": 1,
        "docs_total overflow=true": 2,
    }
    assert samples["took_count overflow=true"] == 2
    assert dict(metrics.overflows()) == {"docs": 2, "took": 2}
    metrics.report(ONE, counted("docs", 1, user="a"))
    assert metrics.samples()["docs_total user=a"] == 2


def test_gauges_beyond_the_bound_are_dropped() -> None:
    """Their sum would have no meaning."""
    metrics = Metrics(max_series=1)
    assert metrics.report(ONE, gauge("queue", 1, user="a"), gauge("queue", 2, user="b")) == 1
    assert metrics.samples() == {"queue user=a": 1}
    assert metrics.dropped == {"series": 1}
    metrics.peer_lost(ONE)
    assert metrics.report(ONE, gauge("queue", 2, user="b")) == 0


def test_all_series_together_are_bounded() -> None:
    """For all names, kinds and workers."""
    metrics = Metrics(max_series=2)
    for number in range(3 * TOTAL_PER_METRIC):
        metrics.report(peer(number), gauge(f"g{number % 30}", 1), counted(f"c{number}"), histogram(1.0))

    counters = sum(name.startswith("c") and "overflow" not in name for name in metrics.samples())
    gauges = sum(len(values) for metric in metrics._metrics.values() for values in metric.values.values())
    assert counters < gauges <= 2 * TOTAL_PER_METRIC + len(metrics._metrics)
    assert metrics._room.series.total == 2 * TOTAL_PER_METRIC
    for number in range(3 * TOTAL_PER_METRIC):
        metrics.peer_lost(peer(number))

    assert not metrics._metrics_of_peer
    assert metrics._room.series.total == counters + 1


def test_names_are_bounded() -> None:
    """The number of metrics is bounded."""
    metrics = Metrics(max_series=100_000)
    assert sum(metrics.report(ONE, counted(f"c{number}")) for number in range(MAX_METRICS + 5)) == 5


def test_histograms_without_bounds_use_those_of_prometheus() -> None:
    """The default bounds apply."""
    metrics = Metrics()
    metrics.report(ONE, histogram(0.3))
    assert len([name for name in metrics.samples() if "bucket" in name]) == len(DEFAULT_BOUNDS) + 1


def test_a_session_that_reports_outlives_those_that_do_not() -> None:
    """Sessions that are only named once do not make the daemon forget what a working sender has sent."""
    metrics = Metrics()
    for number in range(MAX_SESSIONS + 300):
        metrics.report(ONE, session=f"once {number}", sequence=1)
        if number % 1000 == 0:
            metrics.report(ONE, counted("docs"), session="working", sequence=number + 1)

    before = metrics.samples()["docs_total"]
    metrics.report(ONE, counted("docs"), session="working", sequence=1)
    assert metrics.samples()["docs_total"] == before


def test_series_beyond_the_bytes_are_summed_or_dropped_with_a_reason() -> None:
    """Counters and histograms stay correct in total; gauges are dropped, and so are further metrics."""
    metrics = Metrics(max_series=10_000, max_memory_bytes=8 * 400_000)
    labels = {f"l{number}": "x" * 200 for number in range(10)}
    for number in range(100):
        assert metrics.report(ONE, counted("docs", 1, n=str(number), **labels)) == 0

    samples = metrics.samples()
    assert sum(samples.values()) == 100
    assert 20 < len(samples) < 90
    assert samples["docs_total overflow=true"] == dict(metrics.overflows())["docs"] == 101 - len(samples)
    assert metrics.report(ONE, gauge("queue", 1, **labels), counted("queue" * 40)) == 2
    assert metrics.dropped == {"metric_bytes": 2}


def test_a_histogram_is_charged_for_every_bucket() -> None:
    """Each bucket repeats name and labels when it is exposed."""
    few, many = Metrics(), Metrics()
    labels = {"a": "x" * 250}
    for metrics, bounds in ((few, (1.0,)), (many, tuple(map(float, range(64))))):
        metrics.report(ONE, Measurement(name="took", kind="histogram", labels=labels, bounds=bounds))

    assert many.exposed_bytes > 10 * few.exposed_bytes
    assert many.memory.total > many.exposed_bytes


@pytest.mark.parametrize("bounds", [(), tuple(map(float, range(64)))])
@pytest.mark.parametrize("text", ["x", "\x01", "\U0001f600", '"'])
def test_all_samples_together_fit_into_a_message(bounds: tuple[float, ...], text: str) -> None:
    """Whatever is recorded by many uids, the reply to `metrics` leaves half of a message to the daemon's own."""
    metrics = Metrics(max_series=1000)
    for number in range(700):
        labels = {f"label{n}": f"{text * 200}{number}" for n in range(number % 16)}
        for uid in range(4):
            who = peer(uid, uid=uid)
            metrics.report(
                who,
                Measurement(name=f"took{uid}", kind="histogram", labels=labels, bounds=bounds),
                counted(f"docs{uid}", 1e300, **labels),
                gauge(f"queue{uid}", 1.5, "each", **labels),
            )

    encoded = sum(len(pack(family)) for source in metrics.sources() for family in source.pieces)
    exposed = metrics.exposed_bytes
    assert encoded <= exposed <= MAX_EXPOSED_BYTES
    assert metrics.memory.total <= metrics.memory.limit_bytes
    assert metrics.memory.total > metrics.memory.limit_bytes / 2 or exposed > MAX_EXPOSED_BYTES / 2


def test_the_uid_that_records_is_charged_not_the_one_that_began_the_metric() -> None:
    """A uid cannot use up the room of another by joining its metric."""
    metrics = Metrics()
    metrics.report(peer(1, uid=1), counted("docs"), gauge("queue", 1))
    before = metrics.memory.of(1)
    for number in range(20):
        metrics.report(peer(2, uid=2), counted("docs", 1, n=str(number)), gauge("queue", 1, n=str(number)))

    assert metrics.memory.of(1) == before
    assert metrics.memory.of(2) > 20 * 500


@pytest.mark.parametrize("aggregate", ["sum", "each"])
def test_gauges_return_all_that_they_were_charged(aggregate: str) -> None:
    """In whichever order workers of several uids disconnect."""
    metrics = Metrics()
    metrics.report(peer(9, uid=9), gauge("queue", 1, aggregate))
    metrics.peer_lost(peer(9, uid=9))
    empty = metrics.memory.total, metrics.exposed_bytes, metrics._room.series.total
    for number in range(6):
        metrics.report(
            peer(number, uid=number % 3), gauge("queue", 1, aggregate), gauge("queue", 2, aggregate, n=str(number % 2))
        )

    for number in (3, 0, 5, 1, 2, 4):
        metrics.peer_lost(peer(number, uid=number % 3))

    assert (metrics.memory.total, metrics.exposed_bytes, metrics._room.series.total) == empty
    assert metrics.memory.by_uid().keys() == {9}


def test_unused_metrics_leave_when_their_room_is_needed() -> None:
    """The one unused for longest first, and none that was recorded within an hour; its name is free again."""
    metrics = Metrics()
    for number in range(MAX_METRICS):
        metrics.now = float(number)
        metrics.report(ONE, Measurement(name=f"h{number}", kind="histogram", labels={"a": "b"}))

    metrics.now = FORGET_SECONDS - 1
    assert metrics.report(ONE, counted("new")) == 1
    assert metrics.dropped == {"metrics": 1}
    metrics.report(ONE, Measurement(name="h0", kind="histogram"))
    metrics.now = FORGET_SECONDS + 60
    assert metrics.report(ONE, counted("new"), gauge("h1_bucket", 1)) == 0
    samples = metrics.samples()
    assert samples["new_total"] == 1
    assert "h0_count a=b" in samples
    assert not [name for name in samples if name.startswith(("h1_count", "h2_count"))]
    assert "h3_count a=b" in samples


def test_a_metric_in_use_and_gauges_of_workers_are_not_forgotten() -> None:
    """Not even by their own next measurement."""
    metrics = Metrics(max_memory_bytes=8 * 60_000)
    metrics.report(ONE, gauge("queue", 1))
    metrics.report(ONE, counted("docs", 5))
    metrics.now = 2 * FORGET_SECONDS
    for number in range(100):
        metrics.report(ONE, counted("docs", 1, n=str(number)))

    samples = metrics.samples()
    assert samples["queue"] == 1
    assert sum(value for name, value in samples.items() if name.startswith("docs")) == 105
    assert "docs_total overflow=true" in samples


def test_forgotten_metrics_return_all_that_they_were_charged() -> None:
    """Of several uids, with every kind of series."""
    metrics = Metrics()
    for uid in (1, 2):
        metrics.report(peer(uid, uid=uid), counted("docs", 1, n=str(uid)), Measurement(name="took", kind="histogram"))
        metrics.report(peer(uid, uid=uid), gauge("queue", 1, n=str(uid)))

    for uid in (1, 2):
        metrics.peer_lost(peer(uid, uid=uid))

    metrics.now = FORGET_SECONDS
    while metrics._forget_oldest(metrics.now):
        pass

    assert metrics.samples() == {}
    assert metrics.memory.total == metrics.exposed_bytes == metrics._room.series.total == 0
    assert not metrics.memory.by_uid()
    assert not metrics._taken


def test_samples_are_made_in_pieces_of_bounded_size() -> None:
    """Changes between two pieces neither break them nor repeat a series."""
    metrics = Metrics(max_series=5000)
    for number in range(3000):
        metrics.report(TWO if number % 2 else ONE, gauge("queue", 1, n=f"{number:04}"))

    (source,) = metrics.sources()
    first = next(source.pieces)
    assert len(first.samples) == -(-PIECE_LABELS // 3)
    metrics.peer_lost(ONE)
    metrics.report(TWO, gauge("queue", 2, n="0001"), gauge("queue", 3, n="9999"))
    rest = [sample for piece in source.pieces for sample in piece.samples]
    names = [sample.labels["n"] for sample in (*first.samples, *rest)]
    assert names == sorted(set(names))
    assert {name for name in names if int(name) % 2} == {f"{number:04}" for number in range(1, 3000, 2)}


def test_equal_change_numbers_mean_equal_samples() -> None:
    """Every change of a metric changes its number, and no number returns."""
    metrics = Metrics(max_series=2)
    seen = {0}
    steps = (
        lambda: metrics.report(ONE, counted("docs")),
        lambda: metrics.report(ONE, counted("docs", 1, n="1")),
        lambda: metrics.report(ONE, counted("docs", 1, n="2")),
        lambda: metrics.report(ONE, gauge("queue", 1)),
        lambda: metrics.report(ONE, gauge("queue", 2)),
        lambda: metrics.report(TWO, gauge("queue", 2)),
        lambda: metrics.peer_lost(ONE),
    )
    for step in steps:
        step()
        newest = max(source.changed for source in metrics.sources())
        assert newest not in seen
        seen.add(newest)


def large_batch(count: int = 2000, **fields: object) -> RecordMetrics:
    """Return a batch that is recorded in several parts, of which one measurement is invalid."""
    measurements = (*(counted("docs", 1, n=str(number % 7)) for number in range(count)), counted("1docs"))
    return RecordMetrics(metrics=measurements, **fields)  # type: ignore[arg-type]


def test_a_large_batch_is_recorded_in_parts() -> None:
    """Each of bounded work; the last one returns the drops of all, and the sender's own drops count once."""
    metrics = Metrics()
    request = large_batch(dropped=3)
    results: list[int | None] = []
    while not results or results[-1] is None:
        results.append(metrics.record_part(ONE, request, 0.0).dropped)

    assert results == [None] * (len(results) - 1) + [1]
    assert len(results) > 2000 * 5 // PART_WORK
    assert sum(metrics.samples().values()) == 2000
    assert metrics.dropped == {"invalid": 1, "client": 3}
    assert not metrics._progress


@pytest.mark.parametrize("parts", [1, 2])
def test_a_batch_that_was_recorded_in_part_is_completed_when_sent_again(parts: int) -> None:
    """1. some parts are recorded; 2. the connection is lost; 3. the batch is sent again on another one, twice."""
    metrics = Metrics()
    request = large_batch(session="s", sequence=1, dropped=3)
    for _ in range(parts):
        assert metrics.record_part(ONE, request, 0.0).dropped is None

    metrics.peer_lost(ONE)
    for _ in range(2):
        again = large_batch(session="s", sequence=1, dropped=3)
        while metrics.record_part(TWO, again, 0.0).dropped is None:
            pass

    assert sum(metrics.samples().values()) == 2000
    assert metrics.dropped == {"invalid": 1, "client": 3}


def test_a_batch_on_two_connections_at_the_same_time_counts_once() -> None:
    """The first connection's end may be noticed after the second one has sent the batch again, and the next batch."""
    metrics = Metrics()
    first, second = (large_batch(session="s", sequence=1) for _ in range(2))
    assert metrics.record_part(ONE, first, 0.0).dropped is None
    assert metrics.record_part(TWO, second, 0.0).dropped is None
    assert metrics.record_part(ONE, first, 0.0).dropped is None
    while metrics.record_part(TWO, second, 0.0).dropped is None:
        pass

    following = large_batch(session="s", sequence=2)
    assert metrics.record_part(TWO, following, 0.0).dropped is None
    assert metrics.record_part(ONE, first, 0.0).dropped is not None
    while metrics.record_part(TWO, following, 0.0).dropped is None:
        pass

    assert sum(metrics.samples().values()) == 4000
    assert metrics.dropped == {"invalid": 2}
