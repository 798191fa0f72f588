"""What a call is, and what each of the daemon's answers means for it: the part that all clients share.

Pure but for the user's own hooks (``usage``, ``classify``); sending, waiting and running functions are the shells'.
A shell does this, and nothing else:

1. `prepare` (or `prepare_bound`) makes a `Call` of function and arguments; `begin` makes its request.
2. `resolve` turns the final reply into an `Outcome`, a `wire.Lease`, `VECTOR_WANTED`, `OWN_CALL` or `WITHOUT_DAEMON`, or raises.
3. With a lease it runs the function of the lease's backend and sends `complete` of the value,
   or the `Fail` that `attempts.Attempts` makes of the exception, which also says what the reply to it means.
4. `VECTOR_WANTED` asks again, with what `similar` makes of the call. `OWN_CALL` asks again, for permission alone (`unshared`), and makes the call where even that is said to be shared.
5. `WITHOUT_DAEMON` runs the function here, on one of `choices_here` after the other, and shares it within the process
   (`local`).
"""

import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct

from sidecard_client.call import options as policies
from sidecard_client.call.determinism import asks_for_one_answer
from sidecard_client.call.failures import message_of
from sidecard_client.call.options import Options
from sidecard_client.call.transcript import MAX_SPOKEN_BYTES, spoken
from sidecard_client.call.values import pack_value
from sidecard_client.keys.explanation import Explanation, explain
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.naming import name_of
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.keys.vectors import EMBEDS, Brought, Embeds
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import (
    CallFailed,
    CallRejected,
    CallTimeout,
    DaemonUnavailable,
    ProtocolError,
    RequestRefused,
    SidecardWarning,
    UnshareableValue,
)
from sidecard_client.protocol.wire import FailureKind

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultingTypeVar  # every type checker brings it along

    from sidecard_client.metrics.tracing import Span

    # Mypy finds no common answer of functions whose signatures differ too much: then it is Any, and no error.
    T = DefaultingTypeVar("T", default=Any)
else:
    T = TypeVar("T")

Source = Literal["upstream", "cache", "stale", "shared", "fallback"]

Backends = Mapping[str, Callable[..., T]]
"""Backends' names and functions, in order of preference."""

Functions = Callable[..., T] | Backends[T]

UNKEYED: Final = ""
"""The key of a call that goes by its task's normal forms, until the daemon has told them. No key is empty."""

STREAM_SUFFIX = "()*"
"""Of a function's name in the key of its stream; nothing that a name can end in."""

MAX_VALUE_BYTES = wire.MAX_FRAME_BYTES - 64 * 1024
"""Largest packed value that is sent; the rest of the frame is for lease, usage and tags.
What is said is told of values that leave room for it, which are all but those within 2 MiB of this."""

MAX_BACKENDS = 16
"""Of one call: the wire's limit of ``Begin.backends``."""

MAX_WARNED_FUNCTIONS = 1000
"""How many functions are remembered as warned of; beyond, Python's own warning filter must do."""

_MAKE_IT_YOURSELF = frozenset({"busy", "draining"})
"""Reasons for which a caller is rejected that it should make its call without the daemon."""

_warned_of: set[str] = set()


class Outcome(Struct, Generic[T], frozen=True):
    """A call's value and where it came from.

    ``source`` is ``upstream`` (this caller made the call), ``cache``, ``stale``, ``shared`` (somebody else's call),
    or ``fallback`` (made without the daemon, or shared within the process without it).
    ``saved_seconds`` and ``saved_dollars`` are what the value's own call took; 0 where this caller made it.
    ``waited_seconds`` is the time from asking until the value, or the permission to call, was there.
    ``passed_over`` says of backends that the route preferred to this one why the daemon did not give them;
    it is empty where no lease led to the value.
    ``attempts`` counts the leases that this call has used, those whose calls failed included.
    ``similarity`` is there where the value is the answer to a similar request: the cosine of both vectors.
    """

    value: T
    source: Source
    age_seconds: float = 0.0
    backend: str = wire.DEFAULT_BACKEND
    saved_seconds: float = 0.0
    saved_dollars: float = 0.0
    waited_seconds: float = 0.0
    passed_over: dict[str, str] = {}
    attempts: int = 0
    similarity: float | None = None


