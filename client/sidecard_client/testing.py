"""A client for tests of programs that use sidecard: no daemon, no socket, no waiting.

```python
def test_the_second_question_is_free():
    sidecard = FakeClient()
    answer(sidecard, "why?")
    answer(sidecard, "why?")
    assert [asked.source for asked in sidecard.asked] == ["upstream", "cache"]
```

Keys, policies, errors and the rules for values come from the real client's code:
a request that has no key or a value that cannot be shared fails or warns as in production.
"""

from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, TypeVar, cast

from msgspec import Raw, Struct, structs

from sidecard_client._sync.client import Client
from sidecard_client._sync.lifecycle import StreamFunctions
from sidecard_client._sync.streams import Stream
from sidecard_client.batches.batch import InputBatch, separated
from sidecard_client.call import call as calls
from sidecard_client.call.acceptance import is_valid
from sidecard_client.call.base_client import C
from sidecard_client.call.call import Call, Functions, T
from sidecard_client.call.completion import may_be_stored, reason_of, warn_unshareable
from sidecard_client.call.embedding import embedded
from sidecard_client.call.failures import kind_of
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import Outcome, Source, renewable, value_of
from sidecard_client.call.streams import divided
from sidecard_client.call.usage import read_usage
from sidecard_client.keys.guard.comparison import differ
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.similarity import cosine
from sidecard_client.keys.vectors import CAN_EMBED, QueryVector
from sidecard_client.metrics.registry import MetricRegistry
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallRejected, UnreadableAnswer, UnshareableValue
from sidecard_client.protocol.values import bound_of
from sidecard_client.values.codec import unpack_value
from sidecard_client.values.packing import pack_pieces, pack_value

TTL_SECONDS = 300.0
"""The daemon's default."""

M = TypeVar("M", bound=Struct)

_STATE_REPLIES: dict[type[wire.Request], type[wire.Reply]] = {
    wire.Ping: wire.Pong,
    wire.GetStats: wire.Stats,
    wire.GetReport: wire.Report,
    wire.GetHealth: wire.Health,
    wire.GetConfig: wire.Settings,
    wire.SetBreaker: wire.Ok,
}


class Asked(Struct, frozen=True):
    """One call of a `FakeClient`. They are recorded in the order in which they end."""

    key: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    source: Source
    backend: str
    value: Any
    similarity: float | None = None


class FakeEntry(Struct, frozen=True):
    """A stored answer, and the request that stores it."""

    put: wire.Put
    stored_at: float
    expires_at: float
    backend: str
    took_seconds: float
    vector: QueryVector | None
    """Similar requests find the entry by it."""

    @property
    def value(self) -> Any:
        """The answer."""
        return unpack_value(self.put.value)


class FakeStream(Stream[T]):
    """The pieces of a call, which is made when the first one is read, as in `Client.stream`."""

    def __init__(self, run: Callable[[], Outcome[Any]]) -> None:
        self._run = run
        self._pieces: Any = None

    def __repr__(self) -> str:
        """Show the source."""
        return f"<FakeStream {self.source or 'not read'}>"

    def __next__(self) -> T:
        if self._pieces is None:
            outcome = self._run()
            self.source, self.backend, self.age_seconds = outcome.source, outcome.backend, outcome.age_seconds
            self.saved_seconds, self.attempts = outcome.saved_seconds, outcome.attempts
            self.similarity = outcome.similarity
            self._pieces = iter(outcome.value)

        return cast("T", next(self._pieces))

    def __del__(self) -> None:
        """Do nothing: no connection is held."""

    def close(self) -> None:
        """End the stream."""
        self._pieces = iter(())


