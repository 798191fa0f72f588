"""An app's metrics as they are collected: without a daemon, and without a clock except for timers."""

import math
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Enum, Gauge, Histogram, Info, Summary
from prometheus_client import Counter as PrometheusCounter

from sidecard_client.metrics import registry as module
from sidecard_client.metrics.forwarding import ForwardedRegistry
from sidecard_client.metrics.registry import MetricRegistry
from sidecard_client.protocol.wire import Aggregate, Measurement
from sidecard_client.testing import FakeClient


class Woken(MetricRegistry):
    """A registry that counts how often it woke its sender."""

    def __init__(self) -> None:
        self.wakes = 0
        super().__init__(self._count)

    def _count(self) -> None:
        self.wakes += 1

    def changes(self) -> dict[str, float]:
        """Take the changes; return their values by name and labels."""
        return {
            measurement.name
            + "".join(f" {label}={value}" for label, value in measurement.labels.items()): measurement.value
            for measurement in self.take_changes()[0]
        }


@pytest.fixture
def metrics() -> Woken:
    """An empty registry."""
    return Woken()


def test_a_counter_reports_the_increment_since_the_last_take(metrics: Woken) -> None:
    """Without increments there is nothing to report."""
    docs = metrics.counter("docs", "Documents.")
    docs.inc()
    docs.inc(2)
    docs.labels(kind="pdf", pages=3).inc(0.5)
    assert metrics.take_changes() == (
        [
            Measurement(name="docs", kind="counter", value=3.0, help="Documents."),
            Measurement(
                name="docs", kind="counter", value=0.5, help="Documents.", labels={"kind": "pdf", "pages": "3"}
            ),
        ],
        0,
    )
    assert metrics.take_changes() == ([], 0)
    docs.inc()
    assert metrics.changes() == {"docs": 1}


def test_the_same_name_is_the_same_metric(metrics: Woken) -> None:
    """Two calls with one name return one metric, and labels in any order one series."""
    assert metrics.counter("docs") is metrics.counter("docs")
    assert metrics.counter("docs").labels(a=1, b=2) is metrics.counter("docs").labels(b="2", a="1")


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, -math.inf])
def test_a_counter_only_grows(amount: float, metrics: Woken) -> None:
    """A negative or infinite increment raises."""
    with pytest.raises(ValueError, match="A counter grows by"):
        metrics.counter("docs").inc(amount)


@pytest.mark.parametrize("name", ["", "1docs", "do cs", "sidecard_docs", "d" * 202, "döcs"])
def test_an_invalid_name_raises_where_it_is_given(name: str, metrics: Woken) -> None:
    """The error does not wait until the metric is sent."""
    with pytest.raises(ValueError, match="cannot be a metric's name"):
        metrics.counter(name)


@pytest.mark.parametrize("label", ["le", "worker", "__name", "1", "a-b"])
def test_an_invalid_label_raises(label: str, metrics: Woken) -> None:
    """Reserved and malformed label names raise."""
    with pytest.raises(ValueError, match="cannot be a label's name"):
        metrics.counter("docs").labels(**{label: 1})


def test_one_name_is_of_one_kind(metrics: Woken) -> None:
    """A second kind under the same name raises, and the error names the first."""
    metrics.counter("docs")
    with pytest.raises(ValueError, match="docs is a counter already"):
        metrics.gauge("docs")


@pytest.mark.parametrize("buckets", [(), (2.0, 1.0), (1.0, 1.0), (math.nan,), range(65)])
def test_buckets_must_ascend(buckets: tuple[float, ...], metrics: Woken) -> None:
    """Buckets are 1 to 64 finite numbers in ascending order."""
    with pytest.raises(ValueError, match="buckets="):
        metrics.histogram("took", buckets=buckets)


def test_a_gauge_reports_its_value_when_it_changed(metrics: Woken) -> None:
    """After `resend` it reports it again: the daemon has lost it."""
    queue = metrics.gauge("queue", aggregate="max")
    assert metrics.changes() == {}
    queue.set(3)
    queue.inc()
    queue.dec(2)
    assert metrics.take_changes()[0] == [Measurement(name="queue", kind="gauge", value=2.0, aggregate="max")]
    queue.set(2)
    assert metrics.changes() == {}
    metrics.resend()
    assert metrics.changes() == {"queue": 2}


