"""Turn an HTTP request into a call: its policy, and the hooks that judge its answer."""

from collections.abc import Collection, Mapping
from time import time  # noqa: TID251 - tokens expire by the wall clock
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec
from msgspec import MsgspecError, structs

from sidecard_client.call.call import UNKEYED
from sidecard_client.call.options import MAX_NAME_CHARACTERS, Options, Redact
from sidecard_client.http.clients import Clients
from sidecard_client.http.embedding_calls import EmbeddingCall
from sidecard_client.http.embeddings import embedding_request
from sidecard_client.http.family import AnswerReader, AnswerSummary, RequestTarget
from sidecard_client.http.identity import checked_identity, given_identity
from sidecard_client.http.messages.forwarding import read_timeout_of
from sidecard_client.http.question import question_of
from sidecard_client.http.recognition import claimants, families
from sidecard_client.http.request import LlmRequest, parse_request
from sidecard_client.http.translation import UpstreamRefused, head_of
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.normal_form import BY_TASK, NormalForm
from sidecard_client.keys.vectors import Embedder, Embedding
from sidecard_client.protocol.wire import DEFAULT_TASK, FailureKind, Usage

if TYPE_CHECKING:
    from sidecard_client.http.identity import IdentityHook
    from sidecard_client.http.messages.libraries import Request, Response

Keep = Literal["always", "deterministic", "never"]
"""Which answers are stored.

``deterministic``: only those of requests that are meant to have one answer (temperature 0, a seed, embeddings); the others are
not shared either, because a repetition asks for another answer. ``never``: none, but flights are shared.
"""

_from_json = msgspec.json.Decoder().decode

_CONTROLS: Final = frozenset({"", "on", "refresh", "off", "only"})


class IncompleteAnswer(Exception):
    """An answer ended before it was complete. Never reaches the app: it raises in the shared stream only."""

    def __init__(self, summary: AnswerSummary) -> None:
        self.kind: FailureKind = summary.failure or "transient"
        super().__init__(f"the answer is incomplete: {summary.detail}")


