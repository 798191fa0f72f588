"""Ollama's chat."""

from collections.abc import Sequence
from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.ollama import OllamaAnswer
from sidecard_client.http.answers.readers import StreamForm
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.prompts import PromptBuilder
from sidecard_client.http.request_bodies.shapes import are_messages, has_only
from sidecard_client.keys.prefixes.recipe import PromptPart


class OllamaChat(JsonFamily):
    """``POST /api/chat``."""

    name: ClassVar[str] = "ollama_chat"
    paths: ClassVar[tuple[str, ...]] = ("/api/chat",)
    outside: ClassVar[tuple[str, ...]] = ("keep_alive",)
    answer: ClassVar[type[JsonAnswer]] = OllamaAnswer
    form: ClassVar[StreamForm] = "lines"
    streams_by_default: ClassVar[bool] = True
    text_field: ClassVar[str] = "messages"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages; without any it loads or unloads the model."""
        messages = fields.get("messages")
        typed = has_only(fields, tools=list, options=dict, stream=bool)
        return typed and (messages is None or are_messages(messages))

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`: settings of the template, tools, messages."""
        messages = asked.body.get("messages") or []
        builder = PromptBuilder(asked.outside)
        builder.settings(asked.body, "template", "think")
        builder.items("tool", asked.body.get("tools"), "tools")
        builder.chat(messages, "messages")
        return builder.parts()

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Without messages, it loads or unloads the model."""
        return "" if fields.get("messages") else "state"


FAMILY = OllamaChat()
