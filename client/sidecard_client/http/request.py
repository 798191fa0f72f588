"""Parse an intercepted HTTP request: its API, its key's parts, its backend. Pure.

The key of a request consists of

* its URL with the query,
* its body as its family reads it (`ApiRequest.body`; of JSON, field order and white space do not count),
* its headers without `IGNORED_HEADERS` and those that begin with one of `IGNORED_PREFIXES`,
* a hash of its credentials, its *identity*: API keys share answers only with ``share_credentials``.

These lists name what is left out. Anything unknown counts, because a wrong answer costs more than a miss.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from sidecard_client.http.family import ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.recognition import recognize

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

MAX_BACKEND_CHARACTERS: Final = 128
IDENTITY_DIGITS: Final = 12
"""Digits of the credentials' SHA-256: enough to distinguish the API keys of one host, too few to find one by trying."""

_CONTEXT_DIGITS: Final = 32


class LlmRequest(Struct, frozen=True):
    """A parsed request. ``parts`` make its key; no field contains a credential."""

    family: ApiFamily
    asked: ApiRequest
    backend: str
    """``host:port/model#identity``, without the scheme's own port: each host, model and account has a breaker of its own."""
    parts: dict[str, Any]
    context: str
    """A digest of what is not in the key but may be why a request fails; empty if there is nothing of that kind."""

    @property
    def key_name(self) -> str:
        """What stands for the function's name in the key."""
        return f"{KEY_NAME_PREFIX}{self.family.name}"


def parse_request(
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    endpoints: Mapping[str, str] | None = None,
    *,
    share_credentials: bool = False,
) -> LlmRequest | None:
    """Return the parsed request; None if it must pass through, because its meaning is unknown."""
    named = [(name.lower(), value) for name, value in headers]
    content_type = next((value for name, value in named if name == "content-type"), "")
    target = RequestTarget.of(method, url, content_type)
    found = None if target is None else recognize(target, body, endpoints)
    if target is None or found is None:
        return None

    family, asked = found
    identity = _identity_of(named)
    parts = {
        "url": target.url,
        "body": asked.body,
        "headers": sorted(f"{name}: {value}" for name, value in named if not _is_ignored(name)),
        "identity": "" if share_credentials else identity,
    }
    context = context_of(asked, identity if share_credentials else "")
    return LlmRequest(family, asked, _backend_name(target.host, asked.model, identity), parts, context)


def context_of(asked: ApiRequest, identity: str) -> str:
    """Return a digest of the body's parts outside the key, and of the identity if that is not in the key either."""
    if not asked.outside and not identity:
        return ""

    written = msgspec.json.encode([identity, asked.outside], order="deterministic")
    return hashlib.sha256(written).hexdigest()[:_CONTEXT_DIGITS]


def _identity_of(headers: Sequence[tuple[str, str]]) -> str:
    credentials = sorted(f"{name}: {value}" for name, value in headers if name in CREDENTIAL_HEADERS)
    if not credentials:
        return ""

    return hashlib.sha256("\n".join(credentials).encode("utf-8", "surrogateescape")).hexdigest()[:IDENTITY_DIGITS]


def _is_ignored(header: str) -> bool:
    return header in IGNORED_HEADERS or header in CREDENTIAL_HEADERS or header.startswith(IGNORED_PREFIXES)


def _backend_name(host: str, model: str, identity: str) -> str:
    tail = f"#{identity}" if identity else ""
    name = f"{host}/{model}" if model else host
    room = MAX_BACKEND_CHARACTERS - len(tail)
    if len(name) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: room - len(digest) - 1]}~{digest}"

    return name + tail
