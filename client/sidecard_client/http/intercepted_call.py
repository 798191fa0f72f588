"""One intercepted request as a call: policy, hooks, upstream answer, and the app's response."""

import logging
from collections.abc import Callable, Mapping
from time import time  # noqa: TID251 - tokens expire by the wall clock
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import MsgspecError, structs

from sidecard_client.call.call import UNKEYED
from sidecard_client.http.answers.errors import kind_of_status
from sidecard_client.http.embedding_calls import EmbeddingCall
from sidecard_client.http.embeddings import embedding_request
from sidecard_client.http.identity import ACCEPTED
from sidecard_client.http.messages.bodies import ReadAhead, is_read, replayed_body_class
from sidecard_client.http.messages.encodings import admits, decoded_whole, decoder_for, encodings_in
from sidecard_client.http.messages.forwarding import without_own_headers
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.messages.refusals import MAX_REFUSAL_BYTES, UpstreamRefused, refusal_detail
from sidecard_client.http.messages.responses import (
    add_visible,
    head_of,
    headers_for_reader,
    raw_headers,
    response_of,
    visible_headers,
    without_encoding,
)
from sidecard_client.http.messages.upstream_answer import MAX_ANSWER_BYTES, UpstreamAnswer, faulty_reader
from sidecard_client.http.question import question_of
from sidecard_client.http.request import prefixes_of_request
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.prefixes.recipe import NO_PREFIXES, PromptPrefixes

if TYPE_CHECKING:
    from sidecard_client._async.streams import AsyncStream
    from sidecard_client._sync.streams import Stream
    from sidecard_client.call.options import Options, Redact
    from sidecard_client.http.family import AnswerReader
    from sidecard_client.http.messages.libraries import Request, Response
    from sidecard_client.http.request import LlmRequest
    from sidecard_client.keys.normal_form import NormalForm
    from sidecard_client.keys.vectors import Embedding
    from sidecard_client.protocol.wire import Usage

_log = logging.getLogger("sidecard_client")

_UNAUTHORIZED = frozenset({401, 403})

_from_json = msgspec.json.Decoder().decode


