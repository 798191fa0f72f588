"""OpenAI's Responses API."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from msgspec import structs

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.family import ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.openai import (
    CACHE_HINTS,
    HOSTS,
    ROUTING_HINTS,
    effect_of_tools,
    marked_prompt,
)
from sidecard_client.http.request_bodies.prompts import PromptBuilder
from sidecard_client.http.request_bodies.shapes import has_only
from sidecard_client.keys.prefixes.recipe import PromptPart

_FINAL_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
"""A tuple, because a hostile ``type`` may be unhashable."""

_WRITTEN_BEFORE: Final = ("conversation", "previous_response_id", "prompt", "reasoning", "text")
"""Fields that change what is before the instructions, or that name it."""

_ITEMS_WITH_TOOLS: Final = ("additional_tools", "tool_search_output")


class ResponsesAnswer(JsonAnswer):
    """A response: an object with a status, which each event of a stream may carry."""

    has_end: ClassVar[bool] = True
    preceding_events: ClassVar[tuple[str, ...]] = ("response.created", "response.queued", "response.in_progress")

    def read(self, event: dict[str, Any]) -> None:
        """Read a response or an event; the last event has the whole response."""
        kind = event.get("type")
        if not self.streamed:
            self._read_end(event)
        elif isinstance(kind, str) and kind.startswith("response."):
            self.fits = True
            response = event.get("response")
            if isinstance(response, dict) and kind in _FINAL_EVENTS:
                self.ended = True
                self._read_end({"status": kind.removeprefix("response."), **response})
            elif isinstance(response, dict):
                self.use(response, response.get("usage"))

    def _read_end(self, response: dict[str, Any]) -> None:
        status, output = response.get("status"), response.get("output")
        if not isinstance(status, str):
            return

        self.fits = self.fits or response.get("object") == "response" or isinstance(output, list)
        self.use(response, response.get("usage"))
        if status == "completed":
            self.reasons[0] = status
            self.refused = any(map(_is_refusal, output if isinstance(output, list) else ()))
        elif status == "incomplete":
            details = response.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            self.reasons[0] = reason if isinstance(reason, str) else status
        elif status == "failed":
            self.fail(response.get("error") or status)


def _is_refusal(item: Any) -> bool:
    content = item.get("content") if isinstance(item, dict) else None
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "refusal" for part in content
    )


class OpenAIResponses(JsonFamily):
    """``POST /responses``. The answer carries back ``metadata``, ``user``, ``safety_identifier`` and more: they are in the key."""

    name: ClassVar[str] = "openai_responses"
    paths: ClassVar[tuple[str, ...]] = ("/responses",)
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = (
        *CACHE_HINTS,
        "input[].prompt_cache_breakpoint",
        "input[].content[].prompt_cache_breakpoint",
        "input[].output[].prompt_cache_breakpoint",
    )
    answer: ClassVar[type[JsonAnswer]] = ResponsesAnswer
    text_field: ClassVar[str] = "input"

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has an input, or a stored prompt, which may have none."""
        given = fields.get("input")
        items = isinstance(given, list) and all(
            isinstance(item, dict) and isinstance(item.get("type", item.get("role")), str) for item in given
        )
        has_input = isinstance(given, str) or items or (given is None and isinstance(fields.get("prompt"), dict))
        return has_input and has_only(fields, instructions=str, tools=list, text=dict, reasoning=dict, stream=bool)

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `JsonFamily.read`. What only fills the provider's cache has no output, so it has a key of its own."""
        asked = super().read(target, body)
        options = None if asked is None else asked.outside.get("prompt_cache_options")
        if asked is None or not isinstance(options, dict) or not options.get("prewarm"):
            return asked

        return structs.replace(asked, body=asked.body | {"prompt_cache_options": {"prewarm": True}}, passes="state")

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`: settings and what the server keeps, instructions, tools, items of the input."""
        fields, given = asked.body, asked.body.get("input")
        builder = PromptBuilder(asked.outside)
        builder.settings(fields | asked.outside, *ROUTING_HINTS, *_WRITTEN_BEFORE)
        builder.items("instructions", fields.get("instructions"), "instructions")
        builder.items("tool", fields.get("tools"), "tools")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
        builder.chat(items, "input", text="input_text")
        return marked_prompt(builder, asked.model, asked.outside)

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Conversations, background and stored responses, containers are the server's state; its own tools may act.

        So may those of a stored prompt, which a request with ``tools`` replaces, and of an agent that it names.
        """
        given, tools = fields.get("input"), fields.get("tools")
        items = given if isinstance(given, list) else []
        hidden = fields.get("agent") or fields.get("agent_reference") or (fields.get("prompt") and tools is None)
        effects = {effect_of_tools(tools), "tool" if hidden else ""}
        effects |= {effect_of_tools(item.get("tools")) for item in items if item.get("type") in _ITEMS_WITH_TOOLS}
        if "tool" in effects:
            return "tool"

        keeps = any(fields.get(field) for field in ("conversation", "background", "store"))
        return "state" if keeps or "state" in effects else ""


FAMILY = OpenAIResponses()
