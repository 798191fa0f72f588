"""A client for tests of programs that use sidecard: no daemon, no socket, no waiting.

```python
def test_the_second_question_is_free():
    sidecard = FakeClient()
    answer(sidecard, "why?")
    answer(sidecard, "why?")
    assert [asked.source for asked in sidecard.asked] == ["upstream", "cache"]
```

Keys, policies, errors and the rules for values are the real client's, from the same code:
what cannot be keyed or shared in production fails or warns here.
"""

import math
from collections.abc import Callable, Collection, Iterator
from operator import mul
from time import monotonic
from typing import Any, ParamSpec, Self, cast

from msgspec import Struct, structs

from sidecard_client._sync.client import StreamFunctions
from sidecard_client.call import call as calls
from sidecard_client.call.call import Call, Functions, Outcome, T
from sidecard_client.call.embedding import embedded
from sidecard_client.call.failures import kind_of
from sidecard_client.call.options import Options, Redact
from sidecard_client.call.values import pack_value, unpack_value
from sidecard_client.call.wrapping import CachedFunction, SharedMethods, generates
from sidecard_client.keys.explanation import Explanation
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.vectors import EMBEDS, Brought
from sidecard_client.metrics.client_metrics import ClientMetrics
from sidecard_client.metrics.registry import MetricRegistry
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallRejected, UnshareableValue

P = ParamSpec("P")

TTL_SECONDS = 300.0
"""The daemon's default."""

VERSION = "fake"


class Asked(Struct, frozen=True):
    """One call that a `FakeClient` was asked to make, in the order of their ends."""

    key: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    source: calls.Source
    backend: str
    value: Any
    similarity: float | None = None


class Entry(Struct, frozen=True):
    """A stored answer."""

    packed: bytes
    stored_at: float
    expires_at: float
    tags: tuple[str, ...]
    backend: str
    took_seconds: float
    task: str
    similar: Brought | None = None
    """By what similar requests find it."""


