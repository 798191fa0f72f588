"""Cohere's chat: version 2, in server-sent events if it is streamed, and version 1, in lines of JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.readers import StreamForm, json_reader
from sidecard_client.http.family import NO_HEADERS, AnswerReader, ApiRequest, RequestTarget, SideEffect, media_type_of
from sidecard_client.http.request_bodies.cohere import HOSTS, usage_of
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.prompts import PromptBuilder
from sidecard_client.http.request_bodies.shapes import are_messages
from sidecard_client.keys.prefixes.recipe import PromptPart

_FAILED: Final = ("ERROR", "TIMEOUT")
"""Finish reasons of answers that the server could not end. A tuple, because a hostile one may be unhashable."""


class CohereAnswer(JsonAnswer):
    """A message of either version, or the events or lines of one."""

    has_end: ClassVar[bool] = True

    def read(self, event: dict[str, Any]) -> None:
        """Read a message, an event (``type``) or a line (``event_type``)."""
        kind = event.get("type", event.get("event_type")) if self.streamed else None
        match kind:
            case "message-end":
                delta = event.get("delta")
                self._end(delta if isinstance(delta, dict) else {})
            case "stream-end":
                response = event.get("response")
                self._end((response if isinstance(response, dict) else {}) | event)
            case str():
                self.fits = True
            case _ if not self.streamed and ("message" in event or "text" in event):
                self._end(event)

    def _end(self, message: dict[str, Any]) -> None:
        self.fits = self.ended = True
        reason = message.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.reasons[0] = reason

        if reason in _FAILED:
            self.fail(f"finish reason {reason}")
        elif message.get("error"):
            self.fail(message["error"])

        self.use({}, usage_of(message.get("usage", message.get("meta"))))


class CohereChat(JsonFamily):
    """``POST /v2/chat`` and ``POST /v1/chat``."""

    name: ClassVar[str] = "cohere_chat"
    paths: ClassVar[tuple[str, ...]] = ("/v2/chat", "/v1/chat")
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("priority",)
    answer: ClassVar[type[JsonAnswer]] = CohereAnswer
    text_field: ClassVar[str] = "messages"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has the messages of version 2 or the message of version 1."""
        return are_messages(fields.get("messages")) or isinstance(fields.get("message"), str)

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`, of version 2: settings, tools, messages."""
        messages = asked.body.get("messages")
        if messages is None:
            return ()

        builder = PromptBuilder(asked.outside)
        builder.settings(
            asked.body, "citation_options", "documents", "response_format", "safety_mode", "strict_tools", "thinking"
        )
        builder.items("tool", asked.body.get("tools"), "tools")
        builder.chat(messages, "messages")
        return builder.parts()

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """In version 1, conversations are the server's state, and connectors other than the search of the web may act."""
        if fields.get("conversation_id") is not None:
            return "state"

        connectors = fields.get("connectors") or []
        return "" if isinstance(connectors, list) and all(map(_searches_the_web, connectors)) else "tool"

    def reader(self, asked: ApiRequest, *, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> AnswerReader:  # noqa: ARG002 - as in `ApiFamily`
        """As `JsonFamily.reader`. Version 1 has lines, unless it is asked for events."""
        lines = "message" in asked.body and media_type_of(content_type) != "text/event-stream"
        form: StreamForm = "lines" if lines else "events"
        return json_reader(self.answer, content_type=content_type, form=form, stream=asked.stream)


def _searches_the_web(connector: Any) -> bool:
    return isinstance(connector, dict) and connector.get("id") == "web-search"


FAMILY = CohereChat()
