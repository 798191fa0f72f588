"""The policy of a call: the keywords of `call` and `outcome` that do not go to the function.

``sidecard docs client`` lists them with their defaults. Every other keyword goes to the function, and into the key unless it is
named in ``ignore=``.

``retries`` is 0 by default, because SDKs retry by themselves. The daemon decides whether and when: it backs off, honors
``Retry-After``, and has one retry budget for all workers of the host. Without a daemon there is no such budget and no
retry; otherwise all workers of a host would retry when its daemon ends.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import force_setattr

from sidecard_client.call.failures import Classify, default_classify
from sidecard_client.call.option_checks import (
    MAX_NAME_CHARACTERS,
    answer_type,
    embedder,
    flag,
    hook,
    names,
    normal_forms,
    one_of,
    or_none,
    predicate,
    prefix_texts,
    seconds,
    text,
    vector,
    whole,
)
from sidecard_client.keys.normal_form import Normalize
from sidecard_client.keys.prefixes.recipe import PromptPrefixes, prefixes_of_texts
from sidecard_client.keys.vectors import Embedding
from sidecard_client.protocol.values import MAX_KEY_CHARACTERS
from sidecard_client.protocol.wire import DEFAULT_NAMESPACE, DEFAULT_TASK, Mode, Route, Usage
from sidecard_client.values.codec import ValueCodec

OnUnavailable = Literal["fallback", "raise"]
ReadUsage = Callable[[Any], Usage | Mapping[str, Any] | None]
MayBeStored = Callable[[Any], bool]
WhyNotStored = Callable[[], str]
"""Returns why ``store`` did not agree, as one of the daemon's words."""
IsValid = Callable[[Any], Any]
"""Takes a value, or the list of a stream's pieces; the answer is valid if the result is true."""
FindPrefixes = Callable[[], PromptPrefixes]
Redact = Callable[[Any, Any], tuple[Any, Any] | None]
"""Takes the prompt, ``{"args": [...], "kwargs": {...}}``, and the value. Both are the call's own: copy, do not change them."""

MAX_TAGS = 16
MAX_NAMESPACE_CHARACTERS = 160
MAX_SAMPLE = 2**31 - 1
MAX_RETRIES = 10
"""After this many retries the back-off has long been at its maximum."""


class Options(Struct, frozen=True):
    """A checked policy. Fields are the keywords, with their units in their names."""

    task: str = DEFAULT_TASK
    namespace: str = DEFAULT_NAMESPACE
    ttl_seconds: float | None = None
    max_age_seconds: float | None = None
    stale_seconds: float | None = None
    failure_ttl_seconds: float | None = None
    wait_seconds: float | None = None
    mode: Mode = "use"
    model: str | None = None
    name: str | None = None
    key: str | UnsetType | None = UNSET
    tags: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sample: int = 0
    returns: ValueCodec | UnsetType | None = UNSET
    """The type of the answers; None for plain values. If not set, the function's annotation decides."""
    normalize: Normalize = ()
    deterministic: bool | None = None
    usage: ReadUsage | None = None
    store: MayBeStored | None = None
    valid: IsValid | None = None
    classify: Classify = default_classify
    pace_seconds: float | None = None
    embed: Embedding | None = None
    """From ``embed`` or ``vector``."""
    redact: Redact | None = None
    on_unavailable: OnUnavailable = "fallback"
    backend: str | None = None
    route: Route | None = None
    retries: int = 0
    sovereign: bool = False
    prefix: tuple[str | bytes, ...] | FindPrefixes | None = None
    """The parts of the prompt's prefix; set by transports, a function that computes the prefixes."""
    context: str = ""
    """Digest of what differs between equal keys. No keyword: transports set it, and the next one too."""
    not_stored: WhyNotStored | None = None
    keys_by_template: bool = False
    """Whether keys depend on no option but the task and the model. Computed once, since every hit uses it."""

    def __post_init__(self) -> None:
        template = (
            self.key is UNSET
            and self.name is None
            and self.returns is UNSET
            and self.embed is None
            and not (self.ignore or self.normalize or self.sample)
        )
        force_setattr(self, "keys_by_template", template)

    def changed(self, policy: Mapping[str, Any]) -> "Options":
        """Return these options with the keywords of ``policy`` applied.

        Raises `TypeError` for an unknown keyword or a wrong type and `ValueError` for a value out of range.
        """
        if not policy:
            return self

        fields: dict[str, Any] = {}
        for keyword, value in policy.items():
            known = _FIELDS.get(keyword)
            if known is None:
                raise TypeError(f"{keyword!r} is not a policy keyword; there are: {', '.join(sorted(_CHECKS))}.")

            field, check = known
            if field in fields:
                raise TypeError("embed= and vector= are two ways to one vector: give one of them.")

            fields[field] = check(keyword, value)

        return msgspec.structs.replace(self, **fields)