class FakeClient(Client):
    """A `Client` for one thread that keeps entries in a dict. ``policy`` holds every call's defaults, as in `Client`.

    ``asked`` records the calls. ``retries=`` calls again immediately.
    ``sovereign=True`` leaves out backends that may be remote, as `Client` without a daemon; the environment is not read.
    With ``force_miss`` every call runs its function, so that a test does not depend on another test's answers.
    `measured` returns the changes of the program's metrics.
    ``clock`` returns monotonic seconds; pass one to let entries expire.
    With ``similar_threshold``, calls with ``embed=`` or ``vector=`` look for similar requests in every task.
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
        self._entries: dict[tuple[str, str], FakeEntry] = {}
        self._calls: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._metrics_sender = None
        self._registry = MetricRegistry(lambda: None)

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<FakeClient {len(self.asked)} asked, {len(self._entries)} entries>"

    def measured(self) -> list[wire.Measurement]:
        """Return the changes of the program's metrics since the last call, as the daemon would receive them."""
        return self._registry.take_changes()[0]

    def _metric_registry(self) -> MetricRegistry:
        return self._registry

    def close(self) -> None:
        """Do nothing: a test may inspect the entries afterwards."""

    def counterpart(self, kind: type[C]) -> C:
        """Raise `TypeError`: there is no asynchronous `FakeClient`."""
        raise TypeError(f"a FakeClient has no {kind.__name__}: test asynchronous code with a daemon of its own.")

    def call(self, function: Functions[T], /, *args: Any, **kwargs: Any) -> T:
        """As `Client.call`."""
        return self.outcome(function, *args, **kwargs).value

    def stream(self, function: StreamFunctions[T], /, *args: Any, **kwargs: Any) -> FakeStream[T]:
        """As `Client.stream`, except that all pieces arrive at the same time."""
        call = calls.prepare(self._options, cast("Functions[Any]", function), args, kwargs, stream=True)
        return FakeStream(lambda: self._run(call))

    def stream_with(self, function: StreamFunctions[T], args: tuple[Any, ...], options: Options) -> FakeStream[T]:
        """As `Client.stream_with`."""
        call = calls.prepare(options, cast("Functions[Any]", function), args, {}, stream=True)
        return FakeStream(lambda: self._run(call))

    def normal_forms(self, task: str) -> tuple[NormalForm, ...]:  # noqa: ARG002 - as `Client`'s
        """Return none: no task has settings."""
        return ()

    def _perform(self, call: Call) -> Any:
        return FakeStream[Any](lambda: self._run(call)) if call.stream else self._run(call).value

    # The daemon's part -------------------------------------------------------------------------------------------------

    def _ask(self, request: wire.Request) -> Any:
        """Reply as a daemon does. Counts are real; seconds, dollars and everything else are 0."""
        match request:
            case wire.Get():
                entry = self._find(request.namespace, request.key)
                if entry is None:
                    return wire.Miss(0)

                age_seconds = self._clock() - entry.stored_at
                return _filled(wire.Hit, value=entry.value, meta={}, age_seconds=age_seconds)
            case wire.Put():
                return wire.Stored(0, self._store(request, wire.DEFAULT_BACKEND))
            case wire.Delete():
                return wire.Deleted(0, int(self._entries.pop((request.namespace, request.key), None) is not None))
            case wire.Purge():
                return wire.Deleted(0, self._purge(request))
            case wire.GetBreakers():
                return wire.Breakers(0, {name: self._backend_state(name) for name in self._calls})
            case _:
                return _filled(_STATE_REPLIES[type(request)], **self._state())

    def _purge(self, request: wire.Purge) -> int:
        purged = [
            place
            for place, entry in self._entries.items()
            if request.namespace in {None, place[0]}
            and (request.tag is None or request.tag in entry.put.tags)
            and request.task in {None, entry.put.task}
        ]
        for place in purged:
            del self._entries[place]

        return len(purged)

    def _state(self) -> dict[str, Any]:
        """Return the fields of all replies about the daemon's state."""
        tasks: dict[str, list[Asked]] = {}
        for asked in self.asked:
            tasks.setdefault(asked.options.task, []).append(asked)

        hits = sum(asked.source == "cache" for asked in self.asked)
        return {
            "version": "fake",
            "protocol": wire.PROTOCOL_VERSION,
            "boot_id": "fake",
            "draining": False,
            "status": "ok",
            "reasons": [],
            "settings": {"cache.ttl_seconds": TTL_SECONDS},
            "origins": {"cache.ttl_seconds": "default"},
            "cache_entries": len(self._entries),
            "begins": len(self.asked),
            "hits": hits,
            "similar_hits": _similar_hits(self.asked),
            "misses": len(self.asked) - hits,
            "total": _ledger(self.asked),
            "tasks": {task: _ledger(group) for task, group in tasks.items()},
        }

    def _backend_state(self, backend: str) -> wire.BackendState:
        return _filled(
            wire.BackendState,
            state="closed",
            locality="local" if wire.is_local(backend) else "remote",
            cause="",
            retry_after_seconds=None,
            calls=self._calls[backend],
            failures=self._failures.get(backend, 0),
            limit=None,
            latency_seconds=None,
            dollars_per_call=None,
        )

    # Calls -------------------------------------------------------------------------------------------------------------

    def _run(self, call: Call) -> Outcome[Any]:
        if call.key is calls.UNKEYED:
            call = calls.keyed(call, self.normal_forms(call.options.task))

        entry, similarity = self._stored(call), None
        if entry is None and call.similar is CAN_EMBED and self.similar_threshold is not None:
            call = embedded(call)
            entry, similarity = self._find_similar(call)

        if entry is not None:
            age_seconds = self._clock() - entry.stored_at
            outcome = Outcome(
                _answer_of(call, entry.value),
                "cache",
                age_seconds,
                entry.backend,
                entry.took_seconds,
                similarity=similarity,
            )
        elif call.options.mode == "only_if_cached":
            raise CallRejected("not_cached")
        else:
            outcome = self._make(call)

        source, backend, value = outcome.source, outcome.backend, outcome.value
        self.asked.append(Asked(call.key, call.args, call.kwargs, call.options, source, backend, value, similarity))
        return outcome

    def _stored(self, call: Call) -> FakeEntry | None:
        if call.key is None or self.force_miss or call.options.mode == "refresh":
            return None

        entry = self._find(call.options.namespace, call.key)
        return entry if entry is not None and self._is_accepted(call, entry) else None

    def _is_accepted(self, call: Call, entry: FakeEntry) -> bool:
        bound = bound_of(call.options)
        too_old = bound is not None and self._clock() - entry.stored_at >= bound
        try:
            return not too_old and is_valid(call, _answer_of(call, entry.value))
        except UnreadableAnswer:
            return False

    def _outcome_of(self, call: Call) -> Any:
        return renewable(self._run(call), call, self._outcome_of, self._clock)

    def _answer_each(self, batch: InputBatch) -> list[Outcome[Any]]:
        missing = [place for place, call in enumerate(batch.calls) if self._stored(call) is None]
        return batch.in_order([self._run(call) for call in separated(batch, missing)])

    def _make(self, call: Call) -> Outcome[Any]:
        choices = calls.backends_without_daemon(call, ()) * (1 + call.options.retries)
        for attempt, (backend, function) in enumerate(choices, 1):
            self._calls[backend] = self._calls.get(backend, 0) + 1
            started = self._clock()
            try:
                value = function(*call.args, **call.kwargs)
                value, kept = divided(value) if call.stream else (value, value)
            except BaseException as error:
                self._failures[backend] = self._failures.get(backend, 0) + 1
                if kind_of(error, call.options.classify) == "transient" and attempt < len(choices):
                    continue

                raise

            read_usage(call.options, kept, function)  # a faulty hook warns in the test
            try:
                packed = b"" if kept is None else _packed_answer(call, kept)
            except UnshareableValue as error:
                warn_unshareable(function, reason_of(call, error))
            else:
                kept_by_all = kept is not None and call.key is not None and is_valid(call, kept)
                if kept_by_all and may_be_stored(call.options, kept, function):
                    self._store(_put_of(call, packed), backend, self._clock() - started, call.similar)

            return Outcome(value, "upstream", backend=backend, attempts=attempt)

        raise AssertionError("a call has a backend, and its last attempt returns or raises")

    def _find(self, namespace: str, key: str) -> FakeEntry | None:
        entry = self._entries.get((namespace, key))
        return None if entry is None or entry.expires_at <= self._clock() else entry

    def _find_similar(self, call: Call) -> tuple[FakeEntry | None, float | None]:
        options, wanted = call.options, call.similar
        if not isinstance(wanted, QueryVector) or options.mode == "refresh" or self.force_miss:
            return None, None

        found = [
            (cosine(entry.vector.vector, wanted.vector), key)
            for namespace, key in self._entries
            if namespace == options.namespace
            and (entry := self._find(namespace, key)) is not None
            and entry.vector is not None
            and entry.vector.group == wanted.group
            and not differ(wanted.signature, entry.vector.signature)
        ]
        similarity, key = max(found, default=(-1.0, ""))
        if self.similar_threshold is None or similarity < self.similar_threshold:
            return None, None

        entry = self._entries[options.namespace, key]
        return (entry, similarity) if self._is_accepted(call, entry) else (None, None)

    def _store(self, put: wire.Put, backend: str, took_seconds: float = 0.0, vector: object = None) -> bool:
        ttl_seconds = TTL_SECONDS if put.ttl_seconds is None else put.ttl_seconds
        if ttl_seconds == 0:
            return False

        now = self._clock()
        vector = vector if isinstance(vector, QueryVector) else None
        self._entries[put.namespace, put.key] = FakeEntry(put, now, now + ttl_seconds, backend, took_seconds, vector)
        return True


