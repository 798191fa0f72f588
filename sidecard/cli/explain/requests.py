"""Parse the requests of ``sidecard explain``.

===============================================  ======================================================================
form                                             meaning
===============================================  ======================================================================
``{"name": ..., "args": [...], "kwargs": {}}``   call of a function; also ``task``, ``model``, ``prefix``, and others of the
                                                 policy's keywords
``{"url": ..., "headers": {}, "body": {...}}``   HTTP request, as transports see it
any other object, with ``--url``                 body of an HTTP request, as SDKs send it
===============================================  ======================================================================
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from sidecard.cli.exit_codes import UsageError
from sidecard_client.call.determinism import asks_for_one_answer
from sidecard_client.call.keying import STREAM_SUFFIX
from sidecard_client.call.options import Options, prefixes_of_prompt
from sidecard_client.http.embeddings import embedding_request, parts_of_text
from sidecard_client.http.family import RequestTarget
from sidecard_client.http.headers import CREDENTIAL_HEADERS, key_headers, lower_names
from sidecard_client.http.identity import ACCEPTED
from sidecard_client.http.recognition import families
from sidecard_client.http.request import IN_SPITE_OF_EFFECTS, LlmRequest, parse_request, prefixes_of_request
from sidecard_client.keys.explanation import Explanation, explain
from sidecard_client.keys.fingerprint import NO_EXTRAS
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.keys.prefixes.recipe import NO_PREFIXES, PromptPrefixes
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import DEFAULT_BACKEND, PassedReason

FROM_CALL = "call"

_BEFORE_ITS_END = 0.0
"""A time of day at which no token has expired."""

_PASSES: Mapping[PassedReason, str] = {
    "state": "it changes what its server keeps; with the header x-sidecard-cache: on it is shared",
    "tool": "it lets a tool act on the server; with the header x-sidecard-cache: on it is shared",
}
"""Why a request that an API recognizes passes to the upstream, as the end of a sentence."""

_POLICY = {
    "ttl": "ttl_seconds",
    "max_age": "max_age_seconds",
    "stale": "stale_seconds",
    "failure_ttl": "failure_ttl_seconds",
    "route": "route",
}
"""Keywords of a call that override its task's policy, with the policy's names."""


class _CallForm(Struct, forbid_unknown_fields=True):
    name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    task: str | None = None
    model: str | None = None
    namespace: str | None = None
    ignore: list[str] = []
    normalize: list[str] | str | None = None
    deterministic: bool | None = None
    ttl: float | None = None
    max_age: float | None = None
    stale: float | None = None
    failure_ttl: float | None = None
    route: str | None = None
    backends: list[str] = []
    sample: int = 0
    stream: bool = False
    prefix: list[str] | str | None = None


class _HttpForm(Struct, forbid_unknown_fields=True):
    url: str
    body: Raw
    headers: dict[str, str] = {}
    method: str = "POST"


class Flags(Struct, frozen=True):
    """Values from the command line that override those in the requests."""

    task: str | None = None
    namespace: str | None = None
    normalize: str | None = None
    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    share_credentials: bool = False
    identity: str | None = None


class HttpFacts(Struct, frozen=True):
    """What transports find in an HTTP request besides its key."""

    family: str
    identity: str
    """What identifies the caller: ``given``, ``hash``, ``jwt``, ``aws``, several of them joined by ``+``, or empty."""
    credentials: tuple[str, ...]
    """Names of the headers that have credentials."""
    outside_body: tuple[str, ...]
    """Places of the body that are outside the key."""
    outside_headers: tuple[str, ...]
    """Names of the headers that are outside the key, without credentials."""
    context: str
    """Digest of what is outside the key and may be why a request fails."""
    passes: PassedReason | None = None
    """Why the request passes to the upstream unshared; None if it does not."""


class Question(Struct, frozen=True):
    """A request to explain. ``policy`` has its own policy values and their origins, by the names of ``[tasks.NAME]``."""

    options: Options
    model: str | None
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    deterministic: bool
    policy: Mapping[str, tuple[Any, str]]
    unshared_because: str = ""
    """Why the request is never shared; empty if it can be."""
    http: HttpFacts | None = None
    """None for a function's call."""
    prefixes: PromptPrefixes = NO_PREFIXES
    """The prefixes of its prompt."""

    @property
    def max_age_seconds(self) -> float | None:
        """The age that its answers stay below; None without a limit of its own."""
        limits = [self.policy[name][0] for name in ("ttl_seconds", "max_age_seconds") if name in self.policy]
        return min(limits, default=None)

    def explain(self, task_forms: tuple[NormalForm, ...]) -> Explanation:
        """Return the parts of the key; ``task_forms`` are the task's normal forms. Raises `UnkeyableRequest`."""
        options = self.options
        forms = task_forms if isinstance(options.normalize, str) else options.normalize
        return explain(
            options.task,
            self.model,
            self.name,
            self.args,
            self.kwargs,
            options.ignore,
            forms,
            options.namespace,
            extras={"sample": options.sample} if options.sample else NO_EXTRAS,
        )