class Verdict(Struct, frozen=True):
    """A reply that leaves the call to this process."""

    name: str


OWN_CALL: Final = Verdict("own_call")
"""The holder's answer could not be shared: every waiter makes its own call, none behind another."""

WITHOUT_DAEMON: Final = Verdict("without_daemon")
"""The daemon takes no more, or made no sense: go on as if it were not there."""


VECTOR_WANTED: Final = Verdict("vector_wanted")
"""A similar request may have been answered: ask again, with the vector (`similar.embedded`)."""


class Call(Struct):
    """A function (or one for each backend) with its arguments, its policy and its key.

    ``backends`` is empty for a single function, or has the one name that ``backend=`` gave it.
    ``key`` is None where nothing may be shared, and `UNKEYED` until `keyed` has made it.
    ``span`` and ``trace``, its ``traceparent``, are there while the call is traced; see `tracing`.
    """

    functions: tuple[Callable[..., Any], ...]
    backends: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    key: str | None
    span: "Span | None" = None
    trace: str = ""
    stream: bool = False
    """The answer is wanted in pieces."""
    similar: Embeds | Brought | None = None
    """Whether it could bring a vector, or which it brings."""

    def backend_of(self, lease_backend: str) -> str:
        """Return the backend that a lease means: a name that is not among several means the preferred one."""
        if not self.backends or lease_backend in self.backends:
            return lease_backend

        return self.backends[0]

    def function_of(self, backend: str) -> Callable[..., Any]:
        """Return the function of ``backend``; a single function without a backend answers for every name."""
        return self.functions[self.backends.index(backend) if self.backends else 0]

    def untried(self, tried: Collection[str]) -> list[tuple[str, Callable[..., Any]]]:
        """Return the backends that are left and may be called where no daemon decides, with their functions, in order."""
        sovereign = self.options.sovereign
        names = self.backends or (wire.DEFAULT_BACKEND,)
        return [
            (name, self.functions[index])
            for index, name in enumerate(names)
            if name not in tried and (wire.is_local(name) or not sovereign)
        ]

    def begin(self, request_id: int, wait_seconds: float | None = None) -> wire.Begin:
        """Build the request; ``wait_seconds`` replaces the policy's where part of it has passed already."""
        options = self.options
        begin = wire.Begin(
            id=request_id,
            key=self.key,
            namespace=options.namespace,
            task=options.task,
            backends=self.backends,
            wait_seconds=options.wait_seconds if wait_seconds is None else wait_seconds,
            ttl_seconds=options.ttl_seconds,
            stale_seconds=options.stale_seconds,
            mode=options.mode,
            route=options.route,
            stream=self.stream,
            trace=self.trace,
        )
        if self.similar is None:
            return begin

        if isinstance(self.similar, Brought):
            return msgspec.structs.replace(begin, vector=self.similar.vector, group=self.similar.group)

        return msgspec.structs.replace(begin, embeds=True)


def prepare(
    defaults: Options,
    function: Functions[Any],
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    *,
    stream: bool = False,
) -> Call:
    """Make the call of ``call``, ``outcome`` and ``stream``: policy keywords are taken out of ``keywords``.

    Raises `TypeError` and `ValueError` for a wrong policy, and what `prepare_bound` raises.
    """
    if keywords:
        functions = (function,) if callable(function) else _functions_of(function)
        defaults, keywords = policies.split(defaults, functions, keywords)

    return prepare_bound(defaults, function, args, keywords, stream=stream)


