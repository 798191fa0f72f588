"""What the families of OpenAI share about requests: hosts, hints, tools. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sidecard_client.http.family import SideEffect
from sidecard_client.http.request_bodies.prompts import PromptBuilder, caches_only_marks
from sidecard_client.keys.prefixes.recipe import PromptPart

HOSTS: Final = (
    "api.openai.com",
    ".api.openai.com",
    ".openai.azure.com",
    ".services.ai.azure.com",
    ".cognitiveservices.azure.com",
)
"""Hosts on which a request needs no model to be OpenAI's. Servers that speak the API on other hosts are recognized by shape."""

CACHE_HINTS: Final = ("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
"""For the provider's own cache, which changes costs and no answer."""

ROUTING_HINTS: Final = ("prompt_cache_key", "prompt_cache_isolation_key")
"""Those of the hints that separate caches: equal prompts under different keys need not meet."""

FIREWORKS_HINTS: Final = ("prompt_cache_isolation_key", "prompt_cache_max_len")
"""The same for a server that speaks OpenAI's API."""

_HARMLESS: Final = frozenset(
    {
        # Carried out by the app.
        "function", "custom", "computer", "computer_use_preview", "local_shell", "apply_patch",
        # They read, or make an image in the answer.
        "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search",
        "tool_search", "image_generation", "browser_search", "x_search",
    }
)  # fmt: skip


def effect_of_tools(tools: Any) -> SideEffect:
    """Return what tools change. One that is not known to be harmless acts."""
    if not isinstance(tools, list):
        return "tool" if tools else ""

    effects = {_effect_of_tool(tool) for tool in tools}
    return "tool" if "tool" in effects else "state" if "state" in effects else ""


def _effect_of_tool(tool: Any) -> SideEffect:
    if not isinstance(tool, dict):
        return "tool"

    # Some clients leave out the type of the tools that the app carries out.
    kind = tool.get("type") or ("function" if isinstance(tool.get("function"), dict) else None)
    if not isinstance(kind, str):
        return "tool"

    if kind == "namespace":
        return effect_of_tools(tool.get("tools"))

    environment = tool.get("environment")
    if kind == "shell" and isinstance(environment, dict) and environment.get("type") == "local":
        return ""

    if kind in {"code_interpreter", "shell"}:
        return "state"  # they make or use a container

    return "" if kind in _HARMLESS else "tool"


def asks_for_usage(fields: dict[str, Any]) -> bool:
    """Return whether a stream is to have its usage at the end."""
    options = fields.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def marked_prompt(builder: PromptBuilder, model: str, outside: Mapping[str, Any]) -> Sequence[PromptPart]:
    """Return the parts of a prompt with the app's marks, by OpenAI's rules and those of servers that accept Anthropic's.

    OpenAI also caches up to the end of the last message, unless ``prompt_cache_options.mode`` is ``explicit``; then it caches
    nothing but what is marked. A ``cache_control`` of the whole request is a mark at its end.
    """
    options = outside.get("prompt_cache_options")
    if isinstance(options, dict) and options.get("mode") == "explicit":
        return builder.parts() if builder.is_marked else ()

    marks_breakpoints = any(place.endswith(".prompt_cache_breakpoint") for place in outside)
    if outside.get("cache_control") is not None or (builder.is_marked and marks_breakpoints):
        builder.mark()

    return builder.parts() if builder.is_marked or not caches_only_marks(model) else ()


def number_of_choices(fields: dict[str, Any]) -> int:
    """Return ``n``, or 1."""
    number = fields.get("n")
    return number if type(number) is int and number > 0 else 1