class ExplainedRequest(Struct, frozen=True):
    """A request with everything known about it."""

    question: Question
    explanation: Explanation
    policy: dict[str, wire.PolicyValue]
    """The policy in effect: the task's, overridden by the request's own."""
    now: wire.Explained | None
    """The daemon's state of the key; None if no daemon was queried."""
    socket: str
    no_daemon: str = ""
    """Why no daemon was queried."""

    @property
    def stored(self) -> tuple[bool, str]:
        """Whether the answer would be stored, and if not, why."""
        if self.question.unshared_because:
            return False, self.question.unshared_because

        cache = self.policy["cache"].value
        if cache == "never":
            return False, "its task stores no answers"

        if cache == "deterministic" and not self.question.deterministic:
            return False, "its task stores only deterministic calls, and this one has neither temperature 0 nor a seed"

        own = {name: value for name, (value, _) in self.question.policy.items()}
        if own.get("ttl_seconds") == 0 and not own.get("stale_seconds"):
            return False, "its own time to live is 0; it is shared while the call is in progress"

        lives = any(self.policy[name].value for name in ("ttl_seconds", "stale_seconds"))
        return (True, "") if lives else (False, "its time to live is 0; it is shared within the sharing window")


def parse_header(text: str) -> tuple[str, str]:
    """Return name and value of a ``NAME: VALUE`` header. Raises `UsageError`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"--header {text!r} has no value; write --header 'NAME: VALUE'")

    return name.strip(), value.strip()


def read_question(text: bytes, place: str, flags: Flags) -> Question:
    """Parse a request. Raises `UsageError`, which names ``place``."""
    try:
        fields = msgspec.json.decode(text)
        if not isinstance(fields, dict):
            raise UsageError(f"{place}: a request is a JSON object, not {type(fields).__name__}")

        if "url" in fields and "body" in fields:
            form = msgspec.json.decode(text, type=_HttpForm)
            return _of_http(form.method, form.url, (*form.headers.items(), *flags.headers), bytes(form.body), flags)

        if flags.url is not None:
            return _of_http("POST", flags.url, flags.headers, text, flags)

        if "name" in fields:
            return _of_call(msgspec.json.decode(text, type=_CallForm), flags)

    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(f"{place}: {error}") from error

    raise UsageError(
        f"{place}: neither a function call (no name) nor an HTTP request (no url and body). "
        "If it is the body of a request, pass its URL, such as --url https://api.openai.com/v1/chat/completions"
    )


def _of_call(form: _CallForm, flags: Flags) -> Question:
    keywords = {keyword: getattr(form, keyword) for keyword in _POLICY if getattr(form, keyword) is not None}
    options = _options(form.task, form.namespace, form.normalize, flags).changed(
        keywords | {"ignore": form.ignore, "sample": form.sample, "prefix": form.prefix, "model": form.model}
    )
    policy: dict[str, tuple[Any, str]] = {
        _POLICY[keyword]: (value, f"{FROM_CALL}: {keyword}") for keyword, value in keywords.items()
    }
    if form.backends:
        policy["backends"] = form.backends, f"{FROM_CALL}: backends"

    args = tuple(form.args)
    deterministic = asks_for_one_answer(args, form.kwargs, said=form.deterministic)
    name = form.name + STREAM_SUFFIX * form.stream
    prefixes = prefixes_of_prompt(options)
    return Question(options, form.model, name, args, form.kwargs, deterministic, policy, prefixes=prefixes)


def _of_http(method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, flags: Flags) -> Question:
    request = _parsed(method, url, headers, body, flags)
    if request is None:
        ends = ", ".join(sorted({end for family in families().values() for end in family.paths}))
        raise ValueError(
            f"{method} {_shown(url)} is not shared and passes to the upstream (dialect): its body or its host is "
            f"not that of a known API, or its path ends in none of {ends}"
        )

    key_name, parts = request.key_name, request.parts
    embedding = embedding_request(request.family.layout, body)
    if embedding is not None:
        if len(embedding.inputs) > 1:
            raise ValueError(
                f"it asks for the embeddings of {len(embedding.inputs)} texts, each of which has a key of its own; "
                "explain a request with one of them as input"
            )

        key_name, parts = parts_of_text(request, embedding.layout, embedding.inputs[0])

    own = {name.lower(): value for name, value in headers}
    policy: dict[str, tuple[Any, str]] = {"backends": ([request.backend or DEFAULT_BACKEND], f"{FROM_CALL}: its url")}
    if "x-sidecard-ttl" in own:
        policy["ttl_seconds"] = float(own["x-sidecard-ttl"]), f"{FROM_CALL}: x-sidecard-ttl"

    control = own.get("x-sidecard-cache", "").lower()
    http = _facts_of(request, headers, passes=control not in IN_SPITE_OF_EFFECTS)
    because = _PASSES[http.passes] if http.passes is not None else ""
    return Question(
        _options(own.get("x-sidecard-task"), None, None, flags),
        request.asked.model or None,
        key_name,
        (),
        parts,
        request.asked.deterministic,
        policy,
        "its header x-sidecard-cache is off" if control == "off" else because,
        http,
        prefixes_of_request(request),
    )


def _shown(url: str) -> str:
    # Without user, password and query, which may be credentials.
    target = RequestTarget.of("POST", url)
    return "an invalid URL" if target is None else f"{target.scheme}://{target.host}{target.path}"


def _parsed(method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, flags: Flags) -> LlmRequest | None:
    """Parse a request as a process does whose upstream has accepted the request's token."""
    target, named = RequestTarget.of(method, url), lower_names(headers)
    if target is not None:
        ACCEPTED.accept(target, named, _BEFORE_ITS_END)

    try:
        return parse_request(
            method,
            url,
            headers,
            body,
            share_credentials=flags.share_credentials,
            identity=flags.identity,
            now=_BEFORE_ITS_END,
        )
    finally:
        if target is not None:
            ACCEPTED.refuse(target, named)


def _facts_of(request: LlmRequest, headers: Sequence[tuple[str, str]], *, passes: bool) -> HttpFacts:
    named = lower_names(headers)
    in_key = {line.partition(":")[0] for line in key_headers(named, request.target.host)}
    names = dict.fromkeys(sorted(name for name, _ in named))
    credentials = tuple(name for name in names if name in CREDENTIAL_HEADERS)
    return HttpFacts(
        request.family.name,
        request.caller.source,
        credentials,
        tuple(request.asked.outside),
        tuple(name for name in names if name not in in_key and name not in credentials),
        request.context,
        (request.asked.passes or None) if passes else None,
    )


def _options(task: str | None, namespace: str | None, normalize: Any, flags: Flags) -> Options:
    names = {"task": flags.task or task, "namespace": flags.namespace or namespace}
    # `Options` checks the names and forms.
    policy: dict[str, Any] = {keyword: value for keyword, value in names.items() if value is not None}
    if flags.normalize is not None:
        normalize = BY_TASK if flags.normalize == BY_TASK else [form for form in flags.normalize.split(",") if form]

    return Options().changed(policy | {"normalize": normalize})