class InterceptedCall:
    """The call that one request becomes. `Interception` completes ``policy``."""

    def __init__(
        self,
        asked: "LlmRequest",
        request: "Request",
        headers: dict[str, str],
        task: str,
        *,
        keep: bool,
        keep_length: bool,
        redact: "Redact | None",
        embed: "Embedding | None",
    ) -> None:
        self.asked = asked
        self.request = request
        self.headers = headers
        """Those of the request, with names in lower case."""
        self.task = task
        self.policy: dict[str, Any] = {}
        """The keywords of the call, without `hooks`."""
        self.answer: UpstreamAnswer | None = None
        """The last upstream answer."""
        self.embedding: EmbeddingCall | None = None
        """The batch of a request for embeddings."""
        self.left = False
        """The app gets no response any more, although the call may go on for others."""
        self._refused: Response | None = None
        self._keep = keep
        self._keep_length = keep_length
        self._redact = redact
        self._embed = embed

    # The key ----------------------------------------------------------------------------------------------------------

    @property
    def needs_normal_forms(self) -> bool:
        """The key depends on the daemon's settings of the task; `set_key` completes it."""
        return bool(self.policy["key"] == UNKEYED)

    def set_key(self, forms: "tuple[NormalForm, ...]") -> None:
        """Make the key from texts in these normal forms."""
        request, model = self.asked, self.asked.asked.model or None
        self.policy["key"] = fingerprint(self.task, model, request.key_name, (), request.parts, normalize=forms)

    def divide(self, body: bytes) -> None:
        """Make a batch of a request for the embeddings of several texts."""
        wanted = embedding_request(self.asked.family.layout, body)
        self.embedding = None if wanted is None else EmbeddingCall(self, wanted)

    # The upstream -----------------------------------------------------------------------------------------------------

    def forwarded(self) -> "Request":
        """Return the request as the backend receives it."""
        return without_own_headers(self.request)

    def is_refused(self, response: "Response") -> bool:
        """Return whether a response is no answer; `refusal` then needs what was read ahead of its body."""
        return kind_of_status(response.status_code) is not None

    def refusal(self, response: "Response", ahead: ReadAhead) -> UpstreamRefused:
        """Return the exception for a response that is no answer. The app gets the response as if it had not been read."""
        kind = kind_of_status(response.status_code) or "ignored"
        response.stream = replayed_body_class(library_of(self.request))(ahead)
        self._refused = response
        if response.status_code in _UNAUTHORIZED:
            ACCEPTED.refuse(self.asked.target, list(self.headers.items()))

        encodings = encodings_in(response.headers.get("content-encoding", ""))
        body = None if ahead.whole is None else decoded_whole(encodings, ahead.whole, MAX_REFUSAL_BYTES)
        detail = None
        if body is not None:
            detail = refusal_detail(head_of(response), response.headers.raw, body, decoded=bool(encodings))

        if detail is None and kind == "fatal":  # waiters get all of it or nothing
            kind = "transient" if ahead.error is not None else "ignored"

        return UpstreamRefused(response, kind, detail)

    def unused_refusal(self, error: BaseException | None = None) -> "Response | None":
        """Return a response that was refused and that the app does not get, to be closed.

        A retry or a stale answer follows, or the call ends with another ``error``.
        """
        self.left = error is not None
        refused, self._refused = self._refused, None
        return None if isinstance(error, UpstreamRefused) and error.response is refused else refused

    def begin_answer(self, response: "Response") -> UpstreamAnswer:
        """Return the answer that a response of status 2xx begins."""
        self.answer = UpstreamAnswer(
            response,
            self._reader_of(response),
            objection=self.objection,
            keep_length=self._keep_length,
            completed=self.accept_credentials,
        )
        return self.answer

    def _reader_of(self, response: "Response") -> "AnswerReader":
        content_type = response.headers.get("content-type", "")
        try:
            return self.asked.family.reader(
                self.asked.asked, content_type=content_type, headers=headers_for_reader(response)
            )
        except Exception:  # noqa: BLE001 - logged there
            return faulty_reader()

    def accept_credentials(self) -> None:
        """Note that the upstream has answered a request with these credentials."""
        ACCEPTED.accept(self.asked.target, list(self.headers.items()), time())

    # Hooks ------------------------------------------------------------------------------------------------------------

    @property
    def objection(self) -> str:
        """Why the app's policy does not store the answer; empty if it does."""
        return "" if self._keep and self.policy["key"] is not None else "policy"

    def options(self, client: "Options") -> "Options":
        """Return the options of the call, from those of the ``client``. All of them are checked already."""
        policy = self.policy
        return structs.replace(
            client,
            task=self.task,
            ttl_seconds=policy["ttl"],
            stale_seconds=policy["stale"],
            wait_seconds=policy["wait"],
            pace_seconds=policy["pace"],
            backend=policy["backend"],
            model=policy.get("model"),
            mode=policy.get("mode", "use"),
            key=policy["key"],
            deterministic=policy["deterministic"],
            context=self.asked.context,
            not_stored=self.not_stored,
            **self.hooks(),
        )

    def hooks(self) -> dict[str, Any]:
        """Return the rest of the keywords. They are not kept here, since they refer to this object."""
        asked, embed = self.asked, self._embed
        return {
            "store": self.may_be_stored,
            "usage": self.usage,
            "redact": self.transcript,
            "prefix": self.prefixes if asked.family.has_prompts else None,
            "embed": None if embed is None else structs.replace(embed, find=lambda: question_of(asked)),
        }

    def prefixes(self) -> PromptPrefixes:
        """Return the prefixes of the request's prompt; none if finding them fails: the request must not fail."""
        try:
            return prefixes_of_request(self.asked)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("finding the prefixes of a prompt failed; the call is scheduled without them")
            return NO_PREFIXES

    def keeps(self, _answer: Any) -> bool:
        """Return whether the transport's policy stores answers of the task."""
        return self._keep

    def may_be_stored(self, _pieces: Any) -> bool:
        """The ``store`` hook."""
        return self.answer is not None and not self.answer.not_stored

    def not_stored(self) -> str:
        """Return why the answer is not stored."""
        return "" if self.answer is None else self.answer.not_stored

    def usage(self, _pieces: Any) -> "Usage | None":
        """The ``usage`` hook."""
        summary = None if self.answer is None else self.answer.summary
        return None if summary is None else summary.usage

    def transcript(self, prompt: Any, pieces: Any) -> tuple[Any, Any] | None:
        """The ``redact`` hook: the call log keeps the bodies of request and answer, after the app's own redaction."""
        head, *rest = pieces
        received = [head["body"]] if "body" in head else rest
        body = decoded_whole(_encodings_of(head), received, MAX_ANSWER_BYTES) or b""
        try:
            answer = _from_json(body)
        except (MsgspecError, RecursionError, UnicodeError, ValueError):
            answer = _text_of(body)

        return self.redacted({"args": prompt["args"][:1], "kwargs": {}}, answer)

    def redacted(self, arguments: Any, answer: Any) -> tuple[Any, Any] | None:
        """Return prompt and answer after the app's own redaction."""
        return (arguments, answer) if self._redact is None else self._redact(arguments, answer)

    # The app ----------------------------------------------------------------------------------------------------------

    def response(
        self, first: Any, pieces: "Stream[Any] | AsyncStream[Any]", body: Callable[..., Any]
    ) -> "tuple[Response, bool]":
        """Return the app's response, and whether the rest of ``pieces`` is to be read at once. ``body`` makes its stream.

        ``first`` is the library's own response if this caller made the call, else the head of the shared answer.
        """
        library = library_of(self.request)
        visible = visible_headers(pieces, self.policy["key"])
        if not isinstance(first, dict):
            add_visible(first.headers, visible)
            if is_read(library, first):
                return first, True

            first.stream = body(self.request, pieces, headers=first.headers)
            return first, False

        headers = raw_headers(first)
        encodings = _encodings_of(first)
        decode = None
        if encodings and not admits(self.headers.get("accept-encoding"), encodings):
            decoder = decoder_for(encodings)
            decode = None if decoder is None else decoder.decode
            headers = headers if decode is None else without_encoding(headers)

        if "body" not in first:
            return response_of(library, first, [*headers, *visible], body(self.request, pieces, decode)), False

        content = first["body"] if decode is None else b"".join(decode(first["body"]))
        return response_of(library, first, [*headers, *visible], library.ByteStream(content)), True


def _text_of(body: bytes) -> str:
    """Return a body as text; for audio and other bytes only how many they are."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"({len(body)} bytes)"


def _encodings_of(head: Mapping[str, Any]) -> tuple[str, ...]:
    named = [value for name, value in head["headers"] if name.lower() == "content-encoding"]
    return encodings_in(",".join(named)) if named else ()
