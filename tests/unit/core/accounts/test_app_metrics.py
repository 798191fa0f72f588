"""The apps' metrics: what is summed, what is dropped, and what is rejected."""

import math
from collections import Counter

import pytest

from sidecard.core.accounts.app_metrics import MAX_METRICS, MAX_SESSIONS, TOTAL_PER_METRIC, AppMetrics
from sidecard.core.accounts.histogram import DEFAULT_BOUNDS
from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings, LiveSettings
from sidecard_client.protocol.wire import Measurement, RecordMetrics

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

    def __init__(self, max_series: int = 100) -> None:
        self.dropped: Counter[str] = Counter()
        super().__init__(LiveSettings(EngineSettings(max_series=max_series, spare_share=0.0)), self.dropped)

    def report(self, who: Peer, *measurements: Measurement, **fields: object) -> int:
        """Record measurements."""
        return self.record(who, RecordMetrics(metrics=measurements, **fields))  # type: ignore[arg-type]

    def samples(self) -> dict[str, float]:
        """Return every sample by its name and labels."""
        return {
            sample.name + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): sample.value
            for family in self.families()
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

    counters = sum(name.startswith("c") for name in metrics.samples())
    gauges = sum(len(values) for metric in metrics._metrics.values() for values in metric.values.values()) - counters
    assert gauges + counters <= 2 * TOTAL_PER_METRIC + counters
    assert metrics._series_by_uid.total <= 2 * TOTAL_PER_METRIC + len(metrics._metrics)
    for number in range(3 * TOTAL_PER_METRIC):
        metrics.peer_lost(peer(number))

    assert not metrics._metrics_of_peer
    assert metrics._series_by_uid.total == counters + 1


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
