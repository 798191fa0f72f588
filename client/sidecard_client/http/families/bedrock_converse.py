"""Amazon Bedrock's ``converse``: one form of requests and answers for all models."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from msgspec import structs

from sidecard_client.call.determinism import is_deterministic
from sidecard_client.http.answers.bedrock import ConverseAnswer, bedrock_reader
from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.family import NO_HEADERS, AnswerReader, ApiRequest, RequestTarget, SideEffect
from sidecard_client.http.request_bodies.bedrock import BedrockFamily
from sidecard_client.http.request_bodies.prompts import PromptBuilder, caches_only_marks
from sidecard_client.http.request_bodies.shapes import are_messages
from sidecard_client.keys.prefixes.recipe import PromptPart

_STREAMED: Final = "/converse-stream"
_HINT: Final = "cachePoint"
_READING_TOOLS: Final = ("nova_grounding",)


class BedrockConverse(BedrockFamily):
    """``POST /model/NAME/converse`` and ``/converse-stream``, whose answer is a binary event stream."""

    name: ClassVar[str] = "bedrock_converse"
    paths: ClassVar[tuple[str, ...]] = ("/converse", _STREAMED)
    outside: ClassVar[tuple[str, ...]] = ("requestMetadata",)
    answer: ClassVar[type[JsonAnswer]] = ConverseAnswer

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `JsonFamily.read`. Marks of what the provider is to cache are no part of the key."""
        asked = super().read(target, body)
        if asked is None:
            return None

        kept, hints = _without_hints(asked.body)
        settings = asked.body.get("inferenceConfig")
        return structs.replace(
            asked,
            body=kept,
            outside=asked.outside | hints,
            stream=self.ending(target) == _STREAMED,
            deterministic=isinstance(settings, dict) and is_deterministic(settings),
        )

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages, or nothing but the variables of a prompt that the server keeps."""
        messages = fields.get("messages")
        return are_messages(messages) or (messages is None and isinstance(fields.get("promptVariables"), dict))

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Tools of the server that are not known to be harmless act."""
        settings = fields.get("toolConfig")
        tools = settings.get("tools") if isinstance(settings, dict) else None
        extra = fields.get("additionalModelRequestFields")
        acts = isinstance(extra, dict) and "mcp_servers" in extra
        return "tool" if acts or not all(map(_is_harmless, tools if isinstance(tools, list) else ())) else ""

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`: tools, system text, messages. Of Anthropic's models, nothing is cached without cache points."""
        fields, settings = asked.body, asked.body.get("toolConfig")
        builder = PromptBuilder(asked.outside)
        builder.settings(fields, "additionalModelRequestFields", "outputConfig", "promptVariables")
        builder.items("tool", settings.get("tools") if isinstance(settings, dict) else None, "toolConfig.tools")
        builder.items("system", fields.get("system"), "system")
        builder.cut()
        builder.messages(fields.get("messages") or (), "messages")
        return builder.parts() if builder.is_marked or not caches_only_marks(asked.model) else ()

    def reader(self, asked: ApiRequest, *, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> AnswerReader:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.reader`."""
        return bedrock_reader(ConverseAnswer, content_type=content_type, stream=asked.stream)


def _is_harmless(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False

    own = tool.get("systemTool")
    return "toolSpec" in tool or _HINT in tool or (isinstance(own, dict) and own.get("name") in _READING_TOOLS)


def _without_hints(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the body without its cache points, and these by place."""
    hints: dict[str, Any] = {}
    kept = dict(body)
    if "system" in kept:
        kept["system"] = _blocks(kept["system"], "system", hints)

    if isinstance(kept.get("messages"), list):
        kept["messages"] = [
            {**message, "content": _blocks(message["content"], f"messages[{number}].content", hints)}
            if "content" in message
            else message
            for number, message in enumerate(kept["messages"])
        ]

    settings = kept.get("toolConfig")
    if isinstance(settings, dict) and "tools" in settings:
        kept["toolConfig"] = {**settings, "tools": _blocks(settings["tools"], "toolConfig.tools", hints)}

    return kept, hints


def _blocks(blocks: Any, place: str, hints: dict[str, Any]) -> Any:
    if not isinstance(blocks, list):
        return blocks

    kept = []
    for number, block in enumerate(blocks):
        if isinstance(block, dict) and block.keys() == {_HINT}:
            hints[f"{place}[{number}]"] = block
        else:
            kept.append(block)

    return kept


FAMILY = BedrockConverse()