def prepare_bound(
    options: Options,
    function: Functions[Any],
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    *,
    stream: bool = False,
) -> Call:
    """Make the call of ``cached`` and ``wrap``: all of ``keywords`` go to the function.

    A call whose answer comes in pieces has another key than one whose answer does not. With several backends the first function names the key, unless ``name=`` does.
    Raises `UnkeyableRequest` for arguments or a function that no stable key can be made of,
    and `TypeError` for something that is not callable, or for ``backend=`` beside a dict.
    """
    backend = options.backend
    if callable(function):
        functions: tuple[Callable[..., Any], ...] = (function,)
        backends: tuple[str, ...] = () if backend is None else (backend,)
    else:
        functions = _functions_of(function)
        backends = tuple(function)
        if backend is not None:
            raise TypeError(
                f"backend={backend!r} is for a single function; the dict names the places of its functions."
            )

    key = options.key
    if key is UNSET:
        name = (options.name or name_of(functions[0])) + STREAM_SUFFIX * stream
        if options.normalize == BY_TASK:
            key = UNKEYED
        else:
            key = fingerprint(options.task, options.model, name, args, keywords, options.ignore, options.normalize)

    call = Call(functions, backends, args, keywords, options, key, stream=stream)
    if options.embed is not None and key is not None:
        call.similar = EMBEDS

    return call


def keyed(call: Call, forms: tuple[NormalForm, ...]) -> Call:
    """Return a call whose key was `UNKEYED` with it, now that the normal ``forms`` of its task are known.

    Raises `UnkeyableRequest`.
    """
    options = call.options
    key = fingerprint(options.task, options.model, key_name(call), call.args, call.kwargs, options.ignore, forms)
    return msgspec.structs.replace(call, key=key)


def key_name(call: Call) -> str:
    """Return the name that stands in a call's key. Raises `UnkeyableRequest`."""
    return (call.options.name or name_of(call.functions[0])) + STREAM_SUFFIX * call.stream


def explanation_of(call: Call, forms: tuple[NormalForm, ...] | None = None) -> Explanation:
    """Return what the key of a call is made of; ``forms`` are its task's, where it goes by those. Raises `UnkeyableRequest`."""
    options = call.options
    if options.key is not UNSET:
        return Explanation(options.key, options.namespace)

    normalize = options.normalize if forms is None and not isinstance(options.normalize, str) else forms or ()
    return explain(
        options.task,
        options.model,
        key_name(call),
        call.args,
        call.kwargs,
        options.ignore,
        normalize,
        options.namespace,
    )


def resolve(call: Call, reply: Any, waited_seconds: float) -> Outcome[Any] | wire.Lease | Verdict:
    """Turn the final reply to a `wire.Begin` into what happens next.

    Raises `CallFailed`, `CallRejected`, `CallTimeout`; where ``on_unavailable`` is ``"raise"`` also `RequestRefused`;
    `ProtocolError` for a reply that answers no begin, after which the connection must be closed.
    """
    match reply:
        case wire.Hit():
            outcome = _outcome(reply, "stale" if reply.stale else "cache", waited_seconds)
            similarity = reply.similarity
            return outcome if similarity is None else msgspec.structs.replace(outcome, similarity=similarity)
        case wire.Shared():
            if call.span is not None:
                call.span.link(reply.trace)

            return _outcome(reply, "shared", waited_seconds)
        case wire.Lease():
            return reply
        case wire.Failed(kind="ignored"):
            return OWN_CALL
        case wire.Failed():
            raise CallFailed(reply.kind, reply.message)
        case wire.Timeout():
            raise CallTimeout(waited_seconds)
        case wire.Rejected() if reply.stale_value is not UNSET and reply.reason not in _MAKE_IT_YOURSELF:
            return old_outcome(reply, waited_seconds)
        case wire.Rejected() | wire.Error():
            return _turned_away(reply, fall_back=call.options.on_unavailable == "fallback")
        case _:
            return _asked_for_vector(call, reply)


def old_outcome(reply: wire.Lease | wire.Rejected, waited_seconds: float, attempts: int = 0) -> Outcome[Any]:
    """Return the outcome of a call that has no answer but the older one that came with ``reply``."""
    return Outcome(
        reply.stale_value,
        "stale",
        reply.stale_age_seconds,
        reply.stale_backend,
        waited_seconds=waited_seconds,
        attempts=attempts,
    )


