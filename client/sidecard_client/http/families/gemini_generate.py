"""Google's Gemini API, of Google AI and of Vertex AI: ``models/NAME:generateContent`` and ``:streamGenerateContent``."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from msgspec import structs

from sidecard_client.call.determinism import is_deterministic
from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.family import ApiRequest, NotStored, RequestTarget, SideEffect, VaryingText
from sidecard_client.http.request_bodies.google import GoogleFamily, are_contents, either
from sidecard_client.http.request_bodies.prompts import PromptBuilder
from sidecard_client.keys.prefixes.recipe import PromptPart

_STREAMED: Final = ":streamGenerateContent"

_READING_TOOLS: Final = frozenset(
    {
        "functionDeclarations", "googleSearch", "googleSearchRetrieval", "googleMaps", "enterpriseWebSearch", "urlContext",
        "fileSearch", "retrieval", "parallelAiSearch", "exaAiSearch", "codeExecution", "computerUse",
    }
)  # fmt: skip
"""They search or compute, or the app carries them out. The sandbox of ``codeExecution`` does not outlive its request."""

_WRITTEN_BEFORE: Final = ("cachedContent",)

_BLOCKED: Final = "blocked prompt: "


class GeminiAnswer(JsonAnswer):
    """Candidates, each with a finish reason. The answer to a blocked prompt has none, and is whole."""

    lists: ClassVar[bool] = True

    def read(self, event: dict[str, Any]) -> None:
        """Read an answer, or a part of a stream."""
        candidates = event.get("candidates")
        for place, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
            if isinstance(candidate, dict):
                self._read_candidate(place, candidate)

        feedback = event.get("promptFeedback")
        blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if isinstance(blocked, str) and blocked:
            self.fits = True
            self.reasons = dict.fromkeys(range(self.choices), _BLOCKED + blocked)

        self.use({"model": event.get("modelVersion")}, event.get("usageMetadata"))

    def not_stored(self) -> NotStored:
        """Return why the answer is not stored: a blocked prompt is filtered, for whatever reason."""
        blocked = any(reason.startswith(_BLOCKED) for reason in self.reasons.values())
        return "filter" if blocked else super().not_stored()

    def _read_candidate(self, place: int, candidate: dict[str, Any]) -> None:
        self.fits = True
        index = candidate.get("index", place)
        if type(index) is not int:
            return

        self.begun.add(index)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason not in {"", "FINISH_REASON_UNSPECIFIED"}:
            self.reasons[index] = reason


class GeminiGenerate(GoogleFamily):
    """Text, images and speech of Gemini. A stream comes in events with ``alt=sse``, else as a list of JSON."""

    name: ClassVar[str] = "gemini_generate"
    paths: ClassVar[tuple[str, ...]] = (":generateContent", _STREAMED)
    outside: ClassVar[tuple[str, ...]] = ("labels",)
    answer: ClassVar[type[JsonAnswer]] = GeminiAnswer

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `JsonFamily.read`. The path says whether the answer is a stream."""
        asked = super().read(target, body)
        if asked is None:
            return None

        return structs.replace(
            asked, stream=self.ending(target) == _STREAMED, deterministic=is_deterministic(_settings_of(asked.body))
        )

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages with parts."""
        return are_contents(fields.get("contents"))

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of candidates."""
        candidates = either(_settings_of(fields), "candidateCount")
        return candidates if type(candidates) is int and candidates > 0 else 1

    def effect(self, fields: dict[str, Any]) -> SideEffect:
        """Requests that the server is to keep are state; MCP servers and unknown tools may act."""
        tools = fields.get("tools") or []
        if not isinstance(tools, list) or not all(map(_only_reads, tools)):
            return "tool"

        return "state" if fields.get("store") is True else ""

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - as in `ApiFamily`
        """As `ApiFamily.prompt`: what the server keeps, system instruction, tools, contents."""
        fields, contents = asked.body, asked.body["contents"]
        builder = PromptBuilder(asked.outside)
        builder.settings({name: either(fields, name) for name in _WRITTEN_BEFORE}, *_WRITTEN_BEFORE)
        system = either(fields, "systemInstruction")
        builder.items("system", system.get("parts") if isinstance(system, dict) else system, "system")
        builder.items("tool", fields.get("tools"), "tools")
        builder.cut()
        builder.messages(contents if isinstance(contents, list) else [contents], "contents", "parts")
        return builder.parts()

    def question(self, asked: ApiRequest) -> VaryingText | None:
        """Return the last text of the last message, if that is the user's."""
        contents = asked.body["contents"]
        *earlier, message = contents if isinstance(contents, list) else [contents]
        parts = message["parts"]
        numbers = [number for number, part in enumerate(parts) if _is_text(part)] if isinstance(parts, list) else []
        if not numbers or message.get("role", "user") != "user":
            return None

        last = numbers[-1]
        others = [{**part, "text": None} if number == last else part for number, part in enumerate(parts)]
        rest = {**asked.body, "contents": [*earlier, {**message, "parts": others}]}
        return VaryingText(parts[last]["text"], f"contents[-1].parts[{last}].text", rest)


def _settings_of(fields: dict[str, Any]) -> dict[str, Any]:
    settings = either(fields, "generationConfig")
    return settings if isinstance(settings, dict) else {}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _only_reads(tool: Any) -> bool:
    return isinstance(tool, dict) and {_in_camel_case(name) for name in tool} <= _READING_TOOLS


def _in_camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


FAMILY = GeminiGenerate()
