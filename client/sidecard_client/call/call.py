"""A call: function, arguments, policy and key. Pure.

`prepare` makes it, `Call.begin` its first request; `outcome` interprets the reply, and `conversation` decides what follows.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from sidecard_client.call import options as policies
from sidecard_client.call.keying import check_identity, extras_of, key_parts, located, template_of
from sidecard_client.call.option_checks import functions_of_backends
from sidecard_client.call.options import Options
from sidecard_client.keys.explanation import Explanation, explain
from sidecard_client.keys.fingerprint import NO_EXTRAS, fingerprint
from sidecard_client.keys.identity import identity_of
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.keys.prefixes.recipe import PromptPrefixes
from sidecard_client.keys.vectors import CAN_EMBED, CanEmbed, QueryVector
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallRejected, DaemonUnavailable, UnkeyableRequest
from sidecard_client.protocol.values import MAX_KEY_CHARACTERS, sampled
from sidecard_client.protocol.wire import FailureKind
from sidecard_client.values.codec import ValueCodec

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultingTypeVar  # every type checker includes it

    from sidecard_client.metrics.tracing import Span
    from sidecard_client.values.annotations import Part

    # Where functions' signatures differ too much, mypy finds no common return type: then it is Any, and no error.
    T = DefaultingTypeVar("T", default=Any)
else:
    T = TypeVar("T")

Backends = Mapping[str, Callable[..., T]]
"""Names of backends and their functions, in order of preference."""

Functions = Callable[..., T] | Backends[T]

UNKEYED: Final = ""
"""Key of a call whose normal forms are the task's, until the daemon has named them. No real key is empty."""


class Call(Struct):
    """A function (or one per backend) with its arguments, its policy and its key.

    ``backends`` is empty for a single function, or holds the one name that ``backend=`` gave it.
    ``key`` is None for a call that shares nothing, and `UNKEYED` until `keyed` has computed it.
    ``span`` and its ``traceparent`` ``trace`` are set while the call is traced; see `tracing`.
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
    """The answer is returned in pieces."""
    each: bool = False
    """It is one input of a batch: its function takes a list of inputs and returns a list of answers."""
    codec: ValueCodec | None = None
    """Converts the answer, or the pieces of a stream; None for plain values."""
    held: Mapping[str, Any] | None = None
    """What its function held when the key was computed (`held_by`)."""
    renews: bool = False
    """It asks for an answer newer than the one that its caller has, and accepts no stale one."""
    refreshes: int = 0
    """How often its caller has refused an answer."""
    similar: CanEmbed | QueryVector | None = None
    """Whether the call can compute a vector, or the vector that it sends."""
    prefixes: PromptPrefixes | None = None
    """The prefixes of its prompt, once the daemon has asked for them."""

    def backend_of(self, lease_backend: str) -> str:
        """Return the backend that a lease names. A name that is not among several means the preferred one."""
        if not self.backends or lease_backend in self.backends:
            return lease_backend

        return self.backends[0]

    def function_of(self, backend: str) -> Callable[..., Any]:
        """Return the function of ``backend``. A single function without a backend serves every name."""
        return self.functions[self.backends.index(backend) if self.backends else 0]

    def untried(self, tried: Collection[str]) -> list[tuple[str, Callable[..., Any]]]:
        """Return the backends not yet tried, in order, with their functions; under sovereignty only local ones."""
        sovereign = self.options.sovereign
        names = self.backends or (wire.DEFAULT_BACKEND,)
        return [
            (name, self.functions[index])
            for index, name in enumerate(names)
            if name not in tried and (wire.is_local(name) or not sovereign)
        ]

    def begin(self, request_id: int, wait_seconds: float | None = None) -> wire.Begin:
        """Build the first request. ``wait_seconds`` replaces the policy's when part of it has passed."""
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
            max_age_seconds=options.max_age_seconds,
            mode=options.mode,
            route=options.route,
            stream=self.stream,
            wanted=self.stream,
            trace=self.trace,
            context=options.context,
        )  # at most 15 keywords: CPython passes more of them in a dict, which takes four times as long
        if options.prefix is not None:
            found = self.prefixes
            begin = (
                msgspec.structs.replace(begin, has_prefix=True)
                if found is None
                else msgspec.structs.replace(begin, prefix=found.digests, prefix_bytes=found.lengths)
            )

        asked = self.similar
        if asked is None:
            return begin

        if isinstance(asked, QueryVector):
            return msgspec.structs.replace(begin, vector=asked.vector, group=asked.group, signature=asked.signature)

        return msgspec.structs.replace(begin, embeds=True)