def prefixes_of_prompt(options: Options) -> PromptPrefixes:
    """Return the prefixes of a call's prompt; none without ``prefix``."""
    prefix = options.prefix
    if prefix is None or isinstance(prefix, tuple):
        return prefixes_of_texts(options.model or "", prefix or ())

    return prefix()


def split(
    defaults: Options, functions: Iterable[Callable[..., Any]], keywords: dict[str, Any]
) -> tuple[Options, dict[str, Any]]:
    """Split the ``keywords`` of a call into its options and the functions' own keywords.

    ``model`` is both if every function takes it: it is the one policy keyword that upstream functions have too.
    Raises `TypeError` if a function declares another given policy keyword, whose addressee would be ambiguous.
    """
    if POLICY_KEYWORDS.isdisjoint(keywords):
        return defaults, keywords

    policy: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for keyword, value in keywords.items():
        (policy if keyword in POLICY_KEYWORDS else own)[keyword] = value

    functions = tuple(functions)
    takers = 0
    for function in functions:
        declared = declared_policy_keywords(function)
        for keyword in declared:
            if keyword == "model":
                takers += "model" in policy
            elif keyword in policy:
                raise TypeError(
                    f"{keyword!r} is a policy keyword of sidecard and a parameter of {_named(function)}: "
                    f"bind it with functools.partial(function, {keyword}=...) and give name=, "
                    "or use wrap(), whose methods keep all their keywords."
                )

    if takers == len(functions):
        own["model"] = policy["model"]
        if not isinstance(policy["model"], str):
            del policy["model"]  # as an argument it is part of the key already
    elif takers:
        raise TypeError("Only some of the backends' functions take 'model': give all of them that parameter, or none.")

    return defaults.changed(policy), own


def declared_policy_keywords(function: Callable[..., Any]) -> frozenset[str]:
    """Return the policy keywords that ``function`` declares itself. ``**kwargs`` counts as declaring ``model`` alone.

    Cached per function, because reading a signature costs more than a hit.
    """
    plain = getattr(function, "__func__", function)  # a bound method is a new object at each access
    try:
        known = _declared.get(plain)
    except TypeError:  # unhashable, or no weak reference can be made
        return _read_signature(plain)

    if known is None:
        known = _read_signature(plain)
        try:
            _declared[plain] = known
        except TypeError:
            return known

    return known


_declared: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()


def _read_signature(function: Callable[..., Any]) -> frozenset[str]:
    import inspect  # noqa: PLC0415 - takes longer to import than the rest of the client; many programs never need it

    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:  # noqa: BLE001 - written in C, without a signature; a proxy that answers for any name may raise anything
        return frozenset()

    declared = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        declared.add("model")

    return POLICY_KEYWORDS & declared


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


_RENAMED = {
    "ttl": "ttl_seconds",
    "max_age": "max_age_seconds",
    "stale": "stale_seconds",
    "failure_ttl": "failure_ttl_seconds",
    "wait": "wait_seconds",
    "pace": "pace_seconds",
    "vector": "embed",
}

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "task": text(MAX_NAME_CHARACTERS),
    "namespace": text(MAX_NAMESPACE_CHARACTERS),
    "ttl": seconds,
    "max_age": seconds,
    "stale": seconds,
    "failure_ttl": seconds,
    "wait": seconds,
    "mode": one_of(*get_args(Mode)),
    "model": or_none(text(MAX_NAME_CHARACTERS)),
    "name": or_none(text(MAX_KEY_CHARACTERS)),
    "key": or_none(text(MAX_KEY_CHARACTERS)),
    "tags": names(MAX_TAGS),
    "ignore": names(MAX_KEY_CHARACTERS),
    "normalize": normal_forms,
    "deterministic": or_none(flag),
    "usage": or_none(hook),
    "store": or_none(hook),
    "valid": or_none(predicate),
    "classify": hook,
    "embed": or_none(embedder),
    "vector": or_none(vector),
    "pace": seconds,
    "redact": or_none(hook),
    "on_unavailable": one_of(*get_args(OnUnavailable)),
    "backend": or_none(text(MAX_NAME_CHARACTERS)),
    "route": or_none(one_of(*get_args(Route))),
    "retries": whole(MAX_RETRIES),
    "sample": whole(MAX_SAMPLE),
    "returns": answer_type,
    "sovereign": flag,
    "prefix": or_none(prefix_texts),
}

_FIELDS = {keyword: (_RENAMED.get(keyword, keyword), check) for keyword, check in _CHECKS.items()}
"""The field of each keyword, and its check."""

POLICY_KEYWORDS = frozenset(_CHECKS)
"""The keywords of `call` and `outcome` that do not go to the function."""