def _put_of(call: Call, packed: bytes) -> wire.Put:
    options = call.options
    return wire.Put(
        key=call.key or "",
        value=Raw(packed),
        namespace=options.namespace,
        ttl_seconds=options.ttl_seconds,
        tags=options.tags,
        task=options.task,
    )


def _packed_answer(call: Call, value: Any) -> bytes:
    """Return the packed value of a call, or the packed list of a stream's pieces. Raises `UnshareableValue`."""
    return pack_pieces(value, call.codec) if call.stream else pack_value(value, call.codec)


def _answer_of(call: Call, plain: Any) -> Any:
    """Return the value of a call, or the list of a stream's pieces."""
    return [value_of(call, piece) for piece in plain] if call.stream else value_of(call, plain)


def _ledger(group: Collection[Asked]) -> wire.Ledger:
    hits = sum(asked.source == "cache" for asked in group)
    return _filled(
        wire.Ledger,
        calls=len(group),
        hits=hits,
        similar_hits=_similar_hits(group),
        upstream_calls=len(group) - hits,
        hit_rate=hits / len(group) if group else 0.0,
    )


def _similar_hits(group: Collection[Asked]) -> int:
    return sum(asked.similarity is not None for asked in group)


def _filled(kind: type[M], **known: Any) -> M:
    """Return a message with those known fields that it has, and 0 in all others that are required."""
    fields = structs.fields(kind)
    zeros = {field.name: 0 for field in fields if field.required}
    return kind(**zeros | {field.name: known[field.name] for field in fields if field.name in known})
