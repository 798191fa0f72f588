"""What an intercepted HTTP request asks for: which interface it speaks, what its answer depends on, where it goes. Pure.

The key of a request is made of

* its URL, query included,
* its JSON body, but for `IGNORED_FIELDS` (the order of fields and white space do not count),
* its headers, but for `IGNORED_HEADERS` and those that begin with one of `IGNORED_PREFIXES`,
* the *identity* of its credentials, a hash: two API keys never share an answer unless ``share_credentials`` says so.

All of these are lists of what is left out. What nobody has thought of counts, because a wrong answer costs more than a miss.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from sidecard_client.call.determinism import is_deterministic

Family = Literal[
    "openai_chat",
    "openai_completions",
    "openai_responses",
    "openai_embeddings",
    "anthropic_messages",
    "ollama_generate",
    "ollama_chat",
    "ollama_embed",
]

ENDPOINTS: Final[Mapping[str, Family]] = {
    "/chat/completions": "openai_chat",
    "/completions": "openai_completions",
    "/responses": "openai_responses",
    "/embeddings": "openai_embeddings",
    "/v1/messages": "anthropic_messages",
    "/api/generate": "ollama_generate",
    "/api/chat": "ollama_chat",
    "/api/embed": "ollama_embed",
    "/api/embeddings": "ollama_embed",
}
"""What a path ends in, and the interface that it is of. The longest end that fits counts."""

KEY_NAME_PREFIX: Final = "http "
"""Before the family, what stands in place of a function's name in the keys of requests."""

CREDENTIAL_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}
)

IGNORED_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "baggage",
        "b3",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "date",
        "host",
        "idempotency-key",
        "keep-alive",
        "sentry-trace",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
        "x-amzn-trace-id",
        "x-client-request-id",
        "x-cloud-trace-context",
        "x-correlation-id",
        "x-request-id",
    }
)
"""Say who asks, how often, and how the bytes travel; none of them changes an answer."""

IGNORED_PREFIXES: Final = ("x-stainless-", "x-sidecard-", "x-b3-", "x-datadog-")
"""The first are of the SDKs that Stainless generates (OpenAI's, Anthropic's): platform, retries so far, time-outs."""

IGNORED_FIELDS: Final[Mapping[Family, frozenset[str]]] = {
    "openai_chat": frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}),
    "openai_completions": frozenset({"user"}),
    "openai_responses": frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "user"}),
    "openai_embeddings": frozenset({"user"}),
    "anthropic_messages": frozenset({"metadata", "service_tier"}),
    "ollama_generate": frozenset({"keep_alive"}),
    "ollama_chat": frozenset({"keep_alive"}),
    "ollama_embed": frozenset({"keep_alive"}),
}
"""Fields of the body that say for whom, how soon, and how long the model is kept, and nothing of the answer."""

_STREAM_BY_DEFAULT: Final = frozenset({"ollama_generate", "ollama_chat"})
_ALWAYS_DETERMINISTIC: Final = frozenset({"openai_embeddings", "ollama_embed"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

MAX_BACKEND_CHARACTERS: Final = 128
IDENTITY_DIGITS: Final = 12
"""Of the credentials' SHA-256: enough to keep keys of one place apart, far too few to find one by."""

_from_json = msgspec.json.Decoder().decode
_MAX_INTEGER: Final = 2**63


class Asked(Struct, frozen=True):
    """One request. ``parts`` is what its key is made of; no credential is in any field."""

    family: Family
    model: str
    """Empty where neither the body nor the path names one."""
    stream: bool
    deterministic: bool
    """The same request is meant to have the same answer: temperature 0, a seed, or embeddings."""
    choices: int
    """How many answers are asked for in one."""
    backend: str
    """``host:port/model#identity``: the outage of one place, model or account is nobody else's."""
    parts: dict[str, Any]


def read_request(
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    endpoints: Mapping[str, Family] = ENDPOINTS,
    *,
    share_credentials: bool = False,
) -> Asked | None:
    """Say what a request asks for; None where it is not to be intercepted, because nobody knows what it means."""
    try:
        place = urlsplit(url)
        port = place.port
    except ValueError:  # no URL, or a port that cannot be: whoever sends it will say so
        return None

    family = family_of(method, place.path, endpoints) if place.hostname else None
    if family is None:
        return None

    fields = _fields_of(body)
    if fields is None:
        return None

    named = [(name.lower(), value) for name, value in headers]
    identity = _identity_of(named)
    model = fields.get("model")
    model = model if isinstance(model, str) else _deployment_of(place.path)
    host = _host_of(place.scheme, place.hostname or "", port)
    parts = {
        "url": f"{place.scheme}://{host}{place.path}?{place.query}",
        "body": {name: value for name, value in fields.items() if name not in IGNORED_FIELDS[family]},
        "headers": sorted(f"{name}: {value}" for name, value in named if not _is_ignored(name)),
        "identity": "" if share_credentials else identity,
    }
    return Asked(
        family,
        model,
        _wants_stream(family, fields),
        family in _ALWAYS_DETERMINISTIC or is_deterministic(fields),
        _choices_of(family, fields),
        _backend_name(host, model, identity),
        parts,
    )


def family_of(method: str, path: str, endpoints: Mapping[str, Family] = ENDPOINTS) -> Family | None:
    """Name the interface of a request; None where it is none of ``endpoints``."""
    if method.upper() != "POST":
        return None

    path = path.rstrip("/")
    ends = [end for end in endpoints if path.endswith(end)]
    return endpoints[max(ends, key=len)] if ends else None


def _fields_of(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a body is; None where it is none that a key can be made of."""
    try:
        fields = _from_json(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return None

    return fields if isinstance(fields, dict) and _is_plain(fields) else None


def _is_plain(value: Any) -> bool:
    """Tell whether msgpack has a form for all of a value: JSON's integers have no end."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, int) and not -_MAX_INTEGER <= one < 2 * _MAX_INTEGER:
            return False

    return True


def _wants_stream(family: Family, fields: Mapping[str, Any]) -> bool:
    return fields.get("stream", family in _STREAM_BY_DEFAULT) is True


def _choices_of(family: Family, fields: Mapping[str, Any]) -> int:
    number = fields.get("n")
    choices = number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 1
    prompt = fields.get("prompt")
    if family == "openai_completions" and isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        choices *= len(prompt)

    return choices


def _identity_of(headers: Sequence[tuple[str, str]]) -> str:
    credentials = sorted(f"{name}: {value}" for name, value in headers if name in CREDENTIAL_HEADERS)
    if not credentials:
        return ""

    return hashlib.sha256("\n".join(credentials).encode("utf-8", "surrogateescape")).hexdigest()[:IDENTITY_DIGITS]


def _is_ignored(header: str) -> bool:
    return header in IGNORED_HEADERS or header in CREDENTIAL_HEADERS or header.startswith(IGNORED_PREFIXES)


def _host_of(scheme: str, host: str, port: int | None) -> str:
    named = f"[{host}]" if ":" in host else host
    return named if port is None or port == _DEFAULT_PORTS.get(scheme) else f"{named}:{port}"


def _deployment_of(path: str) -> str:
    """Return the model that Azure's paths name: ``/deployments/NAME/chat/completions``."""
    _, found, rest = path.partition("/deployments/")
    return rest.partition("/")[0] if found else ""


def _backend_name(host: str, model: str, identity: str) -> str:
    tail = f"#{identity}" if identity else ""
    name = f"{host}/{model}" if model else host
    room = MAX_BACKEND_CHARACTERS - len(tail)
    if len(name) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: room - len(digest) - 1]}~{digest}"

    return name + tail
