"""What an app counts, as it is gathered: without a daemon, without a clock but for timers."""

import math
import threading

import pytest
from prometheus_client import CollectorRegistry, Enum, Gauge, Histogram, Info, Summary
from prometheus_client import Counter as PrometheusCounter

from sidecard_client.metrics import instruments as module
from sidecard_client.metrics.forwarding import Forwarded
from sidecard_client.metrics.instruments import Metrics
from sidecard_client.protocol.wire import Aggregate, Measurement
from sidecard_client.testing import FakeClient


class Woken(Metrics):
    """Metrics that count how often they woke their sender."""

    def __init__(self) -> None:
        self.wakes = 0
        super().__init__(self._count)

    def _count(self) -> None:
        self.wakes += 1

    def news(self) -> dict[str, float]:
        """Take, and return the values by name and labels."""
        return {
            measurement.name
            + "".join(f" {label}={value}" for label, value in measurement.labels.items()): measurement.value
            for measurement in self.take()[0]
        }


@pytest.fixture
def metrics() -> Woken:
    """Begin at zero."""
    return Woken()


def test_a_counter_tells_what_was_added_since_it_was_taken(metrics: Woken) -> None:
    """Nothing where nothing was."""
    docs = metrics.counter("docs", "Documents.")
    docs.inc()
    docs.inc(2)
    docs.labels(kind="pdf", pages=3).inc(0.5)
    assert metrics.take() == (
        [
            Measurement(name="docs", kind="counter", value=3.0, help="Documents."),
            Measurement(
                name="docs", kind="counter", value=0.5, help="Documents.", labels={"kind": "pdf", "pages": "3"}
            ),
        ],
        0,
    )
    assert metrics.take() == ([], 0)
    docs.inc()
    assert metrics.news() == {"docs": 1}


def test_the_same_name_is_the_same_metric(metrics: Woken) -> None:
    """Wherever in the app it is asked for; and so are the same labels in another order."""
    assert metrics.counter("docs") is metrics.counter("docs")
    assert metrics.counter("docs").labels(a=1, b=2) is metrics.counter("docs").labels(b="2", a="1")


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, -math.inf])
def test_a_counter_only_grows(amount: float, metrics: Woken) -> None:
    """By something that can be added up."""
    with pytest.raises(ValueError, match="A counter grows by"):
        metrics.counter("docs").inc(amount)


@pytest.mark.parametrize("name", ["", "1docs", "do cs", "sidecard_docs", "d" * 202, "döcs"])
def test_a_name_that_cannot_be_is_refused_where_it_is_given(name: str, metrics: Woken) -> None:
    """And not when it is sent."""
    with pytest.raises(ValueError, match="cannot be a metric's name"):
        metrics.counter(name)


@pytest.mark.parametrize("label", ["le", "worker", "__name", "1", "a-b"])
def test_a_label_that_cannot_be_is_refused(label: str, metrics: Woken) -> None:
    """As a name is."""
    with pytest.raises(ValueError, match="cannot be a label's name"):
        metrics.counter("docs").labels(**{label: 1})


def test_one_name_is_of_one_kind(metrics: Woken) -> None:
    """The error says which."""
    metrics.counter("docs")
    with pytest.raises(ValueError, match="docs is a counter already"):
        metrics.gauge("docs")


@pytest.mark.parametrize("buckets", [(), (2.0, 1.0), (1.0, 1.0), (math.nan,), range(65)])
def test_buckets_rise(buckets: tuple[float, ...], metrics: Woken) -> None:
    """And are not too many."""
    with pytest.raises(ValueError, match="buckets="):
        metrics.histogram("took", buckets=buckets)


def test_a_gauge_tells_what_it_is_where_that_has_changed(metrics: Woken) -> None:
    """Once more where the daemon knows nothing of it."""
    queue = metrics.gauge("queue", aggregate="max")
    assert metrics.news() == {}
    queue.set(3)
    queue.inc()
    queue.dec(2)
    assert metrics.take()[0] == [Measurement(name="queue", kind="gauge", value=2.0, aggregate="max")]
    queue.set(2)
    assert metrics.news() == {}
    metrics.retell()
    assert metrics.news() == {"queue": 2}


def test_a_gauge_may_be_a_function(metrics: Woken) -> None:
    """One that raises has no value just now, and takes nobody else's."""
    values = [1, 2]
    metrics.gauge("queue").set_function(values.pop)
    metrics.counter("docs").inc()
    assert metrics.news() == {"queue": 2, "docs": 1}
    assert metrics.news() == {"queue": 1}
    assert metrics.news() == {}
    assert metrics.has_gauges


def test_observations_are_counted_by_size(metrics: Woken) -> None:
    """What is not finite is none."""
    took = metrics.histogram("took", buckets=(1, 5, math.inf))
    for value in (0.5, 1.0, 1.5, 7.0, math.nan, math.inf):
        took.observe(value)

    assert metrics.take()[0] == [
        Measurement(name="took", kind="histogram", value=10.0, bounds=(1.0, 5.0), counts=(2, 1, 1))
    ]
    assert metrics.news() == {}


def test_a_timer_measures_blocks_and_functions() -> None:
    """The failed ones too."""
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
    """Until they have returned."""
    sidecard = FakeClient()

    @sidecard.timer("took")
    async def work() -> int:
        return 1

    coroutine = work()
    assert sidecard.measured() == []
    assert await coroutine == 1
    assert sum(sidecard.measured()[0].counts) == 1


