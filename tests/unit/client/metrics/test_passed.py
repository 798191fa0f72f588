"""Counts of requests that were passed to the upstream, on their way to the daemon."""

from sidecard_client.metrics.registry import MetricRegistry
from sidecard_client.metrics.sender import MetricsSender
from sidecard_client.protocol.wire import MAX_PASSED, Passed, Recorded, RecordMetrics


class Daemon:
    """Acknowledges what it is sent."""

    def __init__(self) -> None:
        self.requests: list[RecordMetrics] = []

    def exchange(self, request: RecordMetrics) -> Recorded:
        """Keep the request."""
        self.requests.append(request)
        return Recorded(0, 0)

    def has_input(self) -> bool:
        """The connection lasts."""
        return False

    def close(self) -> None:
        """Do nothing."""


def test_requests_are_counted_by_reason_family_and_task() -> None:
    """Each count is sent once, also if no metric has changed."""
    daemon = Daemon()
    sender = MetricsSender(lambda: daemon, 1.0, daemon)
    for _ in range(2):
        sender.registry.passed.add("state", "openai_responses", "rag")

    sender.registry.passed.add("dialect", "", "general")
    assert sender.flush(1.0)
    assert sender.flush(1.0)
    sender.close()
    assert [request.passed for request in daemon.requests] == [
        (Passed(reason="state", family="openai_responses", task="rag", count=2), Passed(reason="dialect"))
    ]


def test_many_tasks_share_one_count() -> None:
    """A message has room for a bounded number of counts, and no request is lost from the sum."""
    registry = MetricRegistry(lambda: None)
    for number in range(3 * MAX_PASSED):
        registry.passed.add("size", "f", f"task {number}")

    taken = registry.passed.take()
    assert len(taken) <= MAX_PASSED
    assert sum(one.count for one in taken) == 3 * MAX_PASSED
    assert registry.changed


def test_a_child_starts_from_zero() -> None:
    """Its parent sends what was counted before."""
    registry = MetricRegistry(lambda: None)
    registry.passed.add("size", "", "t")
    registry.reset()
    assert registry.passed.take() == ()
