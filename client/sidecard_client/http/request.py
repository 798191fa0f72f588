"""Parse an intercepted HTTP request: its API, its key's parts, its backend.

Pure, but for what a process remembers of its tokens and of its first requests with them.

The key of a request consists of

* its URL, without the credentials in its query,
* its body as its family reads it (`ApiRequest.body`; of JSON, field order and white space do not count),
* its headers, without credentials and those that `headers` lists,
* the caller's identity (`identity`): accounts share answers only with ``share_credentials``.

What is left out is listed by name. Anything unknown counts, because a wrong answer costs more than a miss.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from sidecard_client.http.family import ApiFamily, ApiRequest, RequestTarget
from sidecard_client.http.fork_safe_lock import ForkSafeLock
from sidecard_client.http.headers import Headers, context_headers, key_headers, lower_names
from sidecard_client.http.identity import CallerIdentity, identity_of, visible_query
from sidecard_client.http.recognition import recognize
from sidecard_client.keys.prefixes.recipe import PromptPrefixes, prefixes_of

KEY_NAME_PREFIX: Final = "http "
"""With the API family, it replaces the function's name in the key."""

IN_SPITE_OF_EFFECTS: Final = frozenset({"on", "only"})
"""Values of ``x-sidecard-cache`` with which a request with side effects does not pass: ``only`` makes no call."""

MAX_BACKEND_CHARACTERS: Final = 128
_CONTEXT_DIGITS: Final = 32

MAX_FIRST_REQUESTS: Final = 1024
"""Limit of the requests that a process remembers. The least recently used one is forgotten."""

_to_json = msgspec.json.Encoder(order="deterministic").encode


class LlmRequest(Struct, frozen=True):
    """A parsed request. ``parts`` make its key; no field contains a credential."""

    family: ApiFamily
    asked: ApiRequest
    target: RequestTarget
    """Without the credentials in its query."""
    caller: CallerIdentity
    backend: str
    """``host:port/model#account``, without the scheme's own port: each host, model and account has a breaker of its own."""
    parts: dict[str, Any]
    context: str
    """A digest of what is not in the key but may be why a request fails."""

    @property
    def key_name(self) -> str:
        """The name in the key, in place of a function's."""
        return f"{KEY_NAME_PREFIX}{self.family.name}"


class FirstRequests:
    """Requests that a process made with a token before the upstream accepted it, by digest. Safe to use from several threads.

    Their answers are stored for the token's hash (`identity`). They keep their keys once the token is accepted, so that a
    request that is repeated with the same token finds its answer.
    """

    def __init__(self, limit: int = MAX_FIRST_REQUESTS) -> None:
        self._limit = limit
        self._asked: OrderedDict[bytes, None] = OrderedDict()
        self._lock = ForkSafeLock()

    def principal_of(self, caller: CallerIdentity, parts: dict[str, Any]) -> str:
        """Return the principal for the key of a request. ``parts`` are the other parts of its key."""
        if not caller.unproven:
            return caller.principal

        asked = hashlib.sha256(_to_json([caller.unproven, parts])).digest()
        with self._lock:
            known = asked in self._asked
            if known or caller.principal == caller.unproven:
                self._asked[asked] = None
                self._asked.move_to_end(asked)

            if len(self._asked) > self._limit:
                self._asked.popitem(last=False)

        return caller.unproven if known else caller.principal


FIRST_REQUESTS: Final = FirstRequests()
"""Those of this process."""


def parse_request(
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    endpoints: Mapping[str, str] | None = None,
    *,
    share_credentials: bool = False,
    identity: str | None = None,
    now: float = math.inf,
) -> LlmRequest | None:
    """Return the parsed request; None if it must pass through, because its meaning is unknown.

    ``identity`` replaces the credentials. ``now`` is the time of day, until which accepted tokens may have expired.
    """
    named = lower_names(headers)
    content_type = next((value for name, value in named if name == "content-type"), "")
    target = RequestTarget.of(method, url, content_type)
    found = None if target is None else recognize(target, body, endpoints)
    if target is None or found is None:
        return None

    return described_request(
        *found, caller_parts(target, named, identity, now=now), share_credentials=share_credentials
    )


class CallerParts(Struct, frozen=True):
    """What a request's head contributes to its key, backend and context: the same for all requests with this head."""

    target: RequestTarget
    """Without the credentials in its query."""
    caller: CallerIdentity
    key_headers: list[str]
    context_headers: list[str]
    context: str
    """The context of a request that has nothing else outside its key."""


def caller_parts(target: RequestTarget, named: Headers, identity: str | None, *, now: float) -> CallerParts:
    """Return the parts of a request's head; the parameters are `parse_request`'s."""
    caller = identity_of(target, named, identity, now=now)
    visible = structs.replace(target, query=visible_query(target.query))
    describing = context_headers(named)
    return CallerParts(visible, caller, key_headers(named, target.host), describing, context_of({}, describing, ""))


def described_request(
    family: ApiFamily, asked: ApiRequest, head: CallerParts, *, share_credentials: bool
) -> LlmRequest:
    """Return a request that a family has read, with its key's parts."""
    target, caller = head.target, head.caller
    parts: dict[str, Any] = {"url": target.url, "body": asked.body, "headers": head.key_headers}
    parts["identity"] = "" if share_credentials else FIRST_REQUESTS.principal_of(caller, parts)
    context = head.context if not (asked.outside or share_credentials) else ""
    if not context:
        context = context_of(asked.outside, head.context_headers, caller.principal if share_credentials else "")

    backend = _backend_name(target.host, asked.model, caller.account)
    return LlmRequest(family, asked, target, caller, backend, parts, context)


def prefixes_of_request(request: LlmRequest) -> PromptPrefixes:
    """Return the prefixes of a request's prompt; none if the backend caches no prompts, or not this one."""
    asked = request.asked
    # With it, llama.cpp's server uses no processed prefix.
    off = isinstance(asked.body, dict) and (asked.body | asked.outside).get("cache_prompt") is False
    parts = () if off else request.family.prompt(asked, request.target)
    return prefixes_of(request.family.name, request.asked.model, request.caller.account, parts)


def context_of(outside: Mapping[str, Any], headers: Sequence[str], principal: str) -> str:
    """Return a digest of the parts outside the key, and of the principal if that is not in the key either."""
    written = msgspec.json.encode([principal, headers, outside], order="deterministic")
    return hashlib.sha256(written).hexdigest()[:_CONTEXT_DIGITS]


def _backend_name(host: str, model: str, account: str) -> str:
    tail = f"#{account}" if account else ""
    name = f"{host}/{model}" if model else host
    room = MAX_BACKEND_CHARACTERS - len(tail)
    if len(name) > room:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[: room - len(digest) - 1]}~{digest}"

    return name + tail