def complete(call: Call, request_id: int, lease: wire.Lease, value: Any) -> wire.Complete:
    """Build the message that brings ``value`` to the daemon. Raises `UnshareableValue`."""
    packed = pack_value(value)
    if len(packed) > MAX_VALUE_BYTES:
        raise UnshareableValue(f"The value is too large to be shared: {len(packed)} bytes, at most {MAX_VALUE_BYTES}.")

    return completion(call, request_id, lease, Raw(packed), value)


def completion(call: Call, request_id: int, lease: wire.Lease, packed: Raw, value: Any) -> wire.Complete:
    """Build the message that brings ``packed``, asking the hooks about ``value``."""
    options = call.options
    usage = usage_of(call, value)
    told = lease.log and len(memoryview(packed)) <= MAX_VALUE_BYTES - 2 * MAX_SPOKEN_BYTES
    return wire.Complete(
        id=request_id,
        lease=lease.lease,
        value=packed,
        usage=usage,
        ttl_seconds=options.ttl_seconds,
        store=may_be_stored(options, value),
        tags=options.tags,
        deterministic=asks_for_one_answer(call.args, call.kwargs, said=options.deterministic),
        spoken=spoken(options, call.args, call.kwargs, value) if told else None,
    )


def refuse_to_share(call: Call, request_id: int, lease: str, value: Any, error: UnshareableValue) -> wire.Fail:
    """Build the message for a value that only its own caller gets: waiters make their own calls.

    The backend has answered all the same, which its breaker and the ledger must know.
    """
    return wire.Fail(
        id=request_id,
        lease=lease,
        kind="ignored",
        message=message_of(error),
        answered=True,
        usage=usage_of(call, value),
    )


def unshared(call: Call) -> Call:
    """Return the call as its caller's own: nothing is shared, but the daemon still says where it may be made, and when.

    All who waited for an answer that cannot be shared go on at once, which a local model must not get at once.
    """
    return msgspec.structs.replace(call, key=None, similar=None)


def warn_unshareable(function: Callable[..., Any], error: UnshareableValue) -> None:
    """Say once per function that its values are returned, but neither stored nor shared."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if name not in _warned_of:
        if len(_warned_of) < MAX_WARNED_FUNCTIONS:
            _warned_of.add(name)

        _warn(f"{name}: {error}")


def usage_of(call: Call, value: Any) -> wire.Usage | None:
    """Return what `read_usage` says of a call that was made, and tell the call's span, if it has one."""
    usage = read_usage(call.options, value)
    if call.span is not None:
        call.span.set_usage(usage)

    return usage


def read_usage(options: Options, value: Any) -> wire.Usage | None:
    """Ask the ``usage`` hook what the call used. What it cannot say is left out, with a warning.

    This is the boundary to the user's hook: the value is on its way to its caller and to all who wait for it,
    and must not be lost with its price.
    """
    if options.usage is None:
        return None

    try:
        said = options.usage(value)
        if said is None:
            return None

        fields = {"model": options.model} if options.model else {}
        fields.update(msgspec.to_builtins(said))
        usage = msgspec.convert(fields, wire.Usage)
        wire.pack(usage)  # text that has no UTF-8 form fails here, and not on the way to the daemon
    except Exception as error:  # noqa: BLE001 - the boundary named above
        _warn(f"usage= failed, so the call is booked without its cost ({type(error).__name__}).")
        return None
    else:
        return usage


def may_be_stored(options: Options, value: Any) -> bool:
    """Ask the ``store`` hook. An answer of which it cannot say is not stored, with a warning: the boundary of `read_usage`."""
    if options.store is None:
        return True

    try:
        return bool(options.store(value))
    except Exception as error:  # noqa: BLE001 - the boundary named above
        _warn(f"store= failed, so the answer is not stored ({type(error).__name__}).")
        return False


