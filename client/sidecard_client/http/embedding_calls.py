"""A request for embeddings as a batch: the call of each text, the upstream request for those that are missing, the answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
from sidecard_client.http.messages.libraries import library_of
from sidecard_client.http.translation import (
    UpstreamRefused,
    forwarded,
    head_of,
    refusal_kind,
    response_from,
)
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.protocol.wire import Usage

if TYPE_CHECKING:
    from sidecard_client.call.outcome import Outcome
    from sidecard_client.http.interception import InterceptedCall
    from sidecard_client.http.messages.libraries import Request, Response


class EmbeddingCall:
    """The batch that one request becomes."""

    def __init__(self, call: "InterceptedCall", wanted: EmbeddingRequest) -> None:
        self.call = call
        self.texts = [text.json for text in wanted.inputs]
        self.policy = call.policy | {"store": call.keeps, "usage": self._usage, "redact": self._transcript}
        del self.policy["key"]
        self._wanted = wanted
        self._fresh: Response | None = None
        """The last upstream answer."""
        self._whole = False
        """It answers the whole request as it was sent."""

    def keys(self, forms: tuple[NormalForm, ...]) -> list[str]:
        """Return the key of each text, which is that of a request for this text alone."""
        request, task = self.call.asked, self.call.task
        model = request.asked.model or None
        named = [parts_of_text(request, self._wanted.layout, text) for text in self._wanted.inputs]
        return [fingerprint(task, model, name, (), parts, normalize=forms) for name, parts in named]

    def request_for(self, texts: Sequence[str]) -> "Request":
        """Return the upstream request for some of the texts; for all of them it is the app's own."""
        self._whole = list(texts) == self.texts
        return forwarded(self.call.request, None if self._whole else self._wanted.body_for(texts))

    def answers(self, response: "Response", content: bytes, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is kept of each text. Raises `UpstreamRefused`, or `UnusableAnswer` if the app cannot have the response."""
        kind = refusal_kind(response)
        if kind is not None:
            raise UpstreamRefused(response, kind, content)

        try:
            embedded = texts_of_answer(self._wanted.layout, content, texts)
        except UnusableAnswer:
            if self._whole:
                raise UpstreamRefused(response, "ignored", content) from None

            raise

        self._fresh = response
        head = head_of(response)
        return [head | msgspec.structs.asdict(text) for text in embedded]

    def response_from(self, outcomes: "Sequence[Outcome[Any]]") -> "Response":
        """Return the answer to the app."""
        library = library_of(self.call.request)
        summary = summary_of(outcomes)
        own = all(outcome.source in {"upstream", "fallback"} for outcome in outcomes)
        if self._whole and own and self._fresh is not None:
            return response_from(library, head_of(self._fresh), summary, content=self._fresh.content)

        texts = [_text_of(outcome.value) for outcome in outcomes]
        kept = summary.value
        head = {"status": kept["status"], "headers": list(filter(_describes_any_body, kept["headers"]))}
        content = answer_of_texts(self._wanted.layout, kept["head"], texts)
        return response_from(library, head, summary, content=content)

    def _usage(self, answers: Sequence[Any]) -> Usage | None:
        return usage_of([_text_of(answer) for answer in answers])

    def _transcript(self, prompt: Any, answer: Any) -> tuple[Any, Any] | None:
        body = self.call.asked.asked.body | {self._wanted.layout.inputs: msgspec.json.decode(prompt["args"][0])}
        return self.call.redacted({"args": [body], "kwargs": {}}, msgspec.json.decode(answer["item"]))


def _text_of(kept: dict[str, Any]) -> EmbeddedText:
    return EmbeddedText(kept["head"], kept["item"], kept["used"])


def _describes_any_body(header: Sequence[str]) -> bool:
    return header[0].lower() != "content-length"
