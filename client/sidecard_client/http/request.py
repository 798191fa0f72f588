"""Parse an intercepted HTTP request: its API, its key's parts, its backend. Pure.

The key of a request consists of

* its URL with the query,
* its JSON body without `IGNORED_FIELDS` (field order and white space do not count),
* its headers without `IGNORED_HEADERS` and those that begin with one of `IGNORED_PREFIXES`,
* a hash of its credentials, its *identity*: API keys share answers only with ``share_credentials``.

These lists name what is left out. Anything unknown counts, because a wrong answer costs more than a miss.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from sidecard_client.call.determinism import is_deterministic

ApiFamily = Literal[
    "openai_chat",
    "openai_completions",
    "openai_responses",
    "openai_embeddings",
    "anthropic_messages",
    "ollama_generate",
    "ollama_chat",
    "ollama_embed",
]

ENDPOINTS: Final[Mapping[str, ApiFamily]] = {
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
"""The API of a path, by its ending. The longest matching one wins."""

KEY_NAME_PREFIX: Final = "http "
"""With the API family, it replaces the function's name in the key."""

CREDENTIAL_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"}
)

IGNORED_HEADERS: Final = frozenset(
    {
        "accept", "accept-encoding", "content-length", "content-type", "connection", "keep-alive", "te", "transfer-encoding",
        "cache-control", "date", "host", "user-agent",
        "idempotency-key", "x-client-request-id", "x-correlation-id", "x-request-id",
        "b3", "baggage", "sentry-trace", "traceparent", "tracestate", "x-amzn-trace-id", "x-cloud-trace-context",
    }
)  # fmt: skip
"""They describe the caller, the attempt and the transport; none of them changes an answer."""

IGNORED_PREFIXES: Final = ("x-stainless-", "x-sidecard-", "x-b3-", "x-datadog-")
"""``x-stainless-`` is sent by the SDKs of OpenAI and Anthropic: platform, number of retries, timeouts."""

IGNORED_FIELDS: Final[Mapping[ApiFamily, frozenset[str]]] = {
    "openai_chat": frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}),
    "openai_completions": frozenset({"user"}),
    "openai_responses": frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "user"}),
    "openai_embeddings": frozenset({"user"}),
    "anthropic_messages": frozenset({"metadata", "service_tier"}),
    "ollama_generate": frozenset({"keep_alive"}),
    "ollama_chat": frozenset({"keep_alive"}),
    "ollama_embed": frozenset({"keep_alive"}),
}
"""Fields of the body that do not change the answer: the user, the priority, how long the model stays loaded."""

_STREAM_BY_DEFAULT: Final = frozenset({"ollama_generate", "ollama_chat"})
_ALWAYS_DETERMINISTIC: Final = frozenset({"openai_embeddings", "ollama_embed"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

MAX_BACKEND_CHARACTERS: Final = 128
IDENTITY_DIGITS: Final = 12
"""Digits of the credentials' SHA-256: enough to distinguish the API keys of one host, too few to find one by trying."""

_from_json = msgspec.json.Decoder().decode
_MAX_INTEGER: Final = 2**63


class LlmRequest(Struct, frozen=True):
    """A parsed request. ``parts`` make its key; no field contains a credential."""

    family: ApiFamily
    model: str
    """Empty if neither the body nor the path names one."""
    stream: bool
    deterministic: bool
    """The same request is meant to get the same answer: temperature 0, a seed, or embeddings."""
    choices: int
    """How many answers the request asks for."""
    backend: str
    """``host:port/model#identity``, without the scheme's own port: each host, model and account has a breaker of its own."""
    parts: dict[str, Any]


def parse_request(
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    endpoints: Mapping[str, ApiFamily] = ENDPOINTS,
    *,
    share_credentials: bool = False,
) -> LlmRequest | None:
    """Return the parsed request; None if it must pass through, because its meaning is unknown."""
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError:  # not a URL, or an invalid port: the inner transport raises the library's own error
        return None

    family = family_of(method, parsed.path, endpoints) if parsed.hostname else None
    if family is None:
        return None

    fields = _fields_of(body)
    if fields is None:
        return None

    named = [(name.lower(), value) for name, value in headers]
    identity = _identity_of(named)
    model = fields.get("model")
    model = model if isinstance(model, str) else _deployment_of(parsed.path)
    host = _host_of(parsed.scheme, parsed.hostname or "", port)
    parts = {
        "url": f"{parsed.scheme}://{host}{parsed.path}?{parsed.query}",
        "body": {name: value for name, value in fields.items() if name not in IGNORED_FIELDS[family]},
        "headers": sorted(f"{name}: {value}" for name, value in named if not _is_ignored(name)),
        "identity": "" if share_credentials else identity,
    }
    return LlmRequest(
        family,
        model,
        _wants_stream(family, fields),
        family in _ALWAYS_DETERMINISTIC or is_deterministic(fields),
        _choices_of(family, fields),
        _backend_name(host, model, identity),
        parts,
    )


def family_of(method: str, path: str, endpoints: Mapping[str, ApiFamily] = ENDPOINTS) -> ApiFamily | None:
    """Return the API of a request; None if ``endpoints`` does not list it."""
    if method.upper() != "POST":
        return None

    path = path.rstrip("/")
    ends = [end for end in endpoints if path.endswith(end)]
    return endpoints[max(ends, key=len)] if ends else None


def _fields_of(body: bytes) -> dict[str, Any] | None:
    """Return the body as a JSON object; None if it is not one, or has no stable form."""
    try:
        fields = _from_json(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return None

    return fields if isinstance(fields, dict) and _is_plain(fields) else None


def _is_plain(value: Any) -> bool:
    """Return whether msgpack can express the value: JSON's integers are unbounded."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int) and not -_MAX_INTEGER <= item < 2 * _MAX_INTEGER:
            return False

    return True


def _wants_stream(family: ApiFamily, fields: Mapping[str, Any]) -> bool:
    return fields.get("stream", family in _STREAM_BY_DEFAULT) is True


def _choices_of(family: ApiFamily, fields: Mapping[str, Any]) -> int:
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
    """Return the model in Azure's paths: ``/deployments/NAME/chat/completions``."""
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
