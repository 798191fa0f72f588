"""Answers of Amazon Bedrock: JSON, or JSON in the messages of a binary event stream. Pure."""

from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from sidecard_client.http.answers.event_stream import CONTENT_TYPE, DamagedEventStream, Message, MessageSplitter
from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.readers import json_reader
from sidecard_client.http.answers.results import is_vector
from sidecard_client.http.family import AnswerReader, AnswerSummary, media_type_of

_STATUSES: Final[Mapping[str, int]] = {
    "validationException": 400,
    "accessDeniedException": 403,
    "resourceNotFoundException": 404,
    "throttlingException": 429,
    "modelNotReadyException": 429,
}
"""The HTTP statuses that errors within a stream would have had before it. All others are the server's."""

_from_json = msgspec.json.Decoder().decode


def bedrock_reader(make: Callable[..., JsonAnswer], *, content_type: str, stream: bool) -> AnswerReader:
    """Return the reader for an answer of this content type."""
    media_type = media_type_of(content_type)
    if media_type == CONTENT_TYPE or (stream and not media_type):
        return MessageReader(make(streamed=True))

    return json_reader(make, content_type=content_type, stream=False)


class MessageReader(AnswerReader):
    """Reads an answer in the messages of an event stream."""

    def __init__(self, answer: JsonAnswer) -> None:
        self._answer = answer
        self._messages = MessageSplitter()
        self._unreadable = ""

    @property
    def terminal(self) -> bool:
        """The model's last event, or an error, was received."""
        return self._answer.ended or self._answer.error is not None

    def feed(self, data: bytes) -> None:
        """Read the messages that the bytes complete."""
        if self._unreadable:
            return

        try:
            for message in self._messages.feed(data):
                self._read(message)
        except DamagedEventStream as error:
            self._unreadable = str(error)
        except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
            self._unreadable = "a message is not JSON"

        self.has_output = self.has_output or bool(self._unreadable)

    def finish(self) -> AnswerSummary:
        """Return whether the stream ended between two messages."""
        if not self._unreadable and not self._messages.is_between_messages:
            return self._answer.summary("its last message is cut off", "incomplete")

        return self._answer.summary(self._unreadable)

    def _read(self, message: Message) -> None:
        self.has_output = True
        kind = message.headers.get(":message-type", "event")
        if kind != "event":
            name = message.headers.get(":exception-type", message.headers.get(":error-code", kind))
            self._answer.fail({"code": _STATUSES.get(name, 500), "type": name})
            return

        event = _from_json(message.payload)
        name = message.headers.get(":event-type", "")
        if name == "chunk":
            content = event.get("bytes") if isinstance(event, dict) else None
            name, event = "", _from_json(b64decode(content)) if isinstance(content, str) else None

        if isinstance(event, dict):
            self._answer.receive(name, event)


class ConverseAnswer(JsonAnswer):
    """A message of ``converse``, or the events of one. Amazon's own models answer ``invoke`` in the same form."""

    def read(self, event: dict[str, Any]) -> None:
        """Read a message or an event, in which its content stands alone, or below its name."""
        stop = event.get("messageStop", event)
        reason = stop.get("stopReason") if isinstance(stop, dict) else None
        if isinstance(reason, str) and reason:
            self.reasons[0] = reason

        self.fits = self.fits or bool(self.reasons) or "output" in event or "messageStart" in event or "role" in event
        metadata = event.get("metadata", event)
        self.use({}, metadata.get("usage") if isinstance(metadata, dict) else None)


class InvokedAnswer(ConverseAnswer):
    """An answer of any model to ``invoke``: each maker's models have a form of their own."""

    def receive(self, name: str, event: dict[str, Any]) -> None:
        """As `JsonAnswer.receive`. Images with an error are those that were left after filtering."""
        if isinstance(event.get("images"), list) and isinstance(event.get("error"), str) and event["error"]:
            event = {**event, "error": None, "finish_reason": "content_filter"}

        super().receive(name, event)

    def read(self, event: dict[str, Any]) -> None:
        """Find finish reasons, results and usage wherever models have them."""
        super().read(event)
        for place, reason in enumerate(_reasons_in(event)):
            self.fits = True
            self.begun.add(place)
            if isinstance(reason, str) and reason:
                self.reasons[place] = reason

        if _has_results(event):
            self.fits = True
            self.reasons.setdefault(0, "stop")

        self.use(event, _counts_in(event))


_OF_CHOICES: Final = ("choices", "outputs", "generations", "results")
"""Lists whose members have finish reasons: of models in OpenAI's form, Mistral, Cohere, Titan."""

_REASONS: Final = ("finish_reason", "stop_reason", "completionReason", "finishReason")


def _reasons_in(event: Mapping[str, Any]) -> Iterable[Any]:
    """Return the finish reason of each choice, None for one that has not ended."""
    for name in _OF_CHOICES:
        members = event.get(name)
        if isinstance(members, list) and members and all(isinstance(one, dict) for one in members):
            if any("relevance_score" in one for one in members):
                return []

            return [_reason_of(one) for one in members]

    if isinstance(event.get("finish_reasons"), list):  # Stability's, which are null for a whole image
        return ["stop" if reason is None else "content_filter" for reason in event["finish_reasons"]]

    reason = _reason_of(event)
    return [] if reason is None else [reason]


def _reason_of(choice: Mapping[str, Any]) -> Any:
    return next((choice[name] for name in _REASONS if choice.get(name) is not None), None)


def _has_results(event: Mapping[str, Any]) -> bool:
    """Return whether an answer has vectors, images or scores, which have no finish reasons."""
    vectors = event.get("embedding", event.get("embeddings"))
    if isinstance(vectors, dict):
        vectors = next(iter(vectors.values()), None)

    if is_vector(vectors) or (isinstance(vectors, list) and bool(vectors) and all(map(is_vector, vectors))):
        return True

    images, results = event.get("images"), event.get("results")
    if isinstance(images, list) and "finish_reasons" not in event:
        return bool(images) and all(isinstance(image, str) and image for image in images)

    scores = results if isinstance(results, list) else []
    return bool(scores) and all(isinstance(one, dict) and "relevance_score" in one for one in scores)


def _counts_in(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens that an answer counts, in OpenAI's words."""
    metrics = event.get("amazon-bedrock-invocationMetrics")
    if isinstance(metrics, dict):
        counts = {
            "input_tokens": metrics.get("inputTokenCount"),
            "output_tokens": metrics.get("outputTokenCount"),
            "cache_read_input_tokens": metrics.get("cacheReadInputTokenCount"),
            "cache_creation_input_tokens": metrics.get("cacheWriteInputTokenCount"),
        }
    else:
        results = event.get("results")
        counts = {
            "prompt_tokens": event.get("prompt_token_count", event.get("inputTextTokenCount")),
            "completion_tokens": event.get("generation_token_count", event.get("totalOutputTextTokenCount")),
        }
        texts = [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []
        counted = [one["tokenCount"] for one in texts if type(one.get("tokenCount")) is int]
        if counted:
            counts["completion_tokens"] = sum(counted)

    usage = event.get("usage")
    found = {name: count for name, count in counts.items() if count is not None}
    return found or (usage if isinstance(usage, dict) else {})
