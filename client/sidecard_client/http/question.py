"""Find the text of an intercepted request that may differ in similar requests. Pure.

It is the last text of the last message, if that is the user's: everything before it, the other parts of that message (images,
files) and all other fields must be equal. A request without such a text, and one for embeddings, has no similar ones.
"""

from typing import Any, Final

from sidecard_client.http.request import KEY_NAME_PREFIX, ApiFamily, LlmRequest
from sidecard_client.keys.vectors import FoundText

_FIELDS: Final[dict[ApiFamily, str]] = {
    "openai_chat": "messages",
    "openai_completions": "prompt",
    "openai_responses": "input",
    "anthropic_messages": "messages",
    "ollama_generate": "prompt",
    "ollama_chat": "messages",
}
_TEXT_TYPES: Final = frozenset({"text", "input_text"})


def question_of(asked: LlmRequest) -> tuple[str, FoundText] | None:
    """Return the name in the request's key, and its text; None if it has none."""
    field = _FIELDS.get(asked.family)
    body = asked.parts["body"]
    found = None if field is None else _last_text(body.get(field), field)
    if found is None:
        return None

    text, place, rest = found
    parts = {**asked.parts, "body": {**body, field: rest}}
    return f"{KEY_NAME_PREFIX}{asked.family}", FoundText(text, f"body.{place}", (), parts)


def _last_text(value: Any, place: str) -> tuple[str, str, Any] | None:
    """Return a value's last text, its place, and the value with None instead."""
    if isinstance(value, str):
        return value, place, None

    if not isinstance(value, list) or not value or not isinstance(value[-1], dict):
        return None

    *earlier, message = value
    content = message.get("content")
    if message.get("role") != "user":
        return None

    if isinstance(content, str):
        return content, f"{place}[-1].content", [*earlier, {**message, "content": None}]

    numbers = [number for number, part in enumerate(content) if _is_text(part)] if isinstance(content, list) else []
    if not numbers:
        return None

    last = numbers[-1]
    parts = [{**part, "text": None} if number == last else part for number, part in enumerate(content)]
    return content[last]["text"], f"{place}[-1].content[{last}].text", [*earlier, {**message, "content": parts}]


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _TEXT_TYPES and isinstance(part.get("text"), str)