def test_a_gauge_may_read_a_function(metrics: Woken) -> None:
    """A function that raises has no value, and does not affect other metrics."""
    values = [1, 2]
    metrics.gauge("queue").set_function(values.pop)
    metrics.counter("docs").inc()
    assert metrics.changes() == {"queue": 2, "docs": 1}
    assert metrics.changes() == {"queue": 1}
    assert metrics.changes() == {}
    assert metrics.has_gauges


def test_observations_are_counted_by_size(metrics: Woken) -> None:
    """Each finite value counts in its bucket."""
    took = metrics.histogram("took", buckets=(1, 5, math.inf))
    for value in (0.5, 1.0, 1.5, 7.0, math.nan, math.inf):
        took.observe(value)

    assert metrics.take_changes()[0] == [
        Measurement(name="took", kind="histogram", value=10.0, bounds=(1.0, 5.0), counts=(2, 1, 1))
    ]
    assert metrics.changes() == {}


def test_a_timer_measures_blocks_and_functions() -> None:
    """A block or call that raises is measured too."""
    sidecard = FakeClient()

    @sidecard.timer("took")
    def work(result: int) -> int:
        return 1 // result

    assert work(1) == 1
    with pytest.raises(ZeroDivisionError):
        work(0)

    with sidecard.timer("took"):
        pass

    (measurement,) = sidecard.measured()
    assert sum(measurement.counts) == 3


@pytest.mark.anyio
async def test_a_timer_measures_coroutines() -> None:
    """A coroutine is measured until it returns."""
    sidecard = FakeClient()

    @sidecard.timer("took")
    async def work() -> int:
        return 1

    coroutine = work()
    assert sidecard.measured() == []
    assert await coroutine == 1
    assert sum(sidecard.measured()[0].counts) == 1


def test_the_sender_is_woken_once_until_it_takes(metrics: Woken) -> None:
    """Any number of changes wakes the sender once per take."""
    docs = metrics.counter("docs")
    for _ in range(5):
        docs.inc()

    assert metrics.wakes == 1
    metrics.take_changes()
    docs.inc()
    assert metrics.wakes == 2


