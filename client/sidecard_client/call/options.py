"""The policy of a call: which keywords of `call` and `outcome` are sidecard's, and what they may hold.

=================  =====================================================================  =================
keyword            meaning                                                                default
=================  =====================================================================  =================
task               kind of work: the daemon's policy and accounting are per task          ``"general"``
namespace          scope of the key; private to the uid unless the daemon shares it       ``"default"``
ttl                seconds for which the answer may be stored                             the daemon's
stale              seconds beyond ``ttl`` for which it may be served while another caller     the daemon's (0)
                   fetches a new one, or where that fails in a way that may pass
failure_ttl        seconds for which a ``fatal`` failure is given to whoever asks, with   the daemon's (0)
                   no call made
wait               seconds to wait for somebody else's call                               the daemon's (120)
mode               ``"use"``, ``"refresh"`` (no stored answer) or ``"only_if_cached"``    ``"use"``
model              model that will answer; part of the key                                None
name               stable name of the function, in place of its qualified name            None
key                the whole key, in place of the computed one; None shares nothing       computed
tags               names by which `purge` finds the answer                                ``()``
ignore             names of arguments that are not part of the key                        ``()``
normalize          in which form texts go into the key: any of ``"nfc"``, ``"space"``,    the client's,
                   ``"case"`` (`normal` says what each may break), or ``"task"``: those   else ``()``
                   that the daemon has for the task
deterministic      whether the same request is meant to have the same answer, for tasks   temperature 0,
                   that store no other answers                                            or a seed
usage              callable: value -> `Usage`, a dict of its fields, or None              None
store              callable: value -> whether it may be stored; it is shared with those   always
                   who wait in any case. Of a stream, ``value`` is the list of its
                   pieces, for ``usage`` as well
classify           callable: exception -> failure kind                                    `default_classify`
pace               least seconds between the pieces of a stored stream, for those who look   0
                   at it; one that is under way comes as it comes
embed              callable: text -> vector, or {name: callable}; where the task looks for    the client's
                   similar requests, the answer to one may be served (`similar`)
vector             the vector itself, in place of ``embed``                                   None
redact             callable: (prompt, answer) -> (prompt, answer) for the daemon's call   None
                   log, where that keeps what is said; None to keep it to oneself
on_unavailable     ``"fallback"`` makes the call without the daemon, ``"raise"`` raises   the client's
backend            the place where a single function's call goes; a dict names its own    the daemon's
route              how backends are ordered: ``"order"``, ``"cheapest"``, ``"fastest"``,  the task's, else
                   ``"least_busy"``, ``"weighted"``                                       ``"order"``
retries            how often, 0 to 10, the daemon may be asked for the same backends      0
                   again after a transient failure
sovereign          without the daemon, leave out backends that may be remote              the client's
=================  =====================================================================  =================

Every other keyword goes to the function and into the key.

``retries`` is 0 unless asked for, because SDKs retry by themselves. The daemon decides whether and when:
it backs off, honours ``Retry-After``, and has one retry budget for all workers of the host.
Without a daemon there are no retries, because there is no such budget then:
the storm that would follow a daemon's end is just what it prevents.

``sovereign`` counts where no daemon decides; see `sovereign` (the module) for which names count as local.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Struct, UnsetType

from sidecard_client.call.failures import Classify, default_classify
from sidecard_client.keys.normal_form import BY_TASK, NORMAL_FORMS, Normalize, ordered
from sidecard_client.keys.vectors import Embedding
from sidecard_client.protocol.wire import DEFAULT_NAMESPACE, DEFAULT_TASK, Mode, Route, Usage

OnUnavailable = Literal["fallback", "raise"]
ReadUsage = Callable[[Any], Usage | Mapping[str, Any] | None]
MayBeStored = Callable[[Any], bool]
Redact = Callable[[Any, Any], tuple[Any, Any] | None]
"""Takes the prompt, ``{"args": [...], "kwargs": {...}}``, and the value; both are the call's own, to be copied and not changed."""

MAX_SECONDS = 366 * 86400.0
MAX_TAGS = 16
MAX_KEY_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 128
MAX_NAMESPACE_CHARACTERS = 160
MAX_RETRIES = 10
"""The last pause of so many is the daemon's longest, and then nobody waits for the answer any more."""

_MODES = get_args(Mode)
_ROUTES = get_args(Route)
_ON_UNAVAILABLE = get_args(OnUnavailable)


class Options(Struct, frozen=True):
    """A checked policy. Fields are the table's keywords, with their units in their names."""

    task: str = DEFAULT_TASK
    namespace: str = DEFAULT_NAMESPACE
    ttl_seconds: float | None = None
    stale_seconds: float | None = None
    failure_ttl_seconds: float | None = None
    wait_seconds: float | None = None
    mode: Mode = "use"
    model: str | None = None
    name: str | None = None
    key: str | UnsetType | None = UNSET
    tags: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    normalize: Normalize = ()
    deterministic: bool | None = None
    usage: ReadUsage | None = None
    store: MayBeStored | None = None
    classify: Classify = default_classify
    pace_seconds: float | None = None
    embed: Embedding | None = None
    """Of ``embed`` or ``vector``."""
    redact: Redact | None = None
    on_unavailable: OnUnavailable = "fallback"
    backend: str | None = None
    route: Route | None = None
    retries: int = 0
    sovereign: bool = False

    def changed(self, policy: Mapping[str, Any]) -> "Options":
        """Return these options with the keywords of ``policy`` in place.

        Raises `TypeError` for an unknown keyword or a wrong type and `ValueError` for a value out of range.
        """
        if not policy:
            return self

        fields: dict[str, Any] = {}
        for keyword, value in policy.items():
            check = _CHECKS.get(keyword)
            if check is None:
                raise TypeError(f"{keyword!r} is not a policy keyword; there are: {', '.join(sorted(_CHECKS))}.")

            field = _FIELDS.get(keyword, keyword)
            if field in fields:
                raise TypeError("embed= and vector= are two ways to one vector: give one of them.")

            fields[field] = check(keyword, value)

        return msgspec.structs.replace(self, **fields)


