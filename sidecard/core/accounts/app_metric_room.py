"""The room of the apps' metrics: what series cost, and the bounds of all of them, by uid and in total.

======================  ==================================================================================================
bounded                 limit
======================  ==================================================================================================
series                  `TOTAL_PER_METRIC` times ``limits.max_series``, with the spare of `sidecard.core.shares`
bytes in memory         the pool `sidecard.core.accounts.memory.MemoryAccounts.app_metrics`: objects, and one exposition
bytes exposed           half of what clients accept as one message, so that a reply to `metrics` always fits
======================  ==================================================================================================

A uid may use three quarters of the bytes. Exposed bytes are counted as encoded in the largest of the formats: a histogram has a
sample for each bucket, and each repeats the name and the labels.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.settings import LiveSettings
from sidecard.core.shares import Share
from sidecard_client.protocol.wire import MAX_FRAME_BYTES

Labels = tuple[tuple[str, str], ...]

TOTAL_PER_METRIC: Final = 20
"""Bound of the series of all metrics together, as a multiple of ``max_series``."""

MAX_EXPOSED_BYTES: Final = MAX_FRAME_BYTES // 2
"""Half of a message for the apps' metrics. The daemon's own take up to 2 MiB, with all its tables full."""

METRIC_BYTES: Final = 1400
"""Memory of a metric without series: its object, its tables, and the entries of its exposed names."""

SERIES_BYTES: Final = 480
"""Memory of a series without labels: its key, its value, and their entries in tables."""

LABEL_BYTES: Final = 170
"""Memory of one label besides its texts."""

BUCKET_BYTES: Final = 36
"""Memory of one bucket: its count, and a reference to it."""

WORKER_BYTES: Final = 240
"""Memory of one worker's value of a gauge."""

SAMPLE_BYTES: Final = 72
"""Encoded size of a sample besides its name and labels: the names of fields, a number, and in most an ``le`` or ``worker``."""

_SUFFIX_CHARACTERS: Final = 7
"""``_bucket``, the longest."""

_encoded = msgspec.json.Encoder().encode


class Cost(NamedTuple):
    """What a metric, a series, or a worker's value takes up."""

    series: int
    memory_bytes: int
    exposed_bytes: int

    def plus(self, other: "Cost") -> "Cost":
        """Return the sum of two costs."""
        return Cost(
            self.series + other.series,
            self.memory_bytes + other.memory_bytes,
            self.exposed_bytes + other.exposed_bytes,
        )

    def minus(self, other: "Cost") -> "Cost":
        """Return the difference of two costs."""
        return Cost(
            self.series - other.series,
            self.memory_bytes - other.memory_bytes,
            self.exposed_bytes - other.exposed_bytes,
        )


NO_COST: Final = Cost(0, 0, 0)


def cost_of_metric(name: str, description: str, bounds: Sequence[float]) -> Cost:
    """Return the cost of a metric without series. Its name is kept several times: with each exposed suffix."""
    exposed = 2 * len(name) + _text_bytes(description) + SAMPLE_BYTES
    return Cost(0, METRIC_BYTES + 8 * len(name) + 32 * len(bounds) + exposed, exposed)


def cost_of_series(name: str, labels: Labels, buckets: int) -> Cost:
    """Return the cost of a series: of a counter or gauge with 0 ``buckets``, or of a histogram."""
    texts = _labels_bytes(labels)
    samples = buckets + 2 if buckets else 1
    exposed = samples * (SAMPLE_BYTES + len(name) + _SUFFIX_CHARACTERS + texts)
    memory = SERIES_BYTES + LABEL_BYTES * len(labels) + texts + BUCKET_BYTES * buckets
    return Cost(1, memory + exposed, exposed)


def cost_of_worker(name: str, labels: Labels | None) -> Cost:
    """Return the cost of one worker's value; with ``labels``, it has a sample of its own."""
    exposed = 0 if labels is None else SAMPLE_BYTES + len(name) + _labels_bytes(labels)
    return Cost(1, WORKER_BYTES + exposed, exposed)


class MetricRoom:
    """Charges for all metrics, by uid. ``memory`` is the pool of the apps' metrics."""

    def __init__(self, settings: LiveSettings, memory: MemoryPool) -> None:
        self._settings = settings
        self._memory = memory
        self._max_series = settings.now.max_series * TOTAL_PER_METRIC
        self.series = Share()
        self.exposed = MemoryPool(MAX_EXPOSED_BYTES)

    def lacks(self, uid: int, cost: Cost) -> str:
        """Return what a uid has no room for: ``series``, ``metric_bytes``, or nothing."""
        if cost.series and not self.series.has_room(uid, self._max_series, self._settings.now.spare_share):
            return "series"

        if self._memory.has_room(uid, cost.memory_bytes) and self.exposed.has_room(uid, cost.exposed_bytes):
            return ""

        return "metric_bytes"

    def charge(self, uid: int, cost: Cost) -> None:
        """Charge a uid that lacks nothing."""
        for _ in range(cost.series):
            self.series.take(uid)

        self._memory.charge(uid, cost.memory_bytes)
        if cost.exposed_bytes:
            self.exposed.charge(uid, cost.exposed_bytes)

    def release(self, uid: int, cost: Cost) -> None:
        """Take back charges of exactly that cost."""
        for _ in range(cost.series):
            self.series.give_back(uid)

        self._memory.release(uid, cost.memory_bytes)
        if cost.exposed_bytes:
            self.exposed.release(uid, cost.exposed_bytes)


def _labels_bytes(labels: Labels) -> int:
    """Return the encoded size of labels: names are ASCII, values any text, in JSON up to six bytes a character."""
    return sum(len(label) + _text_bytes(value) + 4 for label, value in labels)


def _text_bytes(text: str) -> int:
    return len(_encoded(text))
