"""The last text of the last message, or of a prompt: the text of a request that may differ in similar ones. Pure.

Everything before it, the other parts of its message (images, files) and all other fields must be equal.
"""

from typing import Any, Final

from sidecard_client.http.family import VaryingText

_TEXT_TYPES: Final = frozenset({"text", "input_text"})


def last_text(body: dict[str, Any], field: str) -> VaryingText | None:
    """Return a field's last text, if the field is a string, or a list whose last message is the user's."""
    value = body.get(field)
    if isinstance(value, str):
        return VaryingText(value, field, {**body, field: None})

    if not isinstance(value, list) or not value or not isinstance(value[-1], dict):
        return None

    *earlier, message = value
    content = message.get("content")
    if message.get("role") != "user":
        return None

    if isinstance(content, str):
        rest = [*earlier, {**message, "content": None}]
        return VaryingText(content, f"{field}[-1].content", {**body, field: rest})

    numbers = [number for number, part in enumerate(content) if _is_text(part)] if isinstance(content, list) else []
    if not numbers:
        return None

    last = numbers[-1]
    parts = [{**part, "text": None} if number == last else part for number, part in enumerate(content)]
    rest = [*earlier, {**message, "content": parts}]
    return VaryingText(content[last]["text"], f"{field}[-1].content[{last}].text", {**body, field: rest})


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _TEXT_TYPES and isinstance(part.get("text"), str)