def split(
    defaults: Options, functions: Iterable[Callable[..., Any]], keywords: dict[str, Any]
) -> tuple[Options, dict[str, Any]]:
    """Part ``keywords`` of a call into its options and the functions' own keywords.

    ``model`` is both where every function takes it: it is the one policy keyword that upstream functions have too.
    Raises `TypeError` where a function declares another policy keyword that was given,
    because nobody could tell for whom it was meant.
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
    """Name the policy keywords that ``function`` declares itself; ``**kwargs`` counts as declaring ``model`` alone.

    Remembered per function, because reading a signature costs more than a hit.
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
    except (TypeError, ValueError):  # written in C, without a signature
        return frozenset()

    names = {
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names.add("model")

    return POLICY_KEYWORDS & names


def _named(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def _text(max_characters: int) -> Callable[[str, Any], str]:
    def check(keyword: str, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"{keyword}= must be a str, not {type(value).__name__}.")

        if not 1 <= len(value) <= max_characters:
            raise ValueError(f"{keyword}= must have 1 to {max_characters} characters, not {len(value)}.")

        if not value.isascii():
            value.encode()  # lone surrogates have no UTF-8 form: UnicodeEncodeError, a ValueError, says where

        return value

    return check


def _seconds(keyword: str, value: Any) -> float | None:
    if value is None:
        return None

    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{keyword}= must be a number of seconds or None, not {type(value).__name__}.")

    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{keyword}= must be 0 to {MAX_SECONDS:.0f} seconds, not {value}.")

    return float(value)


def _retries(keyword: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{keyword}= must be a whole number, not {type(value).__name__}.")

    if not 0 <= value <= MAX_RETRIES:
        raise ValueError(f"{keyword}= must be 0 to {MAX_RETRIES}, not {value}.")

    return value


def _flag(keyword: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{keyword}= must be True or False, not {type(value).__name__}.")

    return value


def _one_of(choices: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(keyword: str, value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{keyword}= must be {' or '.join(map(repr, choices))}, not {value!r}.")

        return str(value)

    return check


def _names(max_count: int) -> Callable[[str, Any], tuple[str, ...]]:
    check_name = _text(MAX_NAME_CHARACTERS)

    def check(keyword: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise TypeError(f"{keyword}= must be a list of names, such as {keyword}=['a'], not {type(value).__name__}.")

        names = tuple(check_name(keyword, name) for name in value)
        if len(names) > max_count:
            raise ValueError(f"{keyword}= takes at most {max_count} names, not {len(names)}.")

        return names

    return check


def _normalize(keyword: str, value: Any) -> Normalize:
    if value is None or value == BY_TASK:
        return value or ()

    forms = _names(len(NORMAL_FORMS))(keyword, value)
    for form in forms:
        if form not in NORMAL_FORMS:
            raise ValueError(f"{keyword}= takes any of {', '.join(map(repr, NORMAL_FORMS))}, or 'task', not {form!r}.")

    return ordered(form for form in NORMAL_FORMS if form in forms)


def _hook(keyword: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{keyword}= must be callable, not {type(value).__name__}.")

    return value


def _embedding(keyword: str, value: Any) -> Embedding:
    from sidecard_client.keys.similarity import embedding_by, packed  # noqa: PLC0415 - for those who embed

    if keyword == "embed":
        return embedding_by(value)

    try:
        return Embedding(None, None, packed(value))
    except TypeError:
        raise TypeError(f"vector= must be numbers, or their bytes, not {type(value).__name__}.") from None


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda keyword, value: None if value is None else check(keyword, value)


_FIELDS = {
    "ttl": "ttl_seconds",
    "stale": "stale_seconds",
    "failure_ttl": "failure_ttl_seconds",
    "wait": "wait_seconds",
    "pace": "pace_seconds",
    "vector": "embed",
}

_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "task": _text(MAX_NAME_CHARACTERS),
    "namespace": _text(MAX_NAMESPACE_CHARACTERS),
    "ttl": _seconds,
    "stale": _seconds,
    "failure_ttl": _seconds,
    "wait": _seconds,
    "mode": _one_of(_MODES),
    "model": _or_none(_text(MAX_NAME_CHARACTERS)),
    "name": _or_none(_text(MAX_KEY_CHARACTERS)),
    "key": _or_none(_text(MAX_KEY_CHARACTERS)),
    "tags": _names(MAX_TAGS),
    "ignore": _names(MAX_KEY_CHARACTERS),
    "normalize": _normalize,
    "deterministic": _or_none(_flag),
    "usage": _or_none(_hook),
    "store": _or_none(_hook),
    "classify": _hook,
    "embed": _or_none(_embedding),
    "vector": _or_none(_embedding),
    "pace": _seconds,
    "redact": _or_none(_hook),
    "on_unavailable": _one_of(_ON_UNAVAILABLE),
    "backend": _or_none(_text(MAX_NAME_CHARACTERS)),
    "route": _or_none(_one_of(_ROUTES)),
    "retries": _retries,
    "sovereign": _flag,
}

POLICY_KEYWORDS = frozenset(_CHECKS)
"""The keywords of `call` and `outcome` that do not go to the function."""
