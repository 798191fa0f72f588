"""Calls of the last minutes that were rejected or failed: problems that no breaker and no table shows."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from sidecard.core.accounts.ledger import FAILURES, REJECTED
from sidecard.core.counters import Counters

WINDOW_SECONDS = 300.0
SAMPLE_SECONDS = 15.0

MIN_CALLS = 5
"""Fewer rejected or failed calls are no problem of the daemon's operator."""

MIN_REJECTED_SHARE = 0.01
MIN_FAILED_SHARE = 0.5
"""Of the calls in the window, and of a backend's calls in the window."""

MAX_BACKENDS = 4
"""Backends named in the sentence."""

_CHOSEN = frozenset({"draining", "not_cached"})
"""Reasons of rejections that the caller or the operator has asked for."""

_NEUTRAL = frozenset({"ignored", "cancelled"})
"""Outcomes of leases that say nothing about the backend."""

_NO_CALLS = Counter[str]()
_NO_LEASES = Counter[tuple[str, str]]()


class _Sample(NamedTuple):
    at: float
    calls: Counter[str]
    """``begins``, and the rejections by reason."""
    leases: Counter[tuple[str, str]]
    """Ended leases by backend and outcome."""


class RecentCalls:
    """Remembers samples of counters that only grow, and compares them with the counters of now."""

    def __init__(self, counters: Counters, leases: Counter[tuple[str, str]], clock: Callable[[], float]) -> None:
        self._counters = counters
        self._leases = leases
        self._clock = clock
        self._samples = deque([_Sample(clock(), _NO_CALLS, _NO_LEASES)])

    async def run(self) -> None:
        """Take samples until canceled."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self.sample()

    def sample(self) -> None:
        """Remember the counters of now; forget those from before the window, except the last."""
        now = self._clock()
        self._samples.append(_Sample(now, self._calls(), Counter(self._leases)))
        while len(self._samples) > 1 and self._samples[1].at <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def rejections(self) -> str:
        """Return a sentence if a notable share of the calls in the window was rejected; otherwise an empty text."""
        calls = self._calls() - self._samples[0].calls  # without reasons that have not occurred
        begins = calls.pop("begins", 0)
        if calls.total() < MIN_CALLS or calls.total() < MIN_REJECTED_SHARE * begins:
            return ""

        reasons = ", ".join(f"{reason} {number:,}" for reason, number in calls.most_common())
        return f"Calls are rejected: {calls.total():,} of {begins:,} in the last {self._minutes()} ({reasons})."

    def failures(self) -> str:
        """Return a sentence if most calls of a backend in the window failed; otherwise an empty text."""
        ended, failed = Counter[str](), Counter[str]()
        outcomes: dict[str, Counter[str]] = {}
        for (backend, outcome), number in (self._leases - self._samples[0].leases).items():
            if outcome not in _NEUTRAL:
                ended[backend] += number

            if outcome in FAILURES:
                failed[backend] += number
                outcomes.setdefault(backend, Counter())[outcome] = number

        failing = [
            f"{failed[name]:,} of {ended[name]:,} of backend {name!r} "
            f"({', '.join(f'{outcome} {number:,}' for outcome, number in outcomes[name].most_common())})"
            for name, number in failed.most_common()
            if number >= MIN_CALLS and number >= MIN_FAILED_SHARE * ended[name]
        ]
        if not failing:
            return ""

        more = f", and those of {len(failing) - MAX_BACKENDS} more backends" if len(failing) > MAX_BACKENDS else ""
        return f"Calls failed in the last {self._minutes()}: {'; '.join(failing[:MAX_BACKENDS])}{more}."

    def _calls(self) -> Counter[str]:
        counters = self._counters
        rejected = {reason: getattr(counters, name) for reason, name in REJECTED.items() if reason not in _CHOSEN}
        begins = counters.begins - counters.vectors_wanted - counters.prefixes_wanted  # which are repeated
        return Counter(rejected | {"begins": begins})

    def _minutes(self) -> str:
        seconds = min(self._clock() - self._samples[0].at, WINDOW_SECONDS)
        return f"{max(1, round(seconds)):.0f} s" if seconds < 60.0 else f"{seconds / 60.0:.0f} minutes"  # noqa: PLR2004