def tracing() -> bool:
    """Tell whether the app traces: OpenTelemetry is imported, as libraries do it too (redis-py), and has a provider.

    Asked of each call, so it must cost nothing: the provider is looked up where the library keeps it, which is no part of
    its interface. Where it is not found there, `tracing.traced` finds out.
    """
    library = sys.modules.get("opentelemetry.trace")
    return library is not None and library.__dict__.get("_TRACER_PROVIDER", library) is not None


def another_backend(call: Call, tried: Collection[str], kind: FailureKind) -> bool:
    """Tell whether a failed call asks for another backend: it may pass elsewhere, and one is left."""
    return kind == "transient" and any(backend not in tried for backend in call.backends)


def another_here(call: Call, tried: Collection[str], kind: FailureKind) -> bool:
    """Tell whether a failed call goes on with another backend where no daemon decides."""
    return kind == "transient" and bool(call.backends and call.untried(tried))


def choices_here(call: Call, tried: Collection[str]) -> list[tuple[str, Callable[..., Any]]]:
    """Return the backends to be asked where no daemon decides. Raises `CallRejected` where sovereignty leaves none."""
    choices = call.untried(tried)
    if not choices:
        raise CallRejected("sovereign", backends=dict.fromkeys(call.backends, "sovereign"))

    return choices


def may_run_here(call: Call, reason: str, path: str) -> None:
    """Check that the policy lets the call be made without the daemon.

    Raises `DaemonUnavailable` where ``on_unavailable`` is ``"raise"``,
    and `CallRejected` for ``only_if_cached``, which never makes a call, and where sovereignty leaves no backend.
    """
    if call.options.on_unavailable == "raise":
        raise DaemonUnavailable(path, reason)

    if call.options.mode == "only_if_cached":
        raise CallRejected("not_cached")

    choices_here(call, ())


def remaining_seconds(call: Call, waited_seconds: float) -> float | None:
    """Return how much of the call's ``wait`` is left; None where it has none."""
    wait_seconds = call.options.wait_seconds
    return None if wait_seconds is None else max(0.0, wait_seconds - waited_seconds)


def _functions_of(functions: Any) -> tuple[Callable[..., Any], ...]:
    if not isinstance(functions, Mapping) or not all(map(callable, functions.values())):
        raise TypeError(
            "The first argument must be a function, or a dict of backend names and functions, "
            f"not {type(functions).__name__}: write call(f, x), not call(f(x))."
        )

    if not 1 <= len(functions) <= MAX_BACKENDS:
        raise ValueError(f"A call has 1 to {MAX_BACKENDS} backends, not {len(functions)}.")

    for name in functions:
        if not isinstance(name, str) or not 1 <= len(name) <= policies.MAX_NAME_CHARACTERS:
            raise TypeError(
                f"A backend's name is a str of 1 to {policies.MAX_NAME_CHARACTERS} characters, not {name!r}."
            )

    return tuple(functions.values())


def _turned_away(reply: wire.Rejected | wire.Error, *, fall_back: bool) -> Verdict:
    if isinstance(reply, wire.Rejected):
        if fall_back and reply.reason in _MAKE_IT_YOURSELF:
            return WITHOUT_DAEMON

        raise CallRejected(reply.reason, reply.retry_after_seconds, reply.backends)

    if not fall_back:
        raise RequestRefused(reply.code, reply.message)

    _warn(f"The daemon refuses calls, which are made without it ({reply.code}): {reply.message}")
    return WITHOUT_DAEMON


def _asked_for_vector(call: Call, reply: Any) -> Verdict:
    if isinstance(reply, wire.VectorWanted) and call.similar is EMBEDS:
        return VECTOR_WANTED

    raise ProtocolError(f"The daemon answered a begin by {type(reply).__name__}.")


def _outcome(reply: wire.Hit | wire.Shared, source: Source, waited_seconds: float) -> Outcome[Any]:
    return Outcome(
        reply.value, source, reply.age_seconds, reply.backend, reply.saved_seconds, reply.saved_dollars, waited_seconds
    )


def _warn(message: str) -> None:
    warnings.warn(message, SidecardWarning, stacklevel=2)
