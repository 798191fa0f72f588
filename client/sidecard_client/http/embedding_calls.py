"""A request for embeddings as a batch: the call of each text, the upstream request for those that are missing, the answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sidecard_client.batches.batch import summary_of
from sidecard_client.http.embeddings import (
    EmbeddedText,
    EmbeddingRequest,
    UnusableAnswer,
    answer_of_texts,
    parts_of_text,
    texts_of_answer,
    usage_of,
)
from sidecard_client.http.family import AnswerSummary
from sidecard_client.http.messages.bodies import ReadAhead, replayed_body_class
from sidecard_client.http.messages.encodings import decoded_whole, encodings_in
from sidecard_client.http.messages.forwarding import with_body
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.messages.refusals import UpstreamRefused
from sidecard_client.http.messages.responses import (
    add_visible,
    head_of,
    mark,
    raw_headers,
    response_of,
    visible_headers,
    without_encoding,
)
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.protocol.wire import Usage

if TYPE_CHECKING:
    from sidecard_client.call.outcome import Outcome
    from sidecard_client.http.intercepted_call import InterceptedCall
    from sidecard_client.http.messages.libraries import Request, Response


MAX_DECODED_VECTORS: Final = 64 * 1024 * 1024
"""Limit of an answer's decoded bytes: vectors are compressed to less than a half of their digits."""


class EmbeddingCall:
    """The batch that one request becomes."""

    def __init__(self, call: "InterceptedCall", wanted: EmbeddingRequest) -> None:
        self.call = call
        self.texts = [text.json for text in wanted.inputs]
        self._wanted = wanted
        self._fresh: Response | None = None
        """The last upstream answer."""
        self._whole = False
        """It answers the whole request as it was sent."""

    def policy(self) -> dict[str, Any]:
        """Return the keywords of the batch."""
        own = {"store": self.call.keeps, "usage": self._usage, "redact": self._transcript}
        policy = self.call.policy | self.call.hooks() | own
        del policy["key"]
        return policy

    def keys(self, forms: tuple[NormalForm, ...]) -> list[str]:
        """Return the key of each text, which is that of a request for this text alone."""
        request, task = self.call.asked, self.call.task
        model = request.asked.model or None
        named = [parts_of_text(request, self._wanted.layout, text) for text in self._wanted.inputs]
        return [fingerprint(task, model, name, (), parts, normalize=forms) for name, parts in named]

    def request_for(self, texts: Sequence[str]) -> "Request":
        """Return the upstream request for some of the texts; for all of them it is the app's own."""
        self._whole = list(texts) == self.texts
        request = self.call.forwarded()
        return request if self._whole else with_body(request, self._wanted.body_for(texts))

    def answers(self, response: "Response", ahead: ReadAhead, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is kept of each text. Raises `UpstreamRefused`, or `UnusableAnswer` if the app cannot have the response."""
        if self.call.is_refused(response):
            raise self.call.refusal(response, ahead)

        if ahead.error is not None:
            raise ahead.error

        response.stream = replayed_body_class(library_of(self.call.request))(ahead)
        encodings = encodings_in(response.headers.get("content-encoding", ""))
        content = None if ahead.whole is None else decoded_whole(encodings, ahead.whole, MAX_DECODED_VECTORS)
        try:
            if content is None:
                raise UnusableAnswer("the answer is too large, or its encoding is unknown")

            embedded = texts_of_answer(self._wanted.layout, content, texts)
        except UnusableAnswer as error:
            if content is not None:
                error.judge(self._summary(response, content))

            if self._whole:
                mark(response.headers, not_stored=error.not_stored)
                raise UpstreamRefused(
                    response, error.kind, answered=error.answered, not_stored=error.not_stored
                ) from None

            raise

        self.call.accept_credentials()
        self._fresh = response
        head = head_of(response, decoded=True)
        return [head | msgspec.structs.asdict(text) for text in embedded]

    def response_from(self, outcomes: "Sequence[Outcome[Any]]") -> "Response":
        """Return the answer to the app."""
        library = library_of(self.call.request)
        summary = summary_of(outcomes)
        visible = visible_headers(summary, None)
        own = all(outcome.source in {"upstream", "fallback"} for outcome in outcomes)
        if self._whole and own and self._fresh is not None:
            add_visible(self._fresh.headers, visible)
            return self._fresh

        texts = [_text_of(outcome.value) for outcome in outcomes]
        kept = summary.value
        content = answer_of_texts(self._wanted.layout, kept["head"], texts)
        length = (b"content-length", str(len(content)).encode())
        headers = [*without_encoding(raw_headers(kept)), length, *visible]
        return response_of(library, kept, headers, library.ByteStream(content))

    def _summary(self, response: "Response", content: bytes) -> AnswerSummary:
        request, content_type = self.call.asked, response.headers.get("content-type", "")
        reader = request.family.reader(request.asked, content_type=content_type, headers=response.headers)
        reader.feed(content)
        return reader.finish()

    def _usage(self, answers: Sequence[Any]) -> Usage | None:
        return usage_of([_text_of(answer) for answer in answers])

    def _transcript(self, prompt: Any, answer: Any) -> tuple[Any, Any] | None:
        body = self.call.asked.asked.body | {self._wanted.layout.inputs: msgspec.json.decode(prompt["args"][0])}
        return self.call.redacted({"args": [body], "kwargs": {}}, msgspec.json.decode(answer["item"]))


def _text_of(kept: dict[str, Any]) -> EmbeddedText:
    return EmbeddedText(kept["head"], kept["item"], kept["used"])
