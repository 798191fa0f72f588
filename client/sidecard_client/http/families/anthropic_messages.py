"""Anthropic's Messages API."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.prompts import PromptBuilder, caches_only_marks
from sidecard_client.http.request_bodies.shapes import are_messages
from sidecard_client.keys.prefixes.recipe import PromptPart

_ROLES: Final = frozenset({"user", "assistant", "system"})

_HARMLESS_TOOLS: Final = re.compile(
    # Carried out by the app; they read; they are another model of the same call.
    r"custom|(bash|text_editor|computer|computer_toolset|browser_toolset|memory)_\d{8}"
    r"|(web_search|web_fetch)_\d{8}|tool_search_tool_(bm25|regex)(_\d{8})?"
    r"|advisor_\d{8}"
)

_WRITTEN_BEFORE: Final = ("container", "mcp_servers", "output_config", "output_format", "speed", "thread")
"""Fields that change what is before the tools and the system text."""

_OF_MESSAGES: Final = ("thinking", "tool_choice", "context_management")
"""Fields whose change invalidates what Anthropic has cached of the messages, but not of tools and system text."""

_EVENTS: Final = (
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
)
"""A tuple, because a hostile ``type`` may be unhashable."""


class MessageAnswer(JsonAnswer):
    """A message, or events of one."""

    has_end: ClassVar[bool] = True

    def __init__(self, choices: int = 1, *, streamed: bool = False) -> None:
        super().__init__(choices, streamed=streamed)
        self._reported: dict[str, Any] = {}
        """The usage so far: the last event repeats some counts and may leave out others, which belong together."""

    def ignores(self, name: str) -> bool:
        """Pings keep a connection open; their data may be anything."""
        return name == "ping"

    def read(self, event: dict[str, Any]) -> None:
        """Read a message or an event."""
        if not self.streamed:
            self.fits = event.get("type") == "message" or isinstance(event.get("content"), list)
            self._read_reason(event)
            self.use(event, event.get("usage"))
            return

        kind = event.get("type")
        self.fits = self.fits or kind in _EVENTS
        self.ended = self.ended or kind == "message_stop"
        message, delta = event.get("message"), event.get("delta")
        if isinstance(message, dict):
            self._use_more(message, message.get("usage"))

        if kind == "message_delta":
            self._read_reason(delta)
            self._use_more(event, event.get("usage"))

    def _use_more(self, message: dict[str, Any], usage: Any) -> None:
        if isinstance(usage, dict):
            self._reported |= {name: count for name, count in usage.items() if count is not None}

        self.use(message, self._reported)

    def _read_reason(self, message: Any) -> None:
        reason = message.get("stop_reason") if isinstance(message, dict) else None
        if isinstance(reason, str) and reason:
            self.reasons[0] = reason


class AnthropicMessages(JsonFamily):
    """``POST /v1/messages``. The answer carries back the service tier, so it is in the key."""

    name: ClassVar[str] = "anthropic_messages"
    paths: ClassVar[tuple[str, ...]] = ("/v1/messages",)
    hosts: ClassVar[tuple[str, ...]] = ("api.anthropic.com",)
    outside: ClassVar[tuple[str, ...]] = (
        "metadata",
        "diagnostics.previous_message_id",
        "cache_control",
        "system[].cache_control",
        "tools[].cache_control",
        "tools[].caching",
        "messages[].content[].cache_control",
        "messages[].content[].content[].cache_control",
        "messages[].content[].content[].source.content[].cache_control",
        "messages[].content[].source.content[].cache_control",
    )
    answer: ClassVar[type[JsonAnswer]] = MessageAnswer
    text_field: ClassVar[str] = "messages"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages and the limit of tokens that the API requires."""
        return are_messages(fields.get("messages"), _ROLES) and type(fields.get("max_tokens")) is int

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:
        """As `ApiFamily.prompt`. Anthropic caches nothing without marks; other models of servers that speak its API may."""
        return anthropic_prompt(asked, only_marked=target.is_at(self.hosts) or caches_only_marks(asked.model))

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Containers and threads are the server's state; MCP servers and unknown tools may act."""
        tools = fields.get("tools")
        if fields.get("mcp_servers") or not isinstance(tools, list | None):
            return "tool"

        effects = {_effect_of_tool(tool) for tool in tools or ()}
        if "tool" in effects:
            return "tool"

        keeps = fields.get("container") is not None or fields.get("thread") is not None
        return "state" if keeps or "state" in effects else ""


def anthropic_prompt(asked: ApiRequest, *, only_marked: bool) -> Sequence[PromptPart]:
    """Return the parts of a request's prompt: tools, system text, messages.

    ``only_marked``: the server caches nothing unless the app marks it. A ``cache_control`` of the whole request is a mark at
    its end.
    """
    fields = asked.body
    builder = PromptBuilder(asked.outside)
    builder.settings(fields, *_WRITTEN_BEFORE)
    builder.items("tool", fields.get("tools"), "tools")
    system = fields.get("system")
    builder.items("system", {"type": "text", "text": system} if isinstance(system, str) else system, "system")
    builder.cut()
    builder.settings(fields, *_OF_MESSAGES)
    builder.messages(fields.get("messages") or (), "messages")
    if asked.outside.get("cache_control") is not None:
        builder.mark()

    return builder.parts() if builder.is_marked or not only_marked else ()


def _effect_of_tool(tool: Any) -> SideEffect:
    kind = tool.get("type", "custom") if isinstance(tool, dict) else None
    if kind is None and isinstance(tool, dict):
        return ""  # null is as absent: a tool of the app

    if not isinstance(kind, str):
        return "tool"

    if kind.startswith("code_execution"):
        return "state"  # it makes a container

    return "" if _HARMLESS_TOOLS.fullmatch(kind) else "tool"


FAMILY = AnthropicMessages()
