"""What a byte of the cache earns by an answer: what it would cost to fetch it anew, for each byte that it takes.

An answer's cost is counted in the first of these currencies that is known of it:

- dollars, where its call cost some;
- seconds, where the call was free or nobody said what it cost;
- calls, where it was put by somebody who made no call: each is one.

Currencies do not convert into each other, so each has a scale of its own: the running median of what newcomers cost in it
for each byte. An answer's worth is how many times that median it costs. So the usual local answer weighs as much as the
usual dear one, and where all cost and take the same, each is worth exactly 1 and hits alone decide.

The median, and no mean: whoever reports costs that are none moves it by one step a report, whatever the number,
and `MAX_PRIORITY` is all that an answer gains by one. The median is of newcomers, not of what is in the cache: it follows them.
"""

from sidecard.core.cache.entry import Entry

MAX_PRIORITY = 256.0
"""What costs more times the usual counts as this. On the workloads of `sidecard bench --eviction`, where costs are lognormal,
64 instead saves 1 to 2 % fewer dollars."""

MIN_PRIORITY = 1 / 64
"""What costs less than this share of the usual counts as this."""

_LEAST_STEP = 1 / 256
"""How far one newcomer moves the median, in relation to it, where newcomers are as often above as below."""

_MOST_STEP = 1 / 16
"""And where it is far off. So a scale that began at a billion times what is usual is right after some 500 newcomers,
and one that a hundred in a row lie to is off by some hundred times, not by what they say."""

_FASTER = 1.2
_SLOWER = 1 / 2


class _Scale:
    """A running median, by the smallest of stochastic approximations: a step up for what is above, down for what is below.

    Steps grow while they lead in one direction, and shrink when they turn (as in Rprop, Riedmiller and Braun 1993).
    """

    __slots__ = ("_step", "_upwards", "median")

    def __init__(self) -> None:
        self.median = 0.0
        self._step = _LEAST_STEP
        self._upwards = True

    def learn(self, amount: float) -> None:
        if self.median == 0:
            self.median = amount

        if amount == self.median:
            return

        upwards = amount > self.median
        if upwards == self._upwards:
            self._step = min(_MOST_STEP, self._step * _FASTER)
        else:
            self._step = max(_LEAST_STEP, self._step * _SLOWER)

        self._upwards = upwards
        if upwards:
            self.median *= 1 + self._step
        else:
            self.median /= 1 + self._step


class Priorities:
    """Weighs entries against those that came before."""

    def __init__(self) -> None:
        self._dollars = _Scale()
        self._seconds = _Scale()
        self._calls = _Scale()

    def learn(self, entry: Entry) -> float:
        """Take a newcomer into account; return what it is worth."""
        scale, amount = self._counted(entry)
        scale.learn(amount)
        return _within(amount / scale.median)

    def of(self, entry: Entry) -> float:
        """Return what an entry is worth by now."""
        scale, amount = self._counted(entry)
        return _within(amount / scale.median)

    def _counted(self, entry: Entry) -> tuple[_Scale, float]:
        dollars = entry.dollars
        if dollars > 0:
            return self._dollars, dollars / entry.charge

        if entry.seconds > 0:
            return self._seconds, entry.seconds / entry.charge

        return self._calls, 1 / entry.charge


def _within(worth: float) -> float:
    return min(MAX_PRIORITY, max(MIN_PRIORITY, worth))