class FakeClient(ClientMetrics):
    """Does what `Client` does, for one thread, in a dict. ``policy`` is every call's default, as the client's keywords are.

    ``asked`` records the calls. ``retries=`` calls again at once, without a pause.
    ``sovereign=True`` leaves out backends that may be remote, as `Client` does without a daemon; no environment is read.
    While ``force_miss`` is true every call runs its function, so that a test meets no answer of another test.
    `measured` returns what the program has counted and observed.
    ``clock`` gives monotonic seconds; a test that lets entries expire brings its own.
    With ``similar_threshold`` every task looks for similar requests, of calls that have ``embed=`` or ``vector=``.
    """

    def __init__(
        self,
        *,
        force_miss: bool = False,
        clock: Callable[[], float] = monotonic,
        similar_threshold: float | None = None,
        **policy: Any,
    ) -> None:
        self.force_miss = force_miss
        self.similar_threshold = similar_threshold
        self.asked: list[Asked] = []
        self._clock = clock
        self._options = Options().changed(policy)
        self._entries: dict[tuple[str, str], Entry] = {}
        self._calls: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._init_metrics(None, 0.0)
        self._own_metrics = MetricRegistry(lambda: None)

    def measured(self) -> list[wire.Measurement]:
        """Return what the program has measured since this was asked last, as the daemon would be told it."""
        return self._own_metrics.take_changes()[0]

    def _metric_registry(self) -> MetricRegistry:
        return self._own_metrics

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<FakeClient {len(self.asked)} asked, {len(self._entries)} entries>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def redact(self) -> Redact | None:
        """As `Client.redact`."""
        return self._options.redact

    @property
    def sovereign(self) -> bool:
        """As `Client.sovereign`."""
        return self._options.sovereign

    def close(self) -> None:
        """Do nothing: entries stay, for a test that looks at them."""

    def call(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> T:
        """As `Client.call`."""
        return self.outcome(function, *args, **kwargs).value

    def outcome(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> Outcome[T]:
        """As `Client.outcome`."""
        return self._run(calls.prepare(self._options, function, args, kwargs))

    def stream(self, function: StreamFunctions[T], /, *args: Any, **kwargs: Any) -> Iterator[T]:
        """As `Client.stream`; but the pieces are there all at once."""
        call = calls.prepare(self._options, cast("Functions[Any]", function), args, kwargs, stream=True)
        return cast("Iterator[T]", self._perform(call))

    def cached(self, **policy: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """As `Client.cached`."""
        bound = self._options.changed(policy)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            return cast("Callable[P, T]", CachedFunction(self._perform, function, bound))

        return decorate

    def wrap(self, llm_client: T, *, methods: Collection[str] | None = None, **policy: Any) -> T:
        """As `Client.wrap`."""
        return cast("T", SharedMethods(self._perform, llm_client, self._options.changed(policy), methods))

    def get(self, key: str, default: Any = None, *, namespace: str | None = None) -> Any:
        """As `Client.get`."""
        entry = self._find(namespace or self._options.namespace, key)
        return default if entry is None else unpack_value(entry.packed)

    def put(
        self,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        tags: Collection[str] = (),
        namespace: str | None = None,
    ) -> bool:
        """As `Client.put`."""
        options = self._options.changed({"ttl": ttl, "tags": tags, "namespace": namespace or self._options.namespace})
        return self._store(options, key, pack_value(value), wire.DEFAULT_BACKEND, 0.0)

    def delete(self, key: str, *, namespace: str | None = None) -> int:
        """As `Client.delete`."""
        return int(self._entries.pop((namespace or self._options.namespace, key), None) is not None)

    def purge(self, *, namespace: str | None = None, tag: str | None = None, task: str | None = None) -> int:
        """As `Client.purge`."""
        doomed = [
            place
            for place, entry in self._entries.items()
            if (namespace is None or place[0] == namespace)
            and (tag is None or tag in entry.tags)
            and (task is None or task == entry.task)
        ]
        for place in doomed:
            del self._entries[place]

        return len(doomed)

    def explain(self, function: Functions[Any], /, *args: Any, **kwargs: Any) -> Explanation:
        """As `Client.explain`."""
        stream = generates(function) if callable(function) else False
        return calls.explanation_of(calls.prepare(self._options, function, args, kwargs, stream=stream))

    def normal_forms(self, task: str) -> tuple[NormalForm, ...]:  # noqa: ARG002 - as `Client`'s
        """As `Client.normal_forms`: no task has any."""
        return ()

    def report(self) -> wire.Report:
        """Count calls and hits as the daemon does; seconds and dollars are 0."""
        by_task: dict[str, list[Asked]] = {}
        for asked in self.asked:
            by_task.setdefault(asked.options.task, []).append(asked)

        tasks = {task: _ledger(group) for task, group in by_task.items()}
        return wire.Report(id=0, uptime_seconds=0.0, total=_ledger(self.asked), tasks=tasks)

    def stats(self) -> wire.Stats:
        """Return the counters that a dict has; the others are 0."""
        zeros: dict[str, Any] = {field.name: 0 for field in structs.fields(wire.Stats)}
        hits = sum(asked.source == "cache" for asked in self.asked)
        known: dict[str, Any] = {
            "version": VERSION,
            "boot_id": VERSION,
            "uptime_seconds": 0.0,
            "draining": False,
            "cache_entries": len(self._entries),
            "begins": len(self.asked),
            "hits": hits,
            "similar_hits": _similar_hits(self.asked),
            "misses": len(self.asked) - hits,
        }
        return wire.Stats(**(zeros | known))

    def health(self) -> wire.Health:
        """Say that all is well."""
        return wire.Health(id=0, status="ok", reasons=[], version=VERSION, boot_id=VERSION, uptime_seconds=0.0)

    def ping(self) -> wire.Pong:
        """Answer as a daemon does."""
        return wire.Pong(id=0, version=VERSION, protocol=wire.PROTOCOL_VERSION, boot_id=VERSION, uptime_seconds=0.0)

    def config(self) -> wire.Settings:
        """Return the one setting that a dict has."""
        return wire.Settings(
            id=0, settings={"cache.ttl_seconds": TTL_SECONDS}, origins={"cache.ttl_seconds": "default"}
        )

    def breakers(self) -> wire.Breakers:
        """Show every backend that was asked, closed."""
        return wire.Breakers(id=0, backends={name: self._state(name) for name in self._calls})

    def breaker(self, backend: str, action: wire.BreakerAction) -> None:
        """Do nothing: every breaker stays closed."""

    def _state(self, backend: str) -> wire.BackendState:
        return wire.BackendState(
            state="closed",
            locality="local" if wire.is_local(backend) else "remote",
            generation=0,
            cause="",
            retry_after_seconds=None,
            calls=self._calls[backend],
            failures=self._failures.get(backend, 0),
            slow=0,
            opened=0,
            permits=0,
            limit=None,
            queued=0,
            max_queue=0,
            latency_seconds=None,
            dollars_per_call=None,
        )

    def _perform(self, call: Call) -> Any:
        return self._pieces(call) if call.stream else self._run(call).value

    def _pieces(self, call: Call) -> Iterator[Any]:
        # As `Client.stream`'s, whose call is not made before the first piece is asked for.
        yield from self._run(call).value

    def _run(self, call: Call) -> Outcome[Any]:
        if call.key is calls.UNKEYED:
            call = calls.keyed(call, self.normal_forms(call.options.task))

        entry = None
        if call.key is not None and not self.force_miss and call.options.mode != "refresh":
            entry = self._find(call.options.namespace, call.key)

        similarity = None
        if entry is None and call.similar is EMBEDS and self.similar_threshold is not None:
            call = embedded(call)
            entry, similarity = self._find_similar(call)

        if entry is not None:
            age_seconds = self._clock() - entry.stored_at
            value = unpack_value(entry.packed)
            outcome = Outcome(value, "cache", age_seconds, entry.backend, entry.took_seconds, similarity=similarity)
        elif call.options.mode == "only_if_cached":
            raise CallRejected("not_cached")
        else:
            outcome = self._make(call)

        self.asked.append(
            Asked(
                call.key,
                call.args,
                call.kwargs,
                call.options,
                outcome.source,
                outcome.backend,
                outcome.value,
                outcome.similarity,
            )
        )
        return outcome

    def _make(self, call: Call) -> Outcome[Any]:
        choices = calls.choices_here(call, ())
        rounds = 1 + call.options.retries
        for attempt, (backend, function) in enumerate(choices * rounds, 1):
            self._calls[backend] = self._calls.get(backend, 0) + 1
            began = self._clock()
            try:
                value = function(*call.args, **call.kwargs)
                value = list(value) if call.stream else value
            except BaseException as error:
                self._failures[backend] = self._failures.get(backend, 0) + 1
                if kind_of(error, call.options.classify) == "transient" and attempt < len(choices) * rounds:
                    continue

                raise

            calls.read_usage(call.options, value)  # a faulty hook shows in the test
            try:
                packed = pack_value(value)
            except UnshareableValue as error:
                calls.warn_unshareable(function, error)
            else:
                if call.key is not None and calls.may_be_stored(call.options, value):
                    similar = call.similar if isinstance(call.similar, Brought) else None
                    self._store(call.options, call.key, packed, backend, self._clock() - began, similar)

            return Outcome(value, "upstream", backend=backend, attempts=attempt)

        raise AssertionError("a call has a backend, and its last attempt returns or raises")

    def _find(self, namespace: str, key: str) -> Entry | None:
        entry = self._entries.get((namespace, key))
        return None if entry is None or entry.expires_at <= self._clock() else entry

    def _find_similar(self, call: Call) -> tuple[Entry | None, float | None]:
        options, brought = call.options, call.similar
        if not isinstance(brought, Brought) or options.mode == "refresh" or self.force_miss:
            return None, None

        found = [
            (_cosine(entry.similar.vector, brought.vector), key)
            for namespace, key in self._entries
            if namespace == options.namespace
            and (entry := self._find(namespace, key)) is not None
            and entry.similar is not None
            and entry.similar.group == brought.group
        ]
        similarity, key = max(found, default=(-1.0, ""))
        if self.similar_threshold is None or similarity < self.similar_threshold:
            return None, None

        return self._entries[options.namespace, key], similarity

    def _store(
        self,
        options: Options,
        key: str,
        packed: bytes,
        backend: str,
        took_seconds: float,
        similar: Brought | None = None,
    ) -> bool:
        ttl_seconds = TTL_SECONDS if options.ttl_seconds is None else options.ttl_seconds
        if ttl_seconds == 0:
            return False

        now = self._clock()
        place = (options.namespace, key)
        until = now + ttl_seconds
        self._entries[place] = Entry(packed, now, until, options.tags, backend, took_seconds, options.task, similar)
        return True


def _cosine(one: bytes, other: bytes) -> float:
    """Return the cosine of two vectors; of two that are no vectors of one embedder, -1."""
    a, b = memoryview(one).cast("f").tolist(), memoryview(other).cast("f").tolist()
    if len(a) != len(b):
        return -1.0

    dot: float = sum(map(mul, a, b))
    return min(1.0, dot / (math.hypot(*a) * math.hypot(*b)))


def _ledger(group: Collection[Asked]) -> wire.Ledger:
    hits = sum(asked.source == "cache" for asked in group)
    zeros: dict[str, Any] = {field.name: 0 for field in structs.fields(wire.Ledger)}
    known: dict[str, Any] = {
        "calls": len(group),
        "hits": hits,
        "similar_hits": _similar_hits(group),
        "upstream_calls": len(group) - hits,
        "hit_rate": hits / len(group) if group else 0.0,
    }
    return wire.Ledger(**(zeros | known))


def _similar_hits(group: Collection[Asked]) -> int:
    return sum(asked.similarity is not None for asked in group)
