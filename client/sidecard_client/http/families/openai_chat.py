"""OpenAI's chat completions, which most other servers speak too."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.openai_choices import ChoicesAnswer
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import (
    CACHE_HINTS,
    FIREWORKS_HINTS,
    HOSTS,
    ROUTING_HINTS,
    asks_for_usage,
    effect_of_tools,
    marked_prompt,
    number_of_choices,
)
from sidecard_client.http.request_bodies.prompts import PromptBuilder
from sidecard_client.http.request_bodies.shapes import are_messages
from sidecard_client.keys.prefixes.recipe import PromptPart

_WRITTEN_BEFORE: Final = (
    "functions",
    "response_format",
    "reasoning_effort",
    "verbosity",
    "web_search_options",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "enable_thinking",
    "thinking",
    "cache_salt",
)
"""Fields of OpenAI and of servers that speak its API, which change what is before the messages, or separate caches."""


class OpenAIChat(JsonFamily):
    """``POST /chat/completions``."""

    name: ClassVar[str] = "openai_chat"
    paths: ClassVar[tuple[str, ...]] = ("/chat/completions",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = (
        "user",
        "safety_identifier",
        *CACHE_HINTS,
        *FIREWORKS_HINTS,
        # OpenRouter's and LiteLLM's, at the places of Anthropic's.
        "cache_control",
        "messages[].cache_control",
        "messages[].content[].cache_control",
        "messages[].content[].prompt_cache_breakpoint",
        "tools[].cache_control",
    )
    answer: ClassVar[type[JsonAnswer]] = ChoicesAnswer
    text_field: ClassVar[str] = "messages"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages."""
        return are_messages(fields.get("messages"))

    def answer_maker(self, asked: ApiRequest) -> Callable[..., JsonAnswer]:
        """As `JsonFamily.answer_maker`."""
        return partial(ChoicesAnswer, usage_asked=asks_for_usage(asked.body))

    def choices(self, fields: dict[str, Any]) -> int:
        """Return ``n``."""
        return number_of_choices(fields)

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`: settings that servers write before the messages, tools, messages."""
        fields, messages = asked.body, asked.body["messages"]
        builder = PromptBuilder(asked.outside)
        builder.settings(fields | asked.outside, *ROUTING_HINTS, *_WRITTEN_BEFORE)
        builder.items("tool", fields.get("tools"), "tools")
        builder.chat(messages, "messages")
        return marked_prompt(builder, asked.model, asked.outside)

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Stored and deferred completions are the server's state; its own tools may act."""
        return effect_of_tools(fields.get("tools")) or (
            "state" if fields.get("store") or fields.get("deferred") else ""
        )


FAMILY = OpenAIChat()