def test_threads_lose_nothing(metrics: Woken) -> None:
    """Increments of four threads add up, while another thread takes changes."""
    docs, took = metrics.counter("docs"), metrics.histogram("took")

    def work() -> None:
        for _ in range(20_000):
            docs.inc()
            took.observe(0.1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()

    counted = observed = 0.0
    while True:
        alive = any(thread.is_alive() for thread in threads)
        for measurement in metrics.take_changes()[0]:
            counted += measurement.value * (measurement.name == "docs")
            observed += sum(measurement.counts)

        if not alive:
            break

    assert (counted, observed) == (80_000, 80_000)


def test_updates_of_series_above_the_limit_are_dropped_and_counted(
    metrics: Woken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not raise: an app must not fail because of a label."""
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    docs = metrics.counter("docs")
    for number in range(5):
        docs.labels(n=number).inc()

    metrics.gauge("queue").set(1)
    metrics.gauge("queue").inc()
    metrics.gauge("queue").set_function(lambda: 1.0)
    metrics.histogram("took").observe(1)
    taken, dropped = metrics.take_changes()
    assert ([measurement.labels["n"] for measurement in taken], dropped) == (["0", "1"], 7)


def test_a_child_counts_from_zero(metrics: Woken) -> None:
    """The parent reports what was counted before the fork."""
    docs, queue, took = metrics.counter("docs"), metrics.gauge("queue"), metrics.histogram("took")
    for _ in range(2):
        docs.inc()
        queue.set(3)
        took.observe(1.0)
        metrics.before_fork()
        metrics.reset()
        assert metrics.take_changes() == ([], 0)

    docs.inc()
    queue.inc()
    assert metrics.changes() == {"docs": 1, "queue": 1}


class Forwarding:
    """A registry of prometheus_client, forwarded."""

    def __init__(self, gauges: Aggregate = "each") -> None:
        self.registry = CollectorRegistry()
        self.metrics = Woken()
        self.metrics.add_source(ForwardedRegistry(self.registry, gauges))


def test_a_forwarded_registry_reports_its_changes() -> None:
    """Counters report increments, also after they were cleared; gauges report values."""
    forwarding = Forwarding()
    docs = PrometheusCounter("docs", "Documents.", ["kind"], registry=forwarding.registry)
    queue = Gauge("queue", "Waiting.", registry=forwarding.registry)
    docs.labels("pdf").inc(3)
    queue.set(2)
    assert forwarding.metrics.take_changes()[0] == [
        Measurement(name="docs", kind="counter", value=3.0, labels={"kind": "pdf"}, help="Documents."),
        Measurement(name="queue", kind="gauge", value=2.0, help="Waiting.", aggregate="each"),
    ]
    docs.labels("pdf").inc()
    assert forwarding.metrics.changes() == {"docs kind=pdf": 1}
    docs.clear()
    docs.labels("pdf").inc(2)
    assert forwarding.metrics.changes() == {"docs kind=pdf": 2}
    forwarding.metrics.resend()
    assert forwarding.metrics.changes() == {"queue": 2}


def test_a_forwarded_histogram_reports_its_buckets() -> None:
    """A summary becomes a histogram of one bucket."""
    forwarding = Forwarding()
    took = Histogram("took", "Seconds.", buckets=(1, 5), registry=forwarding.registry)
    size = Summary("size", "Bytes.", registry=forwarding.registry)
    for value in (0.5, 2, 7, 8):
        took.observe(value)
        size.observe(value)

    first = {measurement.name: measurement for measurement in forwarding.metrics.take_changes()[0]}
    assert (first["took"].bounds, first["took"].counts, first["took"].value) == ((1.0, 5.0), (1, 1, 2), 17.5)
    assert (first["size"].counts, first["size"].value) == ((0, 4), 17.5)
    took.observe(3)
    (second,) = forwarding.metrics.take_changes()[0]
    assert (second.counts, second.value) == ((0, 1, 0), 3.0)


def test_forwarded_infos_and_enums_are_gauges() -> None:
    """Their gauges have the same value in all workers."""
    forwarding = Forwarding()
    Info("app", "Which.", registry=forwarding.registry).info({"version": "1"})
    Enum("mode", "How.", states=["a", "b"], registry=forwarding.registry).state("b")
    assert forwarding.metrics.changes() == {"app_info version=1": 1, "mode mode=a": 0, "mode mode=b": 1}


def test_a_forwarded_registry_in_a_child_reports_changes_after_the_fork() -> None:
    """The parent reports what was counted before."""
    forwarding = Forwarding()
    docs = PrometheusCounter("docs", "Documents.", registry=forwarding.registry)
    docs.inc(5)
    forwarding.metrics.take_changes()
    docs.inc(2)
    forwarding.metrics.before_fork()
    forwarding.metrics.reset()
    docs.inc()
    assert forwarding.metrics.changes() == {"docs": 1}


def test_a_forwarded_registry_that_raises_does_not_affect_other_metrics() -> None:
    """An app's collector that raises counts as one dropped update."""

    class Broken:
        def collect(self) -> list[object]:
            raise RuntimeError

    metrics = Woken()
    metrics.add_source(ForwardedRegistry(Broken(), "each"))
    metrics.counter("docs").inc()
    taken, dropped = metrics.take_changes()
    assert ([measurement.name for measurement in taken], dropped) == (["docs"], 1)


def test_a_collector_that_raises_midway_does_not_make_counters_count_again() -> None:
    """The next take reports the increments since the last successful one."""

    class Flaky:
        def __init__(self, registry: CollectorRegistry) -> None:
            self.fails = False
            self.registry = registry

        def collect(self) -> Iterator[object]:
            yield from self.registry.collect()
            if self.fails:
                raise RuntimeError

    registry = CollectorRegistry()
    flaky, metrics = Flaky(registry), Woken()
    metrics.add_source(ForwardedRegistry(flaky, "each"))
    docs = PrometheusCounter("docs", "Documents.", registry=registry)
    docs.inc(5)
    assert metrics.changes() == {"docs": 5}
    flaky.fails = True
    docs.inc()
    assert metrics.changes() == {}
    flaky.fails = False
    docs.inc()
    assert metrics.changes() == {"docs": 2}


def test_a_fake_client_returns_what_was_measured() -> None:
    """`FakeClient.measured` returns the changes to an app's test."""
    sidecard = FakeClient()
    sidecard.counter("docs").inc(3)
    assert [(measurement.name, measurement.value) for measurement in sidecard.measured()] == [("docs", 3.0)]
    assert sidecard.flush_metrics()