def prepare(  # noqa: C901, PLR0912 - every hit passes it, and each further function costs 60 ns
    options: Options,
    function: Functions[Any],
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    *,
    stream: bool = False,
    each: bool = False,
    policy_is_bound: bool = False,
) -> Call:
    """Make a call. Policy keywords are taken out of ``keywords``, unless the policy is bound (``cached``, ``wrap``).

    A stream has another key than the plain call, and so has ``each`` input of a batch, unless ``name=`` names it. With
    several backends, the first function names the key, unless ``name=`` does. Raises `TypeError` and `ValueError` for a wrong policy, `UnkeyableRequest` for arguments or a function
    without a stable form, and `TypeError` for something that is not callable, or for ``backend=`` beside a dict.
    """
    if keywords and not policy_is_bound:
        given = (function,) if callable(function) else functions_of_backends(function)
        options, keywords = policies.split(options, given, keywords)

    backend = options.backend
    if callable(function):
        functions: tuple[Callable[..., Any], ...] = (function,)
        backends: tuple[str, ...] = () if backend is None else (backend,)
    else:
        functions, backends = _of_backends(function, backend)

    key = _sampled(options) if options.sample else options.key
    if key is None:
        return Call(functions, backends, args, keywords, options, None, stream=stream, each=each)

    identity = identity_of(functions[0])
    if options.returns is not UNSET:
        codec = options.returns
    else:
        part: Part = "piece" if stream else "item" if each else "whole"
        codecs = identity.codecs
        codec = codecs[part] if part in codecs else identity.read_codec(functions[0], part)

    if options.keys_by_template and not (stream or each):
        template = identity.template
        if template is None or template.task != options.task or template.model != options.model:
            template = template_of(identity, functions[0], options)

        extras = extras_of(functions[0], identity, options, codec) if codec is not None or identity.holds else NO_EXTRAS
        as_keyed = len(args) == identity.written_as_keyed and not keywords
        bound, named = (args, keywords) if as_keyed else identity.bind(args, keywords, ())
        plain = template.fingerprint(bound, named, extras)
        if plain is not None:
            held = extras.get("captured") if extras else None
            # Fields by position take half the time of named ones.
            return Call(functions, backends, args, keywords, options, plain, None, "", False, False, codec, held)  # noqa: FBT003

    call = Call(functions, backends, args, keywords, options, UNKEYED, stream=stream, each=each, codec=codec)
    if key is not UNSET:
        call.key = key
    elif options.normalize == BY_TASK:
        check_identity(functions[0], options)  # raises now, not when the daemon has named the forms
    else:
        name, args, kwargs, extras = key_parts(call, identity)
        call.held = extras.get("captured")
        try:
            call.key = fingerprint(
                options.task, options.model, name, args, kwargs, options.ignore, options.normalize, extras
            )
        except UnkeyableRequest as error:
            raise located(call, error) from None

    if options.embed is not None:
        call.similar = CAN_EMBED

    return call


def _sampled(options: Options) -> str | UnsetType | None:
    """Return ``key=`` as the key of one of several answers; None or UNSET as it is. Raises `ValueError`."""
    key, sample = options.key, options.sample
    if not isinstance(key, str):
        return key

    whole = sampled(key, sample)
    longest = MAX_KEY_CHARACTERS - len(whole) + len(key)
    if len(key) > longest:
        raise ValueError(f"key= must have at most {longest} characters with sample={sample}, not {len(key)}.")

    return whole


def keyed(call: Call, forms: tuple[NormalForm, ...]) -> Call:
    """Return an `UNKEYED` call with its key, for its task's normal ``forms``. Raises `UnkeyableRequest`."""
    options = call.options
    name, args, kwargs, extras = key_parts(call)
    try:
        key = fingerprint(options.task, options.model, name, args, kwargs, options.ignore, forms, extras)
    except UnkeyableRequest as error:
        raise located(call, error) from None

    return msgspec.structs.replace(call, key=key, held=extras.get("captured"))


def explanation_of(call: Call, forms: tuple[NormalForm, ...] | None = None) -> Explanation:
    """Explain the key of a call. ``forms`` are its task's, for an `UNKEYED` call. Raises `UnkeyableRequest`."""
    options = call.options
    if options.key is not UNSET:
        return Explanation(call.key, options.namespace)

    normalize = options.normalize if forms is None and not isinstance(options.normalize, str) else forms or ()
    name, args, kwargs, extras = key_parts(call)
    return explain(
        options.task, options.model, name, args, kwargs, options.ignore, normalize, options.namespace, extras=extras
    )


def unshared(call: Call) -> Call:
    """Return the call without a key: nothing is shared, but the daemon still grants the permission.

    All waiters for an unshareable answer continue immediately; a local model must not receive all their calls at the same time.
    """
    return msgspec.structs.replace(call, key=None, similar=None)


def another_backend(call: Call, tried: Collection[str], kind: FailureKind) -> bool:
    """Return whether a failed call asks for another backend: the failure may pass, and a backend is left."""
    return kind == "transient" and any(backend not in tried for backend in call.backends)


def another_without_daemon(call: Call, tried: Collection[str], kind: FailureKind) -> bool:
    """Return whether a failed call tries another backend while no daemon decides."""
    return kind == "transient" and bool(call.backends and call.untried(tried))


def backends_without_daemon(call: Call, tried: Collection[str]) -> list[tuple[str, Callable[..., Any]]]:
    """Return the backends to try while no daemon decides. Raises `CallRejected` where sovereignty leaves none."""
    choices = call.untried(tried)
    if not choices:
        raise CallRejected("sovereign", backends=dict.fromkeys(call.backends, "sovereign"))

    return choices


def check_fallback(call: Call, reason: str, place: Callable[[], str]) -> None:
    """Check that the policy allows the call without the daemon at ``place()``, lost for ``reason``.

    Raises `DaemonUnavailable` where ``on_unavailable`` is ``"raise"``, and `CallRejected` for ``only_if_cached``,
    which never makes a call, and where sovereignty leaves no backend.
    """
    if call.options.on_unavailable == "raise":
        raise DaemonUnavailable(place(), reason)

    if call.options.mode == "only_if_cached":
        raise CallRejected("not_cached")

    backends_without_daemon(call, ())


def remaining_seconds(call: Call, waited_seconds: float) -> float | None:
    """Return how much of the call's ``wait`` is left; None for a call without one."""
    wait_seconds = call.options.wait_seconds
    return None if wait_seconds is None else max(0.0, wait_seconds - waited_seconds)


def _of_backends(functions: Any, backend: str | None) -> tuple[tuple[Callable[..., Any], ...], tuple[str, ...]]:
    """Return the functions of several backends, and the backends' names."""
    checked = functions_of_backends(functions)
    if backend is not None:
        raise TypeError(f"backend={backend!r} is for a single function; the dict names the backends of its functions.")

    return checked, tuple(functions)