def test_the_sender_is_woken_once_until_it_takes(metrics: Woken) -> None:
    """A million increments are one wake."""
    docs = metrics.counter("docs")
    for _ in range(5):
        docs.inc()

    assert metrics.wakes == 1
    metrics.take()
    docs.inc()
    assert metrics.wakes == 2


def test_threads_lose_nothing(metrics: Woken) -> None:
    """While the sender takes."""
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
        for measurement in metrics.take()[0]:
            counted += measurement.value * (measurement.name == "docs")
            observed += sum(measurement.counts)

        if not alive:
            break

    assert (counted, observed) == (80_000, 80_000)


def test_series_are_bounded_and_what_is_beyond_is_counted(metrics: Woken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing raises: an app must not fail for a label."""
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    docs = metrics.counter("docs")
    for number in range(5):
        docs.labels(n=number).inc()

    metrics.gauge("queue").set(1)
    metrics.gauge("queue").inc()
    metrics.gauge("queue").set_function(lambda: 1.0)
    metrics.histogram("took").observe(1)
    taken, dropped = metrics.take()
    assert ([measurement.labels["n"] for measurement in taken], dropped) == (["0", "1"], 7)


def test_a_child_counts_from_zero(metrics: Woken) -> None:
    """What was counted before the fork is its parent's."""
    docs, queue, took = metrics.counter("docs"), metrics.gauge("queue"), metrics.histogram("took")
    for _ in range(2):
        docs.inc()
        queue.set(3)
        took.observe(1.0)
        metrics.before_fork()
        metrics.forget()
        assert metrics.take() == ([], 0)

    docs.inc()
    queue.inc()
    assert metrics.news() == {"docs": 1, "queue": 1}


class Forwarding:
    """A registry of prometheus_client, forwarded."""

    def __init__(self, gauges: Aggregate = "each") -> None:
        self.registry = CollectorRegistry()
        self.metrics = Woken()
        self.metrics.add_source(Forwarded(self.registry, gauges))


def test_a_registry_is_told_as_it_grows() -> None:
    """By what has changed."""
    forwarding = Forwarding()
    docs = PrometheusCounter("docs", "Documents.", ["kind"], registry=forwarding.registry)
    queue = Gauge("queue", "Waiting.", registry=forwarding.registry)
    docs.labels("pdf").inc(3)
    queue.set(2)
    assert forwarding.metrics.take()[0] == [
        Measurement(name="docs", kind="counter", value=3.0, labels={"kind": "pdf"}, help="Documents."),
        Measurement(name="queue", kind="gauge", value=2.0, help="Waiting.", aggregate="each"),
    ]
    docs.labels("pdf").inc()
    assert forwarding.metrics.news() == {"docs kind=pdf": 1}
    docs.clear()
    docs.labels("pdf").inc(2)
    assert forwarding.metrics.news() == {"docs kind=pdf": 2}
    forwarding.metrics.retell()
    assert forwarding.metrics.news() == {"queue": 2}


def test_a_registrys_histograms_are_told_by_the_bucket() -> None:
    """A summary has but one."""
    forwarding = Forwarding()
    took = Histogram("took", "Seconds.", buckets=(1, 5), registry=forwarding.registry)
    size = Summary("size", "Bytes.", registry=forwarding.registry)
    for value in (0.5, 2, 7, 8):
        took.observe(value)
        size.observe(value)

    first = {measurement.name: measurement for measurement in forwarding.metrics.take()[0]}
    assert (first["took"].bounds, first["took"].counts, first["took"].value) == ((1.0, 5.0), (1, 1, 2), 17.5)
    assert (first["size"].counts, first["size"].value) == ((0, 4), 17.5)
    took.observe(3)
    (second,) = forwarding.metrics.take()[0]
    assert (second.counts, second.value) == ((0, 1, 0), 3.0)


def test_a_registrys_facts_are_gauges_of_all_workers() -> None:
    """The same for each of them."""
    forwarding = Forwarding()
    Info("app", "Which.", registry=forwarding.registry).info({"version": "1"})
    Enum("mode", "How.", states=["a", "b"], registry=forwarding.registry).state("b")
    assert forwarding.metrics.news() == {"app_info version=1": 1, "mode mode=a": 0, "mode mode=b": 1}


def test_a_registry_in_a_child_tells_what_came_after_the_fork() -> None:
    """Its parent tells the rest."""
    forwarding = Forwarding()
    docs = PrometheusCounter("docs", "Documents.", registry=forwarding.registry)
    docs.inc(5)
    forwarding.metrics.take()
    docs.inc(2)
    forwarding.metrics.before_fork()
    forwarding.metrics.forget()
    docs.inc()
    assert forwarding.metrics.news() == {"docs": 1}


def test_a_registry_that_raises_takes_nobody_elses_metrics() -> None:
    """A collector of the app may do anything."""

    class Broken:
        def collect(self) -> list[object]:
            raise RuntimeError

    metrics = Woken()
    metrics.add_source(Forwarded(Broken(), "each"))
    metrics.counter("docs").inc()
    taken, dropped = metrics.take()
    assert ([measurement.name for measurement in taken], dropped) == (["docs"], 1)


def test_a_fake_client_tells_what_was_measured() -> None:
    """For tests of apps."""
    sidecard = FakeClient()
    sidecard.counter("docs").inc(3)
    assert [(measurement.name, measurement.value) for measurement in sidecard.measured()] == [("docs", 3.0)]
    assert sidecard.flush_metrics()
