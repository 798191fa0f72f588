"""Eviction priority: what it would cost to fetch an answer again, per byte of memory, relative to what is usual.

The cost of an answer is counted in the first of these currencies that is known:

- dollars, if its call cost some;
- seconds, if the call was free or its cost was not reported;
- calls, if a peer put it without making a call: each counts as one.

Currencies do not convert into each other, so each has its own scale: the running median of the cost per byte of new entries.
An answer's priority is its cost per byte divided by that median. So the usual local answer weighs as much as the usual
expensive one, and if all answers have equal cost and size, each has priority 1 and hits alone decide.

Why a median and not a mean: a false report of any size moves the median by one step, and `MAX_PRIORITY` is all that an answer
gains by it. Why of new entries and not of all: the median follows the workload.
"""

from sidecard.core.cache.entry import Entry

MAX_PRIORITY = 256.0
"""Upper bound. On the workloads of `tests.bench.eviction`, with lognormal costs, 64 saves 1 to 2 % fewer dollars."""

MIN_PRIORITY = 1 / 64
"""Lower bound."""

_MIN_STEP = 1 / 256
"""Relative step of the median per new entry while entries above and below alternate."""

_MAX_STEP = 1 / 16
"""Relative step while the median is far off. A scale that starts a billion times too high is right after some 500 new
entries, and a hundred false reports in a row move it by a factor of some hundred, not by what they claim."""

_FASTER = 1.2
_SLOWER = 1 / 2


class _RunningMedian:
    """A median by stochastic approximation: one step up for a sample above it, one step down for a sample below.

    Steps grow while the direction stays and shrink when it turns (as in Rprop, Riedmiller and Braun 1993).
    """

    __slots__ = ("_step", "_upwards", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self._step = _MIN_STEP
        self._upwards = True

    def add(self, sample: float) -> None:
        if self.value == 0:
            self.value = sample

        if sample == self.value:
            return

        upwards = sample > self.value
        if upwards == self._upwards:
            self._step = min(_MAX_STEP, self._step * _FASTER)
        else:
            self._step = max(_MIN_STEP, self._step * _SLOWER)

        self._upwards = upwards
        if upwards:
            self.value *= 1 + self._step
        else:
            self.value /= 1 + self._step


class Priorities:
    """Compute priorities against the medians of the entries seen so far."""

    def __init__(self) -> None:
        self._dollars = _RunningMedian()
        self._seconds = _RunningMedian()
        self._calls = _RunningMedian()

    def learn(self, entry: Entry, charge: int) -> float:
        """Add a new entry of ``charge`` bytes to its median; return the entry's priority."""
        median, cost = self._cost_per_byte(entry, charge)
        median.add(cost)
        return _bounded(cost / median.value)

    def of(self, entry: Entry) -> float:
        """Return the current priority of an entry."""
        median, cost = self._cost_per_byte(entry, entry.charge)
        return _bounded(cost / median.value)

    def _cost_per_byte(self, entry: Entry, charge: int) -> tuple[_RunningMedian, float]:
        dollars = entry.terms.usage.cost_dollars or 0.0
        if dollars > 0:
            return self._dollars, dollars / charge

        if entry.seconds > 0:
            return self._seconds, entry.seconds / charge

        return self._calls, 1 / charge


def _bounded(priority: float) -> float:
    return min(MAX_PRIORITY, max(MIN_PRIORITY, priority))
