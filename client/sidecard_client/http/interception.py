"""Turn an HTTP request into a call, or find why it passes to the upstream unshared."""

import logging
from collections.abc import Collection, Mapping
from time import time  # noqa: TID251 - tokens expire by the wall clock
from typing import TYPE_CHECKING, Final, Literal, get_args

from msgspec import Struct

from sidecard_client.call.call import UNKEYED
from sidecard_client.call.option_checks import MAX_NAME_CHARACTERS, MAX_SECONDS
from sidecard_client.call.options import Options
from sidecard_client.http.clients import Clients
from sidecard_client.http.family import ApiFamily, RequestTarget
from sidecard_client.http.headers import ATTEMPT_HEADERS
from sidecard_client.http.identity import checked_identity, given_identity
from sidecard_client.http.intercepted_call import InterceptedCall
from sidecard_client.http.messages.forwarding import headers_of, read_timeout_of
from sidecard_client.http.recognition import claimants, families, first_fit
from sidecard_client.http.request import IN_SPITE_OF_EFFECTS, CallerParts, caller_parts, described_request
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.keys.vectors import Embedder
from sidecard_client.protocol.wire import DEFAULT_TASK

if TYPE_CHECKING:
    from sidecard_client.http.identity import IdentityHook
    from sidecard_client.http.messages.libraries import Request

_log = logging.getLogger("sidecard_client")

Keep = Literal["always", "deterministic", "never"]
"""Which answers are stored.

``deterministic``: only those of requests that are meant to have one answer (temperature 0, a seed, embeddings); the others are
not shared either, because a repetition asks for another answer. ``never``: none, but flights are shared.
"""

_MAX_KNOWN: Final = 256
"""Limit of the heads that a transport remembers."""

_OF_ONE_REQUEST: Final = frozenset(name.encode() for name in ATTEMPT_HEADERS - {"accept-encoding", "host"})

_CONTROLS: Final = frozenset({"", "on", "refresh", "off", "only"})


class PassedRequest(Struct, frozen=True):
    """Why a request goes to the upstream unshared, as the daemon counts it. ``family`` recognized it; empty if none did."""

    reason: str
    family: str = ""
    task: str = DEFAULT_TASK


class ClaimedRequest(Struct, frozen=True):
    """The head of a request, and the families that may read its body."""

    target: RequestTarget
    families: tuple[ApiFamily, ...]
    headers: dict[str, str]
    """With names in lower case. Those of one request, such as its id, are another request's."""
    parts: dict[str | None, CallerParts] = {}
    """What the head contributes, by what ``identity=`` returned."""


class WrongHeader(ValueError):
    """A header of sidecard on the app's request has a value that it cannot have."""


UNRECOGNIZED: Final = PassedRequest("dialect")


