"""The daemon's own measurements by label, beyond `Counters` and the ledger."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Literal, get_args

from sidecard.core.accounts.backend_ledger import MAX_MODELS
from sidecard.core.accounts.histogram import CALL_BOUNDS, HANDLE_BOUNDS, Buckets
from sidecard.core.names import OTHER, UNKNOWN_UID, NameTable, NameUse, never
from sidecard.core.notes import Outcome
from sidecard.core.records import cached_tokens
from sidecard.core.sums import saturated
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol.wire import PASSED_REASONS, Exemplar, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

PromptKind = Literal["cached", "processed"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)

_OTHER_MODEL = (OTHER, OTHER)

_OUTCOMES = ("done", *get_args(Outcome))

OTHER_REASON = "other"

MAX_PASSED_LABELS = 256
"""Pairs of a family and a reason; further families count as `OTHER`."""

_TRACE_ID = slice(3, 35)
"""The trace id within a W3C ``traceparent``."""


class DaemonMetrics:
    """Counters, gauges and histograms, exposed by `sidecard.core.operations.metrics`.

    The daemon around the engine updates ``requests``, ``handled``, ``dropped`` and ``limited`` and registers ``gauges``,
    ``problems_of`` and ``dropped_by``; the engine updates the rest. Peers choose the names of backends and models, so their number is bounded: the sums
    of those that are forgotten, or find no room, are those of `OTHER`. ``kept`` tells configured backends.
    """

    def __init__(self, max_backends: int, wall: WallClock, kept: "Callable[[str], bool]" = never) -> None:
        self.requests: Counter[tuple[type, type]] = Counter()
        """By class of request and class of reply, except begins that hit, which `Counters.hits` counts."""
        self.handled: defaultdict[type, Buckets] = defaultdict(lambda: Buckets(HANDLE_BOUNDS))
        """Seconds by class of request; of begins, a sample."""
        self.leases: Counter[tuple[str, str]] = Counter()
        """Ended leases by backend and outcome."""
        self.upstream: defaultdict[str, Buckets] = defaultdict(lambda: Buckets(CALL_BOUNDS))
        """Seconds of answered calls by backend."""
        self.prompt_tokens: Counter[tuple[str, PromptKind]] = Counter()
        """Prompt tokens of answers by backend and by whether the backend read them from its own cache."""
        self.holds: defaultdict[str, Buckets] = defaultdict(lambda: Buckets(CALL_BOUNDS))
        """Seconds that callers were held for a prefix, by backend."""
        self.spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        """Dollars by backend and model."""
        self.dropped: Counter[str] = Counter()
        """Dropped items by kind."""
        self.limited: Counter[str] = Counter()
        """Rejections and closed connections by the limit that caused them."""
        self.passed: Counter[tuple[str, str]] = Counter()
        """Requests that clients passed to the upstream, by API family and reason."""
        self.gauges: dict[str, Callable[[], float]] = {}
        """Gauges of the daemon's parts around the engine, by name."""
        self.problems_of: dict[str, Callable[[], str]] = {}
        """By part of the daemon around the engine, a callable that returns its problem as a sentence, or an empty text."""
        self.dropped_by: dict[str, Callable[[], int]] = {}
        """Like ``dropped``, for parts that keep their own counts."""
        self.backends: NameTable[str, NameUse] = NameTable(max_backends, self._forget_backend, kept)
        self.models: NameTable[tuple[str, str], NameUse] = NameTable(MAX_MODELS, self._forget_model)
        """Labels of ``spent``."""
        self._models_of: defaultdict[str, set[str]] = defaultdict(set)
        self._wall = wall

    def count_lease(self, backend: str, outcome: str, uid: int = UNKNOWN_UID, now: float = 0.0) -> None:
        """Count an ended lease."""
        self.leases[self._label(backend, uid, now), outcome] += 1

    def count_passed(self, family: str, reason: str, count: int) -> None:
        """Count requests that a client passed to the upstream."""
        place = family, reason if reason in PASSED_REASONS else OTHER_REASON
        if place not in self.passed and len(self.passed) >= MAX_PASSED_LABELS:
            place = OTHER, place[1]

        self.passed[place] += count

    def passed_by_family(self) -> dict[str, dict[str, int]]:
        """Return the passed requests by API family and reason."""
        families: dict[str, dict[str, int]] = {}
        for (family, reason), count in sorted(self.passed.items()):
            families.setdefault(family, {})[reason] = saturated(count)

        return families

    def observe_call(self, backend: str, seconds: float, trace: str, uid: int, now: float) -> None:
        """Record how long a call took; ``trace`` is the caller's ``traceparent`` or empty."""
        histogram = self.upstream[self._label(backend, uid, now)]
        histogram.observe(seconds)
        if trace:
            histogram.exemplify(Exemplar({"trace_id": trace[_TRACE_ID]}, seconds, self._wall.at(now)))

    def count_prompt(self, backend: str, usage: Usage, uid: int, now: float) -> None:
        """Count the prompt tokens of an answer; those that the backend does not report as cached count as processed."""
        cached, label = cached_tokens(usage), self._label(backend, uid, now)
        self.prompt_tokens[label, "cached"] += cached
        self.prompt_tokens[label, "processed"] += (usage.prompt_tokens or 0) - cached

    def observe_hold(self, backend: str, seconds: float) -> None:
        """Record how long a caller was held for a prefix. Only configured backends hold callers."""
        self.holds[self._label(backend, UNKNOWN_UID, 0.0)].observe(seconds)

    def count_dollars(self, backend: str, model: str | None, dollars: float, uid: int, now: float) -> None:
        """Add what a call cost."""
        labels = (self._label(backend, uid, now), model or "")
        use = self.models.items.get(labels)
        if use is not None:
            use.used_at = now
        elif self.models.enter(labels, NameUse, uid, now) is None:
            labels = _OTHER_MODEL
        else:
            self._models_of[labels[0]].add(labels[1])

        self.spent[labels] += dollars

    def _label(self, backend: str, uid: int, now: float) -> str:
        use = self.backends.items.get(backend)
        if use is None:
            if backend == OTHER or self.backends.enter(backend, NameUse, uid, now) is None:
                return OTHER
        else:
            use.used_at = now

        return backend

    def _forget_backend(self, backend: str, _: NameUse) -> None:
        for outcome in _OUTCOMES:
            number = self.leases.pop((backend, outcome), 0)
            if number:
                self.leases[OTHER, outcome] += number

        for kind in PROMPT_KINDS:
            number = self.prompt_tokens.pop((backend, kind), 0)
            if number:
                self.prompt_tokens[OTHER, kind] += number

        for histograms in (self.upstream, self.holds):
            histogram = histograms.pop(backend, None)
            if histogram is not None:
                histograms[OTHER].add(CALL_BOUNDS, histogram.counts, histogram.sum)

        for model in list(self._models_of.get(backend, ())):
            self.models.forget((backend, model))

    def _forget_model(self, labels: tuple[str, str], _: NameUse) -> None:
        backend, model = labels
        models = self._models_of[backend]
        models.discard(model)
        if not models:
            del self._models_of[backend]

        self.spent[_OTHER_MODEL] += self.spent.pop(labels, 0.0)