class InterceptedCall:
    """The call that one request becomes, and the summary of its answer once that has ended."""

    def __init__(
        self,
        asked: LlmRequest,
        request: "Request",
        task: str,
        *,
        keep: bool,
        keep_length: bool,
        redact: Redact | None,
        embed: Embedding | None,
    ) -> None:
        self.asked = asked
        self.request = request
        self.task = task
        self.policy: dict[str, Any] = {
            "task": task,
            "store": self.may_be_stored,
            "usage": self.usage,
            "redact": self.transcript,
            "embed": None if embed is None else structs.replace(embed, find=lambda: question_of(asked)),
        }
        self._keep = keep
        self._keep_length = keep_length
        self._redact = redact
        self._parser: AnswerReader | None = None
        self._summary: AnswerSummary | None = None

    @property
    def needs_normal_forms(self) -> bool:
        """The key depends on the daemon's settings of the task; `set_key` completes it."""
        return bool(self.policy["key"] == UNKEYED)

    def set_key(self, forms: tuple[NormalForm, ...]) -> None:
        """Make the key from texts in these normal forms."""
        request, model = self.asked, self.asked.asked.model or None
        self.policy["key"] = fingerprint(self.task, model, request.key_name, (), request.parts, normalize=forms)

    def parser_of(self, response: "Response") -> AnswerReader:
        """Return the reader of the answer."""
        content_type = response.headers.get("content-type", "")
        self._parser = self.asked.family.reader(self.asked.asked, content_type=content_type, headers=response.headers)
        return self._parser

    @property
    def is_over(self) -> bool:
        """This caller makes the call, and the rest of its answer has no meaning."""
        return self._parser is not None and self._parser.terminal

    def keeps(self, _answer: Any) -> bool:
        """Return whether the transport's policy stores answers of the task."""
        return self._keep

    def embedding(self, body: bytes) -> EmbeddingCall | None:
        """Return the batch of a request for embeddings; None for other requests, and if nothing is shared."""
        wanted = None if self.policy["key"] is None else embedding_request(self.asked.family.layout, body)
        return None if wanted is None else EmbeddingCall(self, wanted)

    def may_be_stored(self, _pieces: Any) -> bool:
        """The ``store`` hook."""
        summary = self._summary
        if not self._keep or summary is None or not summary.complete:
            return False

        return not summary.not_stored or (self._keep_length and summary.not_stored == "length")

    def usage(self, _pieces: Any) -> Usage | None:
        """The ``usage`` hook."""
        return None if self._summary is None else self._summary.usage

    def transcript(self, prompt: Any, pieces: Any) -> tuple[Any, Any] | None:
        """The ``redact`` hook: the call log keeps the bodies of request and answer, after the app's own redaction."""
        head, *rest = pieces
        body = head["body"] if "body" in head else b"".join(rest)
        try:
            answer = _from_json(body)
        except (MsgspecError, RecursionError, UnicodeError, ValueError):
            answer = body.decode("utf-8", "replace")

        return self.redacted({"args": prompt["args"][:1], "kwargs": {}}, answer)

    def redacted(self, arguments: Any, answer: Any) -> tuple[Any, Any] | None:
        """Return prompt and answer after the app's own redaction."""
        return (arguments, answer) if self._redact is None else self._redact(arguments, answer)

    def single_piece(self, parser: AnswerReader, response: "Response") -> dict[str, Any]:
        """Return an answer that is not a stream. Raises `UpstreamRefused` if it is incomplete."""
        self._summary = summary = parser.finish()
        if not summary.complete:
            raise UpstreamRefused(response, summary.failure or "ignored", response.content)

        return head_of(response) | {"body": response.content}

    def end_stream(self, parser: AnswerReader) -> None:
        """Judge a stream that has ended. Raises `IncompleteAnswer`."""
        self._summary = summary = parser.finish()
        if not summary.complete:
            raise IncompleteAnswer(summary)


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
        # Here, so that an impossible value is an error of the transport's construction and not of each request.
        given = {"ttl": ttl, "stale": stale, "wait": wait, "pace": pace, "normalize": normalize, "embed": embed}
        checked = Options().changed(given)
        self._normalize, self._embedding = checked.normalize, checked.embed

    def may_be_call(self, request: "Request") -> bool:
        """Return whether a request may be an LLM call, as far as its head tells. The body of any other is not read."""
        target = RequestTarget.of(request.method, str(request.url), request.headers.get("content-type", ""))
        return target is not None and bool(claimants(target, self._endpoints)[1])

    def intercept(self, request: "Request", body: bytes) -> InterceptedCall | None:
        """Return the call that a request becomes; None if it must pass through. Raises `ValueError` for a wrong header."""
        headers = [(name, value) for name, value in request.headers.items() if isinstance(value, str)]
        asked = parse_request(
            request.method,
            str(request.url),
            headers,
            body,
            self._endpoints,
            share_credentials=self._share_credentials,
            identity=given_identity(self._identity, request),
            now=time(),
        )
        if asked is None:
            return None

        wanted = asked.asked
        control = request.headers.get("x-sidecard-cache", "").lower()
        if control not in _CONTROLS:
            raise ValueError(f"x-sidecard-cache must be on, refresh, off or only, not {control!r}.")

        if wanted.passes and not control:
            return None

        task = request.headers.get("x-sidecard-task", self._task)
        rule = self._keep.get(task, self._keep.get("", "always"))
        call = InterceptedCall(
            asked,
            request,
            task,
            keep=rule != "never",
            keep_length=self._keep_length,
            redact=self._clients.redact,
            embed=self._embedding,
        )
        call.policy |= self._policy | {
            "deterministic": wanted.deterministic,
            "backend": self._backend or asked.backend,
            "ttl": self._ttl_of(request),
            "wait": self._wait if self._wait is not None else read_timeout_of(request),
        }
        shared = control != "off" and (rule != "deterministic" or wanted.deterministic)
        if not shared:
            call.policy["key"] = None
        elif self._normalize == BY_TASK:
            call.policy["key"] = UNKEYED
        else:
            call.set_key(self._normalize)

        if shared and control == "only":
            call.policy["mode"] = "only_if_cached"
        elif shared and (control == "refresh" or rule == "never"):
            call.policy["mode"] = "refresh"

        if wanted.model:
            call.policy["model"] = wanted.model[:MAX_NAME_CHARACTERS]

        return call

    @property
    def forms(self) -> tuple[NormalForm, ...]:
        """The normal forms of keys that do not depend on the task."""
        return () if isinstance(self._normalize, str) else self._normalize

    def _ttl_of(self, request: "Request") -> float | None:
        ttl = request.headers.get("x-sidecard-ttl")
        if ttl is None:
            return self._ttl

        try:
            return float(ttl)
        except ValueError:
            raise ValueError(f"x-sidecard-ttl must be a number of seconds, not {ttl!r}.") from None