class Interception:
    """The policy of a transport. Its parameters are described in `SidecardTransport`."""

    _clients: Clients

    def __init__(
        self,
        *,
        task: str = DEFAULT_TASK,
        keep: Keep | Mapping[str, Keep] = "always",
        ttl: float | None = None,
        stale: float | None = None,
        wait: float | None = None,
        pace: float | None = None,
        backend: str | None = None,
        keep_length: bool = False,
        share_credentials: bool = False,
        identity: "IdentityHook | str | None" = None,
        endpoints: Mapping[str, str] | None = None,
        normalize: Collection[NormalForm] | Literal["task"] = (),
        embed: Embedder | None = None,
    ) -> None:
        by_task = {"": keep} if isinstance(keep, str) else dict(keep)
        wrong = [rule for rule in by_task.values() if rule not in get_args(Keep)]
        if wrong:
            raise ValueError(f"keep= must be {' or '.join(map(repr, get_args(Keep)))}, not {wrong[0]!r}.")

        unknown = sorted(set((endpoints or {}).values()) - families().keys())
        if unknown:
            raise ValueError(f"endpoints= has {unknown[0]!r}, which is none of {', '.join(families())}.")

        self._task = task
        self._keep = by_task
        self._ttl = ttl
        self._wait = wait
        self._policy = {"stale": stale, "pace": pace}
        self._backend = backend
        self._keep_length = keep_length
        self._share_credentials = share_credentials
        self._identity = checked_identity(identity)
        self._endpoints = endpoints
        self._known: dict[tuple[str, str, tuple[tuple[bytes, bytes], ...]], ClaimedRequest] = {}
        # Here, so that an impossible value is an error of the transport's construction and not of each request.
        given = {"ttl": ttl, "stale": stale, "wait": wait, "pace": pace, "normalize": normalize, "embed": embed}
        checked = Options().changed(given | {"task": task, "backend": backend})
        self._normalize, self._embedding = checked.normalize, checked.embed

    def claim(self, request: "Request") -> ClaimedRequest | None:
        """Return a request that may be an LLM call, judged by its head. The body of any other is not read.

        The heads of an SDK's requests differ in what belongs to one request, so they are remembered.
        """
        lasting = [header for header in request.headers.raw if header[0].lower() not in _OF_ONE_REQUEST]
        url = str(request.url)
        head = request.method, url, tuple(lasting)
        known = self._known.get(head)
        if known is not None:
            return known

        headers = headers_of(request)
        target = RequestTarget.of(request.method, url, headers.get("content-type", ""))
        if target is None:
            return None

        target, families = claimants(target, self._endpoints)
        if not families:
            return None

        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()

        claimed = self._known[head] = ClaimedRequest(target, families, headers)
        return claimed

    def intercept(
        self, request: "Request", claimed: ClaimedRequest, body: bytes | None
    ) -> InterceptedCall | PassedRequest:
        """Return the call that a request becomes, or why it becomes none. Raises `WrongHeader`.

        ``body`` is None if it is too large to be read. A fault in here lets the request pass.
        """
        task = self._task_of(claimed.headers)
        try:
            return self._intercepted(request, claimed, body, task)
        except WrongHeader:
            raise
        except Exception:  # noqa: BLE001 - logged
            _log.exception("intercepting a request failed; it passes to the upstream unshared")
            return PassedRequest("dialect", task=task)

    def _intercepted(
        self, request: "Request", claimed: ClaimedRequest, body: bytes | None, task: str
    ) -> InterceptedCall | PassedRequest:
        target, headers = claimed.target, claimed.headers
        if body is None:
            return PassedRequest("size", claimed.families[0].name, task)

        found = first_fit(target, claimed.families, body)
        if found is None:
            return PassedRequest("dialect", task=task)

        control = headers.get("x-sidecard-cache", "").lower()
        if control not in _CONTROLS:
            raise WrongHeader(f"x-sidecard-cache must be on, refresh, off or only, not {control!r}.")

        family, asked = found
        if asked.passes and control not in IN_SPITE_OF_EFFECTS:
            return PassedRequest(asked.passes, family.name, task)

        rule = self._keep.get(task, self._keep.get("", "always"))
        call = InterceptedCall(
            described_request(
                family, asked, self._parts_of(request, claimed), share_credentials=self._share_credentials
            ),
            request,
            headers,
            task,
            keep=rule != "never",
            keep_length=self._keep_length,
            redact=self._clients.redact,
            embed=self._embedding,
        )
        self._set_policy(call, control, rule)
        if call.policy["key"] is not None:
            call.divide(body)

        return call

    def _parts_of(self, request: "Request", claimed: ClaimedRequest) -> CallerParts:
        """Return what the head of a request contributes."""
        identity = given_identity(self._identity, request)
        parts = claimed.parts.get(identity)
        if parts is None:
            parts = caller_parts(claimed.target, list(claimed.headers.items()), identity, now=time())
            if not parts.caller.unproven and len(claimed.parts) < _MAX_KNOWN:  # a token's proof changes with time
                claimed.parts[identity] = parts

        return parts

    def _set_policy(self, call: InterceptedCall, control: str, rule: Keep) -> None:
        asked, request = call.asked.asked, call.request
        call.policy = self._policy | {
            "task": call.task,
            "deterministic": asked.deterministic,
            "backend": self._backend or call.asked.backend,
            "ttl": self._ttl_of(call.headers),
            "wait": self._wait if self._wait is not None else read_timeout_of(request),
        }
        if control == "off" or (rule == "deterministic" and not asked.deterministic):
            call.policy["key"] = None
        elif self._normalize == BY_TASK:
            call.policy["key"] = UNKEYED
        else:
            call.set_key(self._normalize)

        if call.policy["key"] is not None and control == "only":
            call.policy["mode"] = "only_if_cached"
        elif call.policy["key"] is not None and (control == "refresh" or rule == "never"):
            call.policy["mode"] = "refresh"

        if asked.model:
            call.policy["model"] = asked.model[:MAX_NAME_CHARACTERS]

    @property
    def forms(self) -> tuple[NormalForm, ...] | None:
        """The normal forms of texts in keys; None if the task's settings decide."""
        return None if isinstance(self._normalize, str) else self._normalize

    def _task_of(self, headers: Mapping[str, str]) -> str:
        task = headers.get("x-sidecard-task")
        try:
            return self._task if task is None else Options().changed({"task": task}).task
        except ValueError as error:
            raise WrongHeader(str(error)) from None

    def _ttl_of(self, headers: Mapping[str, str]) -> float | None:
        ttl = headers.get("x-sidecard-ttl")
        if ttl is None:
            return self._ttl

        try:
            return Options().changed({"ttl": float(ttl)}).ttl_seconds
        except ValueError:
            raise WrongHeader(
                f"x-sidecard-ttl must be a number of seconds, from 0 to {MAX_SECONDS:.0f}, not {ttl!r}."
            ) from None
