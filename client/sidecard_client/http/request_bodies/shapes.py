"""Strict shapes of request bodies, by which an API is recognized on an unknown host. Pure."""

import re
from collections.abc import Collection
from typing import Any, Final

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

_ID: Final = re.compile(r"\d+|(?=.*\d)[0-9a-f-]{8,}|[a-z]{2,6}_[0-9a-z]{8,}", re.IGNORECASE)


def are_messages(value: Any, roles: Collection[str] = ROLES) -> bool:
    """Return whether a value is a list of messages with these roles; it may be empty."""
    return isinstance(value, list) and all(
        isinstance(item, dict) and _is_one_of(item.get("role"), roles) for item in value
    )


def is_list_of(kind: type, value: Any) -> bool:
    """Return whether a value is a list, not empty, of this exact type."""
    return isinstance(value, list) and bool(value) and all(type(item) is kind for item in value)


def are_texts_or_tokens(value: Any) -> bool:
    """Return whether a value is a text, a list of token ids, or a list of either, as OpenAI's prompts are."""
    if isinstance(value, str):
        return True

    if not isinstance(value, list) or not value:
        return False

    return is_list_of(str, value) or is_list_of(int, value) or all(is_list_of(int, item) for item in value)


def has_only(fields: dict[str, Any], **kinds: type | tuple[type, ...]) -> bool:
    """Return whether each of these fields is absent, null, or of its type."""
    return all(fields.get(name) is None or isinstance(fields[name], kind) for name, kind in kinds.items())


def is_below_an_item(path: str, ending: str) -> bool:
    """Return whether a path's ending of one word belongs to an item of a collection, as in ``/surveys/7/responses``."""
    rest, _, parent = path.rstrip("/").removesuffix(ending).rpartition("/")
    return ending.count("/") == 1 and not rest.endswith("/deployments") and bool(_ID.fullmatch(parent))


def deployment_in(path: str) -> str:
    """Return the model in Azure's paths: ``/deployments/NAME/chat/completions``; empty if there is none."""
    _, found, rest = path.partition("/deployments/")
    return rest.partition("/")[0] if found else ""


def _is_one_of(value: Any, names: Collection[str]) -> bool:
    return isinstance(value, str) and value in names
